"""Popularity by its definition: slow, obvious, Python's own integers.

docs of closure-graph.py: P(n)[x] = sum over the references c of n of ([c = x] + [x below c] * (P(c)[x] + 1)), and what
is counted is P(super-root), where the super-root refers to every node that no other node refers to.
"""

from collections.abc import Iterable, Mapping


def popularity(references: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The popularity of each node of an acyclic graph without dangling references; self-references do not count."""
    graph = {node: sorted(set(names) - {node}) for node, names in references.items()}
    roots = sorted(set(graph) - {name for names in graph.values() for name in names})
    known: dict[str, dict[str, int]] = {}

    def below(node: str) -> dict[str, int]:
        if node not in known:
            known[node] = contest(graph[node])
        return known[node]

    def contest(children: list[str]) -> dict[str, int]:
        counts: dict[str, int] = {}
        for child in children:
            counts[child] = counts.get(child, 0) + 1
            for name, count in below(child).items():
                counts[name] = counts.get(name, 0) + count + 1
        return counts

    return contest(roots)


def order(references: Mapping[str, Iterable[str]]) -> list[str]:
    """The names, the most popular first, ties by the name with its first part moved to the end."""
    counts = popularity(references)

    def key(path: str) -> tuple[int, str]:
        parts = path.split("-")
        return -counts[path], "-".join([*parts[1:], parts[0]])

    return sorted(references, key=key)
