"""A connection to one registry: authorization, redirects and second attempts around single exchanges."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

import urllib3

from ..errors import RegistryError
from .access import Credentials, RegistryAccess, is_local
from .authorization import Authorization, Challenge
from .reference import Reference
from .transport import Body, Expired, NoConnection, Patience, Transport, Trouble, read_body, said

__all__ = ["Answer", "Connection", "Request", "Session", "connect"]

_REDIRECTS = 5  # that are followed, one after the other
_HUB = ("docker.io", "registry-1.docker.io")  # what it is called, and where it is
_FIRST_ATTEMPTS = 3  # where nobody has answered yet; a wrong name should be told soon


@dataclass(frozen=True, slots=True)
class Session:
    """What one process knows of a registry and others shall: a picklable value.

    Attributes:
        reference: the repository that it is about.
        access: what the user says.
        scheme: ``https`` or ``http``; empty as long as it is not known.
        challenge: how the registry wants to be asked, once it has said.
        credentials: what was found for that.
        number: of this session alone, so that no token outlives a build.
    """

    reference: Reference
    access: RegistryAccess
    scheme: str = ""
    challenge: Challenge | None = None
    credentials: Credentials | None = field(default=None, repr=False)
    number: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        what: in words, for errors.
        method: of HTTP.
        url: a path at the registry, or a whole URL that it gave.
        scopes: what a token has to be good for.
        headers: further ones.
    """

    what: str
    method: str
    url: str
    scopes: tuple[str, ...]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry answers.

    Attributes:
        status: of HTTP.
        headers: names in any case.
        url: of the request, for relative locations.
        data: the body, where it was read.
        stream: the body, where it was not; who takes it closes it.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    data: bytes = b""
    stream: urllib3.BaseHTTPResponse | None = None

    @property
    def location(self) -> str | None:
        """The whole URL in Location, which may be relative."""
        location = self.headers.get("Location")
        return urljoin(self.url, location) if location else None

    @property
    def redirects(self) -> bool:
        """Whether the request is to be sent to the location again, as it was."""
        return self.status in (301, 302, 303, 307, 308) and self.location is not None


