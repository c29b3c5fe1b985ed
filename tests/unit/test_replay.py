"""Histories replayed: the figures of an independent script, and how they come about."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastlayers.layering.plan import LayerPlan
from fastlayers.reuse.replay import Replay, Step, replay
from fastlayers.reuse.stack import stack_of_plan

# Sources: 0 is below everything, 1 and 2 are applications, 3 is a library of the second.
HISTORY: dict[str, Any] = {
    "sources": ["libc", "app", "tool", "lib"],
    "app_changes_every_step": False,
    "names": ["libc", "locale", "lib", "tool", "tool-doc", "app", "data", "font"],
    "versions": ["2.36"] * 8,
    "size": [9_000_000, 3_000_000, 700_000, 400_000, 90_000, 50_000_000, 20_000_000, 6_000_000],
    "src": [[0], [0], [3], [2], [2], [1], [1], [3]],
    "refs": [[], [0], [0], [0, 2], [3], [0, 2], [5], []],
    "train": [[1]],
    "test": [[2], [1], [3], [2], [0]],
}


@pytest.fixture(scope="module")
def histories(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The history as the script wants it, and the closures of its steps, a document a line."""
    folder = tmp_path_factory.mktemp("history")
    with gzip.open(folder / "history.json.gz", "wt") as file:
        json.dump({"small": HISTORY}, file)
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import replay\n"
        "data = json.loads(sys.stdin.read()); image = replay.Image(data)\n"
        "for changed in [[], *data['test']]:\n"
        "    image.step(changed); print(json.dumps({'graph': image.closure()}))\n"
    )
    command = [sys.executable, "-c", program, str(shared / "replay")]
    done = subprocess.run(command, input=json.dumps(HISTORY), check=True, capture_output=True, text=True)
    (folder / "history.jsonl").write_text(done.stdout)
    return folder / "history.json.gz", folder / "history.jsonl"


@pytest.mark.parametrize("strategy", ["popularity", "auto"])
def test_the_script_agrees(strategy: str, histories: tuple[Path, Path], shared: Path) -> None:
    whole, lines = histories
    planner = f"{sys.executable} -m fastlayers plan - --format layers --strategy {strategy}".split()
    script = [sys.executable, str(shared / "replay/replay.py"), str(whole), "--images", "small", "--max-layers", "3,5"]
    told = subprocess.run([*script, "--", *planner], check=True, capture_output=True, text=True).stdout
    options = ["--strategy", strategy, "--max-layers", "3", "--max-layers", "5", "--json"]
    command = [sys.executable, "-m", "fastlayers", "simulate", str(lines), *options]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["replays"]
    lines_of = [
        f"small    paths     8  layers {one['max_layers']:4d}  D {one['D']:6.2f}  C {one['C']:6.2f}"
        f"  leaf {one['leaf']:6.2f} ({one['leaf_steps']} of {len(one['steps'])} steps)"
        for one in found
    ]
    assert told.splitlines() == lines_of
    assert all(one["leaf_steps"] and one["D"] > 1 for one in found)


def test_figures() -> None:
    steps = (Step(30, 60, 20, 1000), Step(300, 300, 100, 1000), Step(5, 5, 0, 1000))
    found = Replay(steps)
    assert (found.by_digest, found.by_chain, found.bound) == (335, 365, 120)
    assert found.leaf == Replay(steps[:1])  # less than a tenth, and not nothing
    assert found.to_dict()["D"] == 2.7917
    assert Replay(()).to_dict() == {"D": None, "C": None, "leaf": None, "leaf_steps": 0, "steps": []}


def test_stacks_as_they_are() -> None:
    sizes = {"a": 1, "b": 20, "c": 300}
    plans = [LayerPlan((("a",), ("b",))), LayerPlan((("a",), ("b", "c"))), LayerPlan((("a", "b", "c"),))]
    found = replay(stack_of_plan("step", plan, sizes=sizes) for plan in plans)
    assert found == Replay((Step(320, 320, 300, 321), Step(321, 321, 0, 321)))
    assert replay(stack_of_plan("step", plan) for plan in plans) is None
