"""The strategy ``auto``: the largest nodes get layers, with what only they need.

Source: auto-layer.py in nixpkgs, which splits images there where nothing else is asked for. The largest nodes, as many
as the layers allow, are *primary*. A primary node belongs to itself, any other node to the set of primary nodes that
need it with no other primary node in between; a layer is what belongs to one set. Primary nodes are taken by NAR size
(of nodes of one size, the one that comes last in the document first), until one more would make too many layers.

Layers come by the NAR size of their closures, so that a layer comes after those that it needs. Of layers whose closures
have the same size, the original leaves the order to chance (it follows Python's hashes); here their first paths decide,
by name and then hash part.

What is excluded is left out at the end: it may be primary, and its layer counts, as in the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..closure import UNKNOWN, Closure
from ..errors import PlanError
from ..store_path import store_name
from .plan import LayerPlan

__all__ = ["VERSION", "explain", "split"]

VERSION = 1

_BLOCK = 512  # so many sets of nodes at a time take 64 bytes a node


def split(closure: Closure, max_layers: int, excluded: AbstractSet[str] = frozenset()) -> list[list[str]]:
    """At most ``max_layers`` layers, the one with the smallest closure first; none for an empty closure.

    Raises:
        PlanError: a node's NAR size is not known.
    """
    unknown = np.flatnonzero(closure.nar_sizes == UNKNOWN)
    if len(unknown):
        raise PlanError(f"{closure.paths[unknown[0]]}: its NAR size is not known, and the strategy auto goes by it")
    order = np.empty(len(closure), dtype=np.int32)
    _core.topological_order(closure.indptr, closure.indices, order)
    groups = np.unique(_sets(closure, order, max_layers)[0], return_inverse=True)[1]
    layers: list[list[tuple[str, str, str]]] = [[] for _ in range(int(groups.max(initial=-1)) + 1)]
    for path, group in zip(closure.paths, groups.tolist(), strict=True):
        layers[group].append(_name_and_hash(path))
    sized = [(size, sorted(layer)) for size, layer in zip(_closure_sizes(closure, order, groups), layers, strict=True)]
    kept = [[path for _, _, path in layer if path not in excluded] for _, layer in sorted(sized)]
    return [layer for layer in kept if layer]


def _name_and_hash(path: str) -> tuple[str, str, str]:
    """What auto-layer.py sorts by: what follows the first hyphen, then what stands before it; and the path itself.

    Its order is reached to the byte, so this is nixpkgs' idea of a name, as :func:`fastlayers.popularity.sort_key` is.
    """
    first, hyphen, rest = path.partition("-")
    return (rest, first, path) if hyphen else (path, "", path)


def explain(closure: Closure, plan: LayerPlan, path: str) -> list[str]:
    """Lines that say why a path is in its layer of a plan of this strategy."""
    number, sets, primary = _sets_once(closure, plan.max_layers or len(plan.layers))
    if not len(primary):
        return ["there are as many layers as paths: each path has one"]
    row = closure.index(path)
    members = sets[int(number[row])]
    owners = [store_name(closure.paths[i]) for k, i in enumerate(primary.tolist()) if members >> k & 1]
    ranks = primary.tolist()
    if row in ranks:
        rank, size = ranks.index(row) + 1, int(closure.nar_sizes[row])
        return [f"a primary path: number {rank} of {len(ranks)} by NAR size, {size:,} bytes"]
    if not owners:
        return ["no primary path needs it: it is in what is left over"]
    if len(owners) == 1:
        return [f"only {owners[0]} needs it, of the primary paths with none between"]
    shown = owners[:5] + ([f"{len(owners) - 5} more"] if len(owners) > 5 else [])
    return [f"{len(owners)} primary paths need it with none between: {', '.join(shown)}"]


def _sets_of(closure: Closure, max_layers: int) -> tuple[NDArray[np.int64], list[int], NDArray[np.int64]]:
    order = np.empty(len(closure), dtype=np.int32)
    _core.topological_order(closure.indptr, closure.indices, order)
    return _sets(closure, order, max_layers)


_sets_once = lru_cache(maxsize=1)(_sets_of)  # a summary asks for every layer


def _sets(
    closure: Closure, order: NDArray[np.int32], max_layers: int
) -> tuple[NDArray[np.int64], list[int], NDArray[np.int64]]:
    """For each node, shape (n,), the number of its set in a list of sets of primary nodes; and these, by their bits.

    A set of primary nodes is an integer: bit k stands for the k-th. A new primary node changes nothing but the sets of
    itself and of the nodes below it: it takes the place of the primary nodes above it, unless the set has one below it.
    Nodes of one set go to one other set, so that nodes are not looked at one by one.
    """
    n = len(closure)
    if max_layers >= n:
        return np.arange(n), [], np.empty(0, dtype=np.int64)  # there is no limit: each node becomes primary
    sets = [0]
    number_of = {0: 0}  # of a set in sets, whether or not a node still has it
    number = np.zeros(n, dtype=np.int64)  # of each node's set
    sizes = np.array([n])  # how many nodes have a set
    candidates = np.lexsort((closure.positions, closure.nar_sizes))[::-1][: max_layers + 1]
    for k, (below, above) in enumerate(_below_and_above(closure, order, candidates)):
        bits_below, bits_above = _bits(below[candidates[:k]]), _bits(above[candidates[:k]])
        affected = np.flatnonzero(below)
        leaving = np.bincount(number[affected], minlength=len(sets))
        becomes = np.arange(len(sets))
        for old in np.flatnonzero(leaving).tolist():
            new = sets[old] & ~bits_above
            if not new & bits_below:
                new |= 1 << k
            becomes[old] = number_of.setdefault(new, len(sets))
            if becomes[old] == len(sets):
                sets.append(new)
        sizes = np.append(sizes - leaving, np.zeros(len(sets) - len(leaving), dtype=np.int64))
        np.add.at(sizes, becomes, leaving)
        if np.count_nonzero(sizes) > max_layers:
            return number, sets, candidates[:k]
        number[affected] = becomes[number[affected]]
    return number, sets, candidates


def _bits(members: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(members, bitorder="little").tobytes(), "little")


def _below_and_above(
    closure: Closure, order: NDArray[np.int32], nodes: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """For each of these nodes, the nodes below it and the nodes above it, itself in both; bool, shape (n,)."""
    for start in range(0, len(nodes), _BLOCK):
        block = nodes[start : start + _BLOCK]
        below = _empty_sets(closure, len(block))
        columns = np.arange(len(block), dtype=np.uint64)
        below[block, columns >> 6] = np.uint64(1) << (columns & 63)
        above = below.copy()
        _core.spread(closure.indptr, closure.indices, order, below)
        _core.spread(closure.indptr, closure.indices, order, above, up=True)
        for column in range(len(block)):
            yield _has(below, column), _has(above, column)


def _closure_sizes(closure: Closure, order: NDArray[np.int32], groups: NDArray[np.int64]) -> Iterator[int]:
    """For each group of nodes, the sum of the NAR sizes of the nodes in it and below it."""
    low, high = closure.nar_sizes & 0xFFFFFFFF, closure.nar_sizes >> 32  # neither sum can overflow
    count = int(groups.max(initial=-1)) + 1
    for start in range(0, count, _BLOCK):
        width = min(_BLOCK, count - start)
        sets = _empty_sets(closure, width)
        members = np.flatnonzero((groups >= start) & (groups < start + width))
        columns = (groups[members] - start).astype(np.uint64)
        sets[members, columns >> 6] = np.uint64(1) << (columns & 63)
        _core.spread(closure.indptr, closure.indices, order, sets)
        for column in range(width):
            below = _has(sets, column)
            yield (int(high[below].sum()) << 32) + int(low[below].sum())


def _empty_sets(closure: Closure, width: int) -> NDArray[np.uint64]:
    return np.zeros((len(closure), -(-width // 64)), dtype=np.uint64)


def _has(sets: NDArray[np.uint64], column: int) -> NDArray[np.bool_]:
    return (sets[:, column >> 6] & np.uint64(1 << (column & 63))).astype(bool)
