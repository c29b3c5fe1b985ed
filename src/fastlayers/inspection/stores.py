"""Where blobs are: by their digests, in a layout, an archive or a repository of a registry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol

from ..base import NO_ARCHIVE, Blob, StoredArchive, StoredFolder, parse_reference
from ..digest import sha256
from ..errors import ImageError
from ..image import blob_path
from ..registry.access import RegistryAccess
from ..registry.reference import Reference
from ..registry.repository import Manifest, Repository
from .documents import REF_NAME, Descriptor, DockerImage, Index, parse

__all__ = ["LayoutStore", "RegistryStore", "Store", "errors_of", "open_store"]


class Store(Protocol):
    """Blobs and manifests.

    Attributes:
        name: for errors.
    """

    name: str

    def roots(self) -> list[Descriptor]:
        """What the image's name stands for, each with annotations and platform where they are told."""

    def document(self, descriptor: Descriptor, *, manifest: bool) -> bytes:
        """All bytes of a manifest, an index or a config, which are what the descriptor says.

        Raises:
            ImageError: they are not, or are not there; the message begins with the digest.
            RegistryError: the registry does not give them.
        """

    def size(self, digest: str) -> int | None:
        """Bytes that are stored of a blob, -1 where that shows when it is read; None where it is not there."""

    def blob(self, digest: str, size: int) -> Blob:
        """A blob, which is not opened."""


class LayoutStore:
    """An OCI layout, in a folder or an archive; or a docker archive.

    Attributes:
        files: by their names.
        tag: of the images that count, "" for all.
    """

    def __init__(self, files: StoredFolder | StoredArchive, tag: str = "") -> None:
        self.name, self.files, self.tag = files.path, files, tag

    def roots(self) -> list[Descriptor]:
        if not self.files.has("index.json"):
            raise ImageError("no index.json: not an OCI layout")
        entries = self._entries()
        if not self.tag:
            return entries
        return [entry for entry in entries if (entry.annotations or {}).get(REF_NAME) == self.tag]

    def tags(self) -> list[str | None]:
        """Of each image that the index lists its tag."""
        return [(entry.annotations or {}).get(REF_NAME) for entry in self._entries()]

    def _entries(self) -> list[Descriptor]:
        return parse(self.files.read("index.json"), Index, "index.json").manifests

    def document(self, descriptor: Descriptor, *, manifest: bool) -> bytes:
        size = self.size(descriptor.digest)
        if size is None:
            raise ImageError(f"{descriptor.digest}: not there")
        if size != descriptor.size:
            raise ImageError(f"{descriptor.digest}: {size} bytes, not {descriptor.size}")
        data = self.files.read(blob_path(descriptor.digest))
        if sha256(data) != descriptor.digest:
            raise ImageError(f"{descriptor.digest}: its bytes are those of {sha256(data)}")
        return data

    def size(self, digest: str) -> int | None:
        path = blob_path(digest)
        return self.files.size(path) if self.files.has(path) else None

    def blob(self, digest: str, size: int) -> Blob:
        return self.file(blob_path(digest), digest, size)

    def file(self, path: str, digest: str, size: int) -> Blob:
        """A file as a blob, which is not opened."""
        return Blob(digest, size, "", "", partial(self.files.open, path), f"{self.name}: {path}")

    def docker_images(self) -> list[DockerImage] | None:
        """What ``manifest.json`` lists, where there is one."""
        if not self.files.has("manifest.json"):
            return None
        return parse(self.files.read("manifest.json"), list[DockerImage], "manifest.json")


class RegistryStore:
    """A repository of a registry."""

    def __init__(self, reference: Reference, access: RegistryAccess) -> None:
        from ..registry.pull import open_repository

        self.name = str(reference)
        self._reference = reference
        self._repository: Repository = open_repository(reference, access, push=False)
        self._manifests: dict[str, Manifest] = {}

    def roots(self) -> list[Descriptor]:
        found = self._manifest(self._reference.digest or self._reference.tag or "latest")
        if found is None:
            raise ImageError("there is no such image")
        return [Descriptor(found.media_type, found.digest, len(found.data))]

    def document(self, descriptor: Descriptor, *, manifest: bool) -> bytes:
        if manifest:
            found = self._manifest(descriptor.digest)
            if found is None:
                raise ImageError(f"{descriptor.digest}: not there")
            if len(found.data) != descriptor.size:
                raise ImageError(f"{descriptor.digest}: {len(found.data)} bytes, not {descriptor.size}")
            return found.data
        from ..registry.pull import read_small_blob

        if self.size(descriptor.digest) is None:
            raise ImageError(f"{descriptor.digest}: not there")
        return read_small_blob(self._repository, {"digest": descriptor.digest, "size": descriptor.size})

    def size(self, digest: str) -> int | None:
        return -1 if self._repository.has_blob(digest) else None

    def blob(self, digest: str, size: int) -> Blob:
        from ..registry.pull import BlobReader

        opener: Any = partial(BlobReader, self._repository, digest)
        return Blob(digest, size, "", "", opener, f"{self.name}: {digest}", self._reference.name)

    def _manifest(self, name: str) -> Manifest | None:
        if name in self._manifests:
            return self._manifests[name]
        found = self._repository.manifest(name)
        if found is not None:
            self._manifests[found.digest] = found
        return found


def open_store(reference: str, access: RegistryAccess) -> tuple[Store, str]:
    """Where an image is, and the NAME:TAG that it has there; "" where the store knows its tag.

    Raises:
        ImageError: there is no such file, it is no archive, or the reference is none.
        ConfigError: it is no name of an image in a registry.
    """
    transport, path, name = parse_reference(reference)
    if transport == "docker":
        return RegistryStore(Reference.parse(path), access), ""
    try:
        if transport == "oci":
            folder = StoredFolder(path)
            if not folder.has(""):
                raise ImageError(f"{path}: No such file or directory")
            return LayoutStore(folder, name), ""
        archive = StoredArchive(path)
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except NO_ARCHIVE as error:
        raise ImageError(f"{path}: not a tar archive: {error}") from None
    if transport == "docker-archive":
        return LayoutStore(archive), name
    return LayoutStore(archive, name), ""


@contextlib.contextmanager
def errors_of(store: Store) -> Iterator[None]:
    """Let what goes wrong in here be an error that names the store.

    Raises:
        ImageError: whatever cannot be read.
    """
    try:
        yield
    except ImageError as error:
        text = str(error)
        raise ImageError(text if text.startswith(store.name) else f"{store.name}: {text}") from None
    except OSError as error:
        raise ImageError(f"{error.filename or store.name}: {error.strerror or error}") from None
    except NO_ARCHIVE as error:
        raise ImageError(f"{store.name}: {error}") from None
