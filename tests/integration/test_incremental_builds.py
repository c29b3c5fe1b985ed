"""What a second build looks at and sends, as the kernel and a registry see it; and many builders with one cache."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caches import make_canonical
from integration.clients import call, place
from integration.registries import DockerRegistry
from oracles.nar import nar_hash
from required import require_tool
from stores import write_file, write_json

PATHS = 12
BUILDERS = 10


@pytest.fixture(scope="module")
def registry() -> Iterator[DockerRegistry]:
    with place() as folder, contextlib.closing(DockerRegistry(folder)) as server:
        yield server


class Store:
    """A Nix store of its own, with two closures in it that differ in their last two paths."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "store"
        rng = random.Random(7)
        names = [f"{number:032d}-{name}" for number in range(PATHS) for name in ("old", "new")]
        for name in names:
            for number in range(5):
                write_file(self.path / name / "share" / f"{number}", rng.randbytes(20_000))
            make_canonical(self.path / name)
        unchanged = [name for name in names if name.endswith("old")][:-2]
        self.new = [name for name in names if name.endswith("new")][-2:]
        self.old = [name for name in names if name.endswith("old")][-2:]
        self.documents = {}
        for document, own in (("old", self.old), ("new", self.new)):
            nodes = [
                {"path": f"{self.path}/{name}", "references": [], "narHash": nar_hash(f"{self.path}/{name}")}
                for name in [*unchanged, *own]
            ]
            self.documents[document] = write_json(folder / f"{document}.json", {"graph": nodes})
        self.environment = {
            **os.environ,
            "NIX_STORE_DIR": str(self.path),
            "XDG_CACHE_HOME": str(folder / "xdg"),
        }

    def command(self, document: str, *options: str | Path) -> list[str | Path]:
        return [sys.executable, "-m", "fastlayers", "build", self.documents[document], "--json", "--quiet", *options]

    def build(self, document: str, *options: str | Path) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(call(*self.command(document, *options), env=self.environment))
        return made

    def looked_at(self, document: str, *options: str | Path) -> set[str]:
        """The names of the store paths that a build opens, lists or asks the status of."""
        strace = require_tool("strace")
        trace = self.path.parent / "trace"
        command = [strace, "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o", trace]
        call(*command, *self.command(document, *options), env=self.environment)
        seen = trace.read_text()
        assert "execve" in seen
        return set(re.findall(re.escape(f'"{self.path}/') + '([^/"]+)', seen))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_build_with_nothing_changed_opens_no_file_of_the_store(store: Store, tmp_path: Path) -> None:
    to = ("--to", f"oci:{tmp_path}/image:1")
    assert len(store.looked_at("old", *to)) == PATHS
    assert store.looked_at("old", *to) == set()
    assert store.looked_at("new", *to) == set(store.new)
    shutil.rmtree(tmp_path / "xdg")
    assert store.looked_at("new", *to) == set()  # the layout remembers
    shutil.rmtree(tmp_path / "xdg")
    assert len(store.looked_at("new", *to, "--no-cache")) == PATHS
    assert not (tmp_path / "xdg").exists()


@pytest.mark.parametrize("cache", [True, False], ids=["with a cache", "without"])
def test_a_push_sends_what_changed(cache: bool, store: Store, registry: DockerRegistry, tmp_path: Path) -> None:
    to = ("--to", f"docker://{registry.host}/app-{'cache' if cache else 'none'}:1")
    first = store.build("old", *to)
    assert [len(layer["paths"]) for layer in first["layers"]] == [1] * PATHS
    if not cache:
        shutil.rmtree(tmp_path / "xdg")
    before = len(registry.requests())
    looked_at = store.looked_at("new", *to)
    asked = [(method, path) for method, path, _ in registry.requests()[before:]]
    assert looked_at == set(store.new)
    assert sum(method in ("GET", "HEAD") for method, _ in asked) <= 3 + 2
    assert sum(method == "POST" for method, _ in asked) == 2 + 1  # two layers and the config
    # And once more there is nothing to do; on another machine neither.
    shutil.rmtree(tmp_path / "xdg", ignore_errors=True)
    before = len(registry.requests())
    again = store.build("new", *to)
    assert [(method, status) for method, _, status in registry.requests()[before:]] == [("GET", 200)]
    assert {event["event"] for layer in again["layers"] for event in layer["events"]} == {"reused", "skipped"}


def test_another_tag_to_start_from(store: Store, registry: DockerRegistry, tmp_path: Path) -> None:
    store.build("old", "--to", f"docker://{registry.host}/start:1")
    shutil.rmtree(tmp_path / "xdg")
    to = ("--to", f"docker://{registry.host}/start:2", "--push-base", f"docker://{registry.host}/start:1")
    assert store.looked_at("new", *to) == set(store.new)


def test_ten_builds_at_once_with_one_cache(store: Store, tmp_path: Path) -> None:
    """While one after the other is killed, none of the others fails, and what is remembered is what is true."""
    right = store.build("old", "--to", f"oci:{tmp_path}/right:1", "--no-cache")
    rng = random.Random(1)
    for turn in range(3):
        if turn != 1:  # with an empty cache, a full one, an empty one
            shutil.rmtree(tmp_path / "xdg", ignore_errors=True)
        builds = [
            subprocess.Popen(
                store.command("old", "--to", f"oci:{tmp_path}/image-{turn}-{number}:1", "--jobs", "1"),
                env=store.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
            for number in range(BUILDERS)
        ]
        time.sleep(rng.uniform(0.2, 1.0))
        with contextlib.suppress(ProcessLookupError):
            builds[0].send_signal(signal.SIGKILL)
        for number, build in enumerate(builds):
            out, error = build.communicate()
            if number or build.returncode == 0:
                assert build.returncode == 0, error
                assert json.loads(out)["manifest"] == right["manifest"]
        assert call(sys.executable, "-m", "fastlayers", "cache", "verify", env=store.environment)
    again = store.build("old", "--to", f"oci:{tmp_path}/verified:1", "--verify")
    assert again["manifest"] == right["manifest"]
    layout = tmp_path / "image-0-1"
    shutil.rmtree(tmp_path / "xdg")
    assert store.build("old", "--to", f"oci:{layout}:1", "--verify", "--prune")["written"] == 0
