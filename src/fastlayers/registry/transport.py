"""HTTP: one exchange at a time over pooled connections, and what to do when one fails."""

from __future__ import annotations

import datetime
import email.utils
import random
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, InsecureRequestWarning, NewConnectionError, ProxyError, SSLError

from ..errors import RegistryError
from .access import RegistryAccess, is_local
from .tls import tls_context

__all__ = [
    "Body",
    "Expired",
    "NoConnection",
    "Patience",
    "Transport",
    "Trouble",
    "as_error",
    "patiently",
    "read_body",
    "said",
]

Body = bytes | Iterable[bytes | memoryview] | None
T = TypeVar("T")

_SEND = 30.0  # seconds until a connection, and each write to it, counts as dead
_ANSWER = 300.0  # seconds until an answer; a registry may look at all of a large blob before it gives one
_LARGEST = 8 << 20  # bytes of an answer that is read into memory; manifests of 4 MiB are usual limits
_NEVER = (501, 505)  # of the answers from 500 on, those that do not pass
_CONNECTIONS = 16  # that are kept for each host

ATTEMPTS = 7
FIRST_WAIT = 0.5  # seconds; doubled each time
LONGEST_WAIT = 120.0  # seconds that a registry may ask to wait


class Trouble(RegistryError):
    """What may pass: a broken connection, an overloaded registry.

    Attributes:
        retry_after: seconds that the registry asks to wait, if it does.
    """

    retry_after: float | None = None


class NoConnection(Trouble):
    """Nobody speaks TLS there, or nobody is there at all."""


class Expired(Trouble):
    """The token was not good any more; the next request gets a new one."""


class Patience:
    """How often something is tried again, and how long to wait before: longer each time, and as the registry asks."""

    def __init__(self, attempts: int | None = None, sleep: Callable[[float], object] | None = None) -> None:
        self._left = ATTEMPTS if attempts is None else attempts
        self._wait = FIRST_WAIT
        self._sleep = time.sleep if sleep is None else sleep

    def after(self, trouble: Trouble) -> None:
        """Wait; or raise the trouble, when it was the last attempt."""
        self._left -= 1
        asked = trouble.retry_after
        if self._left <= 0 or (asked is not None and asked > LONGEST_WAIT):
            raise trouble
        # Many builders that were turned away together do not come back together.
        self._sleep(self._wait * random.uniform(0.75, 1.25) if asked is None else asked)
        self._wait *= 2


def patiently(call: Callable[[], T], attempts: int | None = None) -> T:
    """Call until it succeeds, or patience ends."""
    patience = Patience(attempts)
    while True:
        try:
            return call()
        except Trouble as trouble:
            patience.after(trouble)


