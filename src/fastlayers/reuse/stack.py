"""Stacks of layers as clients see them: of an image, of a plan, or of a closure that was planned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..closure import Closure
from ..errors import PlanError
from ..layering.plan import LayerPlan

__all__ = [
    "LayerStack",
    "StackLayer",
    "by_paths",
    "stack_of_plan",
    "total",
]


@dataclass(frozen=True, slots=True)
class StackLayer:
    """A layer of a stack.

    Attributes:
        digest: what a client knows the stored bytes by; of a plan's layer a text that says its paths in order.
        diff_id: what chains are made of; of a plan's layer the same text.
        size: bytes in the stack's unit, or None where they are not known.
        paths: names of its nodes in order; none where nobody says, and where there are none.
        label: what it is, where its paths do not say.
    """

    digest: str
    diff_id: str
    size: int | None
    paths: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True, slots=True)
class LayerStack:
    """Layers, bottom first.

    Attributes:
        name: as the user named it.
        layers: the layers.
        unit: what sizes are: bytes as they are stored (an image) or NAR sizes (a plan).
        carries_plan: whether the paths of its layers are known; a layer without paths then has none.
        sizes: NAR sizes of nodes, as far as they are known.
        plan: the plan, where its paths are known.
        closure: the closure, where it is known.
    """

    name: str
    layers: tuple[StackLayer, ...]
    unit: Literal["stored", "NAR"]
    carries_plan: bool = True
    sizes: Mapping[str, int] = field(default_factory=dict)
    plan: LayerPlan | None = None
    closure: Closure | None = None

    @property
    def size(self) -> int | None:
        """Bytes of all layers, each digest once."""
        return total({layer.digest: layer.size for layer in self.layers}.values())

    def layer_of(self) -> dict[str, int]:
        """For each node, which layer it is in; 0 is the bottom."""
        return {path: number for number, layer in enumerate(self.layers) for path in layer.paths}


def total(sizes: Iterable[int | None]) -> int | None:
    """The sum; None where one is not known."""
    known = 0
    for size in sizes:
        if size is None:
            return None
        known += size
    return known


def stack_of_plan(
    name: str, plan: LayerPlan, *, sizes: Mapping[str, int] | None = None, closure: Closure | None = None
) -> LayerStack:
    """The layers that a plan describes; ``sizes`` are NAR sizes of nodes."""
    known = sizes or {}
    given = plan.sizes or (None,) * len(plan.layers)
    layers = []
    for paths, size in zip(plan.layers, given, strict=True):
        identity = json.dumps(paths)
        size = total(map(known.get, paths)) if size is None else size  # noqa: PLW2901
        layers.append(StackLayer(identity, identity, size, paths))
    return LayerStack(name, tuple(layers), "NAR", sizes=known, plan=plan, closure=closure)


def by_paths(stack: LayerStack) -> LayerStack:
    """The same stack with layers known by their paths, so that an image is comparable with a plan.

    Raises:
        PlanError: the image carries no plan.
    """
    if not stack.carries_plan:
        raise PlanError(f"{stack.name}: this image does not say which paths are in its layers: compare it with images")
    layers = []
    for layer in stack.layers:
        identity = json.dumps(layer.paths) if layer.paths else layer.diff_id
        layers.append(replace(layer, digest=identity, diff_id=identity))
    return replace(stack, layers=tuple(layers))
