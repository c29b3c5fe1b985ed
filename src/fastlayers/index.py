"""Images of several platforms under one tag: an index in a registry."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from .base import Blob, names_there
from .destinations.registry import check_blobs, push_blobs
from .errors import DestinationError, ImageError
from .image import canonical_json, index_of
from .registry.access import RegistryAccess
from .registry.platforms import platform_name
from .registry.pull import BlobReader, open_repository, read_small_blob
from .registry.reference import DIGEST, Reference
from .registry.repository import INDEXES, MANIFESTS, Repository
from .registry.upload import Holdings

__all__ = ["PushedIndex", "push_index"]


@dataclass(frozen=True, slots=True)
class PushedIndex:
    """An index in a registry.

    Attributes:
        digest: of the index.
        entries: descriptors of its manifests, each with its platform.
    """

    digest: str
    entries: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class _Image:
    """A manifest for one platform.

    Attributes:
        entry: its descriptor in the index.
        data: its bytes.
        blobs: what it names.
        repository: HOST/REPOSITORY that has it all, empty for files.
    """

    entry: Mapping[str, Any]
    data: bytes
    blobs: tuple[Blob, ...]
    repository: str


class _Place(Protocol):
    """Where an image comes from.

    Attributes:
        name: for errors.
        repository: HOST/REPOSITORY, empty for files.
    """

    name: str
    repository: str

    def manifest(self, digest: str | None) -> tuple[bytes, str]:
        """The bytes and the media type of a manifest; None for the one that the place is about."""

    def config(self, descriptor: dict[str, Any]) -> bytes:
        """The bytes of a config."""

    def blob(self, descriptor: Mapping[str, Any]) -> Blob:
        """A config or layer, which is not opened."""


class _InRegistry:
    def __init__(self, reference: Reference, access: RegistryAccess) -> None:
        self.name, self.repository = str(reference), reference.name
        self._reference = reference
        self._repository = open_repository(reference, access, push=False)

    def manifest(self, digest: str | None) -> tuple[bytes, str]:
        found = self._repository.manifest(digest or self._reference.digest or self._reference.tag or "latest")
        if found is None:
            raise ImageError(f"{self.name}: {digest or 'there is no such image'}")
        return found.data, found.media_type

    def config(self, descriptor: dict[str, Any]) -> bytes:
        return read_small_blob(self._repository, descriptor)

    def blob(self, descriptor: Mapping[str, Any]) -> Blob:
        digest: str = descriptor["digest"]
        opener: Any = partial(BlobReader, self._repository, digest)
        return Blob(digest, descriptor["size"], "", "", opener, f"{self.name}: {digest}", self.repository)


class _InLayout:
    def __init__(self, path: str, tag: str | None) -> None:
        self.name, self.repository = path, ""
        self._tag = tag

    def manifest(self, digest: str | None) -> tuple[bytes, str]:
        if digest is None:
            entries = json.loads(self._read("index.json"))["manifests"]
            key = "org.opencontainers.image.ref.name"
            tags = [(entry.get("annotations") or {}).get(key) for entry in entries]
            if self._tag is not None:
                entries = [entry for entry, own in zip(entries, tags, strict=True) if own == self._tag]
            if len(entries) != 1:
                which = f" with the tag {self._tag}" if self._tag else ": name one by its tag"
                raise ImageError(f"{self.name}: {len(entries)} images{which}{names_there(tags)}")
            digest = str(entries[0]["digest"])
        data = self._checked(digest)
        return data, str(json.loads(data).get("mediaType") or MANIFESTS[0])

    def config(self, descriptor: dict[str, Any]) -> bytes:
        return self._checked(descriptor["digest"])

    def blob(self, descriptor: Mapping[str, Any]) -> Blob:
        path = os.path.join(self.name, self._path(descriptor["digest"]))
        return Blob(descriptor["digest"], descriptor["size"], "", "", lambda: open(path, "rb"), path)

    def _path(self, digest: str) -> str:
        if not DIGEST.fullmatch(digest):
            raise ImageError(f"{self.name}: {digest}: not a digest that is understood")
        return os.path.join("blobs", *digest.split(":"))

    def _checked(self, digest: str) -> bytes:
        data = self._read(self._path(digest))
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
            raise ImageError(f"{self.name}/{self._path(digest)}: its bytes are not those of the digest")
        return data

    def _read(self, name: str) -> bytes:
        with open(os.path.join(self.name, name), "rb") as file:
            return file.read()


def push_index(
    to: Reference,
    images: Sequence[str],
    access: RegistryAccess = RegistryAccess(),  # noqa: B008  frozen
) -> PushedIndex:
    """Put images of different platforms under one tag; what the repository lacks of them is mounted or sent.

    Args:
        to: the tag.
        images: ``docker://HOST/REPOSITORY[:TAG][@DIGEST]`` or ``oci:DIR[:TAG]``; of an index, all that it lists.
        access: how the registry is reached.

    Raises:
        ImageError: an image is not there or not whole, or two are for one platform.
        DestinationError: ``to`` is no tag.
        RegistryError: a registry cannot be reached, or refuses.
    """
    if to.digest is not None:
        raise DestinationError(f"{to}: an index is pushed to a tag, not to a digest")
    found: list[_Image] = []
    owners: dict[bytes, str] = {}
    for text in images:
        for image in _images(_place(text, to, access)):
            platform = image.entry["platform"]
            key = canonical_json(platform)
            # What is for no platform, such as a signature, may be there several times.
            if key in owners and platform.get("architecture") != "unknown":
                raise ImageError(f"{text}: is for {platform_name(platform)}, as is {owners[key]}")
            owners[key] = text
            found.append(image)
    repository = open_repository(to, access, push=True)
    for image in found:
        _push(repository, image)
    entries = tuple(image.entry for image in found)
    data = canonical_json(index_of(entries))
    repository.put_manifest(to.tag or "latest", data, INDEXES[0])
    return PushedIndex("sha256:" + hashlib.sha256(data).hexdigest(), entries)


def _place(text: str, to: Reference, access: RegistryAccess) -> _Place:
    transport, _, rest = text.partition(":")
    if transport == "docker" and rest.startswith("//"):
        reference = Reference.parse(text)
        return _InRegistry(reference, access if reference.host == to.host else replace(access, credentials=None))
    path, _, tag = rest.partition(":")
    if transport != "oci" or not path:
        raise ImageError(f"{text}: expected docker://HOST/REPOSITORY[:TAG] or oci:DIR[:TAG]")
    return _InLayout(path, tag or None)


def _images(place: _Place) -> list[_Image]:
    try:
        data, kind = place.manifest(None)
        document = json.loads(data)
        if "manifests" not in document:
            return [_image(place, data, kind, {})]
        images = []
        for entry in document["manifests"]:
            data, kind = place.manifest(entry["digest"])
            images.append(_image(place, data, kind, entry))
        return images
    except OSError as error:
        raise ImageError(f"{error.filename or place.name}: {error.strerror}") from None
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ImageError(f"{place.name}: not a whole image: {type(error).__name__} {error}") from None


def _image(place: _Place, data: bytes, kind: str, entry: Mapping[str, Any]) -> _Image:
    """A manifest; ``entry`` is its descriptor in an index, if it is in one."""
    manifest = json.loads(data)
    if kind not in MANIFESTS or "manifests" in manifest:
        raise ImageError(f"{place.name}: {kind}: not a manifest of one image")
    platform = entry.get("platform")
    if platform is None:
        config = json.loads(place.config(manifest["config"]))
        platform = {key: config[key] for key in ("architecture", "os", "variant") if config.get(key)}
    described = {
        "mediaType": kind,
        "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
        "size": len(data),
        "platform": platform,
    }
    annotations = {
        name: value
        for name, value in (entry.get("annotations") or {}).items()
        if name not in ("org.opencontainers.image.ref.name", "io.containerd.image.name")
    }
    if annotations:
        described["annotations"] = annotations
    return _Image(described, data, tuple(map(place.blob, [manifest["config"], *manifest["layers"]])), place.repository)


def _push(repository: Repository, image: _Image) -> None:
    digest = image.entry["digest"]
    if image.repository == repository.reference.name or repository.manifest(digest) is not None:
        return  # with all its blobs
    stopped = threading.Event()
    try:
        pushes = push_blobs(repository, Holdings(), image.blobs, stopped)
        wait(pushes, return_when=FIRST_EXCEPTION)
        check_blobs(pushes)
    finally:
        stopped.set()
    repository.put_manifest(digest, image.data, image.entry["mediaType"])
