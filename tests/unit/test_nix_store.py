"""Closures out of a Nix store: what is read, by which names, as which source."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from closures import same_closure
from fastlayers import ClosureError, read_closure
from fastlayers.closure import unite
from fastlayers.sources import nix_store
from nix_stores import database_of, make_database, make_registered_store, moved, read, refer, register, registered
from stores import ABSENT, APP, BASE, LIB, NODES, write_file, write_json

pytestmark = pytest.mark.usefixtures("no_nix")


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