class Transport:
    """Connections to a registry and to where it sends us, with its certificates; threads may share it."""

    def __init__(self, host: str, access: RegistryAccess) -> None:
        self._host = host
        self._access = access
        if not access.tls_verify:  # who says so need not be told
            urllib3.disable_warnings(InsecureRequestWarning)
        self._managers: dict[tuple[str, str | None], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def exchange(
        self, place: str, method: str, url: str, headers: Mapping[str, str], body: Body = None
    ) -> urllib3.BaseHTTPResponse:
        """Send a request and give the answer, whose body has not been read; no redirect is followed.

        ``place`` is what errors begin with.

        Raises:
            NoConnection: nobody there, or no TLS.
            Trouble: the connection broke, or the answer was one that may pass: 408, 429, most from 500 on.
            RegistryError: the certificate is not one to trust, or TLS is needed and not there.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" and not (
            parts.scheme == "http" and (not self._access.tls_verify or is_local(parts.netloc))
        ):
            raise RegistryError(f"{place}: {parts.netloc} is to be asked without TLS, which has to be allowed")
        try:
            response = self._pools(parts.scheme, parts.netloc, parts.hostname or "").urlopen(
                method,
                url,
                body=body,
                headers={"User-Agent": "fastlayers", "Accept-Encoding": "identity", **headers},
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=_SEND, read=_ANSWER),
                preload_content=False,
                decode_content=False,
            )
        except HTTPError as error:
            raise as_error(place, error) from None
        if response.status in (408, 429) or (response.status >= 500 and response.status not in _NEVER):
            trouble = Trouble(f"{place}: {response.status} {said(response.status, read_body(place, response))}")
            trouble.retry_after = _seconds(response.headers.get("Retry-After"))
            raise trouble
        return response

    def _pools(self, scheme: str, netloc: str, hostname: str) -> urllib3.PoolManager:
        """The connections for a URL: direct ones, or those of the proxy that the environment names."""
        proxy = None
        if not is_local(netloc) and not urllib.request.proxy_bypass_environment(hostname):  # type: ignore[attr-defined]
            proxy = urllib.request.getproxies_environment().get(scheme)
        with self._lock:
            if (scheme, proxy) not in self._managers:
                self._managers[scheme, proxy] = self._manager(scheme, proxy)
            return self._managers[scheme, proxy]

    def _manager(self, scheme: str, proxy: str | None) -> urllib3.PoolManager:
        parts = urlsplit(proxy or "")
        # All certificates of the system are read for a context: not where there is no TLS.
        context = self._context if "https" in (scheme, parts.scheme) else None
        if not proxy:
            return urllib3.PoolManager(maxsize=_CONNECTIONS, ssl_context=context)
        name = parts.netloc.rpartition("@")[2]
        headers = None
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers = urllib3.make_headers(proxy_basic_auth=pair)
        try:
            url = f"{parts.scheme or 'http'}://{name}"
            return urllib3.ProxyManager(url, proxy_headers=headers, maxsize=_CONNECTIONS, ssl_context=context)
        except HTTPError:
            raise RegistryError(f"{name}: not a proxy that is understood") from None

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return tls_context(self._host, self._access)


def read_body(place: str, response: urllib3.BaseHTTPResponse) -> bytes:
    """All of an answer's body, and the connection is free for others.

    Raises:
        Trouble: the connection broke.
        RegistryError: it is too large.
    """
    data = b""
    try:
        while len(data) <= _LARGEST and (more := response.read(_LARGEST + 1 - len(data))):
            data += more
    except HTTPError as error:
        raise as_error(place, error) from None
    finally:
        response.release_conn() if len(data) <= _LARGEST else response.close()
    if len(data) > _LARGEST:
        raise RegistryError(f"{place}: more than {_LARGEST} bytes")
    return data


def said(status: int, body: bytes) -> str:
    """What an answer says of an error, as one line."""
    import http
    import json

    try:
        text = http.HTTPStatus(status).phrase
    except ValueError:
        text = ""
    try:
        errors = json.loads(body)["errors"]
        details = [str(error.get("message") or error.get("code")) for error in errors]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        details = []
    line = ": ".join([text, *details[:1]]) if text else ": ".join(details[:1])
    return " ".join("".join(c if c.isprintable() else " " for c in line[:300]).split())


def as_error(place: str, error: HTTPError) -> RegistryError:
    """What went wrong below HTTP, in words; urllib3's own text has the whole URL, whose query may be secret."""
    cause: object = error.__cause__ or next((arg for arg in reversed(error.args) if isinstance(arg, Exception)), error)
    while isinstance(cause, HTTPError) and cause.args and isinstance(cause.args[-1], Exception):
        cause = cause.args[-1]
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RegistryError(f"{place}: its certificate is not trusted: {cause.verify_message}")
    kind = NoConnection if isinstance(error, SSLError | NewConnectionError | ProxyError) else Trouble
    if isinstance(cause, socket.gaierror) and isinstance(error, NewConnectionError):
        # The host may be another than the one in the image's name.
        return kind(f"{place}: {error.conn.host}: {cause.strerror}")
    if isinstance(cause, OSError) and cause.strerror:
        return kind(f"{place}: {cause.strerror}")
    text = str(cause).rpartition("): ")[2] if isinstance(cause, HTTPError) else str(cause)
    return kind(f"{place}: {text or type(cause).__name__}")


def _seconds(text: str | None) -> float | None:
    """The value of Retry-After: seconds, or a date."""
    if text is None:
        return None
    try:
        return max(float(int(text)), 0.0)
    except ValueError:
        pass
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max((date - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)
