"""Workers: they load little, and a process of its own makes the same layer."""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fastlayers import FastlayersError, LayerError, LayerRecipe, LayerTask, make_layer, parallel
from fastlayers.compression import Codec
from fastlayers.contents import Generated, GeneratedEntry, Tree
from fastlayers.layer import NewFile
from stores import APP, BASE, LIB, make_store

WORK = """
import json, pickle, sys
before = set(sys.modules)
task = pickle.load(sys.stdin.buffer)
from fastlayers.layer import make_layer
made = make_layer(task)
print(json.dumps([made.diff_id, sorted(set(sys.modules) - before)]))
"""
HEAVY = {"numpy", "scipy", "argparse", "rich", "msgspec", "elftools", "packaging"}


def in_a_new_process(task: LayerTask) -> tuple[str, set[str]]:
    """What a process that has loaded nothing makes of a task, and the packages that it loads."""
    done = subprocess.run([sys.executable, "-c", WORK], input=pickle.dumps(task), check=True, stdout=subprocess.PIPE)
    diff_id, modules = json.loads(done.stdout)
    return diff_id, {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_a_worker_loads_neither_numpy_nor_the_command_line(tmp_path: Path, codec: str) -> None:
    make_store(tmp_path)
    made = Generated("image", (GeneratedEntry("/tmp", 0o1777),))
    contents = (Tree(APP), Tree(BASE), made)
    recipe = LayerRecipe(contents, root=str(tmp_path / "root"))
    diff_id, modules = in_a_new_process(LayerTask(recipe, Codec(codec), (NewFile(str(tmp_path / "out")),)))
    assert diff_id == make_layer(LayerTask(recipe)).diff_id
    assert "fastlayers" in modules
    assert not modules & HEAVY


def test_importing_parallel_is_all_that_a_spawned_process_does() -> None:
    """The function that the pool's processes are given is in this module."""
    program = "import sys, fastlayers.parallel, fastlayers.__main__; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & HEAVY


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("small", [0, 1 << 40])
def test_an_error_in_one_layer_ends_the_work(
    tmp_path: Path, jobs: int, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_SMALL", small)
    make_store(tmp_path)
    recipes = [LayerRecipe((Tree(path),), root=str(tmp_path / "root")) for path in (APP, LIB, BASE)]
    sizes = [layer.size for layer in parallel.measure_each(recipes, jobs)]
    (tmp_path / "root" / LIB[1:] / "lib" / "lib.so").unlink()
    (tmp_path / "root" / LIB[1:] / "lib" / "lib.so.1").unlink()
    (tmp_path / "root" / LIB[1:] / "lib").rmdir()
    (tmp_path / "root" / LIB[1:]).rmdir()
    with pytest.raises(LayerError, match=f"{LIB}: No such file or directory"):
        list(parallel.make_layers([LayerTask(recipe) for recipe in recipes], sizes, jobs=jobs))


def test_the_largest_layer_is_made_first(tmp_path: Path) -> None:
    make_store(tmp_path)
    recipes = [LayerRecipe((Tree(path),), root=str(tmp_path / "root")) for path in (APP, LIB, BASE)]
    sizes = [layer.size for layer in parallel.measure_each(recipes, 2)]
    assert sizes[1] > sizes[0] == sizes[2]
    submitted: list[str] = []

    class Recording(ThreadPoolExecutor):
        def submit(self, function: Any, task: LayerTask) -> Any:
            submitted.append(task.recipe.contents[0].owner)
            return super().submit(function, task)

    tasks = [LayerTask(recipe) for recipe in recipes]
    with Recording(1) as executor:
        made = dict(parallel.make_layers(tasks, sizes, jobs=1, executor=executor))
    assert submitted == [LIB, APP, BASE]
    assert [made[i] for i in range(3)] == [make_layer(task) for task in tasks]


@pytest.mark.parametrize(("cores", "started"), [(1, []), (2, [1]), (3, [2])])
def test_who_waits_for_a_network_needs_no_process(
    cores: int, started: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are as many processes as cores; what is more at once is made by threads here, all at the same time."""
    make_store(tmp_path)
    monkeypatch.setattr(parallel, "_SMALL", 0)
    monkeypatch.setattr(parallel, "available_cores", lambda: cores)
    seen: list[int] = []
    at_once = threading.Barrier(4)

    def make(task: LayerTask, tick: object) -> Any:
        at_once.wait(60)
        return make_layer(task)

    class Processes(ThreadPoolExecutor):
        def __init__(self, number: int, **options: object) -> None:
            seen.append(number)
            super().__init__(number)

        def submit(self, function: object, task: LayerTask) -> Any:  # type: ignore[override]
            return super().submit(make, task, None)

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Processes)
    monkeypatch.setattr(parallel, "make_layer", make)
    tasks = [LayerTask(LayerRecipe((Tree(path),), root=str(tmp_path / "root"))) for path in (APP, LIB, BASE, APP)]
    made = dict(parallel.make_layers(tasks, [1] * 4, jobs=4, waits=True))
    assert [made[i] for i in range(4)] == [make_layer(task) for task in tasks]
    assert seen == started


def test_a_worker_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_SMALL", 0)
    task = LayerTask(LayerRecipe((Dying("x"),)))
    with pytest.raises(FastlayersError, match="a worker process died"):
        list(parallel.make_layers([task, task], [1, 1], jobs=2))


class Dying:
    """Contents that kill the worker process that looks into them; the first process waits for that worker to start."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def paths(self) -> list[str]:
        if multiprocessing.parent_process() is not None:
            os._exit(7)
        while not multiprocessing.active_children():
            time.sleep(0.001)
        return []
