"""The strategy ``expected-cost``: paths that change together share a layer.

A client that has an image downloads for its next version every layer of which a path has changed. So a layer costs its
size times how often anything in it changes, and the plan is to cost little:

    cost(layer) = size * (events of its paths, each counted once, by their weight; and ``joined``, if it has several)

The events of a path are what makes it change. Where nothing is known, these are the packages below it and their
versions: a path changes when it, or anything that it refers to, is released anew, and packages of one version are
released together more often than others (``releases.py``). An update of the past in which the path changed is one more
event, of eight times the weight of a package and its version: releases come together, and what was released often will
be again. ``joined`` stands for other images of the same packages: these have a path alone in a layer too, but hardly
the very same group.

Layers come to be from the bottom up: the two that are cheapest to merge are merged, until the limit holds (Ward's
method, with this cost). Then paths are moved, one by one, to where they cost least, until none moves. Where a history
tells enough to put layers in an order, they are moved once more, to where they cost least together with the cost of the
order (``order.py``), both alike: half of the clients know a layer by all that lies below it. With a plan of the version
before, all of its layers stay in which nothing has changed; what was in the others must be sent anyway,
and is distributed afresh over the layers that are left. Only where a new plan for everything pays for itself within
eight updates is one made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..closure import UNKNOWN, Closure
from ..errors import PlanError
from ..store_path import store_name
from .guidance import Guidance
from .history import ChangeHistory
from .order import order_layers
from .plan import LayerPlan
from .releases import releases_of

__all__ = ["VERSION", "explain", "split"]

VERSION = 1

_PAST, _VERSION, _PACKAGE = 24, 2, 1  # weights of an update of the past, and of a version and a package below
_SHARED = 32  # `joined` is the weight of one in so many events: of an image of which no past is known ...
_SHARED_PAST = 128  # ... and of one that is known to be updated
_HORIZON = 8  # updates within which a new plan for everything has to pay
_UPDATES = 512  # of the past that are looked at, the newest
_ITEMS = 4096  # more paths than that are joined by what is near in the graph, before any are compared
_EVENTS = 2048  # more versions, or packages, than that share a bit with neighbours in the alphabet
_PASSES = 8
_ROUNDS = 2  # of moving paths for an order, and putting layers in order again
_SUM = 1 << 62  # the kernel's sums stay below it
_LARGEST = 1 << 52  # bytes of a closure: no product of sizes and cells overflows


@dataclass(frozen=True)
class _Items:
    """What is distributed over layers.

    Attributes:
        paths: m nodes, sorted by name, then by size.
        sizes: int64, shape (m,).
        sets: uint64, shape (m, words): what makes a path change, a bit each: updates of the past in which it did, then
            versions, then packages, that it or what is below it has.
        weights: int64, shape (words,): of the bits in each word.
        releases: the weight of all versions and packages.
        updated: whether an update of the past is known.
    """

    paths: Sequence[str]
    sizes: NDArray[np.int64]
    sets: NDArray[np.uint64]
    weights: NDArray[np.int64]
    releases: int
    updated: bool

    @property
    def joined(self) -> int:
        """The weight of several paths in a layer."""
        return self.releases // (_SHARED_PAST if self.updated else _SHARED)

    def some(self, rows: NDArray[np.int64]) -> _Items:
        """These rows alone."""
        return replace(self, paths=[self.paths[i] for i in rows.tolist()], sizes=self.sizes[rows], sets=self.sets[rows])

    def cost(self, layers: Sequence[NDArray[np.int64]]) -> int:
        """Of layers, without ``joined``."""
        return sum(int(self.sizes[rows].sum()) * _weight(self.sets[rows], self.weights) for rows in layers)


def split(
    closure: Closure,
    max_layers: int,
    excluded: AbstractSet[str] = frozenset(),
    guidance: Guidance = Guidance(),  # noqa: B008  frozen
) -> list[list[str]]:
    """At most ``max_layers`` layers, bottom first; none for an empty closure. In a layer, paths are sorted by name.

    Raises:
        PlanError: the wishes of the guidance cannot be had with so many layers.
    """
    history = guidance.history.followed_by(closure.paths)
    rules = guidance.rules.apply(closure, excluded)
    history = rules.with_volatile(history)
    pinned_layers = [_by_name(layer) for layer in rules.pinned]
    unpinned = [_by_name(layer) for layer in rules.unpinned]
    free = np.flatnonzero([path not in excluded and path not in rules.placed for path in closure.paths])
    room = max_layers - len(rules.layers)
    if room < (1 if len(free) else 0):
        raise PlanError(
            f"the rules' own layers are {len(rules.layers)}: a limit of {max_layers} leaves none for what remains"
        )
    layers: list[list[str]] = []
    if len(free):
        items = _items(closure, free, history)
        if (guidance.min_size or guidance.max_size) and (closure.nar_sizes[free] == UNKNOWN).any():
            raise PlanError("a NAR size is not known, so layers cannot go by a least or largest size")
        # A layer that was there before keeps its order too: it reaches the bytes.
        before = {frozenset(layer): list(layer) for layer in guidance.previous or () if _all_differ(layer)}
        for rows in _distribute(items, room, guidance):
            layer = [items.paths[i] for i in rows.tolist()]
            layers.append(before.get(frozenset(layer)) or layer)
    pinned = len(rules.pinned)
    below, above = (guidance.previous or ())[:pinned], (guidance.previous or ())[pinned:]
    chained = above if list(map(list, below)) == pinned_layers else None  # else all is sent again, whatever the order
    ordered = order_layers(closure, [*layers, *unpinned], previous=chained, history=history)
    for _ in range(_ROUNDS if history.updates and 0 < len(free) <= _ITEMS else 0):
        layers = _settled(items, [layer for layer in ordered if layer not in unpinned], before, guidance)
        ordered = order_layers(closure, [*layers, *unpinned], previous=chained, history=history)
    return [*pinned_layers, *ordered]


def _by_name(paths: Sequence[str]) -> list[str]:
    return sorted(paths, key=_name_and_hash)


def _all_differ(layer: Sequence[str]) -> bool:
    return len(set(layer)) == len(layer)


def _items(closure: Closure, rows: NDArray[np.int64], history: ChangeHistory) -> _Items:
    """What rows of a closure are, sorted by name: with every update hash parts change, and must not decide anything."""
    told = closure.nar_sizes.tolist()
    key = {i: (store_name(closure.paths[i]), told[i], closure.paths[i]) for i in rows.tolist()}
    rows = np.array(sorted(key, key=key.__getitem__), dtype=np.int64)
    sizes = np.maximum(closure.nar_sizes[rows], 1)
    if (closure.nar_sizes[rows] == UNKNOWN).any():  # then all count alike
        sizes = np.ones(len(rows), dtype=np.int64)
    if sum(sizes.tolist()) > _LARGEST:
        raise PlanError(f"NAR sizes of more than {_LARGEST} bytes in all cannot be planned")
    bits = history.bits(closure.paths)
    updates = min(history.updates, _UPDATES)
    words = -(-updates // 64)
    past = np.zeros((len(rows), words), dtype=np.uint64)
    for k, i in enumerate(rows.tolist()):
        recent = bits[i] >> (history.updates - updates)
        if recent:
            past[k] = np.frombuffer(recent.to_bytes(8 * words, "little"), dtype="<u8")
    releases, weights = _releases_below(closure)
    return _Items(
        [closure.paths[i] for i in rows.tolist()],
        sizes,
        np.concatenate([past, releases[rows]], axis=1),
        np.concatenate([np.full(words, _PAST), weights]),
        _weight(releases, weights),
        updates > 0,
    )


def _releases_below(closure: Closure) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A bit for each version and each package that a node or anything below it has; and the weight of each word."""
    versions, packages = map(_bits, releases_of(closure.paths))
    sets = np.concatenate([versions, packages], axis=1)
    words = sets.shape[1]
    order = np.empty(len(closure), dtype=np.int32)
    _core.topological_order(closure.indptr, closure.indices, order)
    block = 8  # words; the kernel is written for so many
    for first in range(0, words, block):
        part = np.ascontiguousarray(sets[:, first : first + block])
        _core.spread(closure.indptr, closure.indices, order, part, up=True)
        sets[:, first : first + block] = part
    return sets, np.repeat(np.array([_VERSION, _PACKAGE]), [versions.shape[1], packages.shape[1]])


