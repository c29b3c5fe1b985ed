"""The documents of an image, with their types: index, manifest, config, and what a docker archive has instead."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from ..errors import ImageError

__all__ = ["REF_NAME", "Config", "Descriptor", "DockerImage", "Index", "Manifest", "parse"]

REF_NAME = "org.opencontainers.image.ref.name"

Digest = Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")]
Size = Annotated[int, msgspec.Meta(ge=0)]
T = TypeVar("T")


class Descriptor(msgspec.Struct, rename="camel"):
    """What names a blob."""

    media_type: str
    digest: Digest
    size: Size
    annotations: dict[str, str] | None = None
    platform: dict[str, Any] | None = None
    urls: list[str] | None = None


class Index(msgspec.Struct, rename="camel"):
    """What lists manifests."""

    schema_version: Literal[2]
    manifests: list[Descriptor]
    media_type: str | None = None


class Manifest(msgspec.Struct, rename="camel"):
    """What names the blobs of an image."""

    schema_version: Literal[2]
    config: Descriptor
    layers: list[Descriptor]
    media_type: str | None = None
    annotations: dict[str, str] | None = None


class _RootFs(msgspec.Struct):
    type: Literal["layers"]
    diff_ids: list[Digest]


class Config(msgspec.Struct):
    """An image's config."""

    architecture: str
    os: str
    rootfs: _RootFs
    variant: str | None = None
    created: str | None = None
    config: dict[str, Any] | None = None
    history: list[dict[str, Any]] | None = None


class DockerImage(msgspec.Struct, rename="pascal"):
    """An entry of a docker archive's ``manifest.json``."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


def parse(data: bytes, kind: type[T], place: str) -> T:
    """Read a document.

    Raises:
        ImageError: it is none of this kind; the message says where, after ``place``.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ImageError(f"{place}: {error}") from None
