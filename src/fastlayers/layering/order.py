"""The order ``stable``: what is stable and large at the bottom, what is volatile at the top.

Docker's graph drivers know a layer by all that lies below it: a client downloads again everything from the first layer
that has changed upward. So an order costs

    sum over all layers of size * (events of it and of all layers below it, each counted once, by their weight)

An event is what makes paths change. Where nothing is known, these are the packages below a path, weight 1, and the
versions that several packages have (``releases.py``): a path changes when it, or anything that it refers to, is
released anew. An update of the past in which it changed is one more event, of sixteen times the weight.

To find the best order is scheduling with precedences (1|prec|sum w_j C_j), which is hard. Two orders are made from the
bottom up and then improved by moves (``_order.h``); the cheaper one counts.

With the layers of the version before, a client has a chain already. Its layers from the bottom up to the first one
that is gone cost nothing as long as they stay where they are; what lies above must be sent anyway, and is put in order
afresh. Where an order that begins to differ further down saves within eight updates what it costs to send now, it
counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..closure import UNKNOWN, Closure
from .history import ChangeHistory
from .releases import releases_of

__all__ = ["VERSION", "order_layers"]

VERSION = 1

_PAST, _LIKELY = 16, 1  # weights of an update of the past, and of a version or package below
_HORIZON = 8  # updates within which it has to pay to send more now
_UPDATES = 512  # of the past that are looked at, the newest
_CUTS = 4  # places below the first layer that is gone, from which a new order is tried
_BLOCK = 512  # layers at a time whose bits go through the graph
_WORK = 1 << 26  # words of sets that are read for one order: less than a tenth of a second
_SUM = 1 << 62  # the kernel's sums stay below it


def order_layers(
    closure: Closure,
    layers: Sequence[Sequence[str]],
    *,
    previous: Sequence[Sequence[str]] | None = None,
    history: ChangeHistory = ChangeHistory(),  # noqa: B008  frozen
) -> list[list[str]]:
    """The same layers in another order, bottom first; what is in a layer, and in which order, stays.

    Layers that cost the same wherever they are stay in the order in which they come.

    Args:
        closure: that the layers are of; it may have paths that are in none.
        layers: each a sequence of paths.
        previous: the layers of the plan before, bottom first.
        history: what earlier closures tell.
    """
    made = [list(layer) for layer in layers]
    kept = _kept(made, previous or ())
    given = [made[k] for k in kept] + [layer for k, layer in enumerate(made) if k not in set(kept)]
    if len(given) == len(kept):
        return given
    layer_of = _layer_of(closure, given)
    sizes = _sizes(closure, layer_of)[: len(given)]
    events = _events(closure, layer_of, len(given), history)
    best: tuple[int, list[int]] | None = None
    for cut in sorted({len(kept) * k // _CUTS for k in range(_CUTS + 1)}, reverse=True):
        order = [*range(cut), *_above(sizes, events, cut)]
        same = next((k for k in range(len(kept)) if order[k] != k), len(kept))
        sent = sum(sizes[k] for k in order[same:])
        total = sent * events.total + _HORIZON * events.cost(order, sizes)
        if best is None or total < best[0]:
            best = total, order
    return [given[k] for k in best[1]] if best else given


@dataclass(frozen=True)
class _Events:
    """What changes layers.

    Attributes:
        changes: bool, shape (e, l). Which layers an event changes, at least one.
        weights: int64, shape (e,).
        total: the weight of an update, as it were: of all updates of the past and all releases.
    """

    changes: NDArray[np.bool_]
    weights: NDArray[np.int64]
    total: int

    def cost(self, order: Sequence[int], sizes: Sequence[int]) -> int:
        """Of an order of all layers."""
        total = weight = 0
        added = np.zeros(len(order), dtype=np.int64)
        if len(self.weights):
            np.add.at(added, self.changes[:, order].argmax(axis=1), self.weights)
        for k, more in zip(order, added.tolist(), strict=True):
            weight += more
            total += sizes[k] * weight
        return total


def _kept(layers: Sequence[Sequence[str]], previous: Sequence[Sequence[str]]) -> list[int]:
    """The layers that a client of the plan before has in its chain: their numbers, from the bottom up."""
    number = {tuple(layer): k for k, layer in enumerate(layers)}
    kept: list[int] = []
    for layer in map(tuple, previous):
        if layer not in number:
            break
        kept.append(number.pop(layer))
    return kept


def _layer_of(closure: Closure, layers: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """The number of each node's layer; of a node in none, the number of layers. Shape (n,)."""
    number = {path: k for k, layer in enumerate(layers) for path in layer}
    return np.array([number.get(path, len(layers)) for path in closure.paths], dtype=np.int64)


