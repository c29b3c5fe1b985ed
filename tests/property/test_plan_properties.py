"""Plans of random histories, with all that may guide them: what holds for every plan."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from fastlayers import Closure, PlanError
from fastlayers.layering import expected_cost
from fastlayers.layering.plan import LayerPlan
from histories import Wish, random_wishes


def check_sizes(closure: Closure, wish: Wish, made: LayerPlan, ruled: set[tuple[str, ...]]) -> None:
    """The sizes are sums of NAR sizes, and as they were wished, but for what rules and single large paths ask for."""
    size = dict(zip(closure.paths, closure.nar_sizes.tolist(), strict=True))
    assert made.sizes == tuple(sum(size[path] for path in layer) for layer in made.layers)
    least, most = wish.guidance.min_size, wish.guidance.max_size
    free = [layer for layer in made.layers if layer not in ruled]
    for layer in free:
        if most and len(layer) > 1:
            assert sum(max(size[path], 1) for path in layer) <= most
        if least and not most and len(free) > 1:
            assert sum(max(size[path], 1) for path in layer) >= least


def check_rules(closure: Closure, wish: Wish, made: LayerPlan) -> set[tuple[str, ...]]:
    """Each path is where the first rule that matches it wants it; the layers that are for rules alone."""
    rules = wish.guidance.rules.rules
    first = {path: next((rule for rule in rules if rule.matches(path)), None) for path in closure.paths}
    ruled, bottom = set(), 0
    for rule in dict.fromkeys(rules):
        paths = {path for path, of in first.items() if of == rule and path not in wish.excluded}
        layers = [layer for layer in made.layers if paths & set(layer)]
        if not paths or rule.place == "volatile":
            continue
        if rule.place == "own":
            assert all(len(layer) == 1 for layer in layers)
        else:
            (layer,) = layers
            assert set(layer) == paths
        if rule.place == "bottom":
            assert made.layers[bottom] == layers[0]
            bottom += 1
        ruled.update(layers)
    return ruled


@pytest.mark.parametrize("items", [2048, 6])
def test_plans_of_random_histories(items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path in one layer or excluded, no empty layer, none too many, and the wishes are followed.

    The same closure in a document of another order has the same plan, and where nothing has changed since the plan
    before, it stays.
    """
    monkeypatch.setattr(expected_cost, "_ITEMS", items)
    seen = Counter[str]()
    for seed in range(250):
        other = random.Random(seed)
        for packages, closure, wish, made in random_wishes(seed):
            shuffled = packages.closure(None if wish.strategy == "auto" else other)  # which goes by the document
            guided = wish.guidance
            if isinstance(made, PlanError):
                assert guided.max_size or guided.rules.rules, made
                with pytest.raises(PlanError) as caught:
                    wish.plan(shuffled)
                assert str(caught.value) == str(made)
                seen["refused"] += 1
                continue
            placed = Counter(path for layer in made.layers for path in layer)
            assert placed == Counter(set(closure.paths) - set(wish.excluded))
            assert made.excluded == tuple(sorted(wish.excluded))
            assert all(made.layers) and len(made.layers) <= wish.limit
            check_sizes(closure, wish, made, check_rules(closure, wish, made))
            assert wish.plan(shuffled).to_json() == made.to_json()
            if wish.strategy == "expected-cost" or wish.order:  # which keep to the plan before: to this one, then
                again = replace(wish, guidance=replace(guided, previous=made.layers))
                assert again.plan(closure).layers == made.layers
            seen["planned"] += 1
            seen["previous"] += guided.previous is not None
            seen["kept"] += bool(set(made.layers) & set(guided.previous or ()))
            seen["history"] += guided.history.updates > 0
            seen["least size"] += guided.min_size > 0
            seen["largest size"] += guided.max_size > 0
            seen["rules"] += bool(guided.rules.rules)
            seen["excluded"] += bool(wish.excluded)
            seen[wish.strategy] += 1
            seen[f"order {made.order}"] += 1
    assert min(seen.values()) > 50, seen