def _bits(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A set for each node, of the one event that has its number."""
    count = int(numbers.max(initial=0)) + 1
    bits = (numbers * min(count, _EVENTS) // count).astype(np.uint64)
    sets = np.zeros((len(numbers), -(-min(count, _EVENTS) // 64)), dtype=np.uint64)
    sets[np.arange(len(numbers)), bits >> 6] = np.uint64(1) << (bits & 63)
    return sets


def _distribute(items: _Items, room: int, guidance: Guidance) -> list[NDArray[np.int64]]:
    """The rows of each layer."""
    everything = np.arange(len(items.paths))
    if guidance.previous is None:
        return _partition(items, everything, room, guidance)
    kept, loose = _kept(items, guidance, room)
    try:
        made = [*kept, *(_partition(items, loose, room - len(kept), guidance) if len(loose) else [])]
    except PlanError:  # so many layers of the largest size do not hold what is left
        return _partition(items, everything, room, guidance)
    if len(everything) > _ITEMS:  # to plan that much twice takes too long
        return made
    try:
        anew = _partition(items, everything, room, guidance)
    except PlanError:
        return made
    there = {tuple(rows.tolist()) for rows in kept}
    again = sum(int(items.sizes[rows].sum()) for rows in anew if tuple(rows.tolist()) not in there)
    more = again - int(items.sizes[loose].sum())
    saved = items.cost(made) - items.cost(anew)
    update = min(guidance.history.updates, _UPDATES) * _PAST + items.releases  # of that weight, as it were
    return anew if more * update < saved * _HORIZON else made


def _kept(items: _Items, guidance: Guidance, room: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """The layers that stay, and the rows of all other paths.

    What is in a layer of which a path is gone has to be sent again, wherever it goes. Where paths are left that need a
    layer and there is no room, or are too few for one, the layers that cost least to send are given up.
    """
    row = {path: i for i, path in enumerate(items.paths)}
    kept = []
    taken = np.zeros(len(row), dtype=bool)
    for layer in guidance.previous or ():
        if not layer or not _all_differ(layer) or not all(path in row for path in layer):
            continue
        rows = np.array(sorted(row[path] for path in layer), dtype=np.int64)
        size = int(items.sizes[rows].sum())
        too_large = guidance.max_size and size > guidance.max_size and len(rows) > 1
        if too_large or size < guidance.min_size or taken[rows].any():
            continue
        kept.append(rows)
        taken[rows] = True
    by_size = sorted(range(len(kept)), key=lambda k: (int(items.sizes[kept[k]].sum()), k))
    given_up: set[int] = set()
    for k in by_size:
        fits = len(kept) - len(given_up) + (0 if taken.all() else 1) <= room
        if fits and (taken.all() or int(items.sizes[~taken].sum()) >= guidance.min_size):
            break
        given_up.add(k)
        taken[kept[k]] = False
    return [rows for k, rows in enumerate(kept) if k not in given_up], np.flatnonzero(~taken)


def _partition(items: _Items, rows: NDArray[np.int64], limit: int, guidance: Guidance) -> list[NDArray[np.int64]]:
    """Distribute rows over at most ``limit`` layers; each layer's rows ascend, layers come by their first."""
    some = items.some(rows)
    sizes, sets, cells = some.sizes, some.sets, _cells(some, guidance.max_size)
    counts = np.ones(len(rows), dtype=np.int64)
    if cells is not None:
        _check_room(sizes, limit, guidance.max_size)
        order = np.argsort(cells, kind="stable")
        starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
        sets = np.bitwise_or.reduceat(sets[order], starts, axis=0)
        sizes, counts = np.add.reduceat(sizes[order], starts), np.diff(starts, append=len(rows))
    largest_first = np.lexsort((np.arange(len(sizes)), -sizes))
    scale = _scale(some)
    groups = np.empty(len(sizes), dtype=np.int32)
    left = _core.partition(
        np.ascontiguousarray(sizes[largest_first] >> scale),
        np.ascontiguousarray(counts[largest_first]),
        np.ascontiguousarray(sets[largest_first]),
        groups,
        min(limit, len(sizes)),
        **_how(some, guidance, scale),
    )
    if left > limit:  # no two of them can be merged, but other ones might have been
        groups = _first_fit(sizes[largest_first].tolist(), guidance.max_size)
        if len(np.unique(groups)) > limit:
            raise _too_many(guidance.max_size, left, limit)
    number = np.empty(len(sizes), dtype=np.int64)
    number[largest_first] = largest_first[groups]
    of_row = number if cells is None else number[cells]
    found: dict[int, list[int]] = {}
    for row, group in zip(rows.tolist(), of_row.tolist(), strict=True):
        found.setdefault(group, []).append(row)
    return [np.array(layer, dtype=np.int64) for layer in found.values()]


def _check_room(sizes: NDArray[np.int64], limit: int, most: int) -> None:
    """Refuse at once what needs too many layers whatever goes where; so that there are not very many items either."""
    fits = sizes <= most
    needed = int((~fits).sum()) - int(sizes[fits].sum()) // -most if most else 0
    if needed > limit:
        raise _too_many(most, needed, limit)


def _too_many(most: int, needed: int, limit: int) -> PlanError:
    return PlanError(f"layers of at most {most} bytes would be {needed}, more than the {limit} allowed")


def _how(items: _Items, guidance: Guidance, scale: int) -> dict[str, Any]:
    """What both kernels are told: how much an event weighs, and how large a layer may be, cut as sizes are."""
    return {
        "weights": items.weights,
        "joined": items.joined,
        "least": guidance.min_size >> scale,
        "most": max(guidance.max_size >> scale, 1) if guidance.max_size else 0,
        "passes": _PASSES,
    }


def _scale(items: _Items, times: int = 1) -> int:
    """By how many bits sizes are cut, so that the kernel's sums fit, and so many times them."""
    scale, weight = 0, times * (64 * int(items.weights.sum()) + items.joined)
    while (int(items.sizes.sum()) >> scale) * weight >= _SUM:
        scale += 1
    return scale


def _settled(
    items: _Items, layers: Sequence[list[str]], before: Mapping[frozenset[str], list[str]], guidance: Guidance
) -> list[list[str]]:
    """Layers in their order, with paths moved to where layers and order cost least; those of the plan before stay."""
    row = {path: i for i, path in enumerate(items.paths)}
    groups = np.empty(len(row), dtype=np.int32)
    for number, layer in enumerate(layers):
        groups[[row[path] for path in layer]] = number
    largest_first = np.lexsort((np.arange(len(row)), -items.sizes))
    scale = _scale(items, 4)
    moved = np.ascontiguousarray(groups[largest_first])
    _core.settle(
        np.ascontiguousarray(items.sizes[largest_first] >> scale),
        np.ones(len(row), dtype=np.int64),
        np.ascontiguousarray(items.sets[largest_first]),
        moved,
        np.array([frozenset(layer) in before for layer in layers], dtype=np.uint8),
        **_how(items, guidance, scale),
    )
    groups[largest_first] = moved
    made: list[list[str]] = [[] for _ in layers]
    for path, number in zip(items.paths, groups.tolist(), strict=True):
        made[number].append(path)
    return [before.get(frozenset(layer)) or layer for layer in made if layer]


def _first_fit(sizes: Sequence[int], most: int) -> NDArray[np.int32]:
    """Groups of at most ``most`` bytes, by the number of the first in each: every size goes to the first with room."""
    groups, left = [], dict[int, int]()
    for i, size in enumerate(sizes):
        group = next((group for group, room in left.items() if size <= room), i)
        left[group] = left.get(group, most) - size
        groups.append(group)
    return np.array(groups, dtype=np.int32)


def _cells(items: _Items, most: int) -> NDArray[np.int64] | None:
    """Which paths are one item from the start, from 0 without gaps; None for each path by itself.

    To compare all pairs of very many paths takes too long. The largest half of the items are paths alone; all others
    are sorted by what is below them, and cut where enough bytes have come together: no more than ``most``, if that is
    not 0, but for a path that is larger by itself.
    """
    n = len(items.paths)
    if n <= _ITEMS:
        return None
    alone = _ITEMS // 2
    largest_first = np.lexsort((np.arange(n), -items.sizes))
    cells = np.empty(n, dtype=np.int64)
    cells[largest_first[:alone]] = np.arange(alone)
    rest = np.sort(largest_first[alone:])
    weight = np.bitwise_count(items.sets[rest]).sum(axis=1, dtype=np.int64)
    keys = [items.sets[rest, word] for word in range(items.sets.shape[1])]
    near = rest[np.lexsort((rest, *keys, weight))]
    before = np.cumsum(items.sizes[near]) - items.sizes[near]
    cells[near] = alone + before * (_ITEMS - alone) // int(items.sizes[near].sum())
    if most:
        cells[near] = alone + _cut(cells[near].tolist(), items.sizes[near].tolist(), most)
    _, cells = np.unique(cells, return_inverse=True)
    return cells


def _cut(cells: Sequence[int], sizes: Sequence[int], most: int) -> NDArray[np.int64]:
    """Ascending cells, cut further so that none of several paths has more than ``most`` bytes; numbered from 0."""
    number, last, left = -1, None, 0
    cut = []
    for cell, size in zip(cells, sizes, strict=True):
        if cell != last or size > left:
            number, last, left = number + 1, cell, most
        left -= size
        cut.append(number)
    return np.array(cut, dtype=np.int64)


def _weight(sets: NDArray[np.uint64], weights: NDArray[np.int64]) -> int:
    """The weight of the events in the union of at least one set."""
    return int(np.bitwise_count(np.bitwise_or.reduce(sets, axis=0)).astype(np.int64) @ weights)


def _name_and_hash(path: str) -> tuple[str, str]:
    """Sort key: the name, then the hash part; so that a new hash moves nothing."""
    return store_name(path), path


def explain(closure: Closure, plan: LayerPlan, path: str) -> list[str]:
    """Why a path is in its layer, in lines.

    Args:
        closure: that the plan is of.
        plan: made by this strategy.
        path: in one of its layers.
    """
    sets, weights = _releases_below(closure)
    packages = sets[:, weights == _PACKAGE]
    one = np.ones(packages.shape[1], dtype=np.int64)
    layer = next(layer for layer in plan.layers if path in layer)
    rows = [closure.index(each) for each in layer]
    own, every = (_weight(some, one) for some in (packages[[closure.index(path)]], packages))
    lines = [f"{own:,} of {every:,} packages in the closure are its own or below it: when one changes, so does it"]
    if len(layer) == 1:
        return [*lines, "alone: whatever shared its layer would be sent again with it"]
    largest = sorted((int(closure.nar_sizes[row]), closure.paths[row]) for row in rows if closure.paths[row] != path)
    named = ", ".join(store_name(name) for _, name in reversed(largest[-3:]))
    together = _weight(packages[rows], one)
    return [*lines, f"with {len(layer) - 1:,} others, such as {named}: {together:,} such packages in all"]
