"""The order that nixpkgs gives store paths before it makes layers of them: the most shared first, exactly.

Source: Graham Christensen, "Optimising Docker Layers for Better Caching with Nix" (2018), and the program that came of
it, closure-graph.py in nixpkgs. Its recursion over subtrees has a closed form: the popularity of x is the sum of
paths(c) over the distinct c that are x or its direct or indirect referrers, where paths(c) is 1 for a node without
referrers and else the sum of paths(r) over the referrers r of c. The counts pass 64 bits on real graphs (72 bits on
nixpkgs as a whole), and ties are common, so nothing here is rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import _core
from .closure import Closure

__all__ = ["Popularity", "order_by_popularity", "popularity", "sort_key"]


@dataclass(frozen=True, eq=False)
class Popularity:
    """The popularity of each of a graph's n nodes.

    Attributes:
        order: int32, shape (n,). Rows of the graph, the most popular first, ties by ascending ``sort_key``.
        limbs: uint64, shape (n, L). Row i is the popularity of node i, the least significant limb first.
    """

    order: NDArray[np.int32]
    limbs: NDArray[np.uint64]

    def counts(self) -> list[int]:
        """The popularity of each node, in the graph's order."""
        if self.limbs.shape[1] == 1:
            return list(map(int, self.limbs[:, 0].tolist()))
        data = self.limbs.astype("<u8", copy=False).tobytes()
        width = 8 * self.limbs.shape[1]
        return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def sort_key(path: str) -> str:
    """The key of closure-graph.py: what follows the first hyphen (Nix: the name), then what stands before it.

    Its order is reached to the byte, so this is nixpkgs' idea of a name, whatever stands before the hyphen, and not
    :mod:`fastlayers.store_path`'s.

    >>> sort_key("/nix/store/abc-hello-1.0")
    'hello-1.0-/nix/store/abc'
    """
    first, hyphen, rest = path.partition("-")
    return f"{rest}-{first}" if hyphen else path


def order_by_popularity(closure: Closure) -> Popularity:
    """Count for each node of a closure how often it is reached, and order the nodes by it.

    Raises:
        MemoryError: the kernels need 80 bytes a node, 4 a reference and two numbers a node as wide as the widest.
    """
    return popularity(closure.indptr, closure.indices, closure.paths)


def popularity(indptr: NDArray[np.int64], indices: NDArray[np.int32], names: Sequence[str]) -> Popularity:
    """The same of any acyclic graph of n named nodes: ``indptr``, shape (n + 1,), and ``indices`` of its rows."""
    n = len(names)
    topological = np.empty(n, dtype=np.int32)
    _core.topological_order(indptr, indices, topological)
    paths = np.empty((n, 1), dtype=np.uint64)
    while not _core.path_counts(indptr, indices, topological, paths):
        paths = np.empty((n, 2 * paths.shape[1]), dtype=np.uint64)
    limbs = np.empty_like(paths)
    _core.popularity(indptr, indices, topological, paths, limbs)

    keys = list(map(sort_key, names))
    order = np.array(sorted(range(n), key=keys.__getitem__), dtype=np.int32)
    for limb in limbs.T:  # stable sorts, so the last one, by the most significant limb, decides first
        order = order[np.argsort(~limb[order], kind="stable")]
    return Popularity(order, limbs)
