"""Layering pipelines: operations, one after another, that take a closure's graph apart.

Source: flatten-references-graph in nixpkgs (``layeringPipeline`` of its layered images), whose operations these are,
with the same layers in the same order; docs/formats.md says what each does. An operation takes and gives one of three
kinds of value: a graph, a list of values, or parts, which are values named main, common and rest. What is left at the
end is flattened; each graph that is not empty is a layer.

Where the original ends with a traceback, or takes the letters of a word for paths, this says what is wrong. Two things
that it cannot do mean here what they seem to: a pipeline that leaves a graph gives one layer, and ``split_every`` takes
a list of single paths, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..closure import UNKNOWN, Closure
from ..errors import PlanError
from ..popularity import popularity
from .subgraph import Subgraph, unite

__all__ = ["Pipeline", "read_pipeline", "split"]

Value = Subgraph | list["Value"] | dict[str, "Value"]
Operation = Callable[[Value], Value]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A pipeline as its document gives it.

    Attributes:
        operations: each a list of the operation's name and its arguments, as JSON gives them.
        excluded: paths that are taken out of the graph first, with the references to them.
        place: what errors call it.
    """

    operations: Sequence[Any]
    excluded: AbstractSet[str] = frozenset()
    place: str = "pipeline"


class _Document(msgspec.Struct):
    """What flatten_references_graph reads, besides the graph."""

    pipeline: list[Any] | str
    exclude_paths: list[str] | None = None


def read_pipeline(text: str) -> Pipeline:
    """Read a pipeline: JSON itself, or the name of a file of JSON.

    The JSON is a list of operations, or the object that flatten_references_graph reads (a derivation's .attrs.json will
    do): ``pipeline``, which may be the name of a file as well, and perhaps ``exclude_paths``.

    Raises:
        PlanError: the file cannot be read, or it is no pipeline.
    """
    inline = text.lstrip()[:1] in ("[", "{", "")
    place = "pipeline" if inline else f"{text}: pipeline"
    try:
        data = text.encode("utf-8", "surrogateescape") if inline else _contents(text)
        if data.lstrip()[:1] == b"[":
            return Pipeline(msgspec.json.decode(data, type=list[Any]), place=place)
        document = msgspec.json.decode(data, type=_Document)
        excluded = frozenset(document.exclude_paths or ())
        if isinstance(document.pipeline, str):
            place = f"{document.pipeline}: pipeline"
            return Pipeline(msgspec.json.decode(_contents(document.pipeline), type=list[Any]), excluded, place)
        return Pipeline(document.pipeline, excluded, place)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"{place}: not valid: {error}") from None


def _contents(file: str) -> bytes:
    try:
        with open(file, "rb") as document:
            return document.read()
    except OSError as error:
        raise PlanError(f"{file}: {error.strerror}") from None


