"""Where Docker's engine is, as docker's own client finds out: DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection

from ..errors import DestinationError

__all__ = ["DockerHost", "open_pool"]

_DEFAULT = "unix:///var/run/docker.sock"
_PORT, _TLS_PORT = 2375, 2376


@dataclass(frozen=True, slots=True)
class DockerHost:
    """An engine's address.

    Attributes:
        text: as it was given.
        socket: the path of a unix socket; empty where it is TCP.
        host, port: of TCP.
        certificates: the folder of ca.pem, cert.pem and key.pem; None without TLS.
    """

    text: str
    socket: str = ""
    host: str = ""
    port: int = 0
    certificates: str | None = None

    @classmethod
    def from_environment(cls) -> DockerHost:
        """What the environment says.

        Raises:
            DestinationError: DOCKER_HOST is of no kind that is understood.
        """
        text = os.environ.get("DOCKER_HOST") or _DEFAULT
        scheme, _, path = text.partition("://")
        if scheme == "unix" and path:
            return cls(text, path)
        if scheme == "ssh":
            raise DestinationError(
                f"DOCKER_HOST: {text}: ssh is not supported; let ssh forward the socket: "
                "ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST, and DOCKER_HOST=unix:///tmp/docker.sock"
            )
        certificates = None
        if os.environ.get("DOCKER_TLS_VERIFY") or scheme == "https":
            folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
            certificates = os.environ.get("DOCKER_CERT_PATH") or folder
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if scheme not in ("tcp", "http", "https") or not host or parts.path.strip("/"):
            raise DestinationError(f"DOCKER_HOST: {text}: expected unix://PATH or tcp://HOST[:PORT]")
        return cls(text, "", host, port or (_PORT if certificates is None else _TLS_PORT), certificates)

    def __str__(self) -> str:
        """The address as it was given."""
        return self.text


def open_pool(host: DockerHost) -> urllib3.HTTPConnectionPool:
    """Connections to an engine, which are made when they are needed.

    Raises:
        DestinationError: a certificate or key cannot be read.
    """
    if host.socket:
        return _UnixPool(host.socket)
    if host.certificates is None:
        return urllib3.HTTPConnectionPool(host.host, host.port, maxsize=2)
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # which home-made authorities do not pass from Python 3.13 on
    authority, certificate, key = (os.path.join(host.certificates, name) for name in ("ca.pem", "cert.pem", "key.pem"))
    try:
        if os.path.exists(authority):  # or those of the system
            context.load_verify_locations(authority)
        if os.path.exists(certificate):
            context.load_cert_chain(certificate, key)
    except OSError as error:  # of ssl too
        raise DestinationError(f"{host.certificates}: certificates cannot be used: {error.strerror or error}") from None
    return urllib3.HTTPSConnectionPool(host.host, host.port, maxsize=2, ssl_context=context)


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, **options: object) -> None:
        super().__init__("localhost", **options)  # type: ignore[arg-type]
        self._path = path

    def _new_conn(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(float(self.timeout) if isinstance(self.timeout, int | float) else None)
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            raise urllib3.exceptions.NewConnectionError(self, f"{self._path}: {error.strerror or error}") from error
        return connection


class _UnixPool(urllib3.HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", maxsize=2)
        self._path = path

    def _new_conn(self) -> _UnixConnection:
        return _UnixConnection(self._path, timeout=self.timeout.connect_timeout)
