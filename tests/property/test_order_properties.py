"""The order stable against the best of all orders, and what holds for every order."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayers import Closure, _core, plan_layers
from fastlayers.layering.guidance import Guidance
from fastlayers.layering.history import ChangeHistory, learn
from fastlayers.layering.order import order_layers
from fastlayers.store_path import package_version
from oracles.order import best, cost

Layers = list[list[str]]


def test_kernel_against_the_best_order() -> None:
    """No move of up to four layers helps: of few layers hardly any order is better, and none is much better."""
    rng = random.Random(6)
    seen = Counter[str]()
    for _ in range(400):
        n, kinds = rng.randrange(1, 7), rng.randrange(1, 12)
        sizes = [rng.randrange(rng.choice([2, 10, 1000])) for _ in range(n)]
        density = rng.choice([0.1, 0.3, 0.6])
        events = [{event for event in range(kinds) if rng.random() < density} for _ in range(n)]
        sets = np.zeros((n, 2), dtype=np.uint64)
        for k, own in enumerate(events):
            for event in own:
                sets[k, event % 2] |= np.uint64(1 << event // 2)
        order = np.empty(n, dtype=np.int32)
        _core.order_layers(np.array(sizes), sets, np.array([1, 9]), order, 1 << 20)
        assert sorted(order.tolist()) == list(range(n))
        weights = {event: [1, 9][event % 2] for event in range(kinds)}
        found, least = cost(order.tolist(), sizes, events, weights), best(sizes, events, weights)
        assert least <= found <= least * 21 // 20
        seen["best"] += found == least
        seen["other than given"] += order.tolist() != list(range(n))
    assert seen["best"] >= 395 and seen["other than given"] > 100, seen


def test_kernel_without_events() -> None:
    """Nothing is ever sent again: the largest are at the bottom, and of equal ones the first."""
    order = np.empty(4, dtype=np.int32)
    sets, weights = np.zeros((4, 0), dtype=np.uint64), np.zeros(0, dtype=np.int64)
    _core.order_layers(np.array([5, 7, 6, 7]), sets, weights, order, 1 << 20)
    assert order.tolist() == [1, 3, 2, 0]


def path_of(number: int, epoch: int) -> str:
    return f"/nix/store/{number:016}{epoch:016}-p{number}-{number % 5}.{epoch}"


def random_update(rng: random.Random, refs: list[list[int]], epochs: list[int]) -> None:
    """A source or two change, and with them all that refer to them."""
    changed = set(rng.sample(range(len(refs)), rng.randrange(1, min(3, len(refs)) + 1)))
    for node, below in enumerate(refs):  # below comes before
        if node in changed or changed.intersection(below):
            changed.add(node)
            epochs[node] += 1


def closure_of(refs: list[list[int]], epochs: list[int], sizes: list[int], order: list[int]) -> Closure:
    paths = [path_of(i, epoch) for i, epoch in enumerate(epochs)]
    return Closure(
        [paths[i] for i in order],
        [[paths[j] for j in refs[i]] for i in order],
        nar_sizes=[sizes[i] for i in order],
    )


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None)
def test_random_histories(seed: int) -> None:
    """A permutation, whatever the document's order; nothing moves when nothing has changed."""
    rng = random.Random(seed)
    n = rng.randrange(1, 30)
    refs = [[j for j in range(i) if rng.random() < 0.1] for i in range(n)]
    sizes, epochs = [rng.randrange(rng.choice([3, 10**9])) for _ in range(n)], [0] * n
    history, previous = ChangeHistory(), None
    for _ in range(6):
        document = list(range(n))
        closure = closure_of(refs, epochs, sizes, document)
        layers = [list(layer) for layer in plan_layers(closure, rng.randrange(1, 9), "auto").layers]
        made = order_layers(closure, layers, previous=previous, history=history)
        assert sorted(made) == sorted(layers)
        rng.shuffle(document)
        other = closure_of(refs, epochs, sizes, document)
        assert order_layers(other, layers, previous=previous, history=history) == made
        assert order_layers(closure, layers[::-1], previous=made, history=history) == made
        guidance = Guidance(previous=previous, history=history)
        assert plan_layers(closure, 5, "popularity", order="stable", guidance=guidance).order == "stable/1"
        history, previous = history.followed_by(closure.paths), made
        random_update(rng, refs, epochs)


@given(st.integers(0, 10**9))
@settings(max_examples=60, deadline=None)
def test_objective_of_layers(seed: int) -> None:
    """With few layers, the order costs what the documents say, and next to no other order costs less."""
    rng = random.Random(seed)
    n = rng.randrange(1, 16)
    refs = [[j for j in range(i) if rng.random() < 0.15] for i in range(n)]
    sizes, epochs, closures = [rng.randrange(1, 1000) for _ in range(n)], [0] * n, []
    for _ in range(rng.randrange(1, 5)):
        closures.append(closure_of(refs, epochs, sizes, list(range(n))))
        random_update(rng, refs, epochs)
    closure = closures[-1]
    history = learn(each.paths for each in closures)
    layers = [list(layer) for layer in plan_layers(closure, 6, "auto").layers]
    below: dict[str, set[str]] = {}
    for i in range(n):
        path = path_of(i, int(closure.paths[i].rpartition(".")[2]))
        below[path] = {path}.union(*(below[other] for other in closure.references(closure.index(path))))
    versions = {path: package_version(path) for path in closure.paths}
    shared = {version for version, times in Counter(versions.values()).items() if times > 1}  # each has its own name
    names = [*closure.paths, *sorted(shared)]
    events = [
        {names.index(other) for path in layer for other in below[path]}
        | {names.index(versions[other]) for path in layer for other in below[path] if versions[other] in shared}
        | {len(names) + k for path in layer for k in range(history.updates) if history.changed[path] >> k & 1}
        for layer in layers
    ]
    weights = dict.fromkeys(range(len(names)), 1) | {len(names) + k: 16 for k in range(history.updates)}
    bytes_of = [sum(sizes[int(path.partition("-p")[2].partition("-")[0])] for path in layer) for layer in layers]
    made = order_layers(closure, layers, history=history)
    found = cost([layers.index(layer) for layer in made], bytes_of, events, weights)
    assert found <= best(bytes_of, events, weights) * 21 // 20
