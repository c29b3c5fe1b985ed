"""What an image says of itself; nothing of its layers is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ..base import LAYER_TYPES, names_there
from ..compression import codec_of
from ..errors import ImageError
from ..image import blob_path
from ..layering.carried import PATHS
from ..registry.access import RegistryAccess
from ..registry.platforms import choose_platform, default_architecture, platform_name
from ..registry.repository import INDEXES
from .documents import Config, Descriptor, DockerImage, Index, Manifest, parse
from .stores import LayoutStore, Store, errors_of, open_store

__all__ = ["ImageFacts", "LayerFacts", "inspect_image"]

_DEEPEST = 5  # indexes in indexes


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """A layer, as manifest and config have it.

    Attributes:
        digest: of the stored bytes; None for a compressed layer of a docker archive, which is not told.
        diff_id: of the tar.
        size: bytes that are stored.
        media_type: None in a docker archive.
        codec: "none", "gzip", "zstd", or "?" for an unknown media type.
        annotations: of its descriptor.
        history: who made it, as the config says; "" where it does not.
    """

    digest: str | None
    diff_id: str
    size: int
    media_type: str | None
    codec: str
    annotations: Mapping[str, str]
    history: str

    @property
    def paths(self) -> list[str]:
        """The names of its nodes, where its annotations tell them."""
        try:
            return msgspec.json.decode(self.annotations.get(PATHS, "[]"), type=list[str])
        except msgspec.DecodeError:
            return []

    def to_dict(self) -> dict[str, Any]:
        """The layer as plain values, for JSON."""
        return {
            "digest": self.digest,
            "diff_id": self.diff_id,
            "size": self.size,
            "media_type": self.media_type,
            "codec": self.codec,
            "annotations": dict(self.annotations),
            "paths": self.paths,
            "history": self.history,
        }


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image, as its documents have it.

    Attributes:
        name: where it is.
        index: digest of the index that it was chosen from by platform, None if there was none.
        platforms: of that index.
        manifest: the manifest's descriptor; None for a docker archive without one.
        image_id: digest of the config; None for a docker archive that does not tell it.
        platform: OS/ARCHITECTURE[/VARIANT].
        created: a date, if it is told.
        config: the config object.
        annotations: of the manifest.
        layers: bottom first.
    """

    name: str
    index: str | None
    platforms: tuple[str, ...]
    manifest: Descriptor | None
    image_id: str | None
    platform: str
    created: str | None
    config: Mapping[str, Any]
    annotations: Mapping[str, str]
    layers: tuple[LayerFacts, ...]

    def to_dict(self) -> dict[str, Any]:
        """The image as plain values, for JSON."""
        manifest = self.manifest
        return {
            "name": self.name,
            "index": self.index,
            "platforms": list(self.platforms),
            "manifest": None
            if manifest is None
            else {"digest": manifest.digest, "size": manifest.size, "media_type": manifest.media_type},
            "image_id": self.image_id,
            "platform": self.platform,
            "created": self.created,
            "config": dict(self.config),
            "annotations": dict(self.annotations),
            "layers": [layer.to_dict() for layer in self.layers],
        }


def inspect_image(
    reference: str,
    access: RegistryAccess = RegistryAccess(),  # noqa: B008  frozen
    *,
    architecture: str = "",
    variant: str | None = None,
) -> ImageFacts:
    """Read an image's documents.

    Args:
        reference: ``docker-archive:FILE[:NAME:TAG]``, ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]`` or
            ``docker://HOST/REPOSITORY[:TAG][@DIGEST]``.
        access: how a registry is reached.
        architecture, variant: which image of several platforms; by default this machine's.

    Raises:
        ImageError: there is no such image, or its documents are damaged.
        ConfigError: it is no name of an image in a registry.
        RegistryError: the registry cannot be reached, or refuses.
    """
    store, name = open_store(reference, access)
    with errors_of(store):
        docker = _docker_image(store, name) if reference.startswith("docker-archive:") else None
        found = _chosen(store, docker, architecture or default_architecture(), variant)
        if found is None:
            assert docker is not None and isinstance(store, LayoutStore)
            return _of_docker(store, docker)
        entry, index, platforms = found
        manifest = parse(store.document(entry, manifest=True), Manifest, entry.digest)
        place = manifest.config.digest
        config = parse(store.document(manifest.config, manifest=False), Config, place)
        facts = [
            (layer.digest, layer.size, layer.media_type, _codec(layer.media_type), layer.annotations or {})
            for layer in manifest.layers
        ]
        layers = _layers(facts, config, place)
    described = {"architecture": config.architecture, "os": config.os, "variant": config.variant}
    return ImageFacts(
        reference,
        index,
        platforms,
        entry,
        manifest.config.digest,
        platform_name(described),
        config.created,
        config.config or {},
        manifest.annotations or {},
        layers,
    )


