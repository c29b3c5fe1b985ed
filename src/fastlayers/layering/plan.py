"""Layer plans: which node goes into which layer, as a value that prints as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated

import msgspec

from ..closure import Closure
from ..errors import PlanError

__all__ = ["LayerPlan", "parse_plan"]


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """Layers, bottom first, each a tuple of node names in the order in which they are written.

    Attributes:
        layers: the layers.
        strategy: the strategy that made the plan, and its version ("popularity/1"); None for a plan made by hand or by
            a pipeline.
        sizes: bytes of each layer (of a Nix closure: NAR sizes), or None where a node's size is not known.
        max_layers: how many layers the strategy was allowed; None for a plan without a strategy.
        excluded: nodes of the closure that are in no layer, sorted.
        guided: whether the strategy or the order went by more than the closure: a plan before, earlier closures,
            rules, sizes.
        order: the order in which the layers were put, and its version ("stable/1"); None for the strategy's own.
    """

    layers: tuple[tuple[str, ...], ...]
    strategy: str | None = None
    sizes: tuple[int | None, ...] = ()
    max_layers: int | None = None
    excluded: tuple[str, ...] = ()
    guided: bool = False
    order: str | None = None

    def to_json(self) -> str:
        """The plan as a JSON object; :func:`parse_plan` reads it back."""
        sizes = self.sizes or (None,) * len(self.layers)
        layers = [{"size": size, "paths": list(paths)} for size, paths in zip(sizes, self.layers, strict=True)]
        document = {
            "version": 1,
            "strategy": self.strategy,
            "max_layers": self.max_layers,
            "guided": self.guided,
            "order": self.order,
            "excluded": self.excluded,
            "layers": layers,
        }
        return json.dumps(document, indent=2, ensure_ascii=False)

    def to_layers(self) -> str:
        """The layers alone, as a JSON list of lists of node names."""
        return json.dumps(self.layers, indent=2, ensure_ascii=False)

    def check(self, closure: Closure) -> None:
        """Check that every node of a closure is in exactly one layer or excluded, and that no layer is empty.

        Raises:
            PlanError: it is not so; the message names the node or the layer.
        """
        seen = self.check_layers()
        excluded = set(self.excluded)
        for path, number in seen.items():
            if path not in closure:
                raise PlanError(f"{path}: in layer {number}, but not in the closure")
            if path in excluded:
                raise PlanError(f"{path}: in layer {number}, but excluded")
        missing = [path for path in closure.paths if path not in seen and path not in excluded]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise PlanError(f"{missing[0]}{more}: in the closure, but in no layer of the plan")

    def check_layers(self) -> dict[str, int]:
        """Check that no layer is empty and no node in two; the number of each node's layer, from 1.

        Raises:
            PlanError: it is not so; the message names the node or the layer.
        """
        seen: dict[str, int] = {}
        for number, layer in enumerate(self.layers, 1):
            if not layer:
                raise PlanError(f"layer {number} is empty")
            for path in layer:
                if path in seen:
                    raise PlanError(f"{path}: in layer {seen[path]} and again in layer {number}")
                seen[path] = number
        return seen


class _Layer(msgspec.Struct):
    paths: list[str]
    size: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _Plan(msgspec.Struct):
    version: int
    layers: list[_Layer]
    strategy: str | None = None
    max_layers: Annotated[int, msgspec.Meta(ge=1)] | None = None
    excluded: list[str] = []
    guided: bool = False
    order: str | None = None


def parse_plan(data: bytes) -> LayerPlan:
    """The plan in a document: a list of lists of names, or what :meth:`LayerPlan.to_json` gives.

    Raises:
        PlanError: it holds no plan, or one that cannot be of any closure.
    """
    try:
        if data.lstrip()[:1] == b"{":
            if "layers" not in msgspec.json.decode(data, type=dict[str, msgspec.Raw]):
                raise PlanError(
                    "not a plan, since it has no layers: `fastlayers plan --format json` makes one of a closure"
                )
            parsed = msgspec.json.decode(data, type=_Plan)
            if parsed.version != 1:
                raise PlanError(f"a plan of version {parsed.version}; this release reads version 1")
            made = LayerPlan(
                tuple(tuple(layer.paths) for layer in parsed.layers),
                parsed.strategy,
                tuple(layer.size for layer in parsed.layers),
                parsed.max_layers,
                tuple(parsed.excluded),
                parsed.guided,
                parsed.order,
            )
        else:
            made = LayerPlan(tuple(map(tuple, msgspec.json.decode(data, type=list[list[str]]))))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"not a plan: {error}") from None
    made.check_layers()
    return made
