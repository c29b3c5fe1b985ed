"""The kernel that distributes items over groups, against its definition."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastlayers import _core
from oracles.partition import Item, partition, settle


def packed(sets: list[frozenset[int]], words: int) -> NDArray[np.uint64]:
    rows = [[sum(1 << (event - 64 * w) for event in one if event // 64 == w) for w in range(words)] for one in sets]
    return np.array(rows, dtype=np.uint64).reshape(len(sets), words)


def events(rng: random.Random, words: int) -> frozenset[int]:
    some = rng.sample(range(64 * words), min(6, 64 * words)) if words else []
    return frozenset(rng.sample(some, rng.randrange(len(some) + 1)))


def some_items(rng: random.Random, heavy_words: int, light_words: int) -> list[Item]:
    pool = [(events(rng, heavy_words), events(rng, light_words)) for _ in range(4)]
    items = []
    for _ in range(rng.randrange(1, 10)):
        (heavy, light), (more, _) = rng.choice(pool), rng.choice(pool)
        items.append(Item(rng.randrange(rng.choice([2, 50])), heavy | more, light, rng.choice([1, 1, 3])))
    return items


def arrays(
    items: list[Item], heavy_words: int, light_words: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Sizes, counts and sets, as the kernels take them."""
    heavy, light = packed([i.heavy for i in items], heavy_words), packed([i.light for i in items], light_words)
    sizes, counts = [item.size for item in items], [item.count for item in items]
    return np.array(sizes), np.array(counts), np.concatenate([heavy, light], axis=1)


Weights = tuple[int, int, int]


def some_wishes(rng: random.Random) -> tuple[Weights, int, int]:
    """Weights, the least size and the largest, as the oracles take them."""
    weights = rng.randrange(4), rng.randrange(4), rng.randrange(4)
    return weights, rng.choice([0, 0, 10]), rng.choice([0, 0, 60])


def named(weights: Weights, least: int, most: int) -> dict[str, int]:
    """The same, as the kernels take them."""
    return {"joined": weights[2], "least": least, "most": most}


def of_words(weights: Weights, heavy_words: int, light_words: int) -> NDArray[np.int64]:
    return np.array([weights[0]] * heavy_words + [weights[1]] * light_words)


@given(st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_partition(seed: int) -> None:
    rng = random.Random(seed)
    heavy_words, light_words = rng.randrange(3), rng.randrange(1, 3)
    items = some_items(rng, heavy_words, light_words)
    weights, least, most = some_wishes(rng)
    limit, passes = rng.randrange(1, len(items) + 2), rng.randrange(4)
    groups = np.empty(len(items), dtype=np.int32)
    left = _core.partition(
        *arrays(items, heavy_words, light_words),
        groups,
        limit,
        weights=of_words(weights, heavy_words, light_words),
        **named(weights, least, most),
        passes=passes,
    )
    made: dict[int, list[int]] = {}
    for i, group in enumerate(groups.tolist()):
        made.setdefault(group, []).append(i)
    assert all(number == members[0] for number, members in made.items())
    assert (sorted(made.values()), left) == partition(items, limit, weights, least, most, passes)


@given(st.integers(0, 10**9))
@settings(max_examples=300, deadline=None)
def test_settle(seed: int) -> None:
    rng = random.Random(seed)
    heavy_words, light_words = rng.randrange(3), rng.randrange(1, 3)
    items = some_items(rng, heavy_words, light_words)
    fixed = [rng.random() < 0.2 for _ in range(rng.randrange(1, 6))]
    groups = [rng.randrange(len(fixed)) for _ in items]
    weights, least, most = some_wishes(rng)
    passes = rng.randrange(4)
    moved = np.array(groups, dtype=np.int32)
    _core.settle(
        *arrays(items, heavy_words, light_words),
        moved,
        np.array(fixed, dtype=np.uint8),
        weights=of_words(weights, heavy_words, light_words),
        **named(weights, least, most),
        passes=passes,
    )
    assert moved.tolist() == settle(items, groups, fixed, weights, least, most, passes)
