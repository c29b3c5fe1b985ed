"""Stacks out of whatever has layers or may get some: images, plan files, closures, files of closures."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from ..base import read_manifest
from ..closure import UNKNOWN, Closure, unite
from ..errors import ClosureError, ImageError, PlanError
from ..layering.carried import plan_of_manifest, who_planned
from ..layering.plan import LayerPlan, parse_plan
from ..layering.strategies import plan_layers
from ..registry.access import RegistryAccess
from ..sources import in_store, nix_json, read_closure
from ..store_path import HASH_PART
from .stack import LayerStack, StackLayer, stack_of_plan

__all__ = ["StackReader", "closure_of"]

IMAGES = ("docker-archive:", "oci-archive:", "oci:", "docker://")


@dataclass(frozen=True)
class StackReader:
    """Reads stacks; what is no image and no plan is a closure, and is planned where that is asked for.

    Attributes:
        access: how registries are reached.
        plan: how a closure is planned; None where closures alone are wanted: their stacks have no layers.
        closures: what is known besides of the paths of images and plans: NAR sizes and references.
        key: which list of nodes to take from an exportReferencesGraph document that has several.
        store_root: the folder below which the Nix store and its database are, "" for none.
    """

    access: RegistryAccess = field(default_factory=RegistryAccess)
    plan: Callable[[Closure], LayerPlan] | None = plan_layers
    closures: Sequence[Closure] = ()
    key: str | None = None
    store_root: str = ""
    _sizes: dict[str, int] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for closure in self.closures:
            self._sizes.update(_known_sizes(closure))

    def read(self, source: str) -> list[LayerStack]:
        """One stack, or of a file with a document in each line one for each of them.

        Args:
            source: ``docker-archive:FILE[:NAME:TAG]``, ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]``,
                ``docker://...``, a plan file in either form, or what :func:`fastlayers.read_closure` takes; of files
                that hold a closure or a plan, also several in one, a JSON document a line.

        Raises:
            ImageError, ConfigError, RegistryError: an image cannot be read.
            PlanError: a plan is none, or a closure cannot be planned.
            ClosureError: a closure cannot be read.
        """
        if source.startswith(IMAGES):
            return [self._image(source)]
        if source.startswith(("nix:", "venv:")) or in_store(source, store_root=self.store_root):
            closure = read_closure(source, key=self.key, store_root=self.store_root)
            return [self._planned(source, closure)]
        name = "standard input" if source == "-" else source
        data = _read(source, name)
        lines = _documents(data)
        if lines is None:
            return [self._document(name, data)]
        return [self._document(f"{name}: line {number}", line) for number, line in lines]

    def one(self, source: str) -> LayerStack:
        """The only stack of a source.

        Raises:
            PlanError: the file has several; else as for :meth:`read`.
        """
        found = self.read(source)
        if len(found) != 1:
            raise PlanError(f"{source}: {len(found)} documents, where one is wanted")
        return found[0]

    def _document(self, name: str, data: bytes) -> LayerStack:
        if not _is_plan(data):
            return self._planned(name, nix_json.parse(data, name, key=self.key))
        try:
            return stack_of_plan(name, parse_plan(data), sizes=self._sizes)
        except PlanError as error:
            raise PlanError(f"{name}: {error}") from None

    def _planned(self, name: str, closure: Closure) -> LayerStack:
        sizes = _known_sizes(closure)
        if self.plan is None:
            return LayerStack(name, (), "NAR", sizes=sizes, closure=closure)
        return stack_of_plan(name, self.plan(closure), sizes=sizes, closure=closure)

    def _image(self, source: str) -> LayerStack:
        manifest, config = read_manifest(source, self.access)
        try:
            plan = plan_of_manifest(manifest)
        except PlanError as error:
            raise PlanError(f"{source}: {error}") from None
        try:
            layers = _image_layers(manifest, config, plan)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise ImageError(f"{source}: not a whole image: {type(error).__name__} {error}") from None
        layered = tuple(layer.paths for layer in layers if layer.paths)
        strategy, order = who_planned(manifest)
        return LayerStack(
            source,
            layers,
            "stored",
            carries_plan=bool(plan),
            sizes=self._sizes,
            plan=LayerPlan(layered, strategy, order=order) if plan else None,
        )


def _image_layers(
    manifest: Mapping[str, Any], config: Mapping[str, Any], plan: Sequence[Sequence[str]]
) -> tuple[StackLayer, ...]:
    history = [entry for entry in config.get("history") or () if not entry.get("empty_layer")]
    labels = [_label(str(entry.get("comment") or entry.get("created_by") or "")) for entry in history]
    if len(labels) != len(manifest["layers"]):
        labels = [""] * len(manifest["layers"])
    layers = []
    for number, descriptor in enumerate(manifest["layers"]):
        diff_id = str(config["rootfs"]["diff_ids"][number])
        paths = tuple(plan[number]) if plan else ()
        layers.append(StackLayer(str(descriptor["digest"]), diff_id, int(descriptor["size"]), paths, labels[number]))
    return tuple(layers)


def _label(text: str) -> str:
    """A line of an image's history, with the names of store paths in place of the paths."""
    return re.sub(rf"/[^\s,]*/{HASH_PART}", "", " ".join(text.split())).removeprefix("closure: ")


