"""Why a path is in its layer: what its strategy went by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

from ..closure import Closure
from ..errors import PlanError
from ..layering.plan import STRATEGIES, LayerPlan, plan_layers
from ..store_path import package_name, store_name
from .stack import LayerStack

__all__ = ["explain_path", "find_path", "recognise", "summarise"]


def find_path(stack: LayerStack, wanted: str) -> str:
    """The path of a stack that is meant: named in full, by its name, or by its package where it has but one.

    Raises:
        PlanError: it is in no layer, or several are meant.
    """
    if not stack.carries_plan:
        raise PlanError(f"{stack.name}: this image does not say which paths are in its layers")
    paths = sorted(stack.layer_of())
    if wanted in paths:
        return wanted
    for name_of in (store_name, package_name):
        found = [path for path in paths if name_of(path) == wanted]
        if len(found) > 1:
            raise PlanError(f"{wanted}: {len(found)} paths are meant: {', '.join(found)}")
        if found:
            return found[0]
    raise PlanError(f"{wanted}: in no layer of {stack.name}")


def recognise(stack: LayerStack, closure: Closure) -> LayerPlan | None:
    """A stack's plan with the strategy that gives it, tried out where the plan does not say; None for another plan.

    Raises:
        PlanError: the plan is none of this closure.
    """
    if stack.plan is None:
        return None
    placed = stack.layer_of()
    plan = replace(stack.plan, excluded=tuple(path for path in closure.paths if path not in placed))
    plan.check(closure)
    if not plan.layers:
        return None
    said = (plan.strategy or "").partition("/")[0]
    for name in [said] if said in STRATEGIES else STRATEGIES:
        try:
            again = plan_layers(closure, plan.max_layers or len(plan.layers), name, exclude=plan.excluded)
        except PlanError:  # it goes by what this closure does not say
            continue
        if again.layers == plan.layers:
            return again
    return None


def explain_path(stack: LayerStack, path: str, closure: Closure | None) -> list[str]:
    """Lines that say where a path is and why; without the closure, where alone.

    Raises:
        PlanError: the plan is none of this closure.
    """
    number = stack.layer_of()[path]
    layer = stack.layers[number]
    lines = [
        f"{path}",
        f"layer {number + 1} of {len(stack.layers)}, path {layer.paths.index(path) + 1} of {len(layer.paths)}",
    ]
    if closure is None:
        return [*lines, "its closure says more: name it with --closure"]
    row = closure.index(path)
    below = len(closure.references(row))
    above = int((closure.indices == row).sum())
    lines.append(f"refers to {below} of {len(closure)} paths, referred to by {above}")
    plan = recognise(stack, closure)
    return [*lines, *_of_strategy(closure, plan, path)]


def summarise(stack: LayerStack, closure: Closure | None) -> list[str]:
    """For each layer of a stack why its largest path is in it; "" where nobody knows.

    Raises:
        PlanError: the plan is none of this closure.
    """
    plan = recognise(stack, closure) if closure is not None else None
    found = []
    for layer in stack.layers:
        if not layer.paths or closure is None or plan is None:
            found.append("" if layer.paths else layer.label)
        else:
            largest = max(layer.paths, key=lambda path: closure.nar_sizes[closure.index(path)])
            found.append(_of_strategy(closure, plan, largest)[-1])
    return found


def _of_strategy(closure: Closure, plan: LayerPlan | None, path: str) -> Sequence[str]:
    """What the module of a plan's strategy, which has the strategy's name, says in its ``explain``."""
    if plan is None or plan.strategy is None:
        return [
            "no strategy gives this plan: it was made by hand, by a pipeline, or with options that it does not tell"
        ]
    name = f"{__package__.rpartition('.')[0]}.layering.{plan.strategy.partition('/')[0].replace('-', '_')}"
    explain = getattr(import_module(name), "explain", None) if find_spec(name) else None
    if explain is None:
        return [f"the strategy {plan.strategy} put it there"]
    lines: list[str] = explain(closure, plan, path)
    return lines
