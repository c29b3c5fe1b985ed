"""Recorded outputs of nixpkgs' own programs, for three small stores of awkward files."""

import datetime
import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastlayers import (
    LayerRecipe,
    LayerTask,
    Pipeline,
    Profile,
    make_layer,
    parallel,
    plan_layers,
    plan_pipeline,
    read_closure,
    stream_image,
)
from fastlayers.contents import Tree
from required import require_root

STORES = ["1-40", "2-40", "3-60"]
IMAGES = ["plain", "user", "dated", "base", "edge"]
JOBS = [1, 2, 5]

as_root = pytest.mark.usefixtures("recorded_as_root")


@pytest.fixture
def recorded_as_root() -> None:
    require_root("what was recorded as root, who reads a file of mode 0000 and has a customisation layer of root's,")


@dataclass
class Store:
    """A store, and what nixpkgs' programs gave for it."""

    root: Path
    expected: dict[str, Any]

    def conf(self, image: str) -> Path:
        return self.root / "conf" / f"{image}.json"


@pytest.fixture(scope="session")
def stores(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Store]]:
    made = {}
    for name in STORES:
        root = tmp_path_factory.mktemp(f"golden-{name}")
        seed, paths = name.split("-")
        program = [sys.executable, shared / "golden" / "make_store.py", root, "--seed", seed, "--paths", paths]
        # The recorded modes are those of the usual umask.
        subprocess.run(program, check=True, stdout=subprocess.DEVNULL, umask=0o022)
        made[name] = Store(root, json.loads((shared / "golden" / f"golden-{name}.json").read_bytes()))
    yield made
    for store in made.values():  # an ordinary user may not empty folders that she may not write to
        for folder, _, _ in os.walk(store.root):
            os.chmod(folder, 0o755)


@pytest.fixture(params=STORES)
def store(stores: dict[str, Store], request: pytest.FixtureRequest) -> Store:
    return stores[request.param]


def fastlayers(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "fastlayers", *arguments], check=True, **options)


def facts_of(archive: Path) -> dict[str, Any]:
    """What the recorded files say of an archive."""
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]
        config = tar.extractfile(manifest["Config"]).read()
        return {
            "archive_sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
            "archive_size": archive.stat().st_size,
            "config_sha256": hashlib.sha256(config).hexdigest(),
            "diff_ids": json.loads(config)["rootfs"]["diff_ids"],
        }


