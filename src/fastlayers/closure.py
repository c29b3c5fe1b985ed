"""Closures: nodes, their references as a CSR matrix, sizes and contents."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from operator import eq
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import _core
from .contents import Contents, FileList, Merged, Tree
from .errors import ClosureError
from .store_path import BASE32

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["Closure", "Positions", "find_cycle", "normalise_nar_hash", "unite"]

UNKNOWN = -1  # a NAR size that the source does not tell


@dataclass(frozen=True, eq=False)
class Positions:
    """References of n nodes by where in the document the nodes stand, for sources that have resolved the names.

    Attributes:
        lengths: int64, shape (n,). How many references each node has.
        targets: int32, shape (sum of the lengths,). The references, node after node, each in [0, n).
    """

    lengths: NDArray[np.int64]
    targets: NDArray[np.int32]


class Closure:
    """A set of nodes that holds every node that one of them refers to.

    Attributes:
        paths: n node names (of a Nix closure: store paths), sorted by code point.
        indptr: int64, shape (n + 1,). The references of node i are ``indices[indptr[i]:indptr[i + 1]]``.
        indices: int32, shape (number of references,), ascending in each row; no self-references, no duplicates.
        self_referring: bool, shape (n,). Which nodes refer to themselves.
        positions: int64, shape (n,). Where in the source's document each node stood, from 0.
        nar_sizes: int64, shape (n,), bytes; -1 where the source does not tell. For a source that is not Nix: the
            sum of the node's file sizes.
        nar_hashes: n NAR hashes as the source writes them, or None.
        environment: variables that an image of this closure needs in order to run, such as PATH.
        extra: contents that every image of this closure needs besides its nodes (they go into the customisation layer).
    """

    def __init__(
        self,
        paths: Sequence[str],
        references: Sequence[Iterable[str]] | Positions,
        *,
        nar_sizes: Sequence[int | None] | None = None,
        nar_hashes: Sequence[str | None] | None = None,
        contents: Sequence[Contents] | None = None,
        environment: Mapping[str, str] | None = None,
        extra: Sequence[Contents] = (),
    ) -> None:
        """Make a closure of nodes in their document's order.

        ``references[i]`` names what ``paths[i]`` refers to; self-references and duplicates are dropped.
        Without ``contents`` every node is the tree at the store path of its name.

        Raises:
            ClosureError: a node is given twice, a reference is not in the closure, or references form a cycle.
        """
        n = len(paths)
        order = sorted(range(n), key=paths.__getitem__)
        self.paths: list[str] = [paths[i] for i in order]
        self.positions: NDArray[np.int64] = np.array(order, dtype=np.int64)
        if any(map(eq, self.paths, islice(self.paths, 1, None))):
            twice = next(a for a, b in zip(self.paths, self.paths[1:], strict=False) if a == b)
            raise ClosureError(f"{twice}: given twice")
        if not isinstance(references, Positions):
            references = _resolve(paths, references, order)
        self.indptr, self.indices, self.self_referring = _csr(self.positions, references)
        sizes = [None] * n if nar_sizes is None else nar_sizes
        self.nar_sizes: NDArray[np.int64] = np.array([UNKNOWN if s is None else s for s in sizes], dtype=np.int64)
        self.nar_sizes = self.nar_sizes[self.positions]
        self.nar_hashes: list[str | None] = [None] * n if nar_hashes is None else [nar_hashes[i] for i in order]
        self._contents = None if contents is None else [contents[i] for i in order]
        self.environment: dict[str, str] = dict(environment or {})
        self.extra: tuple[Contents, ...] = tuple(extra)
        cycle = find_cycle(self.indptr, self.indices)
        if cycle:
            raise ClosureError("references form a cycle: " + " -> ".join(self.paths[i] for i in [*cycle, cycle[0]]))

    @cached_property
    def _index(self) -> dict[str, int]:
        return dict(zip(self.paths, range(len(self)), strict=True))

    def __len__(self) -> int:
        """The number of nodes."""
        return len(self.paths)

    def __contains__(self, path: object) -> bool:
        """Whether a node has this name."""
        return path in self._index

    def __repr__(self) -> str:
        return f"<Closure of {len(self)} nodes, {len(self.indices)} references>"

    def index(self, path: str) -> int:
        """The row of a node; KeyError when there is none of this name."""
        return self._index[path]

    def references(self, i: int) -> list[str]:
        """What node i refers to, sorted."""
        return [self.paths[j] for j in self.indices[self.indptr[i] : self.indptr[i + 1]].tolist()]

    def contents(self, i: int) -> Contents:
        """What node i brings into a layer."""
        return Tree(self.paths[i]) if self._contents is None else self._contents[i]

    def matrix(self) -> csr_array:
        """The references as a ``scipy.sparse.csr_array``, shape (n, n), dtype int8; it shares ``indices``."""
        from scipy.sparse import csr_array

        n = len(self)
        data = np.ones(len(self.indices), dtype=np.int8)
        small = len(self.indices) <= np.iinfo(np.int32).max  # with index arrays of two types, scipy copies both
        indptr = self.indptr.astype(np.int32) if small else self.indptr
        return csr_array((data, self.indices, indptr), shape=(n, n))


def _resolve(paths: Sequence[str], references: Sequence[Iterable[str]], order: Sequence[int]) -> Positions:
    """Look names up; a name that is not found is reported of the first node, by name, that refers to such a one."""
    n = len(paths)
    index = dict(zip(paths, range(n), strict=True))
    rows = [names if isinstance(names, (list, tuple)) else list(names) for names in references]
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=n)
    try:
        found = map(index.__getitem__, chain.from_iterable(rows))
        return Positions(lengths, np.fromiter(found, dtype=np.int32, count=int(lengths.sum())))
    except KeyError:
        i, name = next((i, name) for i in order for name in rows[i] if name not in index)
        raise ClosureError(f"{paths[i]}: its reference {name} is not in the closure") from None


def _csr(
    positions: NDArray[np.int64], references: Positions
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.bool_]]:
    """References by row without those of rows to themselves, and which rows have such."""
    n = len(positions)
    rows = np.empty(n, dtype=np.int32)
    rows[positions] = np.arange(n, dtype=np.int32)
    indptr = np.empty(n + 1, dtype=np.int64)
    indices = np.empty(len(references.targets), dtype=np.int32)
    own = np.empty(n, dtype=np.bool_)
    _core.matrix(rows, references.lengths, references.targets, indptr, indices, own.view(np.uint8))
    return indptr, indices[: indptr[n]], own


def find_cycle(indptr: NDArray[np.int64], indices: NDArray[np.int32]) -> list[int]:
    """Rows that form a cycle, each referring to the next and the last to the first; empty when there is none."""
    n = len(indptr) - 1
    order = np.empty(n, dtype=np.int32)
    done = _core.topological_order(indptr, indices, order)
    if done == n:
        return []
    left = np.ones(n, dtype=bool)
    left[order[:done]] = False
    # What is left refers to something that is left too: going from reference to reference must come back.
    seen: dict[int, int] = {}
    i = int(np.flatnonzero(left)[0])
    while i not in seen:
        seen[i] = len(seen)
        row = indices[indptr[i] : indptr[i + 1]]
        i = int(row[left[row]][0])
    return list(seen)[seen[i] :]


def unite(closures: Sequence[Closure]) -> Closure:
    """The union of closures, in their order.

    A node of two closures keeps the NAR hash and size that either tells; lists of files under one name are united.

    Raises:
        ClosureError: a node is in two of them with other references or NAR hashes.
    """
    if len(closures) == 1:
        return closures[0]
    places: dict[str, list[tuple[Closure, int]]] = {}
    for closure in closures:
        for i in np.argsort(closure.positions, kind="stable").tolist():
            places.setdefault(closure.paths[i], []).append((closure, i))
    environment: dict[str, str] = {}
    for closure in reversed(closures):
        environment |= closure.environment
    return Closure(
        list(places),
        [
            _same_references(path, found) + [path] * any(bool(c.self_referring[i]) for c, i in found)
            for path, found in places.items()
        ],
        nar_sizes=[max(int(c.nar_sizes[i]) for c, i in found) for found in places.values()],
        nar_hashes=[_same_nar_hash(path, found) for path, found in places.items()],
        contents=[_united_contents(path, found) for path, found in places.items()],
        environment=environment,
        extra=tuple(dict.fromkeys(contents for closure in closures for contents in closure.extra)),
    )


def _same_references(path: str, places: Sequence[tuple[Closure, int]]) -> list[str]:
    references = [closure.references(i) for closure, i in places]
    if any(other != references[0] for other in references):
        raise ClosureError(f"{path}: two sources give it other references")
    return references[0]


def _same_nar_hash(path: str, places: Sequence[tuple[Closure, int]]) -> str | None:
    known = [text for closure, i in places if (text := closure.nar_hashes[i])]
    if len(known) > 1:
        for other in known[1:]:
            if normalise_nar_hash(other) != normalise_nar_hash(known[0]):
                raise ClosureError(f"{path}: two sources give it other NAR hashes, {known[0]} and {other}")
    return known[0] if known else None


def _united_contents(path: str, places: Sequence[tuple[Closure, int]]) -> Contents:
    found = list(dict.fromkeys(closure.contents(i) for closure, i in places))
    if len(found) == 1:
        return found[0]
    lists = [contents for contents in found if isinstance(contents, FileList)]
    if len(lists) < len(found):
        raise ClosureError(f"{path}: two sources give it other contents")
    return Merged(path, tuple(lists))


def normalise_nar_hash(text: str) -> str:
    """``sha256:`` and 64 hexadecimal digits for any of Nix's spellings: SRI, base 32, base 16.

    Raises:
        ClosureError: it is none of them.
    """
    algorithm, _, value = (text.replace("-", ":", 1) if text.startswith("sha256-") else text).partition(":")
    try:
        if algorithm == "sha256":
            if len(value) == 64:
                return "sha256:" + binascii.unhexlify(value).hex()
            if len(value) == 52:
                number = 0
                for letter in value:
                    number = number * 32 + BASE32.index(letter)
                return "sha256:" + number.to_bytes(32, "little").hex()
            if len(value) == 44 and len(digest := base64.b64decode(value, validate=True)) == 32:
                return "sha256:" + digest.hex()
    except (ValueError, OverflowError):
        pass
    raise ClosureError(f"{text}: not a NAR hash")
