"""Docker's registry on a port of its own, and a bad connection to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from certificates import Certificates
from required import require_tool
from serving import Served, Server

_PATIENCE = 60  # seconds that a registry may take to start
_USER_PASSWORD = "user:$2y$05$CHzNh7UIWWdybLR7nhNn3.pdLByDERY1WfccwRkek7i4rK0PMQkOW\n"  # user, password


class DockerRegistry:
    """A registry with its storage in a folder; ``certificates``: with TLS, and only for the user "user" with the
    password "password"."""

    def __init__(self, folder: Path, certificates: Certificates | None = None) -> None:
        self._program = require_tool("docker-registry")
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        self.storage = folder / "storage"
        self._log = folder / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{free.getsockname()[1]}"
        config: dict[str, Any] = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}},
            "http": {"addr": self.host},
        }
        if certificates is not None:
            (folder / "htpasswd").write_text(_USER_PASSWORD)
            config["auth"] = {"htpasswd": {"realm": "registry", "path": str(folder / "htpasswd")}}
            config["http"]["tls"] = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
        (folder / "config.yml").write_text(json.dumps(config))  # which is YAML
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [self._program, "serve", self._folder / "config.yml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + _PATIENCE
        host, _, port = self.host.partition(":")
        while True:
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
                return
            if self._server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"docker-registry does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    close = kill

    def requests(self) -> list[tuple[str, str, int]]:
        """What was asked and answered until now: method, path, status."""
        found = re.findall(r'"([A-Z]+) (/v2/\S*) HTTP/1\.1" (\d+)', self._log.read_text())
        return [(method, path.partition("?")[0], int(status)) for method, path, status in found]

    def blobs_sent(self) -> list[tuple[str, int]]:
        """Which blobs clients got until now, by digest, and how many bytes of them."""
        found = re.findall(r'"GET /v2/\S*/blobs/(sha256:[0-9a-f]{64}) HTTP/1\.1" 20[06] (\d+)', self._log.read_text())
        return [(digest, int(size)) for digest, size in found]

    def tags(self, repository: str) -> list[str]:
        folder = self.storage / "docker/registry/v2/repositories" / repository / "_manifests/tags"
        return sorted(tag.name for tag in folder.iterdir()) if folder.is_dir() else []

    def uploads(self, repository: str) -> list[Path]:
        """What is there of uploads that are not complete."""
        folder = self.storage / "docker/registry/v2/repositories" / repository / "_uploads"
        return sorted(folder.glob("*/data"))


class BadConnection(Served):
    """A proxy that answers 500 and 429 by itself, and breaks connections, at random; ``failures``: what it did."""

    def __init__(self, registry: DockerRegistry, share: float, seed: int) -> None:
        server = _Server(("127.0.0.1", 0), _Handler)
        server.upstream, server.share, server.chance = registry.host, share, random.Random(seed)
        self.host = f"127.0.0.1:{server.server_address[1]}"
        self.failures: Sequence[str] = server.failures
        super().__init__(server)


class _Server(Server):
    upstream: str
    share: float
    chance: random.Random

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.failures: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments: object) -> None:
        pass

    def do(self) -> None:
        server = self.server
        kind = server.chance.choice(["500", "429", "before", "within", "after"])
        kind = kind if server.chance.random() < server.share else ""
        server.failures += [kind] if kind else []
        if kind in ("500", "429"):
            self.send_response(int(kind))
            self.send_header("Content-Length", "0")
            if kind == "429":
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.close_connection = True  # the body has not been read
            return None
        if kind == "before":
            return self.cut()
        connection = http.client.HTTPConnection(server.upstream)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders()
            for number, block in enumerate(self.blocks()):
                if kind == "within" and number == 1:
                    return self.cut()
                connection.send(block)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if kind:
            return self.cut()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        return None

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def blocks(self) -> Any:
        """The body as it is on the wire, chunk sizes too."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while True:
                line = self.rfile.readline()
                size = int(line, 16)
                yield line + self.rfile.read(size) + self.rfile.readline()
                if not size:
                    return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            data = self.rfile.read(min(left, 1 << 16))
            if not data:
                return
            left -= len(data)
            yield data
