"""Docker archives: ``manifest.json``, alone or beside an OCI layout in the same file."""

from __future__ import annotations

import re
from functools import partial

from ..digest import sha256
from ..image import blob_path
from .documents import Config, DockerImage, parse
from .findings import ANY_CODEC, Findings, FoundImage, FoundLayer
from .manifests import diff_ids_of
from .stores import LayoutStore

__all__ = ["compare_docker_image", "verify_docker_image"]

_DIGEST_IN_NAME = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.json)?")


def verify_docker_image(store: LayoutStore, image: DockerImage, findings: Findings) -> None:
    """Look at an image of an archive that is no OCI layout; its layers are found, not read."""
    place = f"config {image.config}"
    data = findings.attempt(place, partial(store.files.read, image.config))
    config = None if data is None else findings.attempt(place, lambda: parse(data, Config, image.config))
    named = _DIGEST_IN_NAME.fullmatch(image.config)
    if data is not None and named and sha256(data) != f"sha256:{named[1]}":
        findings.add(place, f"its bytes are those of {sha256(data)}")
    diff_ids = None if config is None else diff_ids_of(config, len(image.layers), place, findings)
    layers = []
    for number, path in enumerate(image.layers, 1):
        name = f"layer {number} ({path})"
        size = store.files.size(path) if store.files.has(path) else None
        if size is None:
            findings.add(name, "not there")
            continue
        diff_id = None if diff_ids is None else diff_ids[number - 1]
        layers.append(FoundLayer(name, number, path, size, diff_id, ANY_CODEC))
        findings.blobs.setdefault(path, store.file(path, "", size))
    findings.images.append(FoundImage(place, True, len(image.layers), tuple(layers)))


def compare_docker_image(image: DockerImage, findings: Findings, *, whole: bool) -> None:
    """Look whether ``manifest.json`` and ``index.json`` have the same image.

    Args:
        image: what ``manifest.json`` lists.
        findings: what was found of ``index.json``; what is wrong goes there.
        whole: all images of ``index.json`` were found, so this one must be among them.
    """
    manifests = {blob_path(digest): manifest for digest, manifest in findings.manifests.items()}
    manifest = manifests.get(image.config)
    if manifest is None:
        if whole:
            findings.add("manifest.json", f"its config {image.config} is that of no image in index.json")
        return
    paths = [blob_path(layer.digest) for layer in manifest.layers]
    if len(paths) != len(image.layers):
        findings.add("manifest.json", f"the number of its layers is {len(image.layers)}, in the manifest {len(paths)}")
        return
    for number, (path, other) in enumerate(zip(image.layers, paths, strict=True), 1):
        if path != other:
            findings.add("manifest.json", f"layer {number} is {path}, but in the manifest {other}")
