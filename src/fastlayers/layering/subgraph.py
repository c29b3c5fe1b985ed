"""Pieces of a closure's graph: what a pipeline's operations take apart and put together.

Every operation costs about as much as the piece that it works on has nodes and references, however large the closure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..closure import Closure

__all__ = ["Subgraph", "unite"]

_NO_NODES = np.empty(0, dtype=np.int64)
_NO_REFERENCES = np.empty(0, dtype=np.int32)
_ONE_POINTER = np.zeros(1, dtype=np.int64)


@dataclass(frozen=True, eq=False, slots=True)
class Subgraph:
    """Some nodes of a closure, in an order, and some of the references between them.

    Attributes:
        nodes: shape (n,). Rows of the closure, none twice.
        indptr: int64, shape (n + 1,). The references of ``nodes[i]`` are ``indices[indptr[i]:indptr[i + 1]]``.
        indices: int32, shape (number of references,). Positions in ``nodes``.
    """

    nodes: NDArray[np.int64]
    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]

    @staticmethod
    def of(closure: Closure) -> Subgraph:
        """All nodes of a closure, in its order."""
        return Subgraph(np.arange(len(closure)), closure.indptr, closure.indices)

    def __len__(self) -> int:
        """The number of nodes."""
        return len(self.nodes)

    def reordered(self, order: NDArray[np.int64]) -> Subgraph:
        """The same graph; the node at position ``order[i]`` comes to position i."""
        rank = np.empty(len(self), dtype=np.int32)
        rank[order] = np.arange(len(self), dtype=np.int32)
        lengths = np.diff(self.indptr)[order]
        indptr = _indptr(lengths)
        sources = np.repeat(self.indptr[:-1][order] - indptr[:-1], lengths) + np.arange(len(self.indices))
        return Subgraph(self.nodes[order], indptr, rank[self.indices[sources]])

    def keep(self, kept: NDArray[np.bool_]) -> Subgraph:
        """The nodes where ``kept``, shape (n,), is true, and the references between them."""
        if kept.all():
            return self
        return self._with(kept[self._rows()] & kept[self.indices], kept)

    def without_references_to(self, targets: NDArray[np.bool_]) -> Subgraph:
        """All nodes, and the references that do not lead to one where ``targets``, shape (n,), is true."""
        return self._with(~targets[self.indices], None)

    def slices(self, size: int) -> Iterator[Subgraph]:
        """So many nodes at a time, and the references within each slice."""
        rows = self._rows()
        inside = self._with(rows // size == self.indices // size, None)
        for start in range(0, len(self), size):
            indptr = inside.indptr[start : start + size + 1]
            first, last = int(indptr[0]), int(indptr[-1])
            nodes = self.nodes[start : start + size]
            yield Subgraph(nodes, indptr - first, inside.indices[first:last] - np.int32(start))

    def alone(self, order: NDArray[np.int32]) -> list[Subgraph]:
        """The nodes at these positions, each by itself."""
        nodes = self.nodes[order]
        indptr = np.zeros(2, dtype=np.int64)
        return [Subgraph(nodes[i : i + 1], indptr, _NO_REFERENCES) for i in range(len(nodes))]

    def reached(self, starts: NDArray[np.bool_], *, up: bool = False) -> NDArray[np.bool_]:
        """The nodes where ``starts``, shape (n,), is true and all below them (``up``: above them); bool, shape (n,)."""
        if not starts.any():
            return starts
        order = np.empty(len(self), dtype=np.int32)
        _core.topological_order(self.indptr, self.indices, order)
        sets = starts.astype(np.uint64)[:, None]
        _core.spread(self.indptr, self.indices, order, sets, up)
        return sets[:, 0].astype(bool)

    def roots(self) -> NDArray[np.bool_]:
        """The nodes that no other refers to; bool, shape (n,)."""
        found = np.ones(len(self), dtype=bool)
        found[self.indices] = False
        return found

    def referenced_by(self, referrers: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The nodes that one where ``referrers``, shape (n,), is true refers to; bool, shape (n,)."""
        found = np.zeros(len(self), dtype=bool)
        found[self.indices[referrers[self._rows()]]] = True
        return found

    def _rows(self) -> NDArray[np.int64]:
        """For each reference, the position of its referrer."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    def _with(self, references: NDArray[np.bool_], nodes: NDArray[np.bool_] | None) -> Subgraph:
        """These of the references, between all nodes or between these of them."""
        lengths = np.bincount(self._rows()[references], minlength=len(self))
        indices = self.indices[references]
        kept = self.nodes
        if nodes is not None:
            lengths = lengths[nodes]
            indices = (np.cumsum(nodes, dtype=np.int32) - np.int32(1))[indices]
            kept = kept[nodes]
        return Subgraph(kept, _indptr(lengths), indices)


def unite(graphs: Sequence[Subgraph]) -> Subgraph:
    """The nodes of all graphs, one graph after another, with the references within each."""
    sizes = np.array([len(graph) for graph in graphs], dtype=np.int64)
    references = np.array([len(graph.indices) for graph in graphs], dtype=np.int64)
    offsets = np.repeat(np.cumsum(sizes) - sizes, references).astype(np.int32)
    # One difference of all, without those between a graph's last pointer and the next one's first: there may be many.
    lengths = np.diff(np.concatenate([_ONE_POINTER, *(graph.indptr for graph in graphs)]))
    lengths = np.delete(lengths, np.cumsum(sizes + 1) - sizes - 1)
    return Subgraph(
        np.concatenate([_NO_NODES, *(graph.nodes for graph in graphs)]),
        _indptr(lengths),
        np.concatenate([_NO_REFERENCES, *(graph.indices for graph in graphs)]) + offsets,
    )


def _indptr(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    indptr = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return indptr
