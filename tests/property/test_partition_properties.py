"""The kernel that distributes items over groups, against its definition."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastlayers import _core
from oracles.partition import Item, partition


def packed(sets: list[frozenset[int]], words: int) -> NDArray[np.uint64]:
    rows = [[sum(1 << (event - 64 * w) for event in one if event // 64 == w) for w in range(words)] for one in sets]
    return np.array(rows, dtype=np.uint64).reshape(len(sets), words)


def events(rng: random.Random, words: int) -> frozenset[int]:
    some = rng.sample(range(64 * words), min(6, 64 * words)) if words else []
    return frozenset(rng.sample(some, rng.randrange(len(some) + 1)))


@given(st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_partition(seed: int) -> None:
    rng = random.Random(seed)
    heavy_words, light_words = rng.randrange(3), rng.randrange(1, 3)
    pool = [(events(rng, heavy_words), events(rng, light_words)) for _ in range(4)]
    items = []
    for _ in range(rng.randrange(1, 10)):
        (heavy, light), (more, _) = rng.choice(pool), rng.choice(pool)
        items.append(Item(rng.randrange(rng.choice([2, 50])), heavy | more, light, rng.choice([1, 1, 3])))
    weights = rng.randrange(4), rng.randrange(4), rng.randrange(4)
    least, most = rng.choice([0, 0, 10]), rng.choice([0, 0, 60])
    limit, passes = rng.randrange(1, len(items) + 2), rng.randrange(4)
    groups = np.empty(len(items), dtype=np.int32)
    left = _core.partition(
        np.array([item.size for item in items]),
        np.array([item.count for item in items]),
        np.concatenate(
            [packed([i.heavy for i in items], heavy_words), packed([i.light for i in items], light_words)], axis=1
        ),
        groups,
        limit,
        heavy_words=heavy_words,
        heavy=weights[0],
        light=weights[1],
        joined=weights[2],
        least=least,
        most=most,
        passes=passes,
    )
    made: dict[int, list[int]] = {}
    for i, group in enumerate(groups.tolist()):
        made.setdefault(group, []).append(i)
    assert all(number == members[0] for number, members in made.items())
    assert (sorted(made.values()), left) == partition(items, limit, weights, least, most, passes)
