"""auto and pipelines against their definitions, on random graphs, and what holds for every plan."""

import json
import random
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayers import Closure, Pipeline, _core, plan_layers, plan_pipeline
from fastlayers.layering.strategies import STRATEGIES
from oracles import auto as auto_oracle
from oracles import pipeline as oracle

Graph = dict[str, list[str]]


def random_graph(rng: random.Random, most: int = 12) -> tuple[Graph, dict[str, int]]:
    """Nodes in a random order, some of one size, some with a reference to themselves."""
    n = rng.randrange(1, most + 1)
    names = [f"/s/{rng.randrange(10**6):06}{i}{rng.choice(['-a', '-b', '-b-1', ''])}" for i in range(n)]
    density = rng.choice([0.1, 0.3, 0.6])
    graph = {
        name: [other for other in names[i + 1 :] if rng.random() < density] + [name] * (rng.random() < 0.2)
        for i, name in enumerate(names)
    }
    sizes = {name: rng.randrange(rng.choice([3, 1000])) for name in names}
    items = list(graph.items())
    rng.shuffle(items)
    return dict(items), sizes


def closure_of(graph: Graph, sizes: dict[str, int]) -> Closure:
    return Closure(list(graph), list(graph.values()), nar_sizes=[sizes[name] for name in graph])


def test_auto_on_random_graphs() -> None:
    rng = random.Random(2025)
    seen = Counter[str]()
    for _ in range(2000):
        graph, sizes = random_graph(rng)
        limit = rng.randrange(1, len(graph) + 2)
        excluded = set(rng.sample(list(graph), rng.randrange(min(3, len(graph)))))
        made = plan_layers(closure_of(graph, sizes), limit, "auto", exclude=excluded)
        assert [list(layer) for layer in made.layers] == auto_oracle.layers(graph, sizes, limit, excluded)
        seen["limited"] += len(made.layers) == limit < len(graph)
        seen["common"] += any(len(layer) > 1 for layer in made.layers[:-1])
    assert min(seen.values()) > 200, seen


def test_auto_with_more_primary_nodes_than_a_block_has() -> None:
    """600 nodes of one size: the last ones of the document become primary, in more than one block of sets."""
    names = [f"/s/{i:04}-n" for i in range(700)]
    graph = {name: names[i + 1 : i + 2] for i, name in enumerate(names)}
    sizes = dict.fromkeys(names, 1)
    made = plan_layers(closure_of(graph, sizes), 600, "auto")
    tail = [(name,) for name in reversed(names[101:])]
    assert made.layers == (*tail, tuple(names[:101]))


def random_paths(rng: random.Random, names: list[str], most: int = 4) -> list[str]:
    """Some paths, perhaps one twice, perhaps one that is not in the graph."""
    return [rng.choice([*names, "/s/none-x"]) for _ in range(rng.randrange(most))]


def random_operation(rng: random.Random, names: list[str], value: Any, depth: int = 0) -> list[Any]:
    """An operation that takes this value."""
    if depth < 3 and rng.random() < 0.15:
        return ["pipe", random_pipeline(rng, names, value, depth + 1)]
    if isinstance(value, oracle.Graph):
        specs = [
            path if rng.random() < 0.7 else {"children_of": rng.choice([path, [path, rng.choice(names)]])}
            for path in random_paths(rng, names)
        ]
        return rng.choice(
            [
                ["popularity_contest"],
                ["split_every", rng.randrange(1, 5)],
                ["subcomponent_out", random_paths(rng, names)],
                ["subcomponent_in", random_paths(rng, names)],
                ["split_paths", specs],
                ["split_paths", specs],
                ["remove_paths", rng.choice([random_paths(rng, names), rng.choice(names)])],
            ]
        )
    fitting: list[list[Any]] = [["flatten"]]
    if isinstance(value, dict):
        part = rng.choice(list(value))
        fitting += 2 * [["over", part, random_operation(rng, names, value[part], depth + 1)]]
    else:
        fitting += 2 * [["reverse"]]
        kinds = {type(item) for item in value}
        if kinds == {oracle.Graph}:
            fitting += 2 * [["map", random_operation(rng, names, value[0], depth + 1)]]
            fitting += 2 * [["limit_layers", rng.randrange(1, 5)]]
            if all(len(item.names) == 1 for item in value):
                fitting += [["split_every", rng.randrange(1, 5)]]
        elif kinds in ({list}, {dict}):
            fitting += [["map", ["flatten"]]]
    return rng.choice(fitting)


def random_pipeline(rng: random.Random, names: list[str], value: Any, depth: int = 0) -> list[list[Any]]:
    """A few operations, each of which takes what the one before it gives."""
    operations = []
    for _ in range(rng.randrange(1, 6)):
        operation = random_operation(rng, names, value, depth)
        try:
            value = oracle.apply(operation, value)
        except (KeyError, TypeError):
            continue  # made for the first graph of a list, it does not fit another one
        operations.append(operation)
    return operations


def used(operations: list[Any]) -> set[str]:
    """The names of all operations of a pipeline, also of those in others."""
    inner = json.dumps(operations)
    return {name for name in oracle.OPERATIONS if f'["{name}"' in inner}


def test_pipelines_on_random_graphs() -> None:
    """Each operation on at least 2,000 graphs."""
    rng = random.Random(122608)
    seen = Counter[str]()
    while min(seen[name] for name in oracle.OPERATIONS) < 2000:
        graph, sizes = random_graph(rng, 9)
        excluded = set(rng.sample(list(graph), rng.randrange(min(3, len(graph)))))
        start = oracle.start(graph, sizes, excluded)
        operations = random_pipeline(rng, list(graph), start)
        made = plan_pipeline(closure_of(graph, sizes), Pipeline(operations, excluded))
        expected = oracle.layers(oracle.pipe(operations, start))
        assert [list(layer) for layer in made.layers] == expected, (graph, sizes, operations)
        seen.update(used(operations))


@given(st.integers(0, 10**9), st.integers(1, 30), st.sampled_from(sorted(STRATEGIES)))
@settings(deadline=None)
def test_invariants_of_every_strategy(seed: int, limit: int, strategy: str) -> None:
    """Every path once or excluded, no more layers than there may be, none empty, always the same."""
    rng = random.Random(seed)
    graph, sizes = random_graph(rng, 25)
    closure = closure_of(graph, sizes)
    excluded = rng.sample(list(graph), rng.randrange(len(graph) + 1))
    made = plan_layers(closure, limit, strategy, exclude=[*excluded, "/s/none-x"])
    made.check(closure)
    assert made.excluded == tuple(sorted(excluded))
    assert len(made.layers) <= limit
    assert plan_layers(closure_of(graph, sizes), limit, strategy, exclude=excluded) == made


@given(st.integers(0, 10**9), st.integers(1, 3), st.booleans())
@settings(deadline=None)
def test_bits_spread(seed: int, words: int, up: bool) -> None:
    rng = random.Random(seed)
    graph, sizes = random_graph(rng)
    closure = closure_of(graph, sizes)
    n = len(closure)
    order = np.empty(n, dtype=np.int32)
    _core.topological_order(closure.indptr, closure.indices, order)
    sets = np.array([[rng.getrandbits(64) & rng.getrandbits(64) for _ in range(words)] for _ in range(n)], np.uint64)
    expected = sets.copy()
    for i, path in enumerate(closure.paths):
        for other in auto_oracle.needs(graph, path):
            j = closure.index(other)
            if up:
                expected[i] |= sets[j]
            else:
                expected[j] |= sets[i]
    _core.spread(closure.indptr, closure.indices, order, sets, up)
    assert (sets == expected).all()
