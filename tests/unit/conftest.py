"""Registries in this process, folders to work in."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_registry import FakeRegistry
from fastlayers.registry import transport
from stores import make_store

pytest.register_assert_rewrite("malformed")


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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory: the small store and its graph.json; no variable says anything."""
    make_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("VIRTUAL_ENV", "SOURCE_DATE_EPOCH", "NIX_STORE_DIR", "NIX_STORE", "NIX_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)
