"""Closures out of a Nix store's database: what is read, in which states of the database, and as whom."""

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
from fastlayers import Closure, ClosureError, read_closure
from fastlayers.closure import unite
from fastlayers.sources import nix_database, nix_store
from fastlayers.sources.nix_database import DatabaseError, read_nar_hashes
from nix_stores import make_database, make_registered_store, refer, register, registered, snapshot
from required import require_root
from stores import ABSENT, APP, BASE, LIB, NODES, write_file, write_json


@pytest.fixture(autouse=True)
def no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test falls back on this machine's Nix unseen, or on its store."""
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_REMOTE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_registered_store(tmp_path)


def database_of(root: Path) -> Path:
    return root / "nix/var/nix/db/db.sqlite"


def read(root: Path, *names: str) -> Closure:
    return nix_store.read(names or [APP], store_root=str(root))


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wal", [True, False])
def test_the_closure_is_that_of_a_document(tmp_path: Path, wal: bool) -> None:
    root = make_registered_store(tmp_path, wal=wal)
    nodes = sorted(registered(root), key=lambda node: node["path"])
    document = write_json(tmp_path / "document.json", {"graph": nodes})
    found = read(root)
    same_closure(found, read_closure(document))
    assert found.nar_hashes == [node["narHash"] for node in nodes]
    assert found.references(found.index(LIB)) == [BASE]  # and not itself


def test_only_what_is_reached(root: Path) -> None:
    assert read(root, LIB).paths == sorted([LIB, BASE])
    assert read(root, BASE).paths == [BASE]
    assert read(root, BASE, LIB).paths == sorted([LIB, BASE])
    assert len(nix_store.read([], store_root=str(root))) == 0


def test_sizes_that_nix_has_not_noted(tmp_path: Path) -> None:
    nodes = [
        {**node, "narHash": "sha256:" + 64 * "0", "narSize": size}
        for node, size in zip(NODES, (None, 0, 7), strict=True)
    ]
    make_database(tmp_path / "nix/var/nix/db", nodes)
    found = read(tmp_path)
    assert [int(found.nar_sizes[found.index(path)]) for path in (APP, LIB, BASE)] == [-1, -1, 7]


def test_order_and_numbers_of_rows_decide_nothing(tmp_path: Path) -> None:
    nodes = [{**node, "narHash": "sha256:" + 64 * "0", "narSize": 7} for node in NODES]
    found = []
    for name, order in (("one", nodes), ("two", nodes[::-1])):
        file = make_database(tmp_path / name / "nix/var/nix/db", order)
        with closing(sqlite3.connect(file)) as database:
            database.execute("UPDATE sqlite_sequence SET seq = seq + 1000000000000")
            register(database, {"path": ABSENT, "narHash": "sha256:" + 64 * "1", "narSize": 1})
            refer(database, {"path": ABSENT, "references": [BASE]})
            refer(
                database,
                {"path": BASE, "references": [ABSENT]} if name == "never" else {"path": BASE, "references": []},
            )
            database.commit()
        found.append(read(tmp_path / name))
    same_closure(*found)


def test_nar_hashes_in_the_order_asked_for(root: Path) -> None:
    expected = {node["path"]: node["narHash"] for node in registered(root)}
    for paths in ([BASE, APP], [APP, BASE, APP], []):
        assert nix_store.nar_hashes(paths, store_root=str(root)) == [expected[path] for path in paths]
    with pytest.raises(ClosureError, match=f"{ABSENT}: not a valid path of the store whose database is in "):
        nix_store.nar_hashes([BASE, ABSENT], store_root=str(root))


