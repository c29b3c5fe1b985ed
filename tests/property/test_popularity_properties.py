import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayers import _core
from fastlayers.closure import Closure
from fastlayers.popularity import order_by_popularity
from oracles import popularity as oracle


def check(graph: dict[str, list[str]]) -> int:
    """That the kernel and the oracle agree; returns the number of limbs."""
    closure = Closure(list(graph), list(graph.values()))
    found = order_by_popularity(closure)
    expected = oracle.popularity(graph)
    assert found.counts() == [expected[path] for path in closure.paths]
    assert [closure.paths[i] for i in found.order] == oracle.order(graph)
    return found.limbs.shape[1]


def random_graph(rng: random.Random, n: int, degree: int, reach: int) -> dict[str, list[str]]:
    """Nodes in a random hidden order; each refers to some of the ``reach`` that come next, and perhaps to itself."""
    names = [f"/s/{rng.randrange(10**6):06}{i}-{rng.choice('abc')}{rng.choice(['', '-1'])}" for i in range(n)]
    graph = {}
    for i, name in enumerate(names):
        below = names[i + 1 : i + 1 + reach]
        graph[name] = [rng.choice(below) for _ in range(rng.randrange(degree + 1))] if below else []
        if rng.random() < 0.2:
            graph[name].append(name)
    items = list(graph.items())
    rng.shuffle(items)
    return dict(items)


def test_ten_thousand_random_graphs() -> None:
    rng = random.Random(2018)
    for _ in range(10_000):
        n = rng.randrange(1, 16)
        check(random_graph(rng, n, rng.randrange(1, 5), rng.randrange(1, n + 1)))


def test_graphs_of_several_blocks() -> None:
    rng = random.Random(512)
    for n in (500, 600, 1100):
        check(random_graph(rng, n, 3, 200))


def test_braids_pass_64_and_128_bits() -> None:
    """Strands that refer to strands of the next rows: counts grow with each row."""
    rng = random.Random(128)
    limbs = set()
    for rows in [*range(40, 48), *range(80, 88), 150]:
        width = rng.randrange(3, 6)
        graph = {
            f"{row}.{strand}": [f"{row + step}.{rng.randrange(width)}" for step in (1, 1, 1, 1, 2) if row + step < rows]
            for row in range(rows)
            for strand in range(width)
        }
        limbs.add(check(graph))
    assert limbs >= {1, 2, 4}


@st.composite
def edges(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    n = draw(st.integers(1, 12))
    return n, draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30))


@given(edges())
@settings(deadline=None)
def test_topological_order_is_one_or_there_is_a_cycle(graph: tuple[int, list[tuple[int, int]]]) -> None:
    n, pairs = graph
    rows = [[j for i, j in pairs if i == row] for row in range(n)]
    indptr = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    indices = np.array([j for row in rows for j in row], dtype=np.int32)
    order = np.empty(n, dtype=np.int32)
    done = _core.topological_order(indptr, indices, order)

    reaches = [[j in row for j in range(n)] for row in rows]
    for k in range(n):
        for i in range(n):
            for j in range(n):
                reaches[i][j] |= reaches[i][k] and reaches[k][j]
    on_cycle = [i for i in range(n) if reaches[i][i]]
    free = [i for i in range(n) if i not in on_cycle and not any(reaches[i][j] for j in on_cycle)]
    ordered = order[:done].tolist()
    assert sorted(ordered) == free
    assert all(ordered.index(i) < ordered.index(j) for i, j in pairs if i in free)
    again = np.empty(n, dtype=np.int32)
    assert _core.topological_order(indptr, indices, again) == done
    assert again[:done].tolist() == ordered


@given(edges())
@settings(deadline=None)
def test_popularity_of_drawn_graphs(graph: tuple[int, list[tuple[int, int]]]) -> None:
    n, pairs = graph
    check({str(row): [str(max(i, j)) for i, j in pairs if min(i, j) == row] for row in range(n)})
