"""A Nix store's database: in which states it is read, as whom, and what is asked where it cannot be."""

import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from closures import same_closure
from fastlayers import ClosureError, read_closure
from fastlayers.sources import nix_database, nix_store
from fastlayers.sources.nix_database import DatabaseError, read_nar_hashes
from nix_stores import (
    database_of,
    make_registered_store,
    moved,
    read,
    register,
    registered,
    snapshot,
)
from required import require_root
from stores import ABSENT, APP, BASE, LIB, write_file

pytestmark = pytest.mark.usefixtures("no_nix")


# --- states of the database -------------------------------------------------------------------------------------------


@contextmanager
def writing(root: Path) -> Iterator[sqlite3.Connection]:
    """A connection such as Nix's, in WAL mode, that has committed a path and is writing another one."""
    with closing(sqlite3.connect(database_of(root), isolation_level=None)) as database:
        register(database, {"path": ABSENT, "narHash": "sha256:" + 64 * "1", "narSize": 1})
        database.execute("BEGIN IMMEDIATE")
        register(database, {"path": f"{ABSENT}-2", "narHash": "sha256:" + 64 * "2", "narSize": 1})
        yield database


@pytest.fixture
def writer(root: Path) -> Iterator[sqlite3.Connection]:
    with writing(root) as database:
        yield database


def test_a_store_at_rest_is_read_without_a_trace(root: Path) -> None:
    folder = database_of(root).parent
    before = snapshot(folder)
    assert set(before) == {"db.sqlite", "schema"}
    read(root)
    assert snapshot(folder) == before


def test_a_busy_writer(root: Path, writer: sqlite3.Connection) -> None:
    assert database_of(root).with_name("db.sqlite-wal").stat().st_size
    assert len(read(root)) == 3
    assert read(root, ABSENT).paths == [ABSENT]  # it is in the log alone
    with pytest.raises(ClosureError, match="not a valid path"):
        read(root, f"{ABSENT}-2")
    writer.execute("COMMIT")
    assert read(root, f"{ABSENT}-2").paths == [f"{ABSENT}-2"]


def test_a_log_that_a_writer_left_behind(root: Path, writer: sqlite3.Connection, tmp_path: Path) -> None:
    """As after a power failure; SQLite reads the log when it is there."""
    shutil.copytree(root, tmp_path / "copy", symlinks=True)
    assert read(tmp_path / "copy", ABSENT).paths == [ABSENT]
    database_of(tmp_path / "copy").with_name("db.sqlite-shm").unlink()
    assert read(tmp_path / "copy", ABSENT).paths == [ABSENT]