def _chosen(
    store: Store, docker: DockerImage | None, architecture: str, variant: str | None
) -> tuple[Descriptor, str | None, tuple[str, ...]] | None:
    """The manifest's descriptor, and digest and platforms of the index that it came from; None where there is none."""
    if docker is not None:
        assert isinstance(store, LayoutStore)
        for entry in store.roots() if store.files.has("index.json") else ():
            if entry.media_type not in INDEXES:
                manifest = parse(store.document(entry, manifest=True), Manifest, entry.digest)
                if blob_path(manifest.config.digest) == docker.config:
                    return entry, None, ()
        return None
    roots = store.roots()
    if len(roots) != 1:
        tag = store.tag if isinstance(store, LayoutStore) else ""
        which = f" with the tag {tag}" if tag else ": name one by its tag"
        tags = store.tags() if isinstance(store, LayoutStore) else ()
        raise ImageError(f"{len(roots)} images{which}{names_there(tags)}")
    entry = roots[0]
    index: str | None = None
    platforms: tuple[str, ...] = ()
    for _ in range(_DEEPEST):
        if entry.media_type not in INDEXES:
            break
        entries = parse(store.document(entry, manifest=True), Index, entry.digest).manifests
        index, platforms = entry.digest, tuple(platform_name(one.platform or {}) for one in entries)
        fitting = choose_platform([{"platform": one.platform, "entry": one} for one in entries], architecture, variant)
        if fitting is None:
            wanted = platform_name({"architecture": architecture, "variant": variant})
            raise ImageError(f"{index}: nothing for {wanted}; it has {', '.join(platforms) or 'nothing'}")
        entry = fitting["entry"]
    return entry, index, platforms


def _docker_image(store: Store, name: str) -> DockerImage | None:
    assert isinstance(store, LayoutStore)
    images = store.docker_images()
    if images is None:
        return None
    names = [each for image in images for each in image.repo_tags or ()]
    if name:
        images = [image for image in images if name in (image.repo_tags or ())]
    if len(images) != 1:
        which = f" named {name}" if name else ": name one of them"
        raise ImageError(f"{len(images)} images{which}{names_there(names)}")
    return images[0]


def _of_docker(store: LayoutStore, image: DockerImage) -> ImageFacts:
    """What a docker archive tells that is no OCI layout."""
    config = parse(store.files.read(image.config), Config, image.config)
    if len(image.layers) != len(config.rootfs.diff_ids):
        count = len(config.rootfs.diff_ids)
        raise ImageError(f"the number of its layers is {len(image.layers)}, that of its diff IDs {count}")
    facts: list[tuple[str | None, int, str | None, str, Mapping[str, str]]] = []
    for path, diff_id in zip(image.layers, config.rootfs.diff_ids, strict=True):
        with store.files.open(path) as file:
            codec = codec_of(file.read(4))
        facts.append((diff_id if codec == "none" else None, store.files.size(path), None, codec, {}))
    described = {"architecture": config.architecture, "os": config.os, "variant": config.variant}
    layers = _layers(facts, config, image.config)
    named = image.config.removesuffix(".json").rpartition("/")[2]
    image_id = f"sha256:{named}" if len(named) == 64 else None
    return ImageFacts(
        store.name,
        None,
        (),
        None,
        image_id,
        platform_name(described),
        config.created,
        config.config or {},
        {},
        layers,
    )


def _layers(facts: list[Any], config: Config, place: str) -> tuple[LayerFacts, ...]:
    diff_ids = config.rootfs.diff_ids
    if len(facts) != len(diff_ids):
        raise ImageError(f"{place}: the number of its layers is {len(facts)}, that of its diff IDs {len(diff_ids)}")
    told = [entry for entry in config.history or () if not entry.get("empty_layer")]
    history = [str(entry.get("comment") or entry.get("created_by") or "") for entry in told]
    history = history if len(history) == len(facts) else [""] * len(facts)
    return tuple(
        LayerFacts(digest, diff_id, size, media_type, codec, annotations, comment)
        for (digest, size, media_type, codec, annotations), diff_id, comment in zip(
            facts, diff_ids, history, strict=True
        )
    )


def _codec(media_type: str) -> str:
    suffix = LAYER_TYPES.get(media_type)
    return "?" if suffix is None else suffix.removeprefix("+") or "none"
