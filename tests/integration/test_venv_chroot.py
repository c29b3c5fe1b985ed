"""A virtual environment's closure, and nothing else, is enough to run its Python."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from fastlayers.closure import Closure
from fastlayers.contents import FileList, Generated
from fastlayers.sources import venv
from required import require_root, require_tool, unavailable

BASE = str(getattr(sys, "_base_executable", sys.executable))
PYTHONS = sorted({BASE, "/usr/bin/python3"})
SOABI = str(sysconfig.get_config_var("SOABI"))
PROGRAM = """
import ctypes, decimal, hashlib, os, pwd, socket, sqlite3, ssl, sys, sysconfig, threading, zlib
thread = threading.Thread(target=lambda: ctypes.CDLL("libgcc_s.so.1"))
thread.start(); thread.join()
assert pwd.getpwnam("nobody").pw_uid == 65534
assert os.stat("/tmp").st_mode & 0o7777 == 0o1777
assert not os.path.exists("/proc/self")
print(sys.prefix)
"""
NUMPY = "import numpy; numpy.linalg.inv(numpy.eye(3)); print(numpy.__version__)"


def copy(closure: Closure, root: Path) -> None:
    """Put exactly what the closure lists below ``root``; every parent is made as a directory."""
    for i in range(len(closure)):
        contents = closure.contents(i)
        assert isinstance(contents, FileList)
        for path in contents.paths():
            assert os.path.realpath(os.path.dirname(path)) == os.path.dirname(path)
            target = f"{root}{path}"
            os.makedirs(os.path.dirname(target), exist_ok=True)
            if os.path.isdir(path) and not os.path.islink(path):
                os.makedirs(target, exist_ok=True)
            else:
                assert not os.path.lexists(target), f"{path} is owned twice"
                shutil.copy2(path, target, follow_symlinks=False)
    for contents in closure.extra:
        assert isinstance(contents, Generated)
        for entry in contents.entries:
            place = Path(f"{root}{entry.path}")
            if entry.data is None:
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(entry.data)
            place.chmod(entry.mode)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("way", ["--symlinks", "--copies"])
def test_environment_runs_in_a_chroot(python: str, way: str, tmp_path: Path) -> None:
    require_root("chroot")
    require_tool("chroot")
    directory = tmp_path / "app" / "environment"
    make = [python, "-m", "venv", "--without-pip", way, str(directory)]
    made = subprocess.run(make, check=False, capture_output=True, text=True)
    if made.returncode:
        unavailable(f"{python} cannot make a virtual environment: {made.stdout}{made.stderr}")
    query = "import sysconfig; print(sysconfig.get_config_var('SOABI'), sysconfig.get_path('purelib'))"
    answer = subprocess.run([directory / "bin/python", "-c", query], capture_output=True, text=True, check=True)
    soabi, site = answer.stdout.split()
    program = PROGRAM
    expected = [str(directory)]
    if soabi == SOABI:  # the numpy that the tests run with is of use there
        for file in importlib.metadata.files("numpy") or []:
            if "__pycache__" not in file.parts:
                place = Path(site, file)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(file.locate()), place)
        program += NUMPY
        expected.append(importlib.metadata.version("numpy"))
    closure = venv.read(str(directory))
    root = tmp_path / "root"
    copy(closure, root)
    run = subprocess.run(
        ["chroot", root, directory / "bin/python", "-I", "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env=closure.environment,
    )
    assert (run.stderr, run.stdout.split()) == ("", expected)
