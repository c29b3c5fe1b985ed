"""Indexes, manifests and configs: whether they fit each other and the blobs that they name."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..base import LAYER_TYPES
from ..registry.platforms import platform_name
from ..registry.repository import INDEXES, MANIFESTS
from .documents import Config, Descriptor, Index, Manifest, parse
from .findings import ANY_CODEC, NO_TAR, Findings, FoundImage, FoundLayer
from .stores import Store

__all__ = ["diff_ids_of", "verify_root"]

_CONFIGS = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
_ELSEWHERE = {  # layers that may be kept where their URLs say, and their codecs
    "application/vnd.oci.image.layer.nondistributable.v1.tar": "",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": "+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": "+zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip": "+gzip",
}
_DEEPEST = 5  # indexes in indexes


def verify_root(
    store: Store, entry: Descriptor, place: str, findings: Findings, above: frozenset[str] = frozenset()
) -> None:
    """Look at a manifest, or at an index and all that it lists; blobs of layers are found, not read.

    Args:
        store: where it is.
        entry: its descriptor.
        place: what lists it.
        findings: what is found goes there.
        above: digests of the indexes that lead to it.

    Raises:
        RegistryError: the registry does not answer.
    """
    described = msgspec.json.encode(msgspec.structs.replace(entry, annotations=None, urls=None), order="sorted")
    if described in findings.seen:  # else indexes that name each other often would be looked at without an end
        return
    findings.seen.add(described)
    if entry.media_type in MANIFESTS:
        _verify_manifest(store, entry, findings)
    elif entry.media_type not in INDEXES:
        findings.add(place, f"{entry.digest} is of the type {entry.media_type}, which is no manifest's")
    elif len(above) >= _DEEPEST:
        findings.add(place, f"{entry.digest}: too many indexes in indexes")
    else:
        name = f"index {entry.digest}"
        data = findings.attempt(name, lambda: store.document(entry, manifest=True))
        index = None if data is None else findings.attempt(name, lambda: parse(data, Index, entry.digest))
        if index is None:
            return
        if not index.manifests:
            findings.add(name, "names no image")
        for one in index.manifests:
            verify_root(store, one, name, findings, above | {entry.digest})


def _verify_manifest(store: Store, entry: Descriptor, findings: Findings) -> None:
    place = f"manifest {entry.digest}"
    data = findings.attempt(place, lambda: store.document(entry, manifest=True))
    manifest = None if data is None else findings.attempt(place, lambda: parse(data, Manifest, entry.digest))
    if manifest is None:
        return
    if manifest.media_type not in (None, entry.media_type):
        findings.add(place, f"is of the type {manifest.media_type}, but is listed as {entry.media_type}")
    described = manifest.config
    name = f"config {described.digest}"
    text = findings.attempt(name, lambda: store.document(described, manifest=False))
    if described.media_type not in _CONFIGS or (entry.platform or {}).get("architecture") == "unknown":
        findings.notes.append(f"{place}: is not of an image, but of what has a config {described.media_type}")
        _add_image(store, manifest, None, findings, is_image=False)
        return
    findings.manifests[described.digest] = manifest
    config = None if text is None else findings.attempt(name, lambda: parse(text, Config, described.digest))
    if config is not None:
        _check_platform(entry, config, name, findings)
    diff_ids = None if config is None else diff_ids_of(config, len(manifest.layers), name, findings)
    _add_image(store, manifest, diff_ids, findings, is_image=True)


def _add_image(
    store: Store, manifest: Manifest, diff_ids: Sequence[str] | None, findings: Findings, *, is_image: bool
) -> None:
    """Find the blobs of the layers."""
    layers = []
    for number, layer in enumerate(manifest.layers, 1):
        codec = _codec_of(layer, number, findings) if is_image else NO_TAR
        if _is_there(store, layer, number, findings):
            diff_id = None if diff_ids is None else diff_ids[number - 1]
            layers.append(FoundLayer(_name(layer, number), number, layer.digest, layer.size, diff_id, codec))
            findings.blobs.setdefault(layer.digest, store.blob(layer.digest, layer.size))
    place = f"config {manifest.config.digest}"
    findings.images.append(FoundImage(place, is_image, len(manifest.layers), tuple(layers)))


def _name(layer: Descriptor, number: int) -> str:
    return f"layer {number} ({layer.digest})"


def _codec_of(layer: Descriptor, number: int, findings: Findings) -> str:
    """The codec that a layer's media type says."""
    suffix = LAYER_TYPES.get(layer.media_type, _ELSEWHERE.get(layer.media_type))
    if suffix is None:
        findings.add(_name(layer, number), f"is of the type {layer.media_type}, which is no layer's")
        return ANY_CODEC
    return suffix.removeprefix("+") or "none"


def _is_there(store: Store, layer: Descriptor, number: int, findings: Findings) -> bool:
    """Whether a blob is worth reading."""
    place = _name(layer, number)
    size = store.size(layer.digest)
    if size is None and layer.media_type in _ELSEWHERE and layer.urls:
        findings.notes.append(f"{place}: not here, but at {layer.urls[0]}")
    elif size is None:
        findings.add(place, "not there")
    elif size not in (-1, layer.size):
        findings.add(place, f"{size} bytes, but the manifest says {layer.size}")
    else:
        return True
    return False


def diff_ids_of(config: Config, layers: int, place: str, findings: Findings) -> list[str] | None:
    """The config's diff IDs, where there is one for each layer."""
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != layers:
        findings.add(place, f"the number of its layers is {layers}, that of its diff IDs {len(diff_ids)}")
        return None
    told = sum(not entry.get("empty_layer") for entry in config.history or ())
    if config.history and told != layers:
        findings.notes.append(f"{place}: the number of layers that its history tells of is {told}, not {layers}")
    return diff_ids


def _check_platform(entry: Descriptor, config: Config, place: str, findings: Findings) -> None:
    for key in ("os", "architecture", "variant"):
        listed, own = (entry.platform or {}).get(key), getattr(config, key)
        if listed is not None and own is not None and listed != own:
            of_config = {"os": config.os, "architecture": config.architecture, "variant": config.variant}
            findings.add(
                place, f"is for {platform_name(of_config)}, but is listed for {platform_name(entry.platform or {})}"
            )
            return
