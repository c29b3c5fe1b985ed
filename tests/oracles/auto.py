"""The strategy auto by its definition: slow, obvious, sets of names.

A primary node belongs to itself; any other node belongs to the set of primary nodes that need it with no other primary
node in between. What belongs to one set is a layer. Primary nodes are added, the largest first, until there would be
too many layers.
"""

from collections.abc import Mapping, Sequence


def needs(references: Mapping[str, Sequence[str]], node: str) -> set[str]:
    """What a node refers to, directly or not, itself excepted."""
    found: set[str] = set()
    todo = [node]
    while todo:
        for name in references[todo.pop()]:
            if name not in found and name != node:
                found.add(name)
                todo.append(name)
    return found


def layers(
    references: Mapping[str, Sequence[str]], sizes: Mapping[str, int], limit: int, excluded: set[str]
) -> list[list[str]]:
    """The layers of an acyclic graph, whose nodes are in their document's order."""
    below = {node: needs(references, node) for node in references}
    document = list(references)
    by_size = sorted(document, key=lambda node: (sizes[node], document.index(node)), reverse=True)

    def belongs(node: str, primary: set[str]) -> frozenset[str]:
        if node in primary:
            return frozenset([node])
        above = {other for other in primary if node in below[other]}
        return frozenset(other for other in above if not above & below[other])

    split: dict[frozenset[str], set[str]] = {}
    for count in range(len(references) + 1):
        primary = set(by_size[:count])
        new: dict[frozenset[str], set[str]] = {}
        for node in references:
            new.setdefault(belongs(node, primary), set()).add(node)
        if len(new) > limit and split:
            break
        split = new

    def key(path: str) -> tuple[str, str]:
        first, hyphen, rest = path.partition("-")
        return (rest, first) if hyphen else (path, "")

    def closure_size(members: set[str]) -> int:
        return sum(sizes[node] for node in members.union(*(below[member] for member in members)))

    ordered = sorted((closure_size(members), sorted(members, key=key)) for members in split.values())
    ordered.sort(key=lambda layer: (layer[0], key(layer[1][0])))
    kept = [[path for path in layer if path not in excluded] for _, layer in ordered]
    return [layer for layer in kept if layer]
