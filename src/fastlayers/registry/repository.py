"""A repository's manifests and blobs: the requests of the distribution specification."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from ..digest import sha256
from ..errors import RegistryError
from .connection import Answer, Connection, Request
from .reference import DIGEST
from .transport import Body, Trouble

__all__ = ["INDEXES", "MANIFESTS", "Denied", "Manifest", "MissingBlobs", "Repository"]

MANIFESTS = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
_OCTETS = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index.

    Attributes:
        digest: of its bytes.
        media_type: as the registry says, or as it says itself.
        data: its bytes.
        document: what they say, an object.
    """

    digest: str
    media_type: str
    data: bytes
    document: dict[str, Any]

    @property
    def is_index(self) -> bool:
        """Whether it lists manifests."""
        return self.media_type in INDEXES or "manifests" in self.document


class Denied(RegistryError):
    """We may not see what was asked for; for some registries that is what is not there."""


class MissingBlobs(RegistryError):
    """A manifest was refused: blobs that it names are not there."""


class Repository:
    """A repository behind a connection; ``push``: we want to write to it."""

    def __init__(self, connection: Connection, *, push: bool) -> None:
        self.connection = connection
        self.reference = connection.reference
        self._pull_scope = (f"repository:{self.reference.repository}:pull",)
        self._scope = (f"repository:{self.reference.repository}:pull,push",) if push else self._pull_scope

    def manifest(self, reference: str) -> Manifest | None:
        """The manifest with a tag or digest, None if there is none.

        Raises:
            Denied: we may not see it.
            RegistryError: it cannot be had, or its bytes are not those of its digest.
        """
        what = f"manifest {reference}"
        headers = {"Accept": ", ".join(MANIFESTS + INDEXES)}
        answer = self.connection.request(Request(what, "GET", self._manifest_url(reference), self._scope, headers))
        if answer.status == 404:
            return None
        if answer.status in (401, 403):
            raise Denied(str(self.connection.denied(what, answer)))
        if answer.status != 200:
            raise self.connection.denied(what, answer)
        digest = sha256(answer.data)
        said = reference if DIGEST.fullmatch(reference) else answer.headers.get("Docker-Content-Digest", "")
        if said.startswith("sha256:") and said != digest:
            raise self.connection.error(what, f"its bytes are not those of {said}")
        try:
            document = json.loads(answer.data)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise self.connection.error(what, "not a manifest")
        kind = document.get("mediaType") or answer.headers.get("Content-Type", "").partition(";")[0].strip()
        return Manifest(digest, str(kind), answer.data, document)

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> None:
        """Write a manifest under a tag or its digest.

        Raises:
            MissingBlobs: the registry lacks blobs that it names.
            RegistryError: it is not taken.
        """
        what = f"manifest {reference}"
        request = Request(what, "PUT", self._manifest_url(reference), self._scope, {"Content-Type": media_type})
        answer = self.connection.request(request, data)
        if answer.status not in (200, 201, 202):
            error = self.connection.denied(what, answer)
            if answer.status in (400, 404) and b"BLOB_UNKNOWN" in answer.data:
                raise MissingBlobs(str(error))
            raise error
        self._check_digest(what, answer, sha256(data))

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is there, as far as we may see.

        Raises:
            RegistryError: the registry does not say.
        """
        what = f"blob {digest}"
        answer = self.connection.request(Request(what, "HEAD", self._blob_url(digest), self._scope))
        if answer.status not in (200, 401, 403, 404):
            raise self.connection.denied(what, answer)
        return answer.status == 200

    def open_blob(self, digest: str, start: int = 0) -> tuple[urllib3.BaseHTTPResponse, int]:
        """The stored bytes of a blob as a stream, and at which byte it begins: ``start``, or 0.

        Raises:
            RegistryError: it cannot be had.
        """
        what = f"blob {digest}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        request = Request(what, "GET", self._blob_url(digest), self._scope, headers)
        answer = self.connection.request(request, stream=True)
        if answer.stream is None:
            raise self.connection.denied(what, answer)
        return answer.stream, start if answer.status == 206 else 0

    def start_upload(self, digest: str | None = None, source: str | None = None) -> str | None:
        """Begin an upload, and give its location; or None, when the blob was mounted from the repository ``source``.

        Raises:
            RegistryError: the registry does not take it.
        """
        what = f"blob {digest}" if digest else "a blob"
        url = f"/v2/{self.reference.repository}/blobs/uploads/"
        if digest and source and source != self.reference.repository:
            scopes = tuple(sorted({*self._scope, f"repository:{source}:pull"}))
            query = urlencode({"mount": digest, "from": source})
            mount = Request(f"{what} from {source}", "POST", f"{url}?{query}", scopes)
            try:
                answer = self.connection.request(mount)
            except Trouble:
                raise
            except RegistryError:  # no token for both
                answer = Answer(403, {}, "")
            if answer.status == 201:
                self._check_digest(what, answer, digest)
                return None
            if answer.status == 202 and answer.location:
                return answer.location
        answer = self.connection.request(Request(f"{what}: upload", "POST", url, self._scope))
        if answer.status not in (200, 201, 202) or not answer.location:
            raise self.connection.denied(f"{what}: upload", answer)
        return answer.location

    def put(self, location: str, digest: str, size: int, body: Body) -> Answer:
        """Send a whole blob, once; 201 is the good answer.

        Raises:
            Trouble: it may be sent again.
            RegistryError: another failure below HTTP.
        """
        headers = {**_OCTETS, "Content-Length": str(size)}
        url = _with_digest(location, digest)
        return self.connection.send(Request(f"blob {digest}", "PUT", url, self._scope, headers), body)

    def patch(self, location: str, size: int | None, body: Iterable[bytes]) -> Answer:
        """Send the bytes of a blob whose digest is not known yet, once; their number may be.

        Raises:
            Trouble, RegistryError: as for :meth:`put`.
        """
        framing = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
        request = Request("a blob", "PATCH", location, self._scope, {**_OCTETS, **framing})
        return self.connection.send(request, body)

    def close_upload(self, location: str, digest: str) -> Answer:
        """End an upload whose bytes are there; 201 is the good answer.

        Raises:
            Trouble: it lasts.
            RegistryError: another failure below HTTP.
        """
        url = _with_digest(location, digest)
        return self.connection.request(Request(f"blob {digest}", "PUT", url, self._scope, _OCTETS), b"")

    def check_blob(self, digest: str, answer: Answer) -> None:
        """See that the answer to :meth:`put` or :meth:`close_upload` is good.

        Raises:
            RegistryError: it is not.
        """
        if answer.status not in (200, 201, 204):
            raise self.connection.denied(f"blob {digest}", answer)
        self._check_digest(f"blob {digest}", answer, digest)

    def cancel(self, location: str) -> None:
        """Give an upload up, in one attempt; the registry forgets it some day in any case."""
        scopes = (f"repository:{self.reference.repository}:delete,pull,push",)
        try:
            self.connection.send(Request("a blob: upload", "DELETE", location, scopes), None)
        except RegistryError:
            pass

    def _check_digest(self, what: str, answer: Answer, digest: str) -> None:
        said = answer.headers.get("Docker-Content-Digest", "")
        if said.startswith("sha256:") and said != digest:
            raise self.connection.error(what, f"the registry has {said} for {digest}")

    def _manifest_url(self, reference: str) -> str:
        return f"/v2/{self.reference.repository}/manifests/{quote(reference, safe=':')}"

    def _blob_url(self, digest: str) -> str:
        return f"/v2/{self.reference.repository}/blobs/{digest}"


def _with_digest(location: str, digest: str) -> str:
    """An upload's location with the digest behind its query, which is kept as it is."""
    return location + ("&" if "?" in location else "?") + urlencode({"digest": digest})