def test_a_busy_writer_with_a_rollback_journal(tmp_path: Path) -> None:
    """As Nix has it with "use-sqlite-wal = false": what is being written is never seen."""
    root = make_registered_store(tmp_path, wal=False)
    with closing(sqlite3.connect(database_of(root), isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = truncate")
        database.execute("BEGIN IMMEDIATE")
        register(database, {"path": ABSENT, "narHash": "sha256:" + 64 * "1", "narSize": 1})
        assert database_of(root).with_name("db.sqlite-journal").stat().st_size
        assert len(read(root)) == 3
        with pytest.raises(ClosureError, match="not a valid path"):
            read(root, ABSENT)
        database.execute("COMMIT")
        database.execute("BEGIN EXCLUSIVE")  # as when the database's own pages are written: readers have to wait
        register(database, {"path": f"{ABSENT}-2", "narHash": "sha256:" + 64 * "1", "narSize": 1})
        with ThreadPoolExecutor(1) as reader:
            waiting = reader.submit(read, root, f"{ABSENT}-2")
            time.sleep(0.1)
            assert not waiting.done()
            database.execute("COMMIT")
            assert waiting.result().paths == [f"{ABSENT}-2"]
    assert read(root, ABSENT).paths == [ABSENT]
    assert database_of(root).with_name("db.sqlite-journal").stat().st_size == 0


@pytest.fixture
def of_root() -> Iterator[Path]:
    """A store that belongs to root, at a place where others may read it."""
    require_root("another user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield make_registered_store(Path(folder))


@contextmanager
def nobody(root: Path) -> Iterator[None]:
    """Whatever is done within is done by a user who may not write there."""
    os.setegid(65534)
    os.seteuid(65534)
    try:
        with pytest.raises(PermissionError):
            (database_of(root).parent / "new").touch()
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def test_who_may_not_write_there(of_root: Path) -> None:
    folder = database_of(of_root).parent
    before = snapshot(folder)
    with nobody(of_root):
        assert len(read(of_root)) == 3
    assert snapshot(folder) == before


def test_who_may_not_write_there_beside_a_busy_writer(of_root: Path) -> None:
    with writing(of_root), nobody(of_root):
        assert read(of_root, ABSENT).paths == [ABSENT]


def test_who_may_not_write_there_and_has_a_log_alone(of_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the file of locks, which nobody may not make, the log cannot be read; it must not be passed over."""
    monkeypatch.setattr(nix_database, "_PAUSES", (0.0, 0.0))
    copy = of_root.parent / "copy"
    with writing(of_root):
        shutil.copytree(of_root, copy, symlinks=True)
    database_of(copy).with_name("db.sqlite-shm").unlink()
    with (
        nobody(copy),
        pytest.raises(
            ClosureError, match=r"db\.sqlite: unable to open database file; and there is no nix-store to ask"
        ),
    ):
        read(copy)


def test_who_may_not_read_it(of_root: Path) -> None:
    database_of(of_root).chmod(0o600)
    with (
        nobody(of_root),
        pytest.raises(ClosureError, match=r"db\.sqlite: Permission denied; and there is no nix-store to ask instead$"),
    ):
        read(of_root)


def test_a_database_that_is_written_while_it_is_read(root: Path) -> None:
    """The first look is thrown away: what it saw may be half of one state and half of another."""
    file = database_of(root)
    looks = []

    def query(database: sqlite3.Connection) -> int:
        if not looks:
            with closing(sqlite3.connect(file)) as other:  # which moves its log into the database when it ends
                other.execute("DELETE FROM Refs")
                other.commit()
        (count,) = database.execute("SELECT count(*) FROM Refs").fetchone()
        looks.append(count)
        return count

    assert nix_database._read(str(file.parent), query) == 0
    assert len(looks) == 2


def test_a_database_that_is_written_all_the_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nix_database, "_PAUSES", (0.0,) * 4)
    file = database_of(root)
    looks = []

    def query(database: sqlite3.Connection) -> None:
        looks.append(1)
        with closing(sqlite3.connect(file)) as other:
            other.execute("UPDATE ValidPaths SET registrationTime = registrationTime + 1")
            other.commit()
        if len(looks) == 2:
            raise sqlite3.DatabaseError("malformed")  # as half of a state may look

    with pytest.raises(DatabaseError, match=r"db.sqlite: (written all the time|malformed)"):
        nix_database._read(str(file.parent), query)
    assert len(looks) == 4


def test_folders_whose_names_mean_something_in_a_uri(tmp_path: Path) -> None:
    root = make_registered_store(tmp_path / "a%20b?c#d&e=f \N{SNOWMAN}")
    assert len(read(root)) == 3


# --- databases that are not read, and nix-store instead ---------------------------------------------------------------


def newer(file: Path) -> None:
    file.with_name("schema").write_text("11\n")


def other_columns(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("ALTER TABLE ValidPaths RENAME COLUMN hash TO digest")
        database.commit()


def dangling(file: Path) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute("DELETE FROM ValidPaths WHERE path = ?", (BASE,))
        database.commit()


UNREAD: list[tuple[Callable[[Path], object], str]] = [
    (Path.unlink, "db.sqlite: No such file or directory"),
    (lambda file: file.with_name("schema").unlink(), "schema: No such file or directory"),
    (newer, "schema: schema 11: 10 is the one that is known"),
    (lambda file: file.with_name("schema").write_bytes(b"\xff" * 1000), "schema: schema "),
    (other_columns, "db.sqlite: no such column: hash"),
    (lambda file: file.write_bytes(b"no database" * 1000), "db.sqlite: file is not a database"),
    (lambda file: file.write_bytes(b""), "db.sqlite: no such table: ValidPaths"),
    (lambda file: os.truncate(file, 9000), "db.sqlite: database disk image is malformed"),
    (dangling, "db.sqlite: a reference to a path that is not registered"),
]


@pytest.mark.parametrize(("harm", "says"), UNREAD, ids=[says[:40] for _, says in UNREAD])
def test_databases_that_cannot_be_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], object], says: str
) -> None:
    harm(database_of(root))
    with pytest.raises(ClosureError) as refused:
        read(root)
    assert f"{database_of(root).parent}/{says}" in str(refused.value)
    assert "\n" not in str(refused.value)
    if "No such file" not in says:
        assert str(refused.value).endswith("; and there is no nix-store to ask instead")


def test_a_python_without_sqlite(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(ClosureError, match=r"db\.sqlite: import of sqlite3 halted.*no nix-store to ask instead"):
        read(root)


@pytest.fixture
def program(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A nix-store that prints what the real one prints of the small store, and notes in a folder what it was asked."""
    folder = tmp_path / "program"
    dump = "".join(
        f"{node['path']}\n{node['narHash'][7:]}\n{node['narSize']}\n\n{len(node['references'])}\n"
        + "".join(f"{path}\n" for path in node["references"])
        for node in registered(root)
    )
    write_file(folder / "dump", dump)
    write_file(folder / "requisites", "".join(f"{path}\n" for path in (BASE, LIB, APP)))
    script = f"""#!/bin/sh
printf '%s\\n' "$@" >> {folder}/asked
case "$*" in
    *absent*) echo "warning: something" >&2; echo "error: path '{ABSENT}' is not valid" >&2; exit 1 ;;
    *--dump-db*) exec /bin/cat {folder}/dump ;;
    *) exec /bin/cat {folder}/requisites ;;
esac
"""
    write_file(folder / "bin" / "nix-store", script, 0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    return folder


@pytest.mark.parametrize("harm", [newer, other_columns])
def test_nix_store_is_asked_instead(root: Path, program: Path, harm: Callable[[Path], object]) -> None:
    expected = read(root)
    assert not (program / "asked").exists()
    harm(database_of(root))
    same_closure(read(root), expected)
    asked = (program / "asked").read_text().splitlines()
    store = f"local?root={root}&real={root}/nix/store&state={root}/nix/var/nix"
    assert asked == ["--store", store, "--query", "--requisites", APP, "--store", store, "--dump-db", *expected.paths]
    assert nix_store.nar_hashes([LIB, BASE], store_root=str(root)) == [
        expected.nar_hashes[expected.index(path)] for path in (LIB, BASE)
    ]
    newer(database_of(root))
    with pytest.raises(ClosureError) as refused:
        read(root, ABSENT)
    assert str(refused.value).startswith(f"nix-store: path '{ABSENT}' is not valid ({database_of(root).parent}/")


def test_the_machine_s_own_store_is_asked_without_a_database(
    by_variables: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is but the daemon's socket; nix-store itself knows the variables."""
    shutil.rmtree(by_variables / "state" / "db")
    write_file(program / "requisites.new", moved(by_variables, (program / "requisites").read_text())).rename(
        program / "requisites"
    )
    write_file(program / "dump.new", moved(by_variables, (program / "dump").read_text())).rename(program / "dump")
    assert len(read_closure(f"nix:{moved(by_variables, APP)}")) == 3
    assert (program / "asked").read_text().splitlines()[:3] == ["--store", "daemon", "--query"]
    monkeypatch.setenv("NIX_REMOTE", "unix:///elsewhere")
    (program / "asked").unlink()
    assert len(read_closure(f"nix:{moved(by_variables, APP)}")) == 3
    assert (program / "asked").read_text().splitlines()[0] == "--query"


def test_sizes_that_nix_store_does_not_know(root: Path, program: Path) -> None:
    newer(database_of(root))
    text = (program / "dump").read_text()
    (program / "dump").chmod(0o644)
    (program / "dump").write_text(re.sub(r"^\d{2,}$", "0", text, flags=re.MULTILINE))
    assert set(read(root).nar_sizes.tolist()) == {-1}


def test_nix_store_makes_no_database_below_a_root(tmp_path: Path, program: Path) -> None:
    with pytest.raises(ClosureError) as refused:
        read(tmp_path / "elsewhere")
    assert str(refused.value) == f"{tmp_path}/elsewhere/nix/var/nix/db/schema: No such file or directory"
    assert not (program / "asked").exists()


@pytest.mark.parametrize(
    ("file", "data", "says"),
    [
        ("dump", f"{APP}\nabc\nmany\n\n0\n", "nix-store --dump-db: not what it is known to print"),
        ("dump", f"{APP}\nabc\n7\n\n2\n{BASE}\n", "nix-store --dump-db: not what it is known to print"),
        ("dump", f"{APP}\nabc\n", "nix-store --dump-db: not what it is known to print"),
        ("dump", "", f"{APP}: nix-store --dump-db tells nothing of it"),
        ("requisites", f"{BASE}\n{APP}\n", f"{APP}: its reference {LIB} is not in the closure"),
    ],
)
def test_a_nix_store_that_prints_something_else(root: Path, program: Path, file: str, data: str, says: str) -> None:
    newer(database_of(root))
    (program / file).chmod(0o644)
    (program / file).write_text(data)
    with pytest.raises(ClosureError) as refused:
        read(root)
    assert str(refused.value).startswith(says)


def test_hashes_of_no_path_need_nothing(root: Path) -> None:
    assert read_nar_hashes(str(database_of(root).parent), []) == []
