"""How many layers clients take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastlayers import PlanError, inspect_image
from fastlayers.cli import run
from fastlayers.clients import CLIENTS, check_layer_count, layer_limit
from images import StoredImage, tar_of
from stores import write_file, write_json


@pytest.mark.parametrize(("client", "most"), [("docker", 125), ("podman", 128), ("containerd", 500)])
def test_limits(client: str, most: int) -> None:
    assert layer_limit(client) == 120
    assert layer_limit(client, most) == most
    check_layer_count(client, most)
    for check in (layer_limit, check_layer_count):
        with pytest.raises(PlanError, match=f"{most + 1} layers: {client} takes at most {most}"):
            check(client, most + 1)


def test_no_client() -> None:
    for call in (layer_limit, lambda name: check_layer_count(name, 1)):
        with pytest.raises(PlanError, match=f"no client rkt; there are: {', '.join(CLIENTS)}"):
            call("rkt")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 140 paths."""
    folder = tmp_path_factory.mktemp("store")
    paths = [f"/nix/store/{'0123456789abcdfghijklmnpqrsvwxyz'[i % 32] * 31}{i % 10}-node-{i:03}" for i in range(140)]
    for path in paths:
        write_file(folder / "root" / path[1:], "x")
    write_json(folder / "graph.json", {"graph": [{"path": path, "references": [], "narSize": 120} for path in paths]})
    return folder


def ended(arguments: list[Any], capfd: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as stopped:
        run(list(map(str, arguments)))
    return stopped.value.code or 0, *capfd.readouterr()


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ([], 99),
        (["--client", "docker"], 119),
        (["--client", "containerd"], 119),
        (["--client", "docker", "--max-layers", "124"], 124),
        (["--client", "containerd", "--max-layers", "139"], 139),
        (["--client", "docker", "--max-layers", "5"], 5),
    ],
)
def test_plan(options: list[str], layers: int, store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ended(["plan", store / "graph.json", "--format", "layers", *options], capfd)
    assert (status, len(json.loads(out))) == (0, layers)


def test_plans_that_are_too_large(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = store / "graph.json"
    status, _, err = ended(["plan", graph, "--client", "docker", "--max-layers", "125"], capfd)
    assert (status, err.split(": ")[-2:]) == (2, ["126 layers", "docker takes at most 125\n"])
    every = ["plan", graph, "--pipeline", '[["popularity_contest"]]', "--client"]
    status, _, err = ended([*every, "podman"], capfd)
    assert (status, err) == (4, "fastlayers: 141 layers: podman takes at most 128\n")
    assert ended([*every, "containerd"], capfd)[0] == 0


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        (["--client", "docker"], 119),
        (["--client", "docker", "--max-layers", "125"], 124),
        (["--client", "docker", "--from", "oci:base"], 119),  # the base's are among them
        (["--client", "docker", "--from", "oci:base", "--max-layers", "125"], 124),
    ],
)
def test_build(
    options: list[str], layers: int, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    StoredImage([tar_of((str(number), b"")) for number in range(30)]).write(tmp_path / "base")
    source = ["build", store / "graph.json", "--store-root", store / "root", "--jobs", "1", "--quiet"]
    assert ended([*source, "--to", "oci:image:1", *options], capfd)[0] == 0
    assert len(inspect_image("oci:image").layers) == layers


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--max-layers", "126"], 2, "--max-layers 126 layers: docker takes at most 125"),
        (["--from", "oci:base"], 4, "a limit of 120 leaves no layer for the closure: the base image has 119"),
        (["--pipeline", '[["popularity_contest"]]'], 4, "the plan has 140 layers; 120 leave room for 119"),
    ],
)
def test_builds_that_are_refused(
    options: list[str], status: int, says: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    image = StoredImage([tar_of((str(number), b"")) for number in range(119)])
    image.write(tmp_path / "base")
    source = ["build", store / "graph.json", "--store-root", store / "root", "--client", "docker", "--to", "oci:image"]
    found, out, err = ended([*source, *options], capfd)
    assert (found, out, err.count("\n")) == (status, "", 1)
    assert says in err
    assert not (tmp_path / "image").exists()
