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
class Small:
    """A small closure in the store of this machine: its root, and a program of it."""

    root: str
    program: str

    @property
    def build(self) -> list[str]:
        """What builds its image."""
        return ["build", f"nix:{self.root}", "--cmd", f"{self.program} --version"]


@pytest.fixture(scope="module")
def small(git_closure: NixClosure) -> Small:
    (root,) = (path for path in git_closure.paths if "-coreutils-" in path)
    return Small(root, str(next(Path(root).rglob("bin/uname"))))


@dataclass(frozen=True)
class Target:
    """An engine, and what its destinations begin with."""

    transport: str
    engine: Docker | Podman | Containerd

    def load(self, closure: Small, tag: str, *options: str | Path) -> dict[str, Any]:
        """Build the closure's image; what the build tells."""
        to = ("--to", f"{self.transport}:fastlayers-load:{tag}")
        done: dict[str, Any] = json.loads(
            fastlayers(*closure.build, *to, "--json", *options, env=self.engine.environment)
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


def test_what_is_missing_is_loaded_and_runs(target: Target, small: Small, tmp_path: Path) -> None:
    first = target.load(small, "1", "--to", f"oci:{tmp_path}/layout:1")
    assert first["notes"] == []
    assert target.run("1").startswith("uname ")
    stored = sum(layer["size"] for layer in first["layers"])
    assert stored < first["sent"] < 1.01 * stored + 20_480
    (entry,) = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"]
    manifest = json.loads((tmp_path / "layout" / "blobs" / entry["digest"].replace(":", "/")).read_text())
    assert first["image_id"] == manifest["config"]["digest"]
    if not isinstance(target.engine, Containerd):
        assert target.engine.inspect("fastlayers-load:1")["Id"].removeprefix("sha256:") == first["image_id"][7:]

    second = target.load(small, "2", *extra(tmp_path, "second"))
    assert second["notes"] == [] and second["sent"] < 100_000
    assert target.run("2").startswith("uname ") and target.run("1").startswith("uname ")
    assert sorted(target.tags()) == ["1", "2"]

    # Stored gzip layers have other digests than plain ones: who looks by digest gets them all.
    third = target.load(small, "1", *extra(tmp_path, "third"), "--compress", "gzip")
    stored = sum(layer["size"] for layer in third["layers"])
    assert third["sent"] < 100_000 or (target.transport != "docker-daemon" and third["sent"] > stored)
    assert target.run("1").startswith("uname ") and sorted(target.tags()) == ["1", "2"]


def test_an_image_goes_where_the_docker_command_goes(docker: Docker, small: Small, tmp_path: Path) -> None:
    """By a context that docker has made: in use, or named by the environment; DOCKER_HOST wins."""
    known = docker.environment
    plain = {name: value for name, value in known.items() if name not in ("DOCKER_HOST", "DOCKER_CONTEXT")}
    plain["DOCKER_CONFIG"] = str(tmp_path)
    call("docker", "context", "create", "here", "--docker", f"host={known['DOCKER_HOST']}", env=plain)
    call("docker", "context", "create", "away", "--docker", "host=unix:///nowhere/s", env=plain)

    def load(tag: str, environment: dict[str, str]) -> None:
        fastlayers(*small.build, "--to", f"docker-daemon:fastlayers-load:{tag}", "--quiet", env=environment)
        assert call("docker", "images", "--quiet", f"fastlayers-load:{tag}", env=environment)

    try:
        load("1", {**plain, "DOCKER_CONTEXT": "here"})
        call("docker", "context", "use", "here", env=plain)
        load("2", plain)
        call("docker", "context", "use", "away", env=plain)
        load("3", {**plain, "DOCKER_HOST": known["DOCKER_HOST"]})
        with pytest.raises(AssertionError, match="status 8\nfastlayers: docker at unix:///nowhere/s: No such file"):
            load("4", plain)
        assert [name.rpartition(":")[2] for name in docker.names()] == ["1", "2", "3"]
    finally:
        docker.forget()


def test_layers_that_are_lost_are_sent_again(target: Target, small: Small) -> None:
    """Between the question and the load all images are removed, by a program that stands in the way."""
    target.load(small, "1")
    code = f"""
from fastlayers.destinations import engine
began = engine.EngineImage._open
def lose(self, held):
    if held.diff_ids or held.digests:
        import subprocess
        for command in {forget_commands(target)!r}:
            subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL)
    began(self, held)
engine.EngineImage._open = lose
from fastlayers.cli.main import run
run({[*small.build, "--to", f"{target.transport}:fastlayers-load:2", "--json", "--label", "a=b"]!r})
"""
    done = json.loads(call(sys.executable, "-c", code, env=target.engine.environment))
    assert len(done["notes"]) == 1 and "so that all were sent" in done["notes"][0] and "\n" not in done["notes"][0]
    assert done["sent"] > sum(layer["size"] for layer in done["layers"])
    assert target.tags() == ["2"] and target.run("2").startswith("uname ")


def forget_commands(target: Target) -> list[str]:
    if isinstance(target.engine, Containerd):
        return ["ctr images rm --sync $(ctr images ls -q)"]
    if isinstance(target.engine, Docker):
        return ["docker rmi --force $(docker images -aq)"]
    return ["podman rmi --all --force"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_stopped_leaves_no_name(target: Target, number: signal.Signals, small: Small) -> None:
    """While layers are sent: the archive has no end then, so that nothing is named."""
    code = f"""
import os
from fastlayers.destinations import engine
end = engine.EngineImage._end
def stop(self, image):
    self._stream.tar.write(bytes(1000))
    os.kill(os.getpid(), {int(number)})
    end(self, image)
engine.EngineImage._end = stop
from fastlayers.cli.main import run
run({[*small.build, "--to", f"{target.transport}:fastlayers-load:1", "--quiet"]!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=target.engine.environment
    )
    assert done.returncode == (130 if number == signal.SIGINT else -number)
    assert done.stderr == ("fastlayers: interrupted\n" if number == signal.SIGINT else "")
    time.sleep(0.2)
    assert target.tags() == []


def test_a_dockerd_that_dies_ends_the_build(small: Small) -> None:
    with place() as folder:
        engine = Docker(folder)
        try:
            target = Target("docker-daemon", engine)
            target.load(small, "1")
            code = f"""
import os, signal
from fastlayers.destinations import engine
end = engine.EngineImage._end
def die(self, image):
    os.kill({engine.pid}, signal.SIGKILL)
    end(self, image)
engine.EngineImage._end = die
from fastlayers.cli.main import run
run({[*small.build, "--to", "docker-daemon:fastlayers-load:2", "--quiet", "--label", "a=b"]!r})
"""
            done = subprocess.run(
                [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=engine.environment
            )
            assert done.returncode == 8
            assert done.stderr.startswith(f"fastlayers: docker at unix://{folder}/s: ") and done.stderr.count("\n") == 1
        finally:
            engine.close()
