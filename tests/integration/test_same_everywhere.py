"""The same plans and the same bytes, whatever the machine: hash seeds, locales, workers, vector instructions."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from histories import digest_of_plans
from required import require_tool
from stores import make_store, write_file

TESTS = Path(__file__).parents[1]
SOURCES = TESTS.parent / "src" / "fastlayers"
KERNELS = ["_graph.c", "_names.c", "_order.c", "_partition.c"]
HISTORIES = 60

# With an argument, the kernels of another file.
PROGRAM = f"""
import sys
if len(sys.argv) > 1:
    import fastlayers
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("fastlayers._core", sys.argv[1])
    fastlayers._core = sys.modules["fastlayers._core"] = module_from_spec(spec)
    spec.loader.exec_module(fastlayers._core)
import histories
from fastlayers.layering import auto, expected_cost, order
assert {{each._core.__file__ for each in (auto, expected_cost, order)}} == {{sys.modules["fastlayers._core"].__file__}}
assert len(sys.argv) == 1 or sys.modules["fastlayers._core"].__file__ == sys.argv[1]
print(histories.digest_of_plans({HISTORIES}))
"""


@pytest.fixture(scope="module")
def plans() -> str:
    """The digest of the plans of random histories, as this process makes them."""
    return digest_of_plans(HISTORIES)


def plans_of_another(*arguments: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(TESTS), **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()


def numpys_own_instructions() -> str:
    """What numpy has code for besides its baseline, and this processor can do."""
    core = np._core._multiarray_umath  # type: ignore[attr-defined]
    return " ".join(name for name in core.__cpu_dispatch__ if core.__cpu_features__[name])


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONHASHSEED": "0"},
        {"PYTHONHASHSEED": "1"},
        {"PYTHONHASHSEED": "4294967295", "PYTHONOPTIMIZE": "0", "LC_ALL": "C", "PYTHONUTF8": "0"},
        {"NPY_DISABLE_CPU_FEATURES": numpys_own_instructions()},
    ],
    ids=["seed 0", "seed 1", "another locale", "numpy without vectors"],
)
def test_plans_do_not_depend_on_the_process(environment: dict[str, str], plans: str) -> None:
    assert plans_of_another(**environment) == plans


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is between Python and the kernels, compiled; the kernels are to be linked to it."""
    folder = tmp_path_factory.mktemp("core")
    cython = Path(sys.executable).parent / "cython"
    subprocess.run([cython, "-3", SOURCES / "_core.pyx", "-o", folder / "core.c"], check=True, capture_output=True)
    compiler = [require_tool("cc"), "-O0", "-c", "-fPIC", f"-I{SOURCES}", f"-I{sysconfig.get_path('include')}"]
    subprocess.run([*compiler, folder / "core.c", "-o", folder / "core.o"], check=True)
    return folder / "core.o"


VARIANTS = [["-march=x86-64"], ["-march=x86-64", "-mpopcnt"]] if platform.machine() == "x86_64" else [["-O1"]]


@pytest.mark.parametrize("flags", VARIANTS, ids=" ".join)
def test_plans_do_not_depend_on_the_processor(flags: list[str], glue: Path, plans: str, tmp_path: Path) -> None:
    """The kernels as processors get them that can do less than this one; see _processors.h."""
    module = tmp_path / "_core.so"
    compiler = [require_tool("cc"), "-shared", "-fPIC", "-std=gnu11", "-O3", "-DNDEBUG", "-D__SANITIZE_ADDRESS__=1"]
    subprocess.run([*compiler, *flags, *(SOURCES / name for name in KERNELS), glue, "-o", module], check=True)
    assert plans_of_another(module) == plans


def test_bytes_do_not_depend_on_the_machine(tmp_path: Path) -> None:
    """Neither on workers, hash seed, locale, time zone or umask, nor on where the build runs and what is there."""
    make_store(tmp_path)
    for number in range(8):  # large enough for processes of their own
        write_file(tmp_path / "root/nix/store/7z8xw1hq3sj929nd42amzfprnamgmbkz-lib-2.0" / str(number), bytes(4 << 20))
    extra = tmp_path / "extra"
    for name in ("é", "a b", "z/y"):
        write_file(extra / name, name)
    digests = set()
    for number, (jobs, umask, environment) in enumerate(
        [
            ("1", 0o022, {"PYTHONHASHSEED": "0", "TZ": "UTC"}),
            ("2", 0o077, {"PYTHONHASHSEED": "1", "TZ": "Pacific/Auckland", "LC_ALL": "C", "PYTHONUTF8": "0"}),
            ("5", 0o000, {"PYTHONHASHSEED": "2", "LC_ALL": "C.UTF-8", "HOME": "/nowhere"}),
        ]
    ):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        arguments = ["build", "../graph.json", "--store-root", "../root", "--extra-files", "../extra", "--jobs", jobs]
        subprocess.run(
            [sys.executable, "-m", "fastlayers", *arguments, "--quiet", "--to", "docker-archive:image.tar:app:1"],
            env={**os.environ, **environment},
            cwd=folder,
            umask=umask,
            check=True,
        )
        digests.add(hashlib.sha256((folder / "image.tar").read_bytes()).hexdigest())
    assert len(digests) == 1