def _sizes(closure: Closure, layer_of: NDArray[np.int64]) -> list[int]:
    """Bytes of each layer; where a NAR size is not known, all paths count alike."""
    told = not (closure.nar_sizes == UNKNOWN).any()
    sizes = [0] * (int(layer_of.max()) + 1)
    for k, size in zip(layer_of.tolist(), closure.nar_sizes.tolist(), strict=True):
        sizes[k] += max(size, 1) if told else 1  # sums may be wider than 64 bits
    return sizes


def _events(closure: Closure, layer_of: NDArray[np.int64], count: int, history: ChangeHistory) -> _Events:
    """Events that change the same layers are one, with the sum of their weights."""
    updates, releases = _updates(closure, layer_of, count, history), _releases(closure, layer_of, count)
    rows = np.concatenate([updates, releases])
    weights = np.repeat(np.array([_PAST, _LIKELY]), [len(updates), len(releases)])
    total = max(int(weights.sum()), 1)
    rows, which = np.unique(rows, axis=0, return_inverse=True)
    summed = np.zeros(len(rows), dtype=np.int64)
    np.add.at(summed, which.reshape(-1), weights)
    changes = np.unpackbits(np.ascontiguousarray(rows).view(np.uint8), axis=1, count=count, bitorder="little")
    some = changes.any(axis=1)
    return _Events(changes[some].astype(bool), summed[some], total)


def _updates(closure: Closure, layer_of: NDArray[np.int64], count: int, history: ChangeHistory) -> NDArray[np.uint64]:
    """An update of the past a row: the layers in which a path changed, a bit each, in little-endian words."""
    updates = min(history.updates, _UPDATES)
    bits = [0] * (count + 1)
    if updates:
        for k, past in zip(layer_of.tolist(), history.bits(closure.paths), strict=True):
            bits[k] |= past
    changes = np.zeros((64 * -(-count // 64), updates), dtype=np.uint8)
    for k in range(count):
        recent = bits[k] >> (history.updates - updates) & ((1 << updates) - 1)
        row = np.frombuffer(recent.to_bytes(-(-updates // 8), "little"), dtype=np.uint8)
        changes[k] = np.unpackbits(row, count=updates, bitorder="little")
    return np.ascontiguousarray(np.packbits(changes, axis=0, bitorder="little").T).view("<u8")


def _releases(closure: Closure, layer_of: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """A package a row, then a version that several packages have: the layers that have it, or what refers to it."""
    versions, packages = releases_of(closure.paths)
    of_package = np.zeros(int(packages.max(initial=-1)) + 1, dtype=np.int64)
    of_package[packages] = versions
    shared = np.flatnonzero(np.bincount(of_package)[versions] > 1)
    events = np.concatenate([packages, len(of_package) + versions[shared]])
    by_event = np.argsort(events, kind="stable")
    nodes = np.concatenate([np.arange(len(closure)), shared])[by_event]
    starts = np.flatnonzero(np.diff(events[by_event], prepend=-1))
    order = np.empty(len(closure), dtype=np.int32)
    _core.topological_order(closure.indptr, closure.indices, order)
    blocks = []
    for first in range(0, count, _BLOCK):
        sets = np.zeros((len(closure), -(-min(_BLOCK, count - first) // 64)), dtype=np.uint64)
        members = np.flatnonzero((layer_of >= first) & (layer_of < min(first + _BLOCK, count)))
        columns = (layer_of[members] - first).astype(np.uint64)
        sets[members, columns >> 6] = np.uint64(1) << (columns & 63)
        _core.spread(closure.indptr, closure.indices, order, sets)
        blocks.append(np.bitwise_or.reduceat(sets[nodes], starts, axis=0))
    return np.concatenate(blocks, axis=1).astype("<u8")


def _above(sizes: Sequence[int], events: _Events, cut: int) -> list[int]:
    """The order of the layers from number ``cut`` on, above the others: what changes those costs the same anyhow."""
    count = len(sizes) - cut
    free = ~events.changes[:, :cut].any(axis=1)
    changes, weights = events.changes[free, cut:].T, events.weights[free]
    columns, words = [], []
    for bit in range(int(weights.max(initial=0)).bit_length()):  # a word's events are of one weight, a power of two
        some = np.packbits(changes[:, weights >> bit & 1 == 1], axis=1, bitorder="little")
        some = np.pad(some, ((0, 0), (0, -some.shape[1] % 8)))
        columns.append(some)
        words += [1 << bit] * (some.shape[1] // 8)
    sets = np.concatenate([np.zeros((count, 0), dtype=np.uint8), *columns], axis=1)
    scale = 0
    while (sum(sizes) >> scale) * 64 * sum(words) >= _SUM:
        scale += 1
    order = np.empty(count, dtype=np.int32)
    _core.order_layers(
        np.array([size >> scale for size in sizes[cut:]], dtype=np.int64),
        np.ascontiguousarray(sets).view("<u8").astype(np.uint64).reshape(count, len(words)),
        np.array(words, dtype=np.int64),
        order,
        _WORK,
    )
    return [cut + k for k in order.tolist()]
