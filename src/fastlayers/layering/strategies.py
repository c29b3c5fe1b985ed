"""Who makes a plan: a strategy, by its name, or a pipeline; and whether a plan in a file is of its strategy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple

from ..closure import UNKNOWN, Closure
from ..errors import PlanError
from . import auto, expected_cost, pipeline, popularity
from . import order as ordering
from .guidance import Guidance
from .plan import LayerPlan, parse_plan

__all__ = ["DEFAULT_STRATEGY", "ORDERS", "STRATEGIES", "Strategy", "plan_layers", "plan_pipeline", "read_plan"]

DEFAULT_STRATEGY = "expected-cost"


class Strategy(NamedTuple):
    """A way to distribute a closure's nodes over layers.

    Its name stands for its layers for ever: what would change them gets another version.

    Attributes:
        version: the strategy's.
        split: takes the closure, the most layers that there may be, the paths that are to be in none, and what guides
            the plan; gives the layers, bottom first.
        guided: whether it goes by more than the closure.
        order: the one of :data:`ORDERS` in which its layers are, or None for one of its own.
    """

    version: int
    split: Callable[[Closure, int, AbstractSet[str], Guidance], list[list[str]]]
    guided: bool = False
    order: str | None = None


def _by_closure_alone(
    split: Callable[[Closure, int, AbstractSet[str]], list[list[str]]],
) -> Callable[[Closure, int, AbstractSet[str], Guidance], list[list[str]]]:
    return lambda closure, max_layers, excluded, guidance: split(closure, max_layers, excluded)


STRATEGIES: dict[str, Strategy] = {
    "popularity": Strategy(popularity.VERSION, _by_closure_alone(popularity.split)),
    "auto": Strategy(auto.VERSION, _by_closure_alone(auto.split)),
    "expected-cost": Strategy(expected_cost.VERSION, expected_cost.split, guided=True, order="stable"),
}


# Orders in which layers can be put besides their strategy's; a name stands for its order for ever.
ORDERS: dict[str, int] = {"stable": ordering.VERSION}


def plan_layers(
    closure: Closure,
    max_layers: int = 99,
    strategy: str | None = None,
    *,
    exclude: Iterable[str] = (),
    guidance: Guidance = Guidance(),  # noqa: B008  frozen
    order: str | None = None,
) -> LayerPlan:
    """Distribute a closure's nodes over at most ``max_layers`` layers.

    Args:
        closure: what to distribute.
        max_layers: at least 1.
        strategy: one of :data:`STRATEGIES`, or None for the default.
        exclude: names of nodes to put into no layer; what is not in the closure is ignored.
        guidance: what the strategy and the order go by besides.
        order: one of :data:`ORDERS`, or None for the strategy's own.

    Raises:
        PlanError: there is no such strategy or order, the strategy goes by the closure alone, the guidance cannot be
            followed, there is no layer to put anything in, or the strategy goes by NAR sizes and one is not known.
    """
    name = strategy or DEFAULT_STRATEGY
    if name not in STRATEGIES:
        raise PlanError(f"no strategy {name}; there are: {', '.join(STRATEGIES)}")
    if max_layers < 1:
        raise PlanError(f"a plan needs at least one layer, not {max_layers}")
    version, split, guided, own_order = STRATEGIES[name]
    followed = Guidance() if order is None else Guidance(guidance.previous, guidance.history)
    if guidance != followed and not guided:
        raise PlanError(f"{name} goes by the closure alone: a plan before, a history, rules and sizes change nothing")
    excluded = _in_closure(exclude, closure)
    layers = tuple(map(tuple, split(closure, max_layers, frozenset(excluded), guidance)))
    made = LayerPlan(layers, f"{name}/{version}", max_layers=max_layers, excluded=excluded, guided=guidance.remembers)
    return _sized(made if order == own_order else _in_order(made, closure, order, guidance), closure)


def plan_pipeline(
    closure: Closure,
    steps: pipeline.Pipeline,
    *,
    exclude: Iterable[str] = (),
    guidance: Guidance = Guidance(),  # noqa: B008  frozen
    order: str | None = None,
) -> LayerPlan:
    """Distribute a closure's nodes over layers as a pipeline says; how many there are is up to the pipeline.

    Args:
        closure: what to distribute.
        steps: the pipeline; :func:`fastlayers.read_pipeline` reads one.
        exclude: names of nodes to put into no layer, besides those that the pipeline excludes or removes itself.
        guidance: what the order goes by besides.
        order: one of :data:`ORDERS`, or None for the pipeline's own.

    Raises:
        PlanError: the pipeline cannot be run (the message names the operation), or there is no such order.
    """
    layers = tuple(map(tuple, pipeline.split(closure, steps, frozenset(exclude))))
    placed = {path for layer in layers for path in layer}
    excluded = tuple(path for path in closure.paths if path not in placed)
    return _sized(_in_order(LayerPlan(layers, excluded=excluded), closure, order, guidance), closure)


def _in_order(made: LayerPlan, closure: Closure, name: str | None, guidance: Guidance) -> LayerPlan:
    """The plan with its layers put in an order; None leaves them as they are."""
    if name is None:
        return made
    if name not in ORDERS:
        raise PlanError(f"no order {name}; there are: {', '.join(ORDERS)}")
    layers = ordering.order_layers(closure, made.layers, previous=guidance.previous, history=guidance.history)
    guided = made.guided or guidance.remembers
    return replace(made, layers=tuple(map(tuple, layers)), order=f"{name}/{ORDERS[name]}", guided=guided)


def _in_closure(paths: Iterable[str], closure: Closure) -> tuple[str, ...]:
    return tuple(sorted({path for path in paths if path in closure}))


def _sized(made: LayerPlan, closure: Closure) -> LayerPlan:
    sizes = dict(zip(closure.paths, closure.nar_sizes.tolist(), strict=True))
    layers = [[sizes[path] for path in layer] for layer in made.layers]
    return replace(made, sizes=tuple(None if UNKNOWN in layer else sum(layer) for layer in layers))


def _is_of_its_strategy(made: LayerPlan, closure: Closure) -> bool:
    """Whether the strategy that a plan names gives this plan, or it was edited since; a guided one is believed."""
    name, _, version = (made.strategy or "").partition("/")
    if name not in STRATEGIES or version != str(STRATEGIES[name].version) or not made.layers:
        return False
    put, _, put_version = (made.order or "").partition("/")
    if put and put_version != str(ORDERS.get(put)):
        return False
    if made.guided:
        return STRATEGIES[name].guided or bool(put)
    limit = made.max_layers or len(made.layers)
    again = plan_layers(closure, limit, name, exclude=made.excluded, order=put or None)
    return (again.layers, again.order) == (made.layers, made.order)


def read_plan(file: str, closure: Closure, *, exclude: Iterable[str] = ()) -> LayerPlan:
    """Read a plan for a closure from a file: either a list of lists of names, or what :meth:`LayerPlan.to_json` gives.

    ``exclude`` names nodes that are in none of its layers, besides those that the plan says itself.

    Raises:
        PlanError: the file cannot be read, holds no plan, or the plan is not one of this closure.
    """
    try:
        with open(file, "rb") as document:
            data = document.read()
        parsed = parse_plan(data)
        made = replace(parsed, sizes=(), excluded=_in_closure([*parsed.excluded, *exclude], closure))
        if not _is_of_its_strategy(made, closure):
            made = LayerPlan(parsed.layers, excluded=made.excluded)
        made.check(closure)
    except OSError as error:
        raise PlanError(f"{file}: {error.strerror}") from None
    except PlanError as error:
        raise PlanError(f"{file}: {error}") from None
    return _sized(made, closure)