def test_a_closure_of_2000_paths(tmp_path: Path) -> None:
    """More than a command line or a query may name one by one."""
    paths = [f"/nix/store/{number:032}-x" for number in range(2000)]
    nodes = [
        {
            "path": path,
            "narHash": "sha256:" + 64 * "0",
            "narSize": i + 1,
            "references": sorted({path, *paths[i // 2 : i // 2 + 9]}),
        }
        for i, path in enumerate(paths)
    ]
    nodes = [{**node, "references": [path for path in node["references"] if path <= node["path"]]} for node in nodes]
    make_database(tmp_path / "nix/var/nix/db", nodes)
    document = write_json(tmp_path / "document.json", nodes)
    same_closure(read(tmp_path, *paths), read_closure(document))
    assert set(read(tmp_path, paths[-1]).paths) < set(paths)


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_below_a_root(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "result").symlink_to(APP)
    profiles = root / "nix/var/nix/profiles"
    profiles.mkdir()
    (profiles / "default").symlink_to("default-2-link")
    (profiles / "default-2-link").symlink_to(APP)
    (root / "home").mkdir()
    (root / "home/.nix-profile").symlink_to("/nix/var/nix/profiles/default")  # absolute, as seen from within the root
    (tmp_path / "far").symlink_to(f"{root}/home")
    monkeypatch.chdir(tmp_path)
    expected = read(root, APP)
    for name in (
        f"{APP}/bin/app",
        f"{APP}/",
        f"//nix/store/../store/{APP[11:]}",
        f"{root}{APP}",
        "result",
        "./result/bin",
        str(tmp_path / "result"),
        str(profiles / "default"),
        str(root / "home/.nix-profile"),
        "far/.nix-profile/bin/app",
    ):
        same_closure(read(root, name), expected)
    monkeypatch.chdir(root / APP[1:] / "bin")
    same_closure(read(root, "."), expected)
    same_closure(read(root, "app"), expected)


def test_a_root_that_is_a_symlink(root: Path, tmp_path: Path) -> None:
    (root / "home").mkdir()
    (root / "home/profile").symlink_to("/nix/var/nix/profiles/default")
    (root / "nix/var/nix/profiles").mkdir()
    (root / "nix/var/nix/profiles/default").symlink_to(APP)
    (tmp_path / "link").symlink_to("root")
    for name in (APP, f"{tmp_path}/link{APP}", f"{root}{APP}", f"{tmp_path}/link/home/profile", f"{root}/home/profile"):
        same_closure(read(tmp_path / "link", name), read(root))


@pytest.fixture
def by_variables(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same store where NIX_STORE_DIR and NIX_STATE_DIR say that it is."""
    folder = tmp_path / "other"
    nodes = [
        {
            **node,
            "path": moved(folder, node["path"]),
            "references": [moved(folder, path) for path in node["references"]],
        }
        for node in registered(root)
    ]
    shutil.copytree(root / "nix/store", folder / "store", symlinks=True)
    make_database(folder / "state/db", nodes)
    monkeypatch.setenv("NIX_STORE_DIR", str(folder / "store"))
    monkeypatch.setenv("NIX_STATE_DIR", str(folder / "state"))
    return folder


def moved(folder: Path, path: str) -> str:
    return path.replace("/nix/store", str(folder / "store"))


def test_a_store_that_variables_name(by_variables: Path, tmp_path: Path) -> None:
    expected = sorted(moved(by_variables, path) for path in (APP, LIB, BASE))
    (tmp_path / "result").symlink_to(moved(by_variables, APP))
    assert read_closure(f"nix:{tmp_path}/result").paths == expected
    assert read_closure(moved(by_variables, APP)).paths == expected
    with pytest.raises(ClosureError, match=f"^{APP}: (not in the store {by_variables}/store|No such file)"):
        read_closure(f"nix:{APP}")


def test_a_store_that_is_a_symlink(by_variables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (by_variables / "store").rename(tmp_path / "disk")
    (by_variables / "store").symlink_to(tmp_path / "disk")
    name = moved(by_variables, APP)
    for place in (name, name.replace(f"{by_variables}/store", f"{tmp_path}/disk")):
        assert len(read_closure(f"nix:{place}")) == 3
    monkeypatch.chdir(name)
    assert len(read_closure("nix:.")) == 3


def test_a_link_in_the_store_is_a_store_path(root: Path) -> None:
    link = BASE.replace("base", "link")
    (root / link[1:]).symlink_to(APP)
    with closing(sqlite3.connect(database_of(root))) as database:
        register(database, {"path": link, "narHash": "sha256:" + 64 * "0", "narSize": 1})
        refer(database, {"path": link, "references": [LIB]})
        database.commit()
    assert read(root, link).paths == sorted([link, LIB, BASE])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "nix: expected nix:PATH"),
        ("/", "/: not in the store {root}/nix/store, and no symlink into it"),
        ("/nix/store", "/nix/store: "),
        ("/nix/store/", "/nix/store/: "),
        ("/nix/store/..", "/nix/store/..: "),
        ("/nix/storey/x", "/nix/storey/x: No such file or directory"),
        ("absent", "absent: No such file or directory"),
        ("loop", "loop: not in the store {root}/nix/store, and no symlink into it"),
        ("outside", "outside: not in the store {root}/nix/store, and no symlink into it"),
        (ABSENT, f"{ABSENT}: not a valid path of the store whose database is in {{root}}/nix/var/nix/db"),
        (f"{ABSENT}/bin", f"{ABSENT}: not a valid path of the store"),
        ("gone", f"{ABSENT}: not a valid path of the store"),
        ("/nix/store/.links", "/nix/store/.links: not a valid path of the store"),
        (f"{APP}x", f"{APP}x: not a valid path of the store"),
        (APP[:-1], f"{APP[:-1]}: not a valid path of the store"),
        ("/nix/store/caf\udcff", "/nix/store/caf\udcff: not a valid path of the store"),
        ("/nix/store/café", "/nix/store/café: not a valid path of the store"),
        ("/nix/store/' OR '1' = '1", "/nix/store/' OR '1' = '1: not a valid path of the store"),
    ],
)
def test_names_that_lead_nowhere(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "outside").symlink_to(tmp_path)
    (tmp_path / "gone").symlink_to(ABSENT)
    with pytest.raises(ClosureError) as refused:
        read(root, name)
    assert str(refused.value).startswith(says.format(root=root))
    with pytest.raises(ClosureError):
        read(root, APP, name)


# --- which source a name is -------------------------------------------------------------------------------------------


def test_sources_with_and_without_a_scheme(by_variables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, base = moved(by_variables, APP), moved(by_variables, BASE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "result").symlink_to(app)
    for source in (
        f"nix:{app}",
        app,
        "nix:result",
        "result",
        "./result",
        Path("result"),
        "result/bin",
        "nix:result/bin/app",
    ):
        assert len(read_closure(source)) == 3, source
    # A file in the store is read: it may be a document that Nix made.
    graph = [{"path": base, "references": []}]
    write_json(Path(app) / "graph.json", {"graph": graph})
    for source in (f"{app}/graph.json", "result/graph.json"):
        assert read_closure(source).paths == [base]
    assert len(read_closure("nix:result/graph.json")) == 3
    document = write_json(by_variables / "store" / "00000000000000000000000000000000-graph.json", {"graph": graph})
    (tmp_path / "result-2").symlink_to(document)
    assert read_closure("result-2").paths == [base]
    with pytest.raises(ClosureError, match=f"{document}: not a valid path"):
        read_closure("nix:result-2")


def test_a_file_in_the_store_that_is_no_document(by_variables: Path, tmp_path: Path) -> None:
    program = moved(by_variables, f"{APP}/bin/app")
    with pytest.raises(ClosureError) as refused:
        read_closure(program)
    assert str(refused.value) == (
        f"{program}: in none of the formats: neither JSON nor exportReferencesGraph's text form "
        f"(nix:{program} is the closure of this store path)"
    )
    outside = write_file(tmp_path / "x", "#!/bin/sh\n")
    with pytest.raises(ClosureError, match=r"text form$"):
        read_closure(outside)


def test_folders_that_are_not_in_the_store(tmp_path: Path) -> None:
    with pytest.raises(
        ClosureError, match=r"a folder: expected a file that Nix made, nix:PATH of a store, or venv:DIR"
    ):
        read_closure(tmp_path)


@pytest.mark.parametrize("prefix", ["nix:", ""])
def test_a_store_path_has_no_keys(by_variables: Path, prefix: str) -> None:
    source = prefix + moved(by_variables, APP)
    with pytest.raises(ClosureError, match=f"^{source}: no key graph: this is not a document$"):
        read_closure(source, key="graph")


def test_several_store_paths_are_united(root: Path) -> None:
    parts = [read_closure(f"nix:{path}", store_root=str(root)) for path in (BASE, LIB)]
    found, expected = unite(parts), read(root, LIB)
    assert (found.paths, found.nar_hashes) == (expected.paths, expected.nar_hashes)
    assert (found.indptr.tolist(), found.indices.tolist()) == (expected.indptr.tolist(), expected.indices.tolist())


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
    database_of(by_variables)
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
