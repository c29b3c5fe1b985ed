"""A registry in this process that can be told to do what real ones do on bad days."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from serving import Served, Server

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Seen:
    """A request; ``number`` counts those of the same method from 1."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]  # names in small letters
    number: int

    @property
    def is_upload(self) -> bool:
        return "/blobs/uploads/" in self.path


@dataclass
class Reply:
    """What to answer instead; ``cut`` breaks the connection after so many bytes of the body, and answers nothing."""

    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    read: bool = True  # the body, before the answer


class FakeRegistry(Served):
    """Serves on 127.0.0.1.

    Attributes:
        blobs: by repository and digest.
        manifests: bytes and media type, by repository and reference.
        uploads: what was sent to uploads that are not complete.
        seen: all requests.
        interfere: is asked before each request is answered.
        locate: makes the value of Location out of a path and a query.
        mounts: whether blobs are mounted.
        authorize: whether a request may pass; else it gets ``challenge``.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.uploads: dict[str, bytearray] = {}
        self.seen: list[Seen] = []
        self.interfere: Callable[[Seen], Reply | None] = lambda seen: None
        self.locate: Callable[[str], str] = lambda path: path
        self.mounts = True
        self.authorize: Callable[[Seen], bool] = lambda seen: True
        self.challenge = ""
        self.tokens: Callable[[dict[str, str], dict[str, list[str]]], Reply] | None = None  # a token server
        self.lock = threading.RLock()
        server = Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"registry": self}))
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        self.host = f"127.0.0.1:{server.server_address[1]}"
        self.url = f"{'http' if context is None else 'https'}://{self.host}"
        super().__init__(server)

    def count(self, *methods: str) -> int:
        return sum(seen.method in methods for seen in self.seen)

    def image(self, repository: str, tag: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Manifest and config of an image, all of whose blobs are there and are what they are called."""
        data, kind = self.manifests[repository, tag]
        manifest = json.loads(data)
        assert manifest["mediaType"] == kind
        for descriptor in [manifest["config"], *manifest["layers"]]:
            blob = self.blobs[repository, descriptor["digest"]]
            assert len(blob) == descriptor["size"] and digest_of(blob) == descriptor["digest"]
        return manifest, json.loads(self.blobs[repository, manifest["config"]["digest"]])

    def add_image(self, repository: str, tag: str, layers: list[bytes], config: dict[str, Any], **fields: Any) -> str:
        """Put an image there; the digest of its manifest."""
        entries = []
        for data in [json.dumps(config).encode(), *layers]:
            self.blobs[repository, digest_of(data)] = data
            entries.append({"digest": digest_of(data), "size": len(data)})
        entries[0]["mediaType"] = "application/vnd.oci.image.config.v1+json"
        for entry in entries[1:]:
            entry["mediaType"] = fields.get("layer_type", "application/vnd.oci.image.layer.v1.tar")
        manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entries[0], "layers": entries[1:]}
        return self.add_manifest(repository, tag, manifest)

    def add_manifest(self, repository: str, tag: str, manifest: dict[str, Any]) -> str:
        data = json.dumps(manifest).encode()
        for name in (tag, digest_of(data)):
            self.manifests[repository, name] = data, manifest["mediaType"]
        return digest_of(data)


