"""What an order of layers costs, and the best order, by the definition: slow, obvious, all permutations.

A layer is sent again at every event of its own, and at every event of a layer below it.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import permutations

__all__ = ["best", "cost"]


def cost(
    order: Sequence[int], sizes: Sequence[int], events: Sequence[AbstractSet[int]], weights: Mapping[int, int]
) -> int:
    """The bytes of an order, bottom first, over all events by their weight."""
    total = 0
    for event, weight in weights.items():
        touched = [place for place, layer in enumerate(order) if event in events[layer]]
        if touched:
            total += weight * sum(sizes[layer] for layer in order[touched[0] :])
    return total


def best(sizes: Sequence[int], events: Sequence[AbstractSet[int]], weights: Mapping[int, int]) -> int:
    """What the best of all orders costs."""
    return min(cost(order, sizes, events, weights) for order in permutations(range(len(sizes))))
