"""The Nix database of an image: what is in it, and that it is the same bytes for the same closure."""

import base64
import hashlib
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fastlayers import ClosureError, ConfigError, unite
from fastlayers.closure import Closure
from fastlayers.customisation.nix_db import nix_database
from nix_stores import SCHEMA
from stores import APP, BASE, LIB

HASHES = [f"sha256:{digit * 64}" for digit in "abc"]


def closure_of(**changed: Any) -> Closure:
    given: dict[str, Any] = {"nar_sizes": [816, 520, 456], "nar_hashes": HASHES} | changed
    return Closure([APP, LIB, BASE], [[LIB, BASE], [BASE, LIB], []], **given)


def files_of(closure: Closure, time: int = 1) -> dict[str, bytes]:
    made = nix_database(closure, "/nix/store", time)
    assert all(entry.mode == 0o644 for entry in made.entries if entry.data is not None)
    return {entry.path: entry.data if entry.data is not None else entry.target for entry in made.entries}  # type: ignore[misc]


def opened(data: bytes, folder: Path) -> closing[sqlite3.Connection]:
    (folder / "db.sqlite").write_bytes(data)
    return closing(sqlite3.connect(folder / "db.sqlite"))


def test_all_paths_are_registered(tmp_path: Path) -> None:
    files = files_of(closure_of(), 77)
    assert files.pop("/nix/var/nix/db/schema") == b"10"
    with opened(files.pop("/nix/var/nix/db/db.sqlite"), tmp_path) as database:
        rows = database.execute("select * from ValidPaths order by id").fetchall()
        assert rows == [
            (1, APP, HASHES[0], 77, None, 816, None, None, None),
            (2, LIB, HASHES[1], 77, None, 520, None, None, None),
            (3, BASE, HASHES[2], 77, None, 456, None, None, None),
        ]
        # A path that refers to itself is registered so, though closures leave it out.
        assert database.execute("select * from Refs order by 1, 2").fetchall() == [(1, 2), (1, 3), (2, 2), (2, 3)]
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("pragma foreign_key_check").fetchall() == []
        database.execute("pragma foreign_keys = on")
        database.execute("delete from ValidPaths where id = 1")
        database.execute("delete from ValidPaths where id = 2")  # the trigger lets one that refers to itself go
        with pytest.raises(sqlite3.IntegrityError):
            database.execute("insert into ValidPaths (path, hash, registrationTime) values (?, '', 1)", (BASE,))
        database.execute("insert into ValidPaths (path, hash, registrationTime) values (?, '', 1)", (APP,))
        assert database.execute("select id from ValidPaths where path = ?", (APP,)).fetchone() == (4,)
    assert files == {f"/nix/var/nix/gcroots/fastlayers/{APP.rpartition('/')[2]}": APP}


