"""Nix's own database of a closure, so that Nix works in the image: as ``nix-store --load-db`` makes it."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import closing
from typing import TYPE_CHECKING

from ..closure import normalise_nar_hash
from ..contents import Generated, GeneratedEntry
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..closure import Closure

__all__ = ["nix_database"]

_VERSION = 10  # of the schema, since Nix 2.0
_SCHEMA = """
create table ValidPaths (
    id integer primary key autoincrement not null,
    path text unique not null,
    hash text not null,
    registrationTime integer not null,
    deriver text,
    narSize integer,
    ultimate integer,
    sigs text,
    ca text
);
create table Refs (
    referrer integer not null,
    reference integer not null,
    primary key (referrer, reference),
    foreign key (referrer) references ValidPaths(id) on delete cascade,
    foreign key (reference) references ValidPaths(id) on delete restrict
);
create index IndexReferrer on Refs(referrer);
create index IndexReference on Refs(reference);
create trigger DeleteSelfRefs before delete on ValidPaths
    begin
        delete from Refs where referrer = old.id and reference = old.id;
    end;
create table DerivationOutputs (
    drv integer not null,
    id text not null,
    path text not null,
    primary key (drv, id),
    foreign key (drv) references ValidPaths(id) on delete cascade
);
create index IndexDerivationOutputs on DerivationOutputs(path);
"""
# Everything that a build of SQLite may have another default for.
_PAGE = 4096
_LAYOUT = f"""
pragma page_size = {_PAGE};
pragma encoding = 'UTF-8';
pragma auto_vacuum = 0;
pragma secure_delete = 1;
pragma journal_mode = off;
pragma synchronous = off;
"""


def nix_database(closure: Closure, store_dir: str, time: int, excluded: AbstractSet[str] = frozenset()) -> Generated:
    """The files of ``store_dir``/../var/nix in which the paths of a closure are registered, and its roots are in use.

    Args:
        closure: of store paths, with NAR sizes and NAR hashes.
        store_dir: the store directory, "/nix/store".
        time: when the paths were registered, in seconds since 1970.
        excluded: nodes that are not in the image, so are not registered.

    Raises:
        ConfigError: a node is no store path, its NAR hash or size is not known, or it refers to one that is excluded.
    """
    state = f"{os.path.dirname(store_dir)}/var/nix"
    references = _references(closure, excluded)
    entries = [
        GeneratedEntry(
            f"{state}/db/db.sqlite", 0o644, _database(_rows(closure, store_dir, time, excluded), references)
        ),
        GeneratedEntry(f"{state}/db/schema", 0o644, str(_VERSION).encode()),
    ]
    referred = {reference for referrer, reference in references if referrer != reference}
    for i, path in enumerate(closure.paths):
        if i + 1 not in referred and path not in excluded:
            entries.append(GeneratedEntry(f"{state}/gcroots/fastlayers/{os.path.basename(path)}", target=path))
    return Generated("the Nix database", tuple(entries))


def _rows(
    closure: Closure, store_dir: str, time: int, excluded: AbstractSet[str]
) -> list[tuple[int, str, str, int, int]]:
    rows = []
    sizes = closure.nar_sizes.tolist()
    for i, (path, nar_hash, size) in enumerate(zip(closure.paths, closure.nar_hashes, sizes, strict=True)):
        if path in excluded:
            continue
        if os.path.dirname(path) != store_dir:
            raise ConfigError(f"{path}: not in {store_dir}: a Nix database is for store paths")
        if nar_hash is None or size < 0:
            unknown = "hash" if nar_hash is None else "size"
            raise ConfigError(f"{path}: a Nix database needs its NAR {unknown}; nix path-info --json -r tells it")
        rows.append((i + 1, path, normalise_nar_hash(nar_hash), time, size))
    return rows


def _references(closure: Closure, excluded: AbstractSet[str]) -> list[tuple[int, int]]:
    """Pairs of rows from 1 on, sorted; unlike a closure's, with the references of paths to themselves."""
    starts, targets = closure.indptr.tolist(), closure.indices.tolist()
    absent = {i for i, path in enumerate(closure.paths) if path in excluded}
    there = [i for i in range(len(closure)) if i not in absent]
    pairs = [(i + 1, j + 1) for i in there for j in targets[starts[i] : starts[i + 1]]]
    for i, j in pairs if absent else ():
        if j - 1 in absent:
            path, reference = closure.paths[i - 1], closure.paths[j - 1]
            raise ConfigError(f"{path}: a Nix database needs its reference {reference}, which is excluded")
    itself = closure.self_referring.tolist()
    return sorted(pairs + [(i + 1, i + 1) for i in there if itself[i]])


def _database(rows: Iterable[tuple[int, str, str, int, int]], references: Iterable[tuple[int, int]]) -> bytes:
    try:
        import sqlite3
    except ImportError:
        raise ConfigError("a Nix database cannot be made: this Python was built without SQLite") from None
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "db.sqlite")
        with closing(sqlite3.connect(file)) as database:
            database.executescript(_LAYOUT + _SCHEMA)
            database.executemany(
                "insert into ValidPaths (id, path, hash, registrationTime, narSize) values (?, ?, ?, ?, ?)", rows
            )
            database.executemany("insert into Refs values (?, ?)", references)
            database.commit()
            database.execute("vacuum")
        with open(file, "rb") as whole:
            data = bytearray(whole.read())
    return _without_traces(data)


def _without_traces(data: bytearray) -> bytes:
    """The database without what differs from one version of SQLite to the next (https://www.sqlite.org/fileformat2.html).

    That is the count of changes and the library's version, in the header; and what is left of other rows between the
    pointers to a page's rows and the first row.
    """
    struct.pack_into(">I", data, 24, 1)
    struct.pack_into(">II", data, 92, 1, 3_000_000)
    for page in range(0, len(data), _PAGE):
        start = page or 100  # behind the header of the file
        # Where the pointers start, by the kind of page; other kinds have no rows.
        pointers = {2: 12, 5: 12, 10: 8, 13: 8}.get(data[start])
        if pointers is not None:
            rows, first = struct.unpack_from(">HH", data, start + 3)
            unused = start + pointers + 2 * rows
            data[unused : page + first] = bytes(page + first - unused)
    return bytes(data)
