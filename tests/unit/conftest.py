"""Registries in this process."""

from collections.abc import Iterator

import pytest

from fake_registry import FakeRegistry
from fastlayers.registry import transport


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
