"""The sdist is whole, and the wheel that is built from it works far from the source tree."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

from integration.clients import call

SCRIPT = """
import json, sys
import fastlayers
from fastlayers import _archive, _core
assert fastlayers.__file__.startswith(sys.prefix), fastlayers.__file__
for module in _archive, _core:
    assert module.__file__.startswith(sys.prefix), module.__file__
from fastlayers.reuse.page import render_page
assert render_page([], []).startswith("<!DOCTYPE html>")
missing = [name for name in fastlayers.__all__ if not hasattr(fastlayers, name)]
assert not missing, missing
closure = fastlayers.read_closure(sys.argv[1])
print(json.dumps([closure.paths[i] for i in fastlayers.order_by_popularity(closure).order.tolist()]))
"""


def test_the_sdist_has_what_the_extension_is_made_of(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    native = {"_archive.pyx", "_archive.pyi", "_tar.c", "_tar.h", "_core.pyx", "_core.pyi", "_graph.c", "_graph.h"}
    assert {f"src/fastlayers/{name}" for name in {"py.typed", *native}} <= names
    assert {f"src/fastlayers/reuse/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.py", "tests/conftest.py"} <= names
    assert not {"src/fastlayers/_archive.c", "src/fastlayers/_core.c"} & names  # made by Cython, anew on every machine
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


def test_the_wheel_has_types_and_no_sources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"fastlayers/py.typed", "fastlayers/sources/venv.py"} <= names
    for module in ("_archive", "_core"):
        assert f"fastlayers/{module}.pyi" in names
        assert [name for name in names if name.startswith(f"fastlayers/{module}.") and name.endswith(".so")]
    assert not [name for name in names if name.endswith((".pyx", ".c", ".h"))]
    assert all(name.startswith(("fastlayers/", "fastlayers-")) for name in names)


def test_the_wheel_works_in_an_environment_of_its_own(environment: Path, tmp_path: Path) -> None:
    a, b = "a" * 32, "b" * 32
    graph = tmp_path / "graph.json"
    nodes = [{"path": f"/nix/store/{a}-a", "references": [f"/nix/store/{b}-b"]}, {"path": f"/nix/store/{b}-b"}]
    graph.write_text(json.dumps({"graph": [{"references": [], **node} for node in nodes]}))
    printed = call(environment / "bin/python", "-I", "-c", SCRIPT, graph, cwd=tmp_path)
    assert printed == f'["/nix/store/{b}-b", "/nix/store/{a}-a"]\n'
    program = environment / "bin/fastlayers"
    assert call(program, "--version", cwd=tmp_path).startswith("fastlayers ")
    assert call(program, "popularity", graph, cwd=tmp_path).split() == [f"/nix/store/{b}-b", f"/nix/store/{a}-a"]
    assert subprocess.run([program, "plan"], check=False, capture_output=True, cwd=tmp_path).returncode == 2


def test_the_package_for_nix_has_the_requirements_of_the_project() -> None:
    project = Path(__file__).parents[2]
    requirements = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    found = re.search(
        r"\n  dependencies = \[(.*?)\]\n  \+\+ lib\.optional \(pythonOlder \"3\.14\"\) (.*?);",
        (project / "nix/package.nix").read_text(),
        re.S,
    )
    assert found
    names = {re.split("[^A-Za-z0-9.-]", text)[0].replace(".", "-") for text in requirements}
    assert sorted([*found[1].split(), found[2]]) == sorted(names)