def split(closure: Closure, pipeline: Pipeline, excluded: AbstractSet[str] = frozenset()) -> list[list[str]]:
    """The layers that a pipeline makes of a closure; how many is up to the pipeline.

    Args:
        closure: what to take apart.
        pipeline: how.
        excluded: paths to exclude besides the pipeline's own.

    Raises:
        PlanError: the pipeline is malformed, an operation gets a value that it does not take, or a node's NAR size, by
            which paths are sorted, is not known.
    """
    try:
        operation = _Reader(closure).pipe(pipeline.operations, pipeline.place)
    except RecursionError:
        raise PlanError(f"{pipeline.place}: nested too deeply") from None
    unknown = np.flatnonzero(closure.nar_sizes == UNKNOWN)
    if len(unknown):
        raise PlanError(f"{closure.paths[unknown[0]]}: its NAR size is not known, and a pipeline sorts paths by it")
    gone = excluded | pipeline.excluded
    graph = Subgraph.of(closure)
    if gone:
        graph = graph.keep(np.array([path not in gone for path in closure.paths], dtype=bool))
    graph = graph.reordered(np.lexsort((closure.positions[graph.nodes], closure.nar_sizes[graph.nodes])))
    layers = _flat(operation(graph))
    return [[closure.paths[i] for i in layer.nodes.tolist()] for layer in layers if len(layer)]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Makes functions out of the operations of a pipeline.

    All is checked before anything runs. Arguments that are paths become masks over the closure's rows once, so that
    an operation that runs on many small graphs does not look through all its arguments each time.
    """

    closure: Closure

    def pipe(self, operations: Any, place: str) -> Operation:
        """Operations one after another."""
        if not isinstance(operations, Sequence) or isinstance(operations, str):
            raise PlanError(f"{place}: expected a list of operations")
        steps = [self.operation(item, f"{place}[{number}]") for number, item in enumerate(operations)]

        def pipe(value: Value) -> Value:
            for step in steps:
                value = step(value)
            return value

        return pipe

    def operation(self, item: Any, place: str) -> Operation:
        """One operation, a list of its name and its arguments."""
        if not isinstance(item, Sequence) or isinstance(item, str) or not item or not isinstance(item[0], str):
            raise PlanError(f"{place}: expected an operation: a list of its name and its arguments")
        name, *arguments = item
        if name not in _OPERATIONS:
            raise PlanError(f"{place}: no operation {name}; there are: {', '.join(_OPERATIONS)}")
        names, make = _OPERATIONS[name]
        if len(arguments) != len(names):
            expected = " and ".join(names) if names else "no arguments"
            raise PlanError(f"{place}: {name} takes {expected}, not {len(arguments)} arguments")
        return make(self, f"{place}: {name}", *arguments)

    def mask(self, paths: Any, place: str) -> Mask:
        """Where in the closure these paths are; those that are not in it are ignored."""
        found = np.zeros(len(self.closure), dtype=bool)
        for path in _strings(paths, place):
            if path in self.closure:
                found[self.closure.index(path)] = True
        return found


def _popularity_contest(reader: _Reader, place: str) -> Operation:
    def popularity_contest(value: Value) -> Value:
        graph = _graph(value, place)
        if len(graph) < 2:
            order = np.arange(len(graph), dtype=np.int32)
        else:
            names = [reader.closure.paths[i] for i in graph.nodes.tolist()]
            order = popularity(graph.indptr, graph.indices, names).order
        return [*graph.alone(order)]

    return popularity_contest


def _limit_layers(reader: _Reader, place: str, count: Any) -> Operation:
    _check_count(count, place)

    def limit_layers(value: Value) -> Value:
        items = _list(value, place)
        rest = items[count - 1 :]
        graphs = [item for item in rest if isinstance(item, Subgraph)]
        if len(graphs) < len(rest):
            raise PlanError(f"{place} cannot unite what is still divided: flatten it first")
        return [*items[: count - 1], unite(graphs)]

    return limit_layers


def _split_every(reader: _Reader, place: str, count: Any) -> Operation:
    _check_count(count, place)

    def split_every(value: Value) -> Value:
        if isinstance(value, list):  # as popularity_contest gives it
            graphs = [item for item in value if isinstance(item, Subgraph) and len(item) == 1]
            if len(graphs) == len(value):
                value = unite(graphs)
        return [*_graph(value, place).slices(count)]

    return split_every


def _subcomponent(up: bool) -> Callable[[_Reader, str, Any], Operation]:
    def make(reader: _Reader, place: str, paths: Any) -> Operation:
        named = reader.mask(paths, place)

        def subcomponent(value: Value) -> Value:
            graph = _graph(value, place)
            reached = graph.reached(named[graph.nodes], up=up)
            return {"main": graph.keep(reached), "rest": graph.keep(~reached)}

        return subcomponent

    return make


def _split_paths(reader: _Reader, place: str, specs: Any) -> Operation:
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        raise PlanError(f'{place} takes a list of paths and {{"children_of": PATH}}')
    paths, parents = [], []
    for spec in specs:
        if isinstance(spec, Mapping):
            if set(spec) != {"children_of"}:
                raise PlanError(f'{place}: expected {{"children_of": PATH}}, not the keys {", ".join(spec) or "none"}')
            of = spec["children_of"]
            parents += [of] if isinstance(of, str) else _strings(of, f"{place}: children_of")
        else:
            paths.append(spec)
    named, parents_named = reader.mask(paths, place), reader.mask(parents, place)
    if not specs:
        return lambda value: {"rest": value}  # of whatever kind it is

    def split_paths(value: Value) -> Value:
        graph = _graph(value, place)
        chosen = named[graph.nodes] | graph.referenced_by(parents_named[graph.nodes])
        if not chosen.any():
            return {"rest": graph}
        roots = graph.roots()
        if np.count_nonzero(roots) == 1 and (roots & chosen).any():
            return {"main": graph}
        split_off = graph.reached(chosen)
        cut = graph.without_references_to(chosen)
        others = cut.reached(roots & ~chosen)
        parts = {"main": split_off & ~others, "common": split_off & others, "rest": others & ~split_off}
        return {name: cut.keep(part) for name, part in parts.items() if part.any()}

    return split_paths


def _remove_paths(reader: _Reader, place: str, paths: Any) -> Operation:
    named = reader.mask([paths] if isinstance(paths, str) else paths, place)
    if not paths and not isinstance(paths, str):
        return lambda value: value  # of whatever kind it is

    def remove_paths(value: Value) -> Value:
        graph = _graph(value, place)
        return graph.keep(~named[graph.nodes])

    return remove_paths


def _over(reader: _Reader, place: str, name: Any, item: Any) -> Operation:
    if not isinstance(name, str):
        raise PlanError(f"{place} takes the name of a part first")
    operation = reader.operation(item, place)

    def over(value: Value) -> Value:
        if not isinstance(value, dict):
            raise PlanError(f"{place} takes parts, such as split_paths gives, not {_kind(value)}")
        if name not in value:
            raise PlanError(f"{place}: no part {name}; there are: {', '.join(value) or 'none'}")
        return {**value, name: operation(value[name])}

    return over


def _map(reader: _Reader, place: str, item: Any) -> Operation:
    operation = reader.operation(item, place)
    return lambda value: [operation(inner) for inner in _list(value, place)]


def _pipe(reader: _Reader, place: str, operations: Any) -> Operation:
    return reader.pipe(operations, place)


def _flatten(reader: _Reader, place: str) -> Operation:
    def flatten(value: Value) -> Value:
        if isinstance(value, Subgraph):
            raise PlanError(f"{place} takes a list or parts, not a graph")
        return [*_flat(value)]

    return flatten


def _reverse(reader: _Reader, place: str) -> Operation:
    return lambda value: _list(value, place)[::-1]


# What each operation takes, and what makes a function of it.
_OPERATIONS: dict[str, tuple[tuple[str, ...], Callable[..., Operation]]] = {
    "popularity_contest": ((), _popularity_contest),
    "limit_layers": (("a number of layers",), _limit_layers),
    "split_every": (("a number of paths",), _split_every),
    "subcomponent_out": (("a list of paths",), _subcomponent(up=False)),
    "subcomponent_in": (("a list of paths",), _subcomponent(up=True)),
    "split_paths": (("a list of paths",), _split_paths),
    "remove_paths": (("a path or a list of paths",), _remove_paths),
    "over": (("the name of a part", "an operation"), _over),
    "map": (("an operation",), _map),
    "pipe": (("a list of operations",), _pipe),
    "flatten": ((), _flatten),
    "reverse": ((), _reverse),
}


def _flat(value: Value) -> Iterator[Subgraph]:
    if isinstance(value, Subgraph):
        yield value
    else:
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _flat(inner)


def _kind(value: Value) -> str:
    if isinstance(value, dict):
        return f"parts ({', '.join(value)})"
    return "a graph" if isinstance(value, Subgraph) else "a list"


def _graph(value: Value, place: str) -> Subgraph:
    if not isinstance(value, Subgraph):
        way = "over" if isinstance(value, dict) else "map"
        raise PlanError(f"{place} takes a graph, not {_kind(value)}: {way} applies it to a graph in it")
    return value


def _list(value: Value, place: str) -> list[Value]:
    if not isinstance(value, list):
        way = ": flatten makes one of them" if isinstance(value, dict) else ""
        raise PlanError(f"{place} takes a list, not {_kind(value)}{way}")
    return value


def _strings(items: Any, place: str) -> list[str]:
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise PlanError(f"{place} takes a list of paths")
    for item in items:
        if not isinstance(item, str):
            raise PlanError(f"{place}: {str(item)[:100]}: a path is a string")
    return list(items)


def _check_count(count: Any, place: str) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise PlanError(f"{place} takes a whole number from 1 on, not {str(count)[:100]}")