def test_tables_are_those_of_nix(tmp_path: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as theirs:
        theirs.executescript(SCHEMA)
        with opened(files_of(closure_of())["/nix/var/nix/db/db.sqlite"], tmp_path) as ours:
            assert shape(ours) == shape(theirs)


def shape(database: sqlite3.Connection) -> dict[str, list[list[tuple[Any, ...]]]]:
    """Tables and indices, whatever the statements were that made them."""
    ask = "select name, type, tbl_name from sqlite_master where type != 'trigger'"
    return {
        name: [
            rest,
            *(
                database.execute(f"pragma {what}({name})").fetchall()
                for what in ("table_info", "foreign_key_list", "index_list", "index_info")
            ),
        ]
        for name, *rest in database.execute(ask).fetchall()
    }


def test_a_united_closure_keeps_references_to_oneself(tmp_path: Path) -> None:
    one = Closure([BASE, LIB], [[], [LIB, BASE]], nar_sizes=[456, 520], nar_hashes=HASHES[2:0:-1])
    whole = files_of(unite([one, closure_of()]))
    assert whole == files_of(closure_of())


def test_a_root_is_what_nothing_refers_to() -> None:
    closure = Closure([APP, LIB, BASE], [[BASE], [BASE], []], nar_sizes=[1, 2, 3], nar_hashes=HASHES)
    roots = [path for path in files_of(closure) if "/gcroots/" in path]
    assert roots == [f"/nix/var/nix/gcroots/fastlayers/{path.rpartition('/')[2]}" for path in (APP, LIB)]


def test_what_is_excluded_is_not_registered(tmp_path: Path) -> None:
    """Then its references are roots, if nothing else refers to them."""
    entries = {
        entry.path: entry for entry in nix_database(closure_of(), "/nix/store", 1, {APP, "/nix/store/x"}).entries
    }
    database = entries.pop("/nix/var/nix/db/db.sqlite").data
    assert isinstance(database, bytes)
    with opened(database, tmp_path) as opened_database:
        assert opened_database.execute("select path from ValidPaths order by id").fetchall() == [(LIB,), (BASE,)]
        assert opened_database.execute("select * from Refs order by 1, 2").fetchall() == [(2, 2), (2, 3)]
        assert opened_database.execute("pragma foreign_key_check").fetchall() == []
    assert [entry.target for path, entry in entries.items() if "/gcroots/" in path] == [LIB]
    with pytest.raises(ConfigError, match=f"^{APP}: a Nix database needs its reference {BASE}, which is excluded$"):
        nix_database(closure_of(), "/nix/store", 1, {BASE})


def test_any_spelling_of_a_nar_hash() -> None:
    spelt = [HASHES[0], "sha256-" + base64.b64encode(b"\xbb" * 32).decode(), HASHES[2]]
    assert files_of(closure_of(nar_hashes=spelt)) == files_of(closure_of())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"nar_hashes": [HASHES[0], None, HASHES[2]]}, f"^{LIB}: a Nix database needs its NAR hash; nix path-info"),
        ({"nar_sizes": [816, 520, None]}, f"^{BASE}: a Nix database needs its NAR size; nix path-info"),
    ],
)
def test_what_the_source_does_not_tell(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        files_of(closure_of(**changed))


def test_a_python_without_sqlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(ConfigError, match="this Python was built without SQLite"):
        files_of(closure_of())


def test_what_is_no_store_path() -> None:
    with pytest.raises(ConfigError, match=r"^venv:x: not in /nix/store: a Nix database is for store paths"):
        files_of(Closure(["venv:x"], [[]], nar_sizes=[1], nar_hashes=[HASHES[0]]))
    with pytest.raises(ClosureError, match="md5:1: not a NAR hash"):
        files_of(closure_of(nar_hashes=["md5:1", *HASHES[1:]]))


def drawn(n: int) -> Closure:
    """A closure of n nodes with many references."""
    draw = random.Random(n)
    paths = [f"/nix/store/{i:032d}-{'x' * draw.randint(1, 60)}" for i in range(n)]
    references = [sorted({paths[draw.randint(0, i)] for _ in range(draw.randint(0, 12))}) for i in range(n)]
    hashes = [f"sha256:{draw.getrandbits(256):064x}" for _ in range(n)]
    return Closure(paths, references, nar_sizes=[draw.randint(0, 10**9) for _ in range(n)], nar_hashes=hashes)


def test_the_bytes_are_the_same_everywhere(tmp_path: Path) -> None:
    """One digest over databases of many sizes, of one page and of trees of pages.

    It may not change: images with a database would have other digests. SQLite 3.40, 3.42, 3.45, 3.50 and 3.51 give it.
    """
    whole = hashlib.sha256()
    for n in (0, 1, 5, 37, 500, 501, 502, 503, 2000):
        data = files_of(drawn(n))["/nix/var/nix/db/db.sqlite"]
        with opened(data, tmp_path) as database:
            assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
            assert database.execute("select count(*) from ValidPaths").fetchone() == (n,)
        whole.update(data)
    assert whole.hexdigest() == "eb258ea7ab40028030e20057cb282c7801c3b011aac15348aa108b9e7c2421ee"
