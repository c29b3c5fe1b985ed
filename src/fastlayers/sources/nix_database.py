"""The SQLite database in which Nix registers store paths: read by any user, never written, while Nix may be writing it.

SQLite has two ways of reading a database and writing nothing to it. ``mode=ro`` takes part in the locking and sees what
is in the write-ahead log; where there is none it makes one, or fails where it may not. ``immutable=1`` needs the right
to read one file, no more; but it sees neither locks nor log. So a database whose logs are empty, as Nix leaves it, is
read as immutable, and again if it was written meanwhile; one with a log is read with ``mode=ro``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..closure import Positions

if TYPE_CHECKING:
    import sqlite3

__all__ = ["DatabaseError", "NotValid", "Registered", "read_nar_hashes", "read_registered"]

SCHEMA = "10"  # of Nix 2
_LOGS = ("-wal", "-journal")
_BUSY = 10.0  # seconds to wait for a lock of Nix's
_PAUSES = (0.0, 0.01, 0.05, 0.2, 0.5)  # seconds before each attempt; a writer that comes or goes spoils one

# Rows are looked up by primary keys and the indices that Nix makes; each path of the closure is looked at once.
_CLOSURE = """
WITH RECURSIVE closure (id) AS (
    SELECT id FROM ValidPaths WHERE id IN ({})
    UNION
    SELECT reference FROM closure JOIN Refs ON referrer = closure.id
)
"""
_NODES = _CLOSURE + "SELECT id, path, hash, narSize FROM closure LEFT JOIN ValidPaths USING (id) ORDER BY path"
_REFERENCES = _CLOSURE + "SELECT referrer, reference FROM closure CROSS JOIN Refs ON referrer = closure.id"

T = TypeVar("T")


class DatabaseError(Exception):
    """The database cannot be read; the message is one line that names the file."""


class NotValid(Exception):
    """A path is not registered; it is the argument."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What is registered of a closure, a column each.

    Attributes:
        paths: n store paths, sorted.
        references: of each, in the order of the paths.
        nar_hashes: as Nix has them there, "sha256:" and 64 hexadecimal digits.
        nar_sizes: bytes, or None where Nix has not noted it.
    """

    paths: list[str]
    references: Positions
    nar_hashes: list[str]
    nar_sizes: list[int | None]


def read_registered(folder: str, paths: Sequence[str]) -> Registered:
    """Read the closure of store paths.

    Args:
        folder: where the database is.
        paths: the store paths whose closure it is.

    Raises:
        NotValid: one of them is not registered.
        DatabaseError: the database cannot be read, or is none that is known.
    """

    def query(database: sqlite3.Connection) -> Registered:
        ids = ",".join([str(_row(database, "id", path)) for path in paths])
        nodes = database.execute(_NODES.format(ids)).fetchall()
        if nodes and nodes[0][1] is None:
            raise DatabaseError(f"{folder}/db.sqlite: a reference to a path that is not registered")
        edges = database.execute(_REFERENCES.format(ids)).fetchall()
        return Registered(
            [path for _, path, _, _ in nodes],
            _positions([number for number, _, _, _ in nodes], edges),
            [digest for _, _, digest, _ in nodes],
            [size or None for _, _, _, size in nodes],
        )

    return _read(folder, query)


def read_nar_hashes(folder: str, paths: Sequence[str]) -> list[str]:
    """Read the NAR hash of each store path.

    Raises:
        NotValid, DatabaseError: as in :func:`read_registered`.
    """
    return _read(folder, lambda database: [_row(database, "hash", path) for path in paths])


def _row(database: sqlite3.Connection, column: str, path: str) -> Any:
    # No store path has other letters, and SQLite refuses the surrogates that stand for bytes that are not UTF-8.
    known = path.isascii()
    row = known and database.execute(f"SELECT {column} FROM ValidPaths WHERE path = ?", (path,)).fetchone()
    if not row:
        raise NotValid(path)
    return row[0]


def _positions(ids: Sequence[int], edges: Sequence[tuple[int, int]]) -> Positions:
    """The references as positions in ``ids``, of which every number in ``edges`` is one."""
    rows = np.array(ids, dtype=np.int64)
    order = np.argsort(rows)
    pairs = np.array(edges, dtype=np.int64).reshape(-1, 2)
    pairs = order[np.searchsorted(rows, pairs, sorter=order)]
    targets = pairs[np.argsort(pairs[:, 0], kind="stable"), 1]
    return Positions(np.bincount(pairs[:, 0], minlength=len(rows)), targets.astype(np.int32))


def _read(folder: str, query: Callable[[sqlite3.Connection], T]) -> T:
    """What a query gives, of one state of the database."""
    try:
        import sqlite3
    except ImportError as error:  # it is left out of a Python that was built without SQLite
        raise DatabaseError(f"{folder}/db.sqlite: {error}") from None
    _check_schema(folder)
    file = os.path.join(folder, "db.sqlite")

    escaped = os.path.abspath(file).replace("%", "%25").replace("?", "%3f").replace("#", "%23")

    def ask(how: str) -> T:
        database = sqlite3.connect(f"file:{escaped}?{how}", uri=True, timeout=_BUSY, isolation_level=None)
        try:
            database.execute("BEGIN")
            return query(database)
        finally:
            database.close()

    failure: Exception = DatabaseError(f"{file}: written all the time")
    for pause in _PAUSES:
        time.sleep(pause)
        before = _state(file)
        try:
            found = ask("immutable=1" if before.quiet else "mode=ro")
            if not before.quiet or _state(file) == before:
                return found
        except (NotValid, DatabaseError, sqlite3.Error) as error:
            if before.quiet and _state(file) == before:
                raise _named(file, error) from None
            if not before.quiet and not _may_pass(error):
                raise _named(file, error) from None
            failure = error
    raise _named(file, failure) from None


def _named(file: str, error: Exception) -> Exception:
    return error if isinstance(error, NotValid | DatabaseError) else DatabaseError(f"{file}: {error}")


def _may_pass(error: Exception) -> bool:
    """Whether ``mode=ro`` failed since the log went away, or since it may not be written: SQLite's codes 8 and 14."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (8, 14)


@dataclass(frozen=True, slots=True)
class _State:
    """What is seen of a database from outside, and changes when it is written.

    Attributes:
        quiet: whether its logs are empty.
        facts: inode, size, mtime and SQLite's own counter of changes.
    """

    quiet: bool
    facts: tuple[int, int, int, bytes]


def _state(file: str) -> _State:
    try:
        with open(file, "rb") as database:
            counter = database.read(28)[24:]
            facts = os.fstat(database.fileno())
        quiet = not any(_size(file + log) for log in _LOGS)
    except OSError as error:
        raise DatabaseError(f"{file}: {error.strerror}") from None
    return _State(quiet, (facts.st_ino, facts.st_size, facts.st_mtime_ns, counter))


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except FileNotFoundError:
        return 0


def _check_schema(folder: str) -> None:
    file = os.path.join(folder, "schema")
    try:
        with open(file, encoding="ascii", errors="replace") as text:
            schema = text.read(100).strip()
    except OSError as error:
        raise DatabaseError(f"{file}: {error.strerror}") from None
    if schema != SCHEMA:
        raise DatabaseError(f"{file}: schema {schema}: {SCHEMA} is the one that is known")
