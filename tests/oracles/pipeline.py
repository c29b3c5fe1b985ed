"""Layering pipelines by the definitions of their operations: slow, obvious, sets of names.

A graph is a list of names and a set of pairs (referrer, referenced); a value is a graph, a list of values, or a dict.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import popularity as oracle_popularity


@dataclass(frozen=True)
class Graph:
    """Names in an order, and the references between them."""

    names: tuple[str, ...]
    references: frozenset[tuple[str, str]]

    def only(self, names: Iterable[str]) -> "Graph":
        """Some of the nodes."""
        kept = set(names)
        inside = {(a, b) for a, b in self.references if a in kept and b in kept}
        return Graph(tuple(name for name in self.names if name in kept), frozenset(inside))

    def reached(self, starts: Iterable[str]) -> set[str]:
        """Nodes and what they refer to, directly or not."""
        found = set(starts) & set(self.names)
        while more := {b for a, b in self.references if a in found} - found:
            found |= more
        return found

    def reversed(self) -> "Graph":
        """With each reference the other way round."""
        return Graph(self.names, frozenset((b, a) for a, b in self.references))


def start(references: Mapping[str, Sequence[str]], sizes: Mapping[str, int], excluded: Iterable[str] = ()) -> Graph:
    """The graph of a document, by size; where sizes are the same, in the document's order."""
    names = sorted(references, key=lambda name: sizes[name])
    pairs = {(a, b) for a, others in references.items() for b in others if a != b}
    return Graph(tuple(names), frozenset(pairs)).only(set(names) - set(excluded))


def popularity_contest(graph: Graph) -> list[Graph]:
    below = {name: [b for a, b in graph.references if a == name] for name in graph.names}
    return [Graph((name,), frozenset()) for name in oracle_popularity.order(below)]


def limit_layers(count: int, graphs: list[Any]) -> list[Any]:
    return [*graphs[: count - 1], united(graphs[count - 1 :])]


def united(graphs: list[Graph]) -> Graph:
    """All nodes; no references from one graph to another."""
    names = tuple(name for graph in graphs for name in graph.names)
    return Graph(names, frozenset(pair for graph in graphs for pair in graph.references))


def split_every(count: int, value: Any) -> list[Graph]:
    if isinstance(value, list):
        if any(len(graph.names) != 1 for graph in value):
            raise TypeError("not single paths")
        value = united(value)
    return [value.only(value.names[at : at + count]) for at in range(0, len(value.names), count)]


def subcomponent_out(paths: list[str], graph: Graph) -> dict[str, Graph]:
    main = graph.reached(paths)
    return {"main": graph.only(main), "rest": graph.only(set(graph.names) - main)}


def subcomponent_in(paths: list[str], graph: Graph) -> dict[str, Graph]:
    parts = subcomponent_out(paths, graph.reversed())
    return {name: graph.only(part.names) for name, part in parts.items()}


def split_paths(specs: list[Any], graph: Graph) -> dict[str, Graph]:
    chosen: set[str] = set()
    for spec in specs:
        if isinstance(spec, dict):
            parents = spec["children_of"]
            parents = [parents] if isinstance(parents, str) else parents
            chosen |= {b for a, b in graph.references if a in parents}
        else:
            chosen |= {spec} & set(graph.names)
    if not chosen:
        return {"rest": graph}
    roots = set(graph.names) - {b for _, b in graph.references}
    if len(roots) == 1 and roots <= chosen:
        return {"main": graph}
    split_off = graph.reached(chosen)
    cut = Graph(graph.names, frozenset((a, b) for a, b in graph.references if b not in chosen))
    others = cut.reached(roots - chosen)
    parts = {"main": split_off - others, "common": split_off & others, "rest": others - split_off}
    return {name: cut.only(part) for name, part in parts.items() if part}


def remove_paths(paths: Any, graph: Graph) -> Graph:
    return graph.only(set(graph.names) - ({paths} if isinstance(paths, str) else set(paths)))


def over(name: str, operation: list[Any], parts: dict[str, Any]) -> dict[str, Any]:
    return {**parts, name: apply(operation, parts[name])}


def map_(operation: list[Any], values: list[Any]) -> list[Any]:
    return [apply(operation, value) for value in values]


def pipe(operations: list[Any], value: Any) -> Any:
    for operation in operations:
        value = apply(operation, value)
    return value


def flatten(value: Any) -> list[Graph]:
    def graphs(value: Any) -> Iterator[Graph]:
        if isinstance(value, Graph):
            yield value
        else:
            for inner in value.values() if isinstance(value, dict) else value:
                yield from graphs(inner)

    return list(graphs(value))


def reverse(values: list[Any]) -> list[Any]:
    return values[::-1]


OPERATIONS: dict[str, Callable[..., Any]] = {
    "popularity_contest": popularity_contest,
    "limit_layers": limit_layers,
    "split_every": split_every,
    "subcomponent_out": subcomponent_out,
    "subcomponent_in": subcomponent_in,
    "split_paths": split_paths,
    "remove_paths": remove_paths,
    "over": over,
    "map": map_,
    "pipe": pipe,
    "flatten": flatten,
    "reverse": reverse,
}


def apply(operation: list[Any], value: Any) -> Any:
    """The value after an operation.

    Raises:
        KeyError, TypeError: the operation does not take this value.
    """
    name, *arguments = operation
    return OPERATIONS[name](*arguments, value)


def layers(value: Any) -> list[list[str]]:
    """What is left at the end of a pipeline, as layers."""
    return [list(graph.names) for graph in flatten(value) if graph.names]
