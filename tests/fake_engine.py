"""A small engine with Docker's HTTP API, with a graph driver's habits or those of containerd's store, as documented."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import ssl
import tarfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from serving import Served, Server, UnixServer

_ZSTD = b"\x28\xb5\x2f\xfd"  # what is so compressed is believed


def chain_ids(diff_ids: list[str]) -> list[str]:
    chains: list[str] = []
    for diff_id in diff_ids:
        below = f"{chains[-1]} {diff_id}" if chains else ""
        chains.append("sha256:" + hashlib.sha256(below.encode()).hexdigest() if below else diff_id)
    return chains


class FakeEngine(Served):
    """Serves on a unix socket, or with TLS on 127.0.0.1.

    Attributes:
        containerd: whether it has containerd's store, which looks blobs up by digest, names an image before it is
            unpacked, and only prints that it cannot be.
        version: of the engine.
        names: the images' IDs by name.
        images: the diff IDs by ID.
        stored: the layers' digests by ID.
        blobs: what it has of layers: digests with containerd's store, else chain IDs.
        loads: the members' names of each archive that came.
        seen: method and path of each request.
        told: whether it tells which images are not wholly there (from version 28 on).
        before_load: is called when a load begins; an exception breaks the connection.
        after_load: likewise, when all of it has come; a text is told as an error.
    """

    def __init__(self, socket: Path | None, *, containerd: bool = False, context: ssl.SSLContext | None = None) -> None:
        self.containerd = containerd
        self.version = "29.1.0" if containerd else "20.10.24"
        self.names: dict[str, str] = {}
        self.images: dict[str, list[str]] = {}
        self.stored: dict[str, list[str]] = {}
        self.blobs: set[str] = set()
        self.loads: list[list[str]] = []
        self.received = 0
        self.seen: list[tuple[str, str]] = []
        self.told = False
        self.before_load: Callable[[], object] = lambda: None
        self.after_load: Callable[[], str | None] = lambda: None
        handler = type("Handler", (_Handler,), {"engine": self})
        if socket is not None:
            self.host = f"unix://{socket}"
            super().__init__(UnixServer(str(socket), handler))
            return
        server = Server(("127.0.0.1", 0), handler)
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.host = f"tcp://127.0.0.1:{server.server_address[1]}"
        super().__init__(server)

    def forget(self, *names: str) -> None:
        """Remove images, and what no other has of layers."""
        for name in names:
            self.images.pop(self.names.pop(name), None)
        kept = [self._needed(image) for image in self.images]
        self.blobs &= {blob for blobs in kept for blob in blobs}

    def whole(self, name: str) -> bool:
        """Whether an image can be run."""
        return self._needed(self.names[name]) <= self.blobs

    def _needed(self, image: str) -> set[str]:
        return set(self.stored[image] if self.containerd else chain_ids(self.images[image]))

    def load(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Take an archive; what is told."""
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = {member.name: archive.extractfile(member) for member in archive}
            contents = {name: file.read() for name, file in members.items() if file is not None}
        self.loads.append(list(contents))
        failure = self.after_load()
        if failure:
            yield {"errorDetail": {"message": failure}, "error": failure}
            return
        (entry,) = json.loads(contents["manifest.json"])
        (name,) = entry["RepoTags"]
        config = contents[entry["Config"]]
        image = "sha256:" + hashlib.sha256(config).hexdigest()
        diff_ids = json.loads(config)["rootfs"]["diff_ids"]
        stored = [f"sha256:{path.rpartition('/')[2]}" for path in entry["Layers"]]
        if self.containerd:
            (named,) = json.loads(contents["index.json"])["manifests"]
            assert named["annotations"]["io.containerd.image.name"].removeprefix("docker.io/library/") == name
            self.names[name], self.images[image], self.stored[image] = image, diff_ids, stored
            self.blobs |= {digest for digest, path in zip(stored, entry["Layers"], strict=True) if path in contents}
            yield {"stream": f"Loaded image: {name}\n"}
            missing = [digest for digest in stored if digest not in self.blobs]
            if missing:
                yield {"stream": f"Error unpacking image {name}: content digest {missing[0]}: not found\n"}
            return
        for chain, path, diff_id in zip(chain_ids(diff_ids), entry["Layers"], diff_ids, strict=True):
            if chain in self.blobs:
                continue
            if path not in contents:
                yield {"error": f"open /var/lib/docker/tmp/docker-import-1/{path}: no such file or directory"}
                return
            data = gzip.decompress(contents[path]) if contents[path][:2] == b"\x1f\x8b" else contents[path]
            assert data[:4] == _ZSTD or "sha256:" + hashlib.sha256(data).hexdigest() == diff_id
            self.blobs.add(chain)
        self.names[name], self.images[image], self.stored[image] = image, diff_ids, stored
        yield {"stream": f"Loaded image: {name}\n"}


class _Handler(BaseHTTPRequestHandler):
    engine: FakeEngine
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "client"

    def log_message(self, *arguments: object) -> None:
        pass

    def do(self) -> None:
        engine = self.engine
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        engine.seen.append((self.command, path))
        if (self.command, path) == ("POST", "/images/load"):
            self.load()
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, answer = self.answer(path, query, body)
        self.reply(status, answer)

    do_GET = do_POST = do_DELETE = do  # noqa: N815

    def reply(self, status: int, answer: Any) -> None:
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def load(self) -> None:
        engine, data = self.engine, bytearray()
        try:
            engine.before_load()
            while size := int(self.rfile.readline() or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            engine.received += len(data)
            told = list(engine.load(bytes(data)))
        except Exception:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.close()
            return
        lines = b"".join(json.dumps(line).encode() + b"\r\n" for line in told)
        self.send_response(200)
        self.send_header("Content-Length", str(len(lines)))
        self.end_headers()
        self.wfile.write(lines)

    def answer(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        engine = self.engine
        if path == "/version":
            return 200, {"Version": engine.version, "Components": [{"Name": "Engine", "Version": engine.version}]}
        if path == "/info":
            driver = [["driver-type", "io.containerd.snapshotter.v1"]] if engine.containerd else [["Using d_type", "1"]]
            return 200, {"DriverStatus": driver, "ServerVersion": engine.version}
        if path == "/images/json":
            wanted = json.loads(query["filters"][0])["reference"] if "filters" in query else list(engine.names)
            listed: list[dict[str, Any]] = [
                {"Id": image, "RepoTags": [name]} for name, image in engine.names.items() if name in wanted
            ]
            if engine.told and "manifests" in query:
                for each in listed:
                    each["Manifests"] = [{"Kind": "image", "Available": engine.whole(each["RepoTags"][0])}]
            return 200, listed
        if path == "/containers/create":
            name = json.loads(body)["Image"]
            if name not in engine.names:
                return 404, {"message": f"No such image: {name}"}
            return (201, {"Id": "c1"}) if engine.whole(name) else (500, {"message": "failed to extract layer"})
        if path.startswith("/containers/"):
            return 204, None
        match = re.fullmatch(r"/images/(.+?)(/json|/tag|)", path)
        assert match
        image = engine.names.get(match[1], match[1])
        if image not in engine.images:
            return 404, {"message": f"No such image: {match[1]}"}
        if match[2] == "/json":
            return 200, {"Id": image, "RootFS": {"Type": "layers", "Layers": engine.images[image]}}
        if match[2] == "/tag":
            engine.names[f"{query['repo'][0]}:{query['tag'][0]}"] = image
            return 201, None
        del engine.names[match[1]]
        if image not in engine.names.values():
            del engine.images[image]
        return 200, [{"Untagged": match[1]}]
