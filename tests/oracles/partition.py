"""Items into groups at the least cost, by the definition: slow, obvious, sets and lists.

A group costs its size times the weight of all that may happen to one of its members, and ``joined`` more if it has
several. The two groups that are cheapest to merge (of those the smallest ones) are merged until few enough are left;
then each item in turn goes where it costs least, until none moves.

Groups that lie on each other cost besides, each its size times the weight of all that may happen to it or below it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

__all__ = ["Item", "cost", "partition", "settle"]


@dataclass(frozen=True)
class Item:
    size: int
    heavy: frozenset[int]
    light: frozenset[int]
    count: int = 1


Weights = tuple[int, int, int]  # of a heavy event, of a light one, joined


def cost(group: Sequence[Item], weights: Weights) -> int:
    heavy, light, joined = weights
    weight = heavy * len(frozenset().union(*(item.heavy for item in group)))
    weight += light * len(frozenset().union(*(item.light for item in group)))
    weight += joined if sum(item.count for item in group) > 1 else 0
    return sum(item.size for item in group) * weight


def partition(
    items: Sequence[Item], limit: int, weights: Weights, least: int, most: int, passes: int
) -> tuple[list[list[int]], int]:
    """The groups, each a list of numbers of items; and how many there were before any item moved."""

    def price(group: Sequence[int]) -> int:
        return cost([items[i] for i in group], weights)

    def size(group: Sequence[int]) -> int:
        return sum(items[i].size for i in group)

    groups = [[i] for i in range(len(items))]

    def merged(a: list[int], b: list[int]) -> tuple[int, int, int, int] | None:
        if most and size(a + b) > most:
            return None
        return price(a + b) - price(a) - price(b), size(a + b), min(a + b), max(min(a), min(b))

    while True:
        pairs = [(a, b) for a, b in combinations(groups, 2) if merged(a, b)]
        if len(groups) <= limit:
            small = min((g for g in groups if size(g) < least), key=lambda g: (size(g), min(g)), default=None)
            pairs = [(a, b) for a, b in pairs if small in (a, b)]
            # the cheapest, or of those the smallest, or the one whose other group has the lowest number
            pairs.sort(key=lambda pair: (*merged(*pair)[:2], min(min(g) for g in pair if g is not small)))
        else:
            pairs.sort(key=lambda pair: merged(*pair))
        if not pairs:
            break
        a, b = pairs[0]
        groups = [g for g in groups if g is not a and g is not b] + [a + b]
    left = len(groups)
    groups = sorted((sorted(g) for g in groups), key=min) + [[] for _ in range(max(limit - left, 0))]
    for _ in range(passes):
        moved = False
        for i in range(len(items)):
            own = next(g for g in groups if i in g)
            rest = [k for k in own if k != i]
            if rest and size(rest) < least:
                continue
            saved = price(own) - (price(rest) if rest else 0)
            best, lowest = own, saved
            for group in groups:
                if group is own or (most and group and size(group) + items[i].size > most):
                    continue
                if not group and items[i].size < least:
                    continue
                more = price([*group, i]) - (price(group) if group else 0)
                if more < lowest:
                    best, lowest = group, more
            if best is not own:
                own.remove(i)
                best.append(i)
                moved = True
        if not moved:
            break
    return sorted(sorted(g) for g in groups if g), left


def chain_cost(groups: Sequence[Sequence[Item]], weights: Weights) -> int:
    """Of groups that lie on each other, the bottom one first: their own costs, and those of their order."""
    total = sum(cost(group, weights) for group in groups)
    heavy, light, _ = weights
    below: list[Item] = []
    for group in groups:
        below += group
        weight = heavy * len(frozenset().union(*(item.heavy for item in below)))
        weight += light * len(frozenset().union(*(item.light for item in below)))
        total += sum(item.size for item in group) * weight
    return total


def settle(
    items: Sequence[Item],
    groups: Sequence[int],
    fixed: Sequence[bool],
    weights: Weights,
    least: int,
    most: int,
    passes: int,
) -> list[int]:
    """The group of each item after moving: each item in turn, to where all groups and their order cost least."""
    of = list(groups)

    def price() -> int:
        return chain_cost([[items[i] for i in range(len(items)) if of[i] == g] for g in range(len(fixed))], weights)

    def sizes(group: int, but: int) -> list[int]:
        return [items[k].size for k in range(len(items)) if k != but and of[k] == group]

    for _ in range(passes):
        before = list(of)
        for i, item in enumerate(items):
            own = of[i]
            rest = sizes(own, i)
            if fixed[own] or (rest and sum(rest) < least):
                continue
            prices = {}
            for group in range(len(fixed)):
                there = sizes(group, i)
                too_large = most and there and sum(there) + item.size > most
                if group == own or not (fixed[group] or too_large or (not there and item.size < least)):
                    of[i] = group
                    prices[group] = price()
            of[i] = own if prices[own] == min(prices.values()) else min(prices, key=lambda g: (prices[g], g))
        if of == before:
            break
    return of
