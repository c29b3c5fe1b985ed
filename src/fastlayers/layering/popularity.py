"""The strategy ``popularity``: the layer rule of 2018.

Source: Graham Christensen, "Optimising Docker Layers for Better Caching with Nix" (2018). The most popular nodes get a
layer each, the last layer takes all that remain, still in popularity order. What is excluded counts for nothing.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import lru_cache

import numpy as np

from ..closure import Closure
from ..popularity import popularity
from .plan import LayerPlan
from .subgraph import Subgraph

__all__ = ["VERSION", "explain", "split"]

VERSION = 1


def split(closure: Closure, max_layers: int, excluded: AbstractSet[str] = frozenset()) -> list[list[str]]:
    """At most ``max_layers`` layers, the most popular node in the first; none for an empty closure."""
    order = [path for path, _ in _ranked(closure, excluded)]
    alone = order[: max_layers - 1]
    rest = order[max_layers - 1 :]
    return [[path] for path in alone] + ([rest] if rest else [])


def explain(closure: Closure, plan: LayerPlan, path: str) -> list[str]:
    """Lines that say why a path is in its layer of a plan of this strategy."""
    ranked = _ranked_once(closure, frozenset(plan.excluded))
    rank = next(i for i, (name, _) in enumerate(ranked) if name == path)
    alone = sum(len(layer) == 1 for layer in plan.layers)
    where = "a layer of its own" if rank < alone else f"the layer of all but the {alone} most popular"
    return [f"popularity {ranked[rank][1]:,}, rank {rank + 1} of {len(ranked)}: {where}"]


def _ranked(closure: Closure, excluded: AbstractSet[str]) -> list[tuple[str, int]]:
    """The nodes that are not excluded and their popularity, the most popular first."""
    graph = Subgraph.of(closure)
    if excluded:
        graph = graph.keep(np.array([path not in excluded for path in closure.paths], dtype=bool))
    names = [closure.paths[i] for i in graph.nodes.tolist()]
    found = popularity(graph.indptr, graph.indices, names)
    counts = found.counts()
    return [(names[i], counts[i]) for i in found.order.tolist()]


_ranked_once = lru_cache(maxsize=1)(_ranked)  # a summary asks for every layer
