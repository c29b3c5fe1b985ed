"""Graph kernels beside ``json.load`` of the document that the graph comes from: ``pytest bench/bench_kernels.py``."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.graphs import kernels
from fastlayers import _core
from fastlayers.closure import Closure
from fastlayers.popularity import order_by_popularity
from fastlayers.sources import nix_json

CLOSURES = Path(__file__).parents[2] / "shared" / "closures"
SAMPLES = {"sample-60": 60, "sample-600": 600, "whole": 0}


@pytest.fixture(scope="module", params=SAMPLES)
def document(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not CLOSURES.is_dir():
        pytest.skip("no ../shared/closures beside the project")
    file = tmp_path_factory.mktemp("graphs") / "graph.json"
    command = [sys.executable, str(CLOSURES / "to_graph.py"), str(CLOSURES / "nixpkgs-2025-09.npz")]
    with file.open("wb") as out:
        subprocess.run([*command, "--sample", str(SAMPLES[request.param])], check=True, stdout=out)
    return file


@pytest.fixture(scope="module")
def closure(document: Path) -> Closure:
    return nix_json.read(str(document), any_names=True)


def test_json_load(benchmark: Any, document: Path) -> None:
    def load() -> None:
        with document.open("rb") as file:
            json.load(file)

    benchmark(load)


def test_topological_order(benchmark: Any, closure: Closure) -> None:
    order = np.empty(len(closure), dtype=np.int32)
    assert benchmark(_core.topological_order, closure.indptr, closure.indices, order) == len(closure)


def test_popularity_kernel(benchmark: Any, closure: Closure) -> None:
    benchmark(kernels, closure.indptr, closure.indices)


def test_popularity_with_names(benchmark: Any, closure: Closure) -> None:
    benchmark(order_by_popularity, closure)


def test_read(benchmark: Any, document: Path) -> None:
    benchmark(nix_json.read, str(document), any_names=True)
