"""Images go into real engines, which get what they lack, and run it; what fails leaves no name."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.clients import Containerd, Docker, NixClosure, Podman, call, fastlayers, place


@dataclass(frozen=True)
class Target:
    """An engine, and what its destinations begin with."""

    transport: str
    engine: Docker | Podman | Containerd

    def load(self, closure: NixClosure, tag: str, *options: str | Path) -> dict[str, Any]:
        """Build the closure's image, whose last layer differs from tag to tag; what the build tells."""
        done: dict[str, Any] = json.loads(
            fastlayers(
                *("build", closure.folder / "graph.json", "--to", f"{self.transport}:fastlayers-load:{tag}"),
                *("--cmd", closure.command, "--json", *options),
                env=self.engine.environment,
            )
        )
        return done

    def run(self, tag: str) -> str:
        return self.engine.run(f"{self.prefix}fastlayers-load:{tag}")

    @property
    def prefix(self) -> str:
        return "docker.io/library/" if self.transport == "containerd" else ""

    def tags(self) -> list[str]:
        return [name.rpartition(":")[2] for name in self.engine.names()]


@pytest.fixture(params=["docker-daemon", "podman", "containerd"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    engine = request.getfixturevalue(request.param.removesuffix("-daemon"))
    yield Target(request.param, engine)
    engine.forget()


def extra(tmp_path: Path, text: str) -> list[str | Path]:
    """Options for another last layer."""
    folder = tmp_path / text
    folder.mkdir()
    (folder / "text").write_text(text)
    return ["--extra-files", folder]


def test_what_is_missing_is_loaded_and_runs(
    target: Target, git_closure: NixClosure, git_layout: Path, tmp_path: Path
) -> None:
    first = target.load(git_closure, "1")
    assert first["notes"] == []
    assert target.run("1").startswith("git version ")
    stored = sum(layer["size"] for layer in first["layers"])
    assert stored < first["sent"] < 1.02 * stored
    (entry,) = json.loads((git_layout / "index.json").read_text())["manifests"]
    manifest = json.loads((git_layout / "blobs" / entry["digest"].replace(":", "/")).read_text())
    assert first["image_id"] == manifest["config"]["digest"]
    if not isinstance(target.engine, Containerd):
        assert target.engine.inspect("fastlayers-load:1")["Id"].removeprefix("sha256:") == first["image_id"][7:]

    second = target.load(git_closure, "2", *extra(tmp_path, "second"))
    assert second["notes"] == [] and second["sent"] < 200_000
    assert target.run("2").startswith("git version ") and target.run("1").startswith("git version ")
    assert sorted(target.tags()) == ["1", "2"]


def test_a_name_moves_to_another_image(target: Target, git_closure: NixClosure, tmp_path: Path) -> None:
    target.load(git_closure, "1")
    second = target.load(git_closure, "1", *extra(tmp_path, "second"), "--compress", "gzip")
    assert target.run("1").startswith("git version ") and target.tags() == ["1"]
    stored = sum(layer["size"] for layer in second["layers"])
    # Stored gzip layers have other digests than plain ones: who looks by digest gets them all.
    assert second["sent"] < 200_000 or (target.transport != "docker-daemon" and second["sent"] > stored)


def test_layers_that_are_lost_are_sent_again(target: Target, git_closure: NixClosure, tmp_path: Path) -> None:
    """Between the question and the load all images are removed, by a program that stands in the way."""
    target.load(git_closure, "1")
    closure = read(git_closure)
    code = f"""
import json, sys
import fastlayers
from fastlayers.destinations import engine
began = engine.EngineImage._open
def lose(self, held):
    if held.diff_ids or held.digests:
        import subprocess
        for command in {forget_commands(target)!r}:
            subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
    began(self, held)
engine.EngineImage._open = lose
closure = fastlayers.read_closure({closure!r})
destination = fastlayers.parse_destination("{target.transport}:fastlayers-load:2")
settings = fastlayers.Settings({{"Cmd": {git_closure.command.split()!r}}})
made = fastlayers.build_image(closure, [destination], settings=settings, jobs=1)
print(json.dumps([made.notes, made.sent]))
"""
    notes, sent = json.loads(call(sys.executable, "-c", code, env=target.engine.environment))
    assert len(notes) == 1 and "so that all were sent" in notes[0] and "\n" not in notes[0]
    assert sent > 10_000_000
    assert target.tags() == ["2"] and target.run("2").startswith("git version ")


def read(closure: NixClosure) -> str:
    return str(closure.folder / "graph.json")


def forget_commands(target: Target) -> list[str]:
    if isinstance(target.engine, Containerd):
        return ["ctr images rm --sync $(ctr images ls -q)"]
    if isinstance(target.engine, Docker):
        return ["docker rmi --force $(docker images -aq)"]
    return ["podman rmi --all --force"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_no_name(
    target: Target, number: signal.Signals, git_closure: NixClosure
) -> None:
    """While layers are sent: the archive has no end then, so that nothing is named."""
    code = f"""
import os, signal
import fastlayers
from fastlayers.destinations import engine
end = engine.EngineImage._end
def stop(self, image):
    self._stream.tar.write(bytes(1000))
    os.kill(os.getpid(), {int(number)})
    end(self, image)
engine.EngineImage._end = stop
from fastlayers.cli.main import run
run(["build", {read(git_closure)!r}, "--to", "{target.transport}:fastlayers-load:1", "--quiet"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=target.engine.environment
    )
    assert done.returncode == (130 if number == signal.SIGINT else -number)
    assert done.stderr == ("fastlayers: interrupted\n" if number == signal.SIGINT else "")
    time.sleep(0.2)
    assert target.tags() == []


def test_a_dockerd_that_dies_ends_the_build(git_closure: NixClosure) -> None:
    with place() as folder:
        engine = Docker(folder)
        try:
            target = Target("docker-daemon", engine)
            target.load(git_closure, "1")
            code = f"""
import os, signal
from fastlayers.destinations import engine
end = engine.EngineImage._end
def die(self, image):
    os.kill({engine.pid}, signal.SIGKILL)
    end(self, image)
engine.EngineImage._end = die
from fastlayers.cli.main import run
run(["build", {read(git_closure)!r}, "--to", "docker-daemon:fastlayers-load:2", "--quiet", "--env", "A=B"])
"""
            done = subprocess.run(
                [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=engine.environment
            )
            assert done.returncode == 8
            assert done.stderr.startswith(f"fastlayers: docker at unix://{folder}/s: ") and done.stderr.count("\n") == 1
        finally:
            engine.close()
