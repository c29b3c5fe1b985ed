"""Closures that Nix has written down.

Four formats, recognised by what is in them:

- exportReferencesGraph with structured attributes: an object in which one value is a list of nodes (``.attrs.json``,
  or what nixpkgs makes of it), or that bare list;
- ``nix path-info --json -r``: a list of nodes, or (from Nix 2.19) an object keyed by store path, or (from Nix 2.33)
  such an object below ``info``, keyed by the store path's last component;
- the text form of exportReferencesGraph without structured attributes: for each node its path, its deriver (or an empty
  line), the number of its references and the references, a line each.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from .. import _core
from ..closure import Closure, Positions
from ..errors import ClosureError

__all__ = ["DEFAULT_STORE_DIR", "parse", "read", "store_dir"]

DEFAULT_STORE_DIR = "/nix/store"

T = TypeVar("T")

_Size = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_DIGITS = 18  # of a number of references; more than any file can hold


class _Facts(msgspec.Struct, kw_only=True, gc=False):
    """What Nix says of one path besides its references."""

    nar_size: _Size | None = msgspec.field(default=None, name="narSize")
    nar_hash: str | dict[str, Any] | None = msgspec.field(default=None, name="narHash")


class _Info(_Facts, kw_only=True, gc=False):
    """One path of ``nix path-info --json``, in an object keyed by path."""

    references: list[str]


class _Node(_Facts, kw_only=True, gc=False):
    """One path of a list."""

    path: str
    references: list[str]


class _RawNode(_Facts, kw_only=True, gc=False):
    """A node whose references are still JSON."""

    path: str
    references: msgspec.Raw


class _Parsed(msgspec.Struct, gc=False):
    """The columns of a document."""

    paths: list[str]
    references: list[list[str]] | Positions
    facts: Sequence[_Facts]


def store_dir() -> str:
    """The store directory: NIX_STORE_DIR or (in a Nix build) NIX_STORE, as Nix itself has it, or /nix/store."""
    return os.environ.get("NIX_STORE_DIR") or os.environ.get("NIX_STORE") or DEFAULT_STORE_DIR


def read(file: str, *, key: str | None = None, any_names: bool = False) -> Closure:
    """Read a closure from a file, or from standard input where ``file`` is ``-``.

    Args:
        file: the document, in any of the four formats.
        key: which list of nodes to take from an exportReferencesGraph document that has several.
        any_names: take any strings as names, as nixpkgs' closure-graph.py does; the closure can be ordered, not built.

    Raises:
        ClosureError: the file cannot be read, is in none of the formats, or does not hold a closure.
    """
    name = "standard input" if file == "-" else file
    try:
        if file == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(file, "rb") as document:
                data = document.read()
    except IsADirectoryError:
        raise ClosureError(
            f"{name}: a folder: expected a file that Nix made, nix:PATH of a store, or venv:DIR, a virtual environment"
        ) from None
    except OSError as error:
        raise ClosureError(f"{name}: {error.strerror}") from None
    return parse(data, name, key=key, any_names=any_names)


def parse(data: bytes, name: str, *, key: str | None = None, any_names: bool = False) -> Closure:
    """Read a closure from a document's bytes; ``name`` is what errors begin with, all else as for :func:`read`.

    Raises:
        ClosureError: the document is in none of the formats, or does not hold a closure.
    """
    try:
        with _no_garbage_collection():
            parsed = _parse_json(data, key) if _start(data) in (b"{", b"[") else _parse_text(data, key)
            if not any_names:
                directory = store_dir()
                for path in parsed.paths:
                    _check_store_path(path, directory)
            return Closure(
                parsed.paths,
                parsed.references,
                nar_sizes=[node.nar_size for node in parsed.facts],
                nar_hashes=[_nar_hash(node.nar_hash) for node in parsed.facts],
            )
    except ClosureError as error:
        raise ClosureError(f"{name}: {error}") from None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Nothing made here is part of a cycle, and looking for some among so many lists takes longer than making them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _start(data: bytes) -> bytes:
    """The first byte that is not white space."""
    return (data[:64].lstrip() or data.lstrip())[:1]


def _parse_json(data: bytes, key: str | None) -> _Parsed:
    if _start(data) == b"[":
        if key is not None:
            raise ClosureError(f"no key {key}: this is a bare list of nodes")
        return _list_of_nodes(data, "$")
    try:  # The usual document holds one list and nothing else; anything else fails at its first other value.
        ((name, nodes),) = msgspec.json.decode(data, type=dict[str, list[_RawNode]]).items()
        parsed = _resolved(nodes, len(data)) if nodes and key in (None, name) else None
        if parsed is not None:
            return parsed
    except (ValueError, RecursionError):
        pass
    document = _decode(data, dict[str, msgspec.Raw], "$")
    if key is None:
        if "info" in document and "version" in document:
            directory = _decode(document.get("storeDir", b'""'), str, "$.storeDir") or store_dir()
            return _keyed(document["info"], lambda name: f"{directory}/{name}")
        if document and all(name.startswith("/") for name in document):
            return _keyed(data, str)
    return _chosen_list(document, key)


def _keyed(data: bytes | msgspec.Raw, full: Callable[[str], str]) -> _Parsed:
    infos = _decode(data, dict[str, _Info | None], "$")
    facts = []
    for name, info in infos.items():
        if info is None:
            raise ClosureError(f"{full(name)}: not a valid path in the store that was asked")
        facts.append(info)
    return _Parsed(list(map(full, infos)), [list(map(full, info.references)) for info in facts], facts)


def _chosen_list(document: dict[str, msgspec.Raw], key: str | None) -> _Parsed:
    """The list of nodes of an exportReferencesGraph document: the one there is, or the one that ``key`` names."""
    if key in document:
        return _list_of_nodes(document[key], f"$.{key}")
    lists = [name for name, value in document.items() if _is_list_of_nodes(value)]
    if key is not None:
        raise ClosureError(f"no key {key}; lists of nodes: {', '.join(lists) or 'none'}")
    if not lists and {"version", "layers"} <= document.keys():
        raise ClosureError("a plan, not a closure: build takes it with --plan")
    if not lists:  # An empty closure is a list of nodes too, where nothing else is one.
        lists = [name for name, value in document.items() if bytes(value).replace(b" ", b"") == b"[]"]
    if len(lists) != 1:
        found = f"{len(lists)} lists of nodes ({', '.join(lists)}): choose one with --key"
        raise ClosureError(found if lists else "no list of nodes")
    return _list_of_nodes(document[lists[0]], f"$.{lists[0]}")


def _is_list_of_nodes(raw: msgspec.Raw) -> bool:
    """Whether this is a list whose first item is an object with ``path`` and ``references``."""
    view = memoryview(raw)
    start = bytes(view[:128]).lstrip()
    if not start.startswith(b"[") or not start[1:].lstrip().startswith(b"{"):
        return False
    size = 4096  # The list may be long and its first item is short: read a piece, a longer one where that is cut off.
    while True:
        text = bytes(view[:size]).decode(errors="replace")
        try:
            first, _ = json.JSONDecoder().raw_decode(text, text.index("{"))
        except (ValueError, RecursionError):
            if size >= len(view):
                return False
            size *= 16
        else:
            return "path" in first and "references" in first


def _list_of_nodes(data: bytes | msgspec.Raw, place: str) -> _Parsed:
    try:
        parsed = _resolved(msgspec.json.decode(data, type=list[_RawNode]), memoryview(data).nbytes)
        if parsed is not None:
            return parsed
    except (ValueError, RecursionError):
        pass
    # Slow and exact: every string is decoded, and what is wrong gets a message.
    nodes = _decode(data, list[_Node], place)
    return _Parsed([node.path for node in nodes], [node.references for node in nodes], nodes)


def _resolved(nodes: list[_RawNode], size: int) -> _Parsed | None:
    """The same nodes, if their references are lists of plain strings, all of them names of these nodes.

    ``size`` is the document's, in bytes: it has at most a third as many strings.

    Raises:
        UnicodeEncodeError: a name has half of a surrogate pair.
    """
    paths = [node.path for node in nodes]
    names = ('"'.join(paths) + '"').encode()
    if b"\\" in names:  # It would be escaped in the references: there a plain string is no name that has one.
        return None
    lengths = np.empty(len(paths), dtype=np.int64)
    targets = np.empty(size // 3 + 1, dtype=np.int32)  # the pages that are not written are never there
    if not _core.resolve_names(names, [node.references for node in nodes], lengths, targets):
        return None
    return _Parsed(paths, Positions(lengths, targets[: lengths.sum()].copy()), nodes)


def _decode(data: bytes | msgspec.Raw, kind: type[T], place: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        message = str(error)  # without a place where the value itself is of a wrong type
        message = message.replace("`$", f"`{place}") if "`$" in message else f"{message} - at `{place}`"
        raise ClosureError(message) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ClosureError(f"not JSON: {error}") from None


def _parse_text(data: bytes, key: str | None) -> _Parsed:
    if key is not None:
        raise ClosureError(f"no key {key}: this is not a JSON document")
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise ClosureError(f"neither JSON nor text: byte {error.start} is not UTF-8") from None
    if lines[-1] == "":
        lines.pop()
    if not lines or not lines[0].startswith("/"):
        raise ClosureError("in none of the formats: neither JSON nor exportReferencesGraph's text form")
    paths: list[str] = []
    rows: list[list[str]] = []
    at = 0
    while at < len(lines):
        head = lines[at : at + 3]
        if len(head) < 3 or not (head[2].isascii() and head[2].isdigit() and len(head[2]) <= _DIGITS):
            raise ClosureError(f"line {at + min(len(head), 3)}: expected the number of references of {head[0]}")
        count = int(head[2])
        references = lines[at + 3 : at + 3 + count]
        if len(references) < count:
            raise ClosureError(f"line {len(lines)}: the file ends within the {count} references of {head[0]}")
        paths.append(head[0])
        rows.append(references)
        at += 3 + count
    return _Parsed(paths, rows, [_Facts()] * len(paths))


def _check_store_path(path: str, directory: str) -> None:
    """One component below the store directory, with a hash part and a name, as Nix makes them."""
    prefix, _, name = path.rpartition("/")
    if prefix != directory or not name or name in (".", "..") or "\0" in name:
        raise ClosureError(f"{path}: not a store path: expected one component below {directory}")


def _nar_hash(value: str | dict[str, Any] | None) -> str | None:
    if isinstance(value, dict):  # from Nix 2.33: {"algorithm": "sha256", "format": "base64", "hash": "..."}
        return f"{value.get('algorithm')}:{value.get('hash')}"
    return value
