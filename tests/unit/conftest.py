"""Registries in this process, the small store, and what a machine would add to it."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from caches import make_canonical, named_nodes
from fake_registry import FakeRegistry
from fastlayers import DigestCache, memory
from fastlayers.registry import sink, transport
from nix_stores import make_database, make_registered_store, moved, registered
from oracles.nar import nar_hash
from stores import make_store, write_file, write_json

pytest.register_assert_rewrite("loads", "malformed", "pushes", "rebuilds")


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    yield server
    server.close()


@pytest.fixture
def other() -> Iterator[FakeRegistry]:
    """A second one."""
    server = FakeRegistry()
    yield server
    server.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.001)


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer counts as large."""
    monkeypatch.setattr(sink, "_HELD", 0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The small store, with its graph.json; and with one, named.json, that knows its store paths where they are."""
    make_store(tmp_path)
    write_json(tmp_path / "named.json", {"graph": named_nodes(tmp_path / "root")})
    return tmp_path


@pytest.fixture
def named_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the same, in the working directory, and Nix's store; with another app, which changed.json names."""
    monkeypatch.chdir(store)
    monkeypatch.setenv("NIX_STORE_DIR", str(store / "root/nix/store"))
    nodes = json.loads(Path("named.json").read_text())["graph"]
    new = Path(nodes[0]["path"].replace("-app-3.0", "-app-3.1"))
    write_file(new / "bin" / "app", "#!/bin/sh\necho new app\n", 0o555)
    make_canonical(new)
    nodes[0] |= {"path": str(new), "narHash": nar_hash(str(new))}
    write_json(store / "changed.json", {"graph": nodes})
    return store / "root"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DigestCache:
    """One that is empty; the store of named.json is Nix's."""
    monkeypatch.setenv("NIX_STORE_DIR", str(tmp_path / "root/nix/store"))
    return DigestCache.open(str(tmp_path / "cache"))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled as soon as they are written."""
    monkeypatch.setattr(memory, "_UNSETTLED", -(1 << 62))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: the small store and its graph.json; no variable says anything."""
    make_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("VIRTUAL_ENV", "SOURCE_DATE_EPOCH", "NIX_STORE_DIR", "NIX_STORE", "NIX_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def no_nix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing falls back on this machine's Nix unseen, or on its store."""
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_REMOTE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder below which the small store and its database are."""
    return make_registered_store(tmp_path)


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
