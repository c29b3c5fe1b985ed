"""The small store of stores.py as Nix would have it registered: a database with Nix's own tables below root/nix/var."""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from fastlayers import Closure
from fastlayers.sources import nix_store
from oracles.nar import nar, nar_hash
from stores import APP, NODES, make_store

SCHEMA = (Path(__file__).parent / "data" / "nix-schema.sql").read_text()


def make_database(folder: Path, nodes: Sequence[Mapping[str, Any]], *, wal: bool = True) -> Path:
    """Write a database of nodes with path, references, narHash and narSize; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema").write_text("10")
    file = folder / "db.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA journal_mode = {'wal' if wal else 'truncate'}")
        database.executescript(SCHEMA)
        for node in nodes:
            register(database, node)
        for node in nodes:
            refer(database, node)
        database.commit()
    return file


def register(database: sqlite3.Connection, node: Mapping[str, Any]) -> None:
    database.execute(
        "INSERT INTO ValidPaths (path, hash, registrationTime, narSize) VALUES (?, ?, 1, ?)",
        (node["path"], node["narHash"], node["narSize"]),
    )


def refer(database: sqlite3.Connection, node: Mapping[str, Any]) -> None:
    for reference in node["references"]:
        database.execute(
            "INSERT INTO Refs SELECT a.id, b.id FROM ValidPaths a, ValidPaths b WHERE a.path = ? AND b.path = ?",
            (node["path"], reference),
        )


def registered(root: Path) -> list[dict[str, Any]]:
    """The nodes of the small store with their true NAR hashes and sizes."""
    return [
        {**node, "narHash": nar_hash(f"{root}{node['path']}"), "narSize": len(nar(f"{root}{node['path']}"))}
        for node in NODES
    ]


def make_registered_store(folder: Path, *, wal: bool = True) -> Path:
    """Write the small store and its database; returns the root."""
    make_store(folder)
    root = folder / "root"
    make_database(root / "nix" / "var" / "nix" / "db", registered(root), wal=wal)
    return root


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that reading must not change: names, mtimes, owners and bytes."""
    return {
        entry.name: (entry.stat().st_mtime_ns, entry.stat().st_uid, Path(entry.path).read_bytes())
        for entry in os.scandir(folder)
        if entry.is_file()
    }


def database_of(root: Path) -> Path:
    return root / "nix/var/nix/db/db.sqlite"


def read(root: Path, *names: str) -> Closure:
    """The closure of the application, or of these names."""
    return nix_store.read(names or [APP], store_root=str(root))


def moved(folder: Path, path: str) -> str:
    """A store path, or a text with some, as in a store in another folder."""
    return path.replace("/nix/store", str(folder / "store"))