def closure_of(stack: LayerStack, known: Sequence[Closure]) -> Closure:
    """The closure of a stack's paths: its own, or that part of the closures that are known.

    Raises:
        PlanError: nobody says which paths they are, or which of them refer to which.
        ClosureError: closures contradict each other.
    """
    if stack.closure is not None:
        return stack.closure
    if stack.plan is None:
        raise PlanError(f"{stack.name}: this image does not say which paths are in its layers")
    paths = [path for layer in stack.plan.layers for path in layer]
    for closure in [*known, *([unite(known)] if len(known) > 1 else [])]:
        if all(path in closure for path in paths):
            rows = list(map(closure.index, paths))
            keep = set(paths)
            references = [[name for name in closure.references(i) if name in keep] for i in rows]
            sizes = closure.nar_sizes[np.array(rows, dtype=np.int64)].tolist()
            return Closure(paths, references, nar_sizes=[None if size == UNKNOWN else size for size in sizes])
    missing = next((path for path in paths if not any(path in closure for closure in known)), paths[0])
    if known:
        which = "the closure that --closure names" if len(known) == 1 else "any closure that --closure names"
        raise PlanError(f"{stack.name}: {missing}: not in {which}")
    raise PlanError(f"{stack.name}: {missing}: its references are not known: name its closure with --closure")


def _known_sizes(closure: Closure) -> dict[str, int]:
    sizes = zip(closure.paths, closure.nar_sizes.tolist(), strict=True)
    return {path: size for path, size in sizes if size != UNKNOWN}


def _read(source: str, name: str) -> bytes:
    try:
        if source == "-":
            return sys.stdin.buffer.read()
        with open(source, "rb") as file:
            return file.read()
    except OSError as error:
        raise ClosureError(f"{name}: {error.strerror}") from None


def _documents(data: bytes) -> list[tuple[int, bytes]] | None:
    """The lines of a file with a JSON document in each, and their numbers; None for another file."""
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
    if len(lines) < 2 or lines[0][1].lstrip()[:1] not in (b"{", b"["):
        return None
    try:
        msgspec.json.decode(lines[0][1], type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return None
    return lines


def _is_plan(data: bytes) -> bool:
    """Whether a document is meant as a plan: a list of lists, or an object whose layers have paths."""
    start = data[:4096].lstrip()
    if start.startswith(b"["):
        return start[1:].lstrip().startswith(b"[")
    if not start.startswith(b"{"):
        return False
    try:
        layers = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("layers")
        first = msgspec.json.decode(layers, type=list[dict[str, msgspec.Raw]])[:1] if layers else []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return bool(layers) and all("paths" in layer for layer in first)
