"""The plan that an image carries: which nodes are in which layer, in the annotations of its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..errors import PlanError

__all__ = ["ORDER", "PATHS", "PLAN", "STRATEGY", "VERSION", "plan_of_manifest", "who_planned"]

PLAN = "dev.fastlayers.plan"  # of the manifest: the version of what its layers say
PATHS = "dev.fastlayers.paths"  # of a layer: a JSON list of the names of its nodes, in order
VERSION = "1"
STRATEGY = "dev.fastlayers.strategy"  # of the manifest: the strategy that made the plan, and its version
ORDER = "dev.fastlayers.order"  # of the manifest: the order that its layers were put in, and its version


def who_planned(manifest: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The strategy and the order that a manifest names, None where it names none."""
    annotations = manifest.get("annotations") or {}
    strategy, order = (annotations.get(key) for key in (STRATEGY, ORDER))
    return strategy if isinstance(strategy, str) else None, order if isinstance(order, str) else None


def plan_of_manifest(manifest: Mapping[str, Any]) -> list[list[str]]:
    """The plan in an OCI manifest: for each of its layers, bottom first, the names of its nodes in order.

    A layer of no nodes (a base image's, the customisation) has an empty list. A manifest that carries no plan gives no
    list at all.

    Raises:
        PlanError: the plan is of another version, or is none; the message names the layer.
    """
    version = (manifest.get("annotations") or {}).get(PLAN)
    if version is None:
        return []
    if version != VERSION:
        raise PlanError(f"{PLAN}: a plan of version {version}; this release reads version {VERSION}")
    layers = []
    seen: dict[str, int] = {}
    for number, descriptor in enumerate(manifest["layers"], 1):
        text = (descriptor.get("annotations") or {}).get(PATHS)
        try:
            paths = [] if text is None else msgspec.json.decode(text, type=list[str])
        except (msgspec.DecodeError, TypeError, RecursionError) as error:
            raise PlanError(f"layer {number}: {PATHS}: {error}") from None
        for path in paths:
            if path in seen:
                raise PlanError(f"{path}: in layer {seen[path]} and again in layer {number}")
            seen[path] = number
        layers.append(paths)
    return layers
