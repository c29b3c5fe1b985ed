"""What may guide a plan besides the closure: the plan before, earlier closures, sizes, and rules of the user's own."""

from __future__ import annotations

import fnmatch
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, get_args

import msgspec
import numpy as np

from .. import _core
from ..closure import Closure
from ..errors import PlanError
from ..sources.nix_json import store_dir
from ..store_path import store_name
from .history import ChangeHistory

__all__ = ["Guidance", "PlacedByRules", "Rule", "Rules", "read_closures", "read_rules"]

Place = Literal["own", "together", "volatile", "bottom"]

_VOLATILE_UPDATES = 8  # in all of which a volatile path changed, where no more are known


@dataclass(frozen=True, slots=True)
class Rule:
    """Where the paths go that a pattern matches.

    Attributes:
        match: a glob, for a path's name with or without its hash part, or for the whole path.
        place: ``own``: a layer for each; ``together``: one layer for all; ``bottom``: one layer for all, below those of
            no rule; ``volatile``: they, and all that refers to them, change with every update.
    """

    match: str
    place: Place

    def matches(self, path: str) -> bool:
        """Whether it is for this path."""
        base = os.path.basename(path)
        return any(fnmatch.fnmatchcase(name, self.match) for name in (path, base, store_name(path)))


@dataclass(frozen=True, slots=True)
class PlacedByRules:
    """What rules make of a closure.

    Attributes:
        pinned: layers for the bottom.
        unpinned: other layers.
        volatile: paths that change with every update.
    """

    pinned: tuple[list[str], ...] = ()
    unpinned: tuple[list[str], ...] = ()
    volatile: frozenset[str] = frozenset()

    @property
    def layers(self) -> tuple[list[str], ...]:
        """All layers."""
        return self.pinned + self.unpinned

    @property
    def placed(self) -> frozenset[str]:
        """The paths in them."""
        return frozenset(path for layer in self.layers for path in layer)

    def with_volatile(self, history: ChangeHistory) -> ChangeHistory:
        """The history of a closure in which what is volatile has changed every time."""
        if not self.volatile:
            return history
        updates = max(history.updates, _VOLATILE_UPDATES)
        always = (1 << updates) - 1
        changed = {path: always if path in self.volatile else bits for path, bits in history.changed.items()}
        return ChangeHistory(changed, updates)


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules, of which the first that matches a path counts."""

    rules: tuple[Rule, ...] = ()

    def apply(self, closure: Closure, excluded: AbstractSet[str] = frozenset()) -> PlacedByRules:
        """Match the paths of a closure; what is excluded is in no layer."""
        matched: dict[Rule, list[str]] = {rule: [] for rule in self.rules}
        for path in closure.paths if self.rules else ():
            rule = next((rule for rule in self.rules if rule.matches(path)), None)
            if rule is not None and path not in excluded:
                matched[rule].append(path)
        pinned = tuple(paths for rule, paths in matched.items() if rule.place == "bottom" and paths)
        unpinned: list[list[str]] = []
        volatile: set[str] = set()
        for rule, paths in matched.items():
            if rule.place == "own":
                unpinned += [[path] for path in paths]
            elif rule.place == "together" and paths:
                unpinned.append(paths)
            elif rule.place == "volatile":
                volatile.update(paths)
        return PlacedByRules(pinned, tuple(unpinned), frozenset(_above(closure, volatile)))


def _above(closure: Closure, paths: AbstractSet[str]) -> list[str]:
    """The paths, and all that refer to them, directly or not."""
    if not paths:
        return []
    marks = np.array([[path in paths] for path in closure.paths], dtype=np.uint64)
    order = np.empty(len(closure), dtype=np.int32)
    _core.topological_order(closure.indptr, closure.indices, order)
    _core.spread(closure.indptr, closure.indices, order, marks, up=True)
    return [path for path, mark in zip(closure.paths, marks[:, 0].tolist(), strict=True) if mark]


@dataclass(frozen=True, slots=True)
class Guidance:
    """What guides a strategy that takes more than the closure.

    Attributes:
        previous: the layers of the plan before, bottom first.
        history: what earlier closures tell.
        rules: of the user's own.
        min_size: bytes; smaller layers are joined with others. 0 for none.
        max_size: bytes; only a path that is larger by itself has a larger layer. 0 for none.
    """

    previous: Sequence[Sequence[str]] | None = None
    history: ChangeHistory = field(default_factory=ChangeHistory)
    rules: Rules = Rules()
    min_size: int = 0
    max_size: int = 0

    @property
    def remembers(self) -> bool:
        """Whether the plan depends on more than the closure."""
        return self != Guidance()


class _Rule(msgspec.Struct, forbid_unknown_fields=True):
    match: str
    place: Place


class _Rules(msgspec.Struct, forbid_unknown_fields=True):
    rule: list[_Rule]


def read_rules(file: str) -> Rules:
    """Read rules from a TOML file: tables ``[[rule]]``, each with ``match`` and ``place``.

    Raises:
        PlanError: the file cannot be read, is not TOML, or a rule is wrong; the message names it.
    """
    try:
        with open(file, "rb") as document:
            parsed = msgspec.convert(tomllib.load(document), _Rules)
    except OSError as error:
        raise PlanError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PlanError(f"{file}: not TOML: {error}") from None
    except msgspec.ValidationError as error:
        places = ", ".join(get_args(Place))
        raise PlanError(f"{file}: {error}; a rule has match and place: one of {places}") from None
    return Rules(tuple(Rule(rule.match, rule.place) for rule in parsed.rule))


class _Path(msgspec.Struct):
    path: str


def read_closures(file: str) -> Iterator[list[str]]:
    """The paths of earlier closures in a file, oldest first: documents in lines, or over several.

    A document is exportReferencesGraph's with one list of nodes, that list alone, or what ``nix path-info --json``
    prints. The same document twice in a row counts once, and so do paths that a closure names twice.

    Raises:
        PlanError: the file cannot be read, or a line is no closure; the message names it.
    """
    before = b""
    try:
        with open(file, "rb") as document:
            for place, text in _places(file, document):
                try:
                    for each in _split(text):
                        if each != before:
                            yield _paths_in(each)
                        before = each
                except (msgspec.DecodeError, PlanError, UnicodeDecodeError, RecursionError) as error:
                    raise PlanError(f"{place}: not a closure: {error}") from None
    except OSError as error:
        raise PlanError(f"{file}: {error.strerror}") from None


def _places(file: str, document: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """The lines of a file, with what errors call them; or all of it, where its first line is no document by itself."""
    lines = ((number, line) for number, line in enumerate(document, 1) if line.strip())
    for number, line in lines:
        try:
            _split(line)
        except (msgspec.DecodeError, PlanError, UnicodeDecodeError, RecursionError):
            rest = document.read()
            yield (file, line + rest) if rest.strip() else (f"{file}: line {number}", line)
            return
        yield f"{file}: line {number}", line
        break
    for number, line in lines:
        yield f"{file}: line {number}", line


def _split(line: bytes) -> list[bytes]:
    """The documents of a line, or of a file: where Nix appended several to one, it ended none with a newline."""
    line = line.strip()
    if not line:
        return []
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
        return [line]
    except msgspec.DecodeError as error:
        if "trailing characters" not in str(error):
            raise
    text, decoder, found, at = line.decode(), json.JSONDecoder(), [], 0
    while at < len(text):
        try:
            _, end = decoder.raw_decode(text, at)
        except ValueError as error:
            raise PlanError(str(error)) from None
        found.append(text[at:end].encode())
        at = len(text) - len(text[end:].lstrip())
    return found


def _paths_in(data: bytes) -> list[str]:
    if data.lstrip()[:1] == b"[":
        return [node.path for node in msgspec.json.decode(data, type=list[_Path])]
    document: Mapping[str, msgspec.Raw] = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    if {"info", "version"} <= document.keys():  # from Nix 2.33, and paths are names in the store directory
        folder = msgspec.json.decode(document.get("storeDir", b'""'), type=str) or store_dir()
        return [f"{folder}/{name}" for name in msgspec.json.decode(document["info"], type=dict[str, msgspec.Raw])]
    if {"layers", "version"} <= document.keys():
        raise PlanError("a plan: --previous takes one")
    lists = [value for value in document.values() if bytes(value).lstrip()[:1] == b"["]
    if len(lists) == 1:
        return [node.path for node in msgspec.json.decode(lists[0], type=list[_Path])]
    if lists or not all(key.startswith("/") for key in document):
        raise PlanError("expected one list of nodes")
    return list(document)
