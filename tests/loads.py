"""The small store loaded into an engine, and what is said when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastlayers import LayerPlan, build_image, parse_destination, read_closure
from fastlayers.build import BuildResult
from fastlayers.cli.main import run
from stores import APP, BASE, LIB


def load(store: Path, to: str = "docker-daemon:app:1", **build: Any) -> BuildResult:
    """An image of three layers, in this process."""
    closure = read_closure(str(store / "graph.json"))
    plan = LayerPlan(((BASE,), (LIB,), (APP,)))
    root = str(store / "root")
    return build_image(closure, [parse_destination(to)], layer_plan=plan, store_root=root, jobs=1, **build)


def command_line(store: Path, *arguments: str) -> int:
    """The exit status of a build of the same store by the command line."""
    with pytest.raises(SystemExit) as caught:
        run(["build", str(store / "graph.json"), "--store-root", str(store / "root"), *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(caught.value)
    assert text and "\n" not in text
    return text