class Connection:
    """A registry, as one process sees it; threads may share it.

    Attributes:
        no_patch: it refuses uploads whose digest comes at the end, as was seen.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.reference = session.reference
        self._scheme = session.scheme
        if not self._scheme and session.access.tls_verify and not is_local(self.reference.host):
            self._scheme = "https"
        self._answered = bool(session.scheme)
        self.no_patch = False
        self._transport = Transport(self.reference.host, session.access)
        self._authorization = Authorization(
            session.reference, session.access, self._transport, session.challenge, session.credentials
        )

    def share(self) -> Session:
        """The session with all that was learned since, for another process."""
        challenge = self._authorization.challenge
        return replace(
            self._session,
            scheme=self._scheme if self._answered else "",
            challenge=challenge,
            credentials=self._authorization.credentials if challenge else None,
        )

    def patience(self, sleep: Callable[[float], object] | None = None) -> Patience:
        """How often something is tried again here."""
        attempts = None if self._answered else _FIRST_ATTEMPTS
        return Patience(attempts, sleep)

    def request(
        self, request: Request, body: Callable[[], Iterable[bytes]] | bytes | None = None, *, stream: bool = False
    ) -> Answer:
        """Ask until there is an answer: again after trouble, with a new token, and where a redirect leads.

        Args:
            request: what to ask.
            body: bytes, or a function that gives their blocks each time.
            stream: leave the body of a good answer unread.

        Raises:
            Trouble: it lasts.
            RegistryError: another failure below HTTP. Answers of 4xx are answers.
        """
        patience, refusals, redirects = self.patience(), 0, 0
        while True:
            try:
                answer, used = self._send(request, body() if callable(body) else body, stream=stream)
            except Trouble as trouble:
                patience.after(trouble)
                continue
            if answer.status == 401 and refusals < 2 and self._refused(answer, used, request):
                refusals += 1
                continue
            if answer.redirects and (request.method in ("GET", "HEAD") or answer.status in (307, 308)):
                redirects += 1
                if redirects > _REDIRECTS:
                    raise self.error(request.what, "too many redirects")
                request = replace(request, url=answer.location or "")
                continue
            return answer

    def send(self, request: Request, body: Body) -> Answer:
        """Ask once, with a body that can be sent once.

        Raises:
            Expired: it may be sent again at once.
            Trouble: it may be sent again, some time later.
            RegistryError: another failure below HTTP.
        """
        answer, used = self._send(request, body, stream=False)
        if answer.status == 401 and self._refused(answer, used, request):
            raise Expired(str(self.denied(request.what, answer)))
        return answer

    def denied(self, what: str, answer: Answer) -> RegistryError:
        """The error for an answer that was not hoped for; where we are not let in, it matters little to what."""
        reason = f"{answer.status} {said(answer.status, answer.data)}"
        if answer.status != 401 or not self._is_registry(answer.url):
            return self.error(what, reason)
        who = self._authorization.credentials
        if who is None:
            text = f"access is refused, and no credentials for {self.reference.host} were found: {reason}"
        elif self._authorization.challenge is None:
            text = f"access is refused, and credentials are not asked for in a way that is understood: {reason}"
        else:
            which = f"credentials from {who.place}" if who.place else "credentials"
            text = f"access with the {which} is refused: {reason}"
        return RegistryError(self._authorization.scrub(f"{self.reference}: {text}"))

    def error(self, what: str, reason: str) -> RegistryError:
        """An error that names the repository."""
        return RegistryError(self._authorization.scrub(f"{self.reference.name}: {what}: {reason}"))

    def _refused(self, answer: Answer, used: str | None, request: Request) -> bool:
        if not self._is_registry(answer.url):
            return False
        challenge = answer.headers.get("WWW-Authenticate")
        return self._authorization.refused([challenge] if challenge else [], used, request.scopes)

    def _send(self, request: Request, body: Body, *, stream: bool) -> tuple[Answer, str | None]:
        """The answer, and the authorization that was sent."""
        if not self._scheme:  # TLS may be missing: that shows at the first request, whose body is not touched then
            try:
                result = self._exchange(request, f"https://{self._host}{request.url}", body, stream=stream)
                self._scheme = "https"
            except NoConnection:
                result = self._exchange(request, f"http://{self._host}{request.url}", body, stream=stream)
                self._scheme = "http"
        else:
            result = self._exchange(request, self._whole(request.url), body, stream=stream)
        self._answered = True
        return result

    def _exchange(self, request: Request, url: str, body: Body, *, stream: bool) -> tuple[Answer, str | None]:
        headers = dict(request.headers)
        # What a redirect leads to has its own way of knowing us, if any: a signature in the URL.
        used = None
        if not self._scheme or self._is_registry(url):
            used = self._authorization.header(request.scopes)
        if used is not None:
            headers["Authorization"] = used
        place = f"{self.reference.name}: {request.what}"
        try:
            response = self._transport.exchange(place, request.method, url, headers, body)
            if stream and response.status in (200, 206):
                return Answer(response.status, response.headers, url, stream=response), used
            return Answer(response.status, response.headers, url, read_body(place, response)), used
        except Trouble as trouble:
            trouble.args = (self._authorization.scrub(str(trouble)),)
            raise

    def _is_registry(self, url: str) -> bool:
        """Whether a whole URL is at the registry, and not where a redirect led."""
        return urlsplit(url)[:2] == urlsplit(self._whole("/"))[:2]

    def _whole(self, url: str) -> str:
        return url if "://" in url else f"{self._scheme}://{self._host}{url}"

    @property
    def _host(self) -> str:
        return _HUB[1] if self.reference.host == _HUB[0] else self.reference.host


@lru_cache(maxsize=4)
def connect(session: Session) -> Connection:
    """The connection of this process for a session."""
    return Connection(session)