@as_root
@pytest.mark.parametrize("jobs", JOBS)
@pytest.mark.parametrize("image", IMAGES)
def test_stream_to_a_file(store: Store, image: str, jobs: int, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    with archive.open("wb") as out:
        fastlayers("stream", store.conf(image), "--store-root", store.root, "--jobs", str(jobs), "--quiet", stdout=out)
    facts = facts_of(archive)
    assert facts == {key: store.expected["images"][image][key] for key in facts}


@as_root
@pytest.mark.parametrize("jobs", JOBS)
@pytest.mark.parametrize("image", IMAGES)
def test_stream_to_a_pipe(store: Store, image: str, jobs: int) -> None:
    arguments = ["stream", store.conf(image), "--store-root", store.root, "--jobs", str(jobs)]
    done = fastlayers(*arguments, capture_output=True)
    expected = store.expected["images"][image]
    assert len(done.stdout) == expected["archive_size"]
    assert hashlib.sha256(done.stdout).hexdigest() == expected["archive_sha256"]
    log = done.stderr.decode().splitlines()
    assert log[-2:] == ["Adding manifests...", "Done."]
    assert len([line for line in log if line.startswith(("Creating layer", "Adding base layer"))]) == len(
        expected["diff_ids"]
    )


@as_root
@pytest.mark.parametrize(("image", "jobs"), [*((image, 2) for image in IMAGES), ("plain", 1), ("plain", 5)])
def test_stream_by_worker_processes(
    store: Store, image: str, jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """These stores are so small that no process would be started."""
    monkeypatch.setattr(parallel, "_SMALL", 0)
    archive = tmp_path / "image.tar"
    with archive.open("wb") as out:
        stream_image(str(store.conf(image)), out.fileno(), store_root=str(store.root), jobs=jobs)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == store.expected["images"][image]["archive_sha256"]


@pytest.mark.parametrize("image", IMAGES)
def test_layers_for_any_user(store: Store, image: str) -> None:
    """The layers one by one: without those that hold a file that this user may not read."""
    conf = json.loads(store.conf(image).read_bytes())
    mtime = int(datetime.datetime.fromisoformat(conf["mtime"]).timestamp())
    profile = Profile(int(conf["uid"]), int(conf["gid"]), conf["uname"], conf["gname"], mtime)
    customisation = 1
    diff_ids = store.expected["images"][image]["diff_ids"][-len(conf["store_layers"]) - customisation : -customisation]
    checked = 0
    for paths, diff_id in zip(conf["store_layers"], diff_ids, strict=True):
        secret = [store.root / path[1:] / "mode" / "m0000" for path in paths]
        if all(not file.exists() or os.access(file, os.R_OK) for file in secret):
            trees = tuple(Tree(path) for path in paths)
            recipe = LayerRecipe(trees, profile, str(store.root), ("/nix", "/nix/store"), whiteouts=True)
            assert make_layer(LayerTask(recipe)).diff_id == diff_id
            checked += 1
    assert checked >= 1


@as_root
def test_build_with_the_same_plan_has_the_same_layers(store: Store, tmp_path: Path) -> None:
    conf = json.loads(store.conf("plain").read_bytes())
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(conf["store_layers"]))
    archive = tmp_path / "image.tar"
    graph = store.root / "graph.json"
    options = ["--store-root", store.root, "--plan", plan, "--quiet"]
    fastlayers("build", graph, "--to", f"docker-archive:{archive}", *options)
    customisation = 1  # of nixpkgs alone: here there is none
    assert facts_of(archive)["diff_ids"] == store.expected["images"]["plain"]["diff_ids"][:-customisation]


def test_popularity(store: Store) -> None:
    done = fastlayers("popularity", store.root / "graph.json", "graph", capture_output=True)
    assert done.stdout.decode().splitlines() == store.expected["popularity"]


def test_pipelines(store: Store) -> None:
    closure = read_closure(str(store.root / "graph.json"))
    assert store.expected["pipelines"]
    for recorded in store.expected["pipelines"]:
        made = plan_pipeline(closure, Pipeline(recorded["pipeline"]))
        assert [list(layer) for layer in made.layers] == recorded["layers"]


def test_auto_layer(store: Store) -> None:
    """Where the original's order follows Python's hashes, the same layers in some order."""
    closure = read_closure(str(store.root / "graph.json"))
    assert store.expected["auto_layer"]
    for recorded in store.expected["auto_layer"]:
        made = plan_layers(closure, recorded["limit"], "auto", exclude=recorded["ignore"])
        layers = [list(layer) for layer in made.layers]
        if recorded["outputs_over_hash_seeds"] > 1:
            assert sorted(layers) == sorted(recorded["layers"])
        else:
            assert layers == recorded["layers"]


def test_pipeline_and_auto_layer_by_the_command_line(store: Store) -> None:
    plan = ["plan", store.root / "graph.json", "--format", "layers"]
    recorded = store.expected["pipelines"][-1]
    done = fastlayers(*plan, "--pipeline", json.dumps(recorded["pipeline"]), capture_output=True)
    assert json.loads(done.stdout) == recorded["layers"]
    recorded = store.expected["auto_layer"][0]
    (ignored,) = recorded["ignore"]
    options = ["--strategy", "auto", "--max-layers", str(recorded["limit"]), "--exclude", ignored]
    assert json.loads(fastlayers(*plan, *options, capture_output=True).stdout) == recorded["layers"]


def test_popularity_is_a_pipeline_of_nixpkgs(store: Store) -> None:
    pipelines = [
        (stages[1][1], recorded["layers"])
        for recorded in store.expected["pipelines"]
        if len(stages := recorded["pipeline"]) == 2
        and stages[0] == ["popularity_contest"]
        and stages[1][0] == "limit_layers"
    ]
    assert pipelines
    for limit, layers in pipelines:
        arguments = ["--strategy", "popularity", "--max-layers", str(limit), "--format", "layers"]
        done = fastlayers("plan", store.root / "graph.json", *arguments, capture_output=True)
        assert json.loads(done.stdout) == layers
