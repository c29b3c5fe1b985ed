"""Images out of registries: manifests by platform, blobs as streams that outlive a broken connection."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.exceptions import HTTPError

from ..digest import sha256
from ..errors import ImageError
from .access import RegistryAccess
from .connection import Connection, Session
from .platforms import choose_platform, platform_name
from .reference import Reference
from .repository import Manifest, Repository
from .transport import Trouble, as_error

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["BlobReader", "choose_manifest", "find_manifest", "open_repository", "read_small_blob"]

_LARGEST = 8 << 20  # bytes of a config


def open_repository(reference: Reference, access: RegistryAccess, *, push: bool) -> Repository:
    """A repository with a connection of its own."""
    return Repository(Connection(Session(reference, access)), push=push)


def find_manifest(repository: Repository, named: str, architecture: str, variant: str | None) -> Manifest | None:
    """The manifest with a tag or digest, out of an index the one for this platform; None if there is none.

    Raises:
        ImageError: the index has none for it.
        RegistryError: it cannot be had.
    """
    manifest = repository.manifest(named)
    return None if manifest is None else choose_manifest(repository, manifest, architecture, variant)


def choose_manifest(repository: Repository, manifest: Manifest, architecture: str, variant: str | None) -> Manifest:
    """Out of an index the manifest for Linux on this architecture; what is no index is given back.

    Raises:
        ImageError: the index has none for it; the message says which it has.
        RegistryError: it cannot be had.
    """
    if not manifest.is_index:
        return manifest
    place = f"docker://{repository.reference.name}: {manifest.digest}"
    entries = manifest.document.get("manifests")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ImageError(f"{place}: not an image index")
    chosen = choose_platform(entries, architecture, variant)
    if chosen is None:
        wanted = platform_name({"architecture": architecture, "variant": variant})
        there = ", ".join(platform_name(entry.get("platform") or {}) for entry in entries) or "nothing"
        raise ImageError(f"{place}: nothing for {wanted}; it has {there}")
    found = repository.manifest(str(chosen.get("digest")))
    if found is None or found.is_index:
        raise ImageError(f"{place}: {chosen.get('digest')}: not there, though the index has it")
    return found


def read_small_blob(repository: Repository, descriptor: dict[str, Any]) -> bytes:
    """All bytes of a blob such as a config, which are what the digest says.

    Raises:
        ImageError: they are not.
        RegistryError: it cannot be had.
    """
    digest, size = str(descriptor["digest"]), int(descriptor["size"])
    if not 0 <= size <= _LARGEST:
        raise ImageError(f"{repository.reference}: {digest}: {size} bytes of config")
    data = b""
    with BlobReader(repository, digest) as reader:
        while len(data) <= size and (more := reader.read(size + 1 - len(data))):
            data += more
    if sha256(data) != digest:
        raise ImageError(f"{repository.reference}: its bytes are not those of {digest}")
    return data


class BlobReader(io.RawIOBase):
    """The stored bytes of a blob. Where the connection breaks, it goes on with a new one."""

    def __init__(self, repository: Repository, digest: str) -> None:
        self._repository = repository
        self._digest = digest
        self._position = 0
        self._stream: urllib3.BaseHTTPResponse | None = None
        self._patience = repository.connection.patience()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read some bytes; 0 at the end."""
        view = memoryview(buffer).cast("B")
        while True:
            try:
                if self._stream is None:
                    self._reopen()
                assert self._stream is not None
                data = self._stream.read1(
                    view.nbytes
                )  # what is there; read() would lose it when the rest does not come
            except HTTPError as error:
                self._drop()
                trouble = as_error(f"{self._repository.reference.name}: blob {self._digest}", error)
                if not isinstance(trouble, Trouble):
                    raise trouble from None
                self._patience.after(trouble)
                continue
            view[: len(data)] = data
            self._position += len(data)
            if data:
                self._patience = self._repository.connection.patience()  # as long as it goes on
            return len(data)

    def close(self) -> None:
        """Release the connection."""
        self._drop()
        super().close()

    def _reopen(self) -> None:
        self._stream, start = self._repository.open_blob(self._digest, self._position)
        while start < self._position:  # the registry does not begin in the middle
            skipped = self._stream.read(min(self._position - start, 1 << 20))
            if not skipped:
                break
            start += len(skipped)

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
