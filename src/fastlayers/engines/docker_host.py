"""Where Docker's engine is, as docker's own client finds out: DOCKER_HOST, or else the context that is in use."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.exceptions import InsecureRequestWarning

from . import NoEngine

__all__ = ["DockerHost", "open_pool"]

_DEFAULT = "unix:///var/run/docker.sock"
_DEFAULT_CONTEXT = "default"  # which has no files, and is what the environment says
_LARGEST = 16 << 20  # bytes of a document
_PORT, _TLS_PORT = 2375, 2376


@dataclass(frozen=True, slots=True)
class DockerHost:
    """An engine's address.

    Attributes:
        text: as it was given, without a user and a password.
        socket: the path of a unix socket; empty where it is TCP.
        host, port: of TCP.
        certificates: the folder of ca.pem, cert.pem and key.pem; None without TLS.
        any_certificate: with TLS, take whatever certificate the engine has.
    """

    text: str
    socket: str = ""
    host: str = ""
    port: int = 0
    certificates: str | None = None
    any_certificate: bool = False

    @classmethod
    def from_environment(cls) -> DockerHost:
        """What DOCKER_HOST says; else the context of DOCKER_CONTEXT or of docker's configuration; else the usual place.

        Raises:
            NoEngine: it is of no kind that is understood, or there is no such context.
        """
        folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
        text = os.environ.get("DOCKER_HOST")
        context = "" if text else os.environ.get("DOCKER_CONTEXT") or _current_context(folder)
        if context and context != _DEFAULT_CONTEXT:
            return cls._of_context(context, folder)
        text = text or _DEFAULT
        tls = os.environ.get("DOCKER_TLS_VERIFY") or text.startswith("https:")
        return cls._parse("DOCKER_HOST", text, (os.environ.get("DOCKER_CERT_PATH") or folder) if tls else None)

    @classmethod
    def _of_context(cls, name: str, folder: str) -> DockerHost:
        """What a context says, which is kept by the SHA-256 of its name."""
        place = f"docker context {name}"
        try:
            hashed = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        except UnicodeEncodeError:  # half of a surrogate pair, in JSON
            raise NoEngine(f"docker context {name!a}: not a name") from None
        file = os.path.join(folder, "contexts", "meta", hashed, "meta.json")
        document = _read_object(file)
        if document is None:
            raise NoEngine(f"{place}: there is none of this name: no {file}")
        try:
            endpoint = document["Endpoints"]["docker"]
            text, any_certificate = endpoint["Host"], bool(endpoint.get("SkipTLSVerify"))
        except (LookupError, TypeError, AttributeError):
            text, any_certificate = None, False
        if not text or not isinstance(text, str):
            raise NoEngine(f"{place}: {file} names no engine")
        certificates = os.path.join(folder, "contexts", "tls", hashed, "docker")
        tls = any_certificate or os.path.isdir(certificates) or text.startswith("https:")
        return cls._parse(place, text, certificates if tls else None, any_certificate=any_certificate)

    @classmethod
    def _parse(cls, place: str, text: str, certificates: str | None, *, any_certificate: bool = False) -> DockerHost:
        scheme, _, path = text.partition("://")
        if scheme == "unix" and path:
            return cls(text, path)
        shown = _without_user(text)
        if scheme == "ssh":
            raise NoEngine(
                f"{place}: {shown}: ssh is not supported; let ssh forward the socket: "
                "ssh -nNT -L /tmp/docker.sock:/var/run/docker.sock HOST, and DOCKER_HOST=unix:///tmp/docker.sock"
            )
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if scheme not in ("tcp", "http", "https") or not host or parts.path.strip("/"):
            raise NoEngine(f"{place}: {shown}: expected unix://PATH or tcp://HOST[:PORT]")
        port = port or (_PORT if certificates is None else _TLS_PORT)
        return cls(shown, "", host, port, certificates, any_certificate)

    def __str__(self) -> str:
        """The address as it may be shown."""
        return self.text


def _without_user(text: str) -> str:
    """An address without what stands before its host, which may be a secret and have any character in it."""
    scheme, separator, rest = text.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else text.rpartition("@")[2]


def _current_context(folder: str) -> str:
    """The context that ``docker context use`` has put into the configuration; empty where none is."""
    file = os.path.join(folder, "config.json")
    name = (_read_object(file) or {}).get("currentContext") or ""
    if not isinstance(name, str):
        raise NoEngine(f"{file}: currentContext: not a name")
    return name


def _read_object(file: str) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file."""
    try:
        with open(file, "rb") as data:
            document = json.loads(data.read(_LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NoEngine(f"{file}: {error.strerror}") from None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise NoEngine(f"{file}: not a JSON object")
    return document


def open_pool(host: DockerHost) -> urllib3.HTTPConnectionPool:
    """Connections to an engine, which are made when they are needed.

    Raises:
        NoEngine: a certificate or key cannot be read, or the host is no name.
    """
    if host.socket:
        return _UnixPool(host.socket)
    try:
        if host.certificates is None:
            return urllib3.HTTPConnectionPool(host.host, host.port, maxsize=2)
        return urllib3.HTTPSConnectionPool(host.host, host.port, maxsize=2, ssl_context=_trust(host, host.certificates))
    except urllib3.exceptions.LocationValueError:
        raise NoEngine(f"{host}: not the name of a host") from None


def _trust(host: DockerHost, folder: str) -> ssl.SSLContext:
    """Whom to believe, and who we are: by ca.pem alone, where there is one, else by the authorities of the system."""
    authority, certificate, key = (os.path.join(folder, name) for name in ("ca.pem", "cert.pem", "key.pem"))
    try:
        context = ssl.create_default_context(cafile=authority if os.path.exists(authority) else None)
        if os.path.exists(certificate):
            context.load_cert_chain(certificate, key)
    except OSError as error:  # of ssl too
        raise NoEngine(f"{folder}: certificates cannot be used: {error.strerror or error}") from None
    if host.any_certificate:
        urllib3.disable_warnings(InsecureRequestWarning)  # who says so need not be told
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # which home-made authorities do not pass from Python 3.13 on
    return context


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
