"""Whether an image is what it says: every blob, every diff ID, every entry, and what clients take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..base import Blob, names_there
from ..clients import CLIENTS, client_named
from ..errors import ImageError
from ..image import blob_path
from ..parallel import available_cores
from ..registry.access import RegistryAccess
from ..waiting import background
from .docker import compare_docker_image, verify_docker_image
from .documents import Descriptor, Manifest, parse
from .findings import ANY_CODEC, NO_TAR, Fault, Findings, FoundImage, FoundLayer
from .layers import LayerReport, examine_layer
from .manifests import verify_root
from .stores import LayoutStore, Store, errors_of, open_store

__all__ = ["Verdict", "verify_image"]

_POLL = 0.1  # seconds between looks at how far it is


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found.

    Attributes:
        name: the image.
        faults: all that is wrong, that of documents before that of layers; none, and the image is good.
        notes: what is not wrong, but should be known.
        images: how many different images there are; one with several names is one.
        layers: how many different layers they have that could be read.
        entries: of all of these layers.
        size: bytes that are stored of them.
    """

    name: str
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]
    images: int
    layers: int
    entries: int
    size: int

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain values, for JSON."""
        return {
            "name": self.name,
            "good": not self.faults,
            "faults": [{"place": fault.place, "what": fault.what} for fault in self.faults],
            "notes": list(self.notes),
            "images": self.images,
            "layers": self.layers,
            "entries": self.entries,
            "size": self.size,
        }


class _Stopped(Exception):
    """Nobody wants to know any more."""


def verify_image(
    reference: str,
    access: RegistryAccess = RegistryAccess(),  # noqa: B008  frozen
    *,
    client: str | None = None,
    jobs: int | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Verdict:
    """Read an image whole, and see whether it is what it says. Where no tag is named, every image that is there.

    Args:
        reference: ``docker-archive:FILE[:NAME:TAG]``, ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]`` or
            ``docker://HOST/REPOSITORY[:TAG][@DIGEST]``.
        access: how a registry is reached.
        client: whose limit of layers counts, one of :data:`fastlayers.clients.CLIENTS`; all others' are notes.
        jobs: how many layers are read at once, default all cores.
        progress: is told, ten times a second, how many bytes of layers were read, and how many there are.

    Raises:
        ImageError: nothing can be read at all: no such file, no archive.
        ConfigError: it is no name of an image in a registry.
        PlanError: there is no such client.
        RegistryError: the registry cannot be reached, or refuses.
    """
    if client is not None:
        client_named(client)
    store, name = open_store(reference, access)
    findings = Findings()
    with errors_of(store):
        _verify_documents(store, name, findings, docker=reference.startswith("docker-archive:"))
    images = [image for image in findings.images if image.is_image]
    if not images and not findings.faults:
        findings.add(store.name, "no image is there")
    for image in images:
        _check_count(image.count, client, findings)
    reports = _examine(findings.blobs, jobs or available_cores(), progress)
    for image in findings.images:
        _verify_layers(image, findings, reports)
    return Verdict(
        reference,
        tuple(dict.fromkeys(findings.faults)),
        tuple(dict.fromkeys(findings.notes)),
        len(set(images)),
        len(reports),
        sum(report.entries for report in reports.values()),
        sum(report.size for report in reports.values()),
    )


def _verify_documents(store: Store, name: str, findings: Findings, *, docker: bool) -> None:
    """Read everything but layers."""
    if isinstance(store, LayoutStore):
        _verify_files(store, name, findings, docker=docker)
    else:
        for root in store.roots():
            verify_root(store, root, store.name, findings)


def _verify_files(store: LayoutStore, name: str, findings: Findings, *, docker: bool) -> None:
    """Read the documents of an OCI layout, a docker archive, or an archive that is both."""
    images = findings.attempt("manifest.json", store.docker_images)
    if docker and images is not None:
        names = [each for image in images for each in image.repo_tags or ()]
        images = [image for image in images if not name or name in (image.repo_tags or ())]
        if not images:
            which = f"no image is named {name}{names_there(names)}"
            findings.add("manifest.json", which if name else "names no image")
    if not store.files.has("index.json") and (images is not None or findings.faults):
        for image in images or ():
            verify_docker_image(store, image, findings)
        return
    for file in ("oci-layout", "index.json"):
        if not store.files.has(file):
            findings.add(file, "not there")
    roots = findings.attempt("index.json", store.roots) if store.files.has("index.json") else None
    if roots is None:
        return
    if name and images is not None:
        configs = {image.config for image in images}
        roots = [root for root in roots if _may_have(store, root, configs)]
    if not roots and not findings.faults:
        which = f"no image has the tag {store.tag}{names_there(store.tags())}"
        findings.add("index.json", which if store.tag else "names no image")
    for root in roots:
        verify_root(store, root, "index.json", findings)
    whole = not store.tag and not findings.faults  # what could not be read may be what manifest.json lists
    for image in images or ():
        compare_docker_image(image, findings, whole=whole)


def _may_have(store: Store, root: Descriptor, configs: set[str]) -> bool:
    """Whether a manifest has one of these configs, as far as it can be told."""
    try:
        manifest = parse(store.document(root, manifest=True), Manifest, "")
    except ImageError:
        return True
    return blob_path(manifest.config.digest) in configs


def _check_count(layers: int, client: str | None, findings: Findings) -> None:
    for each in CLIENTS.values():
        if layers <= each.most:
            continue
        if each.name == client:
            findings.add(f"{layers} layers", f"{client} takes at most {each.most}")
        elif client is None:
            findings.notes.append(f"{layers} layers: {each.name} takes at most {each.most}")


def _examine(blobs: Mapping[str, Blob], jobs: int, progress: Callable[[int, int], object]) -> dict[str, LayerReport]:
    """Read all layers, a few at once, the largest first."""
    slots, stopped, lock = threading.BoundedSemaphore(jobs), threading.Event(), threading.Lock()
    done, total = 0, sum(blob.size for blob in blobs.values())

    def tick(count: int) -> None:
        nonlocal done
        if stopped.is_set():
            raise _Stopped
        with lock:
            done += count

    def examine(blob: Blob) -> LayerReport:
        with slots:
            tick(0)
            return examine_layer(blob.unchecked_blocks(), tick)

    try:
        work = {
            key: background(partial(examine, blob))
            for key, blob in sorted(blobs.items(), key=lambda item: (-item[1].size, item[0]))
        }
        pending = set(work.values())
        while pending:
            finished, pending = wait(pending, timeout=_POLL, return_when=FIRST_EXCEPTION)
            for future in finished:
                future.result()
            progress(done, total)
        return {key: work[key].result() for key in blobs}
    finally:
        stopped.set()


def _verify_layers(image: FoundImage, findings: Findings, reports: Mapping[str, LayerReport]) -> None:
    first: dict[str, int] = {}
    wrong: list[tuple[FoundLayer, str]] = []  # what the diff ID is
    for layer in image.layers:
        report = reports[layer.key]
        if layer.codec != NO_TAR and report.entries and first.setdefault(layer.key, layer.number) != layer.number:
            findings.add(layer.place, f"the same as layer {first[layer.key]}")
        digest = findings.blobs[layer.key].digest
        if report.unreadable:
            findings.add(layer.place, report.unreadable)
        elif report.size != layer.size:
            findings.add(layer.place, f"{report.size} bytes, but the manifest says {layer.size}")
        elif digest and report.digest != digest:
            findings.add(layer.place, f"its bytes are those of {report.digest}")
        elif layer.codec != NO_TAR:
            if layer.codec not in (ANY_CODEC, report.codec):
                findings.add(layer.place, f"its media type says {layer.codec}, its bytes {report.codec}")
            for fault in report.faults:
                findings.add(layer.place, fault)
            if None not in (layer.diff_id, report.diff_id) and layer.diff_id != report.diff_id:
                wrong.append((layer, str(report.diff_id)))
    _tell_wrong_diff_ids(image, wrong, findings)


def _tell_wrong_diff_ids(image: FoundImage, wrong: Sequence[tuple[FoundLayer, str]], findings: Findings) -> None:
    if len(wrong) > 1 and sorted(found for _, found in wrong) == sorted(str(layer.diff_id) for layer, _ in wrong):
        numbers = [str(layer.number) for layer, _ in wrong]
        named = f"{', '.join(numbers[:-1])} and {numbers[-1]}"
        findings.add(image.place, f"the diff IDs of layers {named} are in another order than the layers")
        return
    for layer, found in wrong:
        findings.add(layer.place, f"its diff ID is {found}, but the config says {layer.diff_id}")
