"""Why a path is in its layer: what its strategy went by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import product

from ..closure import Closure
from ..errors import PlanError
from ..layering.plan import LayerPlan
from ..layering.strategies import DEFAULT_STRATEGY, STRATEGIES, plan_layers
from ..store_path import package_name, store_name
from .stack import LayerStack

__all__ = ["explain_path", "find_path", "recognise", "summarise"]

_USUAL = 99  # layers that a plan may have, where nobody says how many


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

    Of several that give it, it is the default one.

    In which order its layers are does not matter. What guided a plan it does not tell: where that made another plan of
    it than the strategy gives for the closure alone, there is none.

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
    limits = [plan.max_layers] if plan.max_layers else sorted({len(plan.layers), max(len(plan.layers), _USUAL)})
    names = [said] if said in STRATEGIES else sorted(STRATEGIES, key=lambda name: name != DEFAULT_STRATEGY)
    for name, limit in product(names, limits):
        try:
            again = plan_layers(closure, limit, name, exclude=plan.excluded)
        except PlanError:  # it goes by what this closure does not say
            continue
        if sorted(again.layers) == sorted(plan.layers):
            return replace(again, layers=plan.layers)
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
        return [*lines, _NO_CLOSURE]
    row = closure.index(path)
    below = len(closure.references(row))
    above = int((closure.indices == row).sum())
    lines.append(f"refers to {below} of {len(closure)} paths, referred to by {above}")
    plan = recognise(stack, closure)
    return [*lines, *(_of_strategy(closure, plan, path) if plan is not None else [_unknown(stack)])]


def summarise(stack: LayerStack, closure: Closure | None) -> tuple[list[str], str]:
    """For each layer of a stack why its largest path is in it, "" where nobody knows; and then why not, else "".

    Raises:
        PlanError: the plan is none of this closure.
    """
    plan = recognise(stack, closure) if closure is not None else None
    note = ""
    if stack.plan is not None and stack.plan.layers and plan is None:
        note = _NO_CLOSURE if closure is None else _unknown(stack)
    found = []
    for layer in stack.layers:
        if not layer.paths or closure is None or plan is None:
            found.append("" if layer.paths else layer.label)
        else:
            largest = max(layer.paths, key=lambda path: closure.nar_sizes[closure.index(path)])
            found.append(_of_strategy(closure, plan, largest)[-1])
    return found, note


_NO_CLOSURE = "its closure says more: name it with --closure"


def _unknown(stack: LayerStack) -> str:
    """Why nobody knows why, as far as the plan tells."""
    plan = stack.plan
    if plan is None or plan.strategy is None:
        return "no strategy gives this plan: it was made by hand, by a pipeline, or with options that it does not tell"
    more = "a plan before, of which layers were kept, earlier closures, rules or sizes"
    if plan.guided:
        return f"{plan.strategy} went by more than the closure, and the plan does not tell by what: {more}"
    if plan.max_layers is not None:
        return f"{plan.strategy} makes another plan of this closure: it was edited, or is another closure's"
    return f"{plan.strategy} makes another plan of this closure alone: it went by {more}, or had another limit"


def _of_strategy(closure: Closure, plan: LayerPlan, path: str) -> Sequence[str]:
    """What the module of a plan's strategy, which has the strategy's name, says in its ``explain``."""
    said = str(plan.strategy)
    name = f"{__package__.rpartition('.')[0]}.layering.{said.partition('/')[0].replace('-', '_')}"
    explain = getattr(import_module(name), "explain", None) if find_spec(name) else None
    if explain is None:
        return [f"the strategy {plan.strategy} put it there"]
    lines: list[str] = explain(closure, plan, path)
    return lines
