"""Authorization: a registry's challenge, and the Basic or Bearer header that answers it."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from ..errors import RegistryError
from .access import Credentials, RegistryAccess
from .credentials import find_credentials
from .reference import Reference
from .transport import Transport, Trouble, patiently, read_body, said

__all__ = ["Authorization", "Challenge"]

_SHORTEST = 60.0  # seconds that a token is good for where its server does not say, as the protocol has it
_PARAMETER = re.compile(r'\s*,?\s*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z]+)(?=[\s,]|$)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a registry wants to be asked: ``basic``, or ``bearer`` with the token server (realm) and our service."""

    scheme: str
    realm: str = ""
    service: str = ""

    @classmethod
    def parse(cls, headers: Sequence[str]) -> Challenge | None:
        """The strongest challenge in WWW-Authenticate headers that is understood, if any."""
        found: dict[str, Challenge] = {}
        for header in headers:
            position = 0
            while scheme := _SCHEME.match(header, position):
                position, parameters = scheme.end(), {}
                while parameter := _PARAMETER.match(header, position):
                    name, quoted, plain = parameter.groups()
                    parameters[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                    position = parameter.end()
                name = scheme[1].lower()
                if name == "basic" or (name == "bearer" and parameters.get("realm")):
                    found[name] = cls(name, parameters.get("realm", ""), parameters.get("service", ""))
        return found.get("bearer") or found.get("basic")


class Authorization:
    """The header of every request; threads may share it.

    Attributes:
        challenge: what the registry wants; None as long as it has not said.
    """

    def __init__(
        self,
        reference: Reference,
        access: RegistryAccess,
        transport: Transport,
        challenge: Challenge | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """``credentials`` are those that were found before."""
        self.challenge = challenge
        self._reference = reference
        self._access = access
        self._transport = transport
        self._credentials = credentials
        self._sought = challenge is not None
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}  # and when they are to be renewed
        self._lock = threading.Lock()

    @property
    def credentials(self) -> Credentials | None:
        """Credentials for the registry; looked for once, and only when it asks."""
        if not self._sought:
            self._credentials = find_credentials(self._reference, self._access)
            self._sought = True
        return self._credentials

    def header(self, scopes: tuple[str, ...]) -> str | None:
        """The Authorization header for a request that needs these scopes; None as long as none is asked for.

        Raises:
            RegistryError: there are no credentials, or the token server does not take them.
        """
        with self._lock:
            if self.challenge is None:
                return None
            if self.challenge.scheme == "basic":
                return self._basic()
            if self.credentials and self.credentials.registry_token:
                return f"Bearer {self.credentials.registry_token}"
            token, until = self._tokens.get(scopes, ("", 0.0))
            if not token or time.monotonic() >= until:
                challenge = self.challenge
                try:
                    token, seconds = patiently(lambda: self._fetch(challenge, scopes))
                except Trouble as trouble:  # enough was tried
                    raise RegistryError(self.scrub(str(trouble))) from None
                self._tokens[scopes] = token, time.monotonic() + seconds * 0.9
            return f"Bearer {token}"

    def refused(self, headers: Sequence[str], used: str | None, scopes: tuple[str, ...]) -> bool:
        """Learn from an answer of 401 to a request with the header ``used``; whether to ask once more."""
        with self._lock:
            if used is None:
                self.challenge = Challenge.parse(headers)
                return self.challenge is not None and (self.challenge.scheme == "bearer" or self._has_credentials())
            if f"Bearer {self._tokens.get(scopes, ('',))[0]}" == used:
                del self._tokens[scopes]
            return used.startswith("Bearer ") and not (self.credentials and self.credentials.registry_token)

    def scrub(self, text: str) -> str:
        """A text without our secrets, for what a server says: it may repeat what it got."""
        who = self._credentials
        secrets = [who.password, who.identity_token, who.registry_token] if who else []
        for secret in [*secrets, *(token for token, _ in self._tokens.values())]:
            if secret:
                text = text.replace(secret, "***")
        return text

    def _has_credentials(self) -> bool:
        return self.credentials is not None

    def _basic(self) -> str:
        who = self.credentials
        if who is None:
            raise RegistryError(f"{self._reference}: the registry asks for credentials, and none were found")
        return "Basic " + base64.b64encode(f"{who.username}:{who.password}".encode()).decode()

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...]) -> tuple[str, float]:
        """A token of the token server, and for how many seconds it is good."""
        who = self.credentials
        headers: dict[str, str] = {}
        fields = [("service", challenge.service)] if challenge.service else []
        url, method = challenge.realm, "GET"
        body: bytes | None = None
        place = f"{self._reference}: the registry's token server"
        if who is not None and who.identity_token:
            fields += [
                ("grant_type", "refresh_token"),
                ("client_id", "fastlayers"),
                ("scope", " ".join(scopes)),
                ("refresh_token", who.identity_token),
            ]
            method, body = "POST", urlencode(fields).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            fields += [("scope", scope) for scope in scopes]
            if who is not None:
                fields.append(("account", who.username))
                headers["Authorization"] = self._basic()
            url += ("&" if "?" in url else "?") + urlencode(fields)
        response = self._transport.exchange(place, method, url, headers, body)
        data = read_body(place, response)
        if response.status != 200:
            which = f"credentials from {who.place}" if who is not None and who.place else "credentials"
            reason = f"does not take the {which}" if who is not None else "gives no token without credentials"
            raise RegistryError(self.scrub(f"{place} {reason}: {response.status} {said(response.status, data)}"))
        try:
            answer = json.loads(data)
            token = answer.get("token") or answer.get("access_token")
            seconds = float(answer.get("expires_in") or _SHORTEST)
        except (ValueError, TypeError, AttributeError, RecursionError):
            token = None
        if not isinstance(token, str) or not token or not token.isprintable():
            raise RegistryError(f"{place}: an answer without a token")
        return token, seconds