class _Handler(BaseHTTPRequestHandler):
    registry: FakeRegistry
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        pass

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            super().handle_one_request()

    def do(self) -> None:
        registry = self.registry
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
        with registry.lock:
            number = registry.count(self.command) + 1
            seen = Seen(self.command, parts.path, query, headers, number)
            registry.seen.append(seen)
        reply = registry.interfere(seen)
        if reply is None and parts.path == "/token" and registry.tokens:
            form = parse_qs(b"".join(self.body()).decode()) if self.command == "POST" else parse_qs(parts.query)
            reply = registry.tokens(headers, form)
        elif reply is None and not registry.authorize(seen):
            reply = Reply(401, {"WWW-Authenticate": registry.challenge}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
        if reply is None:
            reply = self.serve(seen)
        if reply.cut is not None:
            left = reply.cut
            with contextlib.suppress(OSError):
                for block in self.body():
                    left -= len(block)
                    if left <= 0:
                        break
                self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if reply.read:
            for _ in self.body():
                pass
        else:
            self.close_connection = True
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in reply.headers:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815

    def body(self) -> Iterator[bytes]:
        """What is left of the body."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self._exactly(size)
                self.rfile.readline()
            self.rfile.readline()
            del self.headers["Transfer-Encoding"]
        elif length := int(self.headers.get("Content-Length", 0)):
            del self.headers["Content-Length"]
            while length:
                data = self._exactly(min(length, 1 << 16))
                length -= len(data)
                yield data

    def _exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionError
        return data

    def serve(self, seen: Seen) -> Reply:
        """Do what the distribution specification says."""
        registry = self.registry
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs/uploads|blobs)/([^/]*)", seen.path)
        if not match:
            return Reply(404)
        repository, kind, name = match.groups()
        key = (repository, name)
        if kind == "blobs":
            if seen.method in ("GET", "HEAD"):
                return self.blob(seen, registry.blobs.get(key))
        elif kind == "manifests":
            if seen.method == "GET":
                if key not in registry.manifests:
                    return Reply(404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')
                data, media_type = registry.manifests[key]
                return Reply(200, {"Content-Type": media_type, "Docker-Content-Digest": digest_of(data)}, data)
            if seen.method == "PUT":
                return self.take_manifest(repository, name, b"".join(self.body()), seen)
        elif seen.method == "POST":
            return self.start(repository, seen)
        elif name in registry.uploads:
            return self.upload(repository, name, seen)
        else:
            return Reply(404, {}, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}')
        return Reply(405)

    def blob(self, seen: Seen, data: bytes | None) -> Reply:
        if data is None:
            return Reply(404)
        if found := re.fullmatch(r"bytes=(\d+)-", seen.headers.get("range", "")):
            return Reply(206, {}, data[int(found[1]) :])
        return Reply(200, {"Content-Length": str(len(data))}, data)

    def take_manifest(self, repository: str, name: str, data: bytes, seen: Seen) -> Reply:
        registry, manifest = self.registry, json.loads(data)
        needed = [(repository, each["digest"]) for each in [*manifest.get("layers", ())]]
        needed += [(repository, manifest["config"]["digest"])] if "config" in manifest else []
        if any(each not in registry.blobs for each in needed):
            return Reply(404, {}, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}')
        for entry in manifest.get("manifests", ()):
            assert (repository, entry["digest"]) in registry.manifests
        for each in {name, digest_of(data)}:
            registry.manifests[repository, each] = data, seen.headers["content-type"]
        return Reply(201, {"Docker-Content-Digest": digest_of(data)})

    def start(self, repository: str, seen: Seen) -> Reply:
        registry = self.registry
        source = (seen.query.get("from", ""), seen.query.get("mount", ""))
        if registry.mounts and source in registry.blobs:
            registry.blobs[repository, source[1]] = registry.blobs[source]
            return Reply(201, {"Location": f"/v2/{repository}/blobs/{source[1]}"})
        with registry.lock:
            name = f"u{seen.number}"
            registry.uploads[name] = bytearray()
        return Reply(202, {"Location": registry.locate(f"/v2/{repository}/blobs/uploads/{name}?_state=a%2Fb")})

    def upload(self, repository: str, name: str, seen: Seen) -> Reply:
        registry = self.registry
        assert seen.query.get("_state") == "a/b", "the query of Location was not kept"
        if seen.method == "DELETE":
            del registry.uploads[name]
            return Reply(204)
        for block in self.body():
            registry.uploads[name] += block
        if seen.method == "PATCH":
            return Reply(202, {"Location": registry.locate(f"/v2/{repository}/blobs/uploads/{name}?_state=a%2Fb")})
        data = bytes(registry.uploads.pop(name))
        if digest_of(data) != seen.query["digest"]:
            return Reply(400, {}, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}')
        registry.blobs[repository, digest_of(data)] = data
        return Reply(201, {"Location": f"/v2/{repository}/blobs/{digest_of(data)}"})


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
