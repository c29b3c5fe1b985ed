"""The strategy ``popularity``: the layer rule of 2018.

Source: Graham Christensen, "Optimising Docker Layers for Better Caching with Nix" (2018). The most popular nodes get a
layer each, the last layer takes all that remain, still in popularity order. What is excluded counts for nothing.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np

from ..closure import Closure
from ..popularity import popularity
from .subgraph import Subgraph

__all__ = ["VERSION", "split"]

VERSION = 1


def split(closure: Closure, max_layers: int, excluded: AbstractSet[str] = frozenset()) -> list[list[str]]:
    """At most ``max_layers`` layers, the most popular node in the first; none for an empty closure."""
    graph = Subgraph.of(closure)
    if excluded:
        graph = graph.keep(np.array([path not in excluded for path in closure.paths], dtype=bool))
    names = [closure.paths[i] for i in graph.nodes.tolist()]
    order = [names[i] for i in popularity(graph.indptr, graph.indices, names).order.tolist()]
    alone = order[: max_layers - 1]
    rest = order[max_layers - 1 :]
    return [[path] for path in alone] + ([rest] if rest else [])
