"""The strategy ``popularity``: the layer rule of 2018.

Source: Graham Christensen, "Optimising Docker Layers for Better Caching with Nix" (2018). The most popular nodes get a
layer each, the last layer takes all that remain, still in popularity order.
"""

from __future__ import annotations

from ..closure import Closure
from ..popularity import order_by_popularity

__all__ = ["VERSION", "split"]

VERSION = 1


def split(closure: Closure, max_layers: int) -> list[list[str]]:
    """At most ``max_layers`` layers, the most popular node in the first; none for an empty closure."""
    order = [closure.paths[i] for i in order_by_popularity(closure).order.tolist()]
    alone = order[: max_layers - 1]
    rest = order[max_layers - 1 :]
    return [[path] for path in alone] + ([rest] if rest else [])
