"""Servers, closures and environments that integration tests share."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.clients import Containerd, Docker, NixClosure, Podman, Runc, call, fastlayers, place
from required import require_root, require_tool, unavailable

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    with place() as folder, contextlib.closing(Docker(folder)) as engine:
        yield engine


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    with place() as folder:
        yield Podman(folder)


@pytest.fixture(scope="session")
def containerd() -> Iterator[Containerd]:
    with place() as folder, contextlib.closing(Containerd(folder)) as engine:
        yield engine


@pytest.fixture(scope="session")
def runc() -> Iterator[Runc]:
    with place() as folder:
        yield Runc(folder)


@pytest.fixture(scope="session")
def skopeo() -> str:
    return require_tool("skopeo")


def debian_closure(shared: Path, folder: Path, *packages: str) -> NixClosure:
    """Debian packages and all that they need, as Nix builds them into the store of this machine."""
    require_root("a Nix store in /nix")
    for tool in ("nix-build", "nix-store", "patchelf", "apt-get", "apt-cache"):
        require_tool(tool)
    script = shared / "realstore" / "deb2store.py"
    if not script.is_file():
        unavailable("no ../shared/realstore beside the project: it makes real closures")
    options = ("--debs", folder / "debs", "--out", folder / "out")
    command = (sys.executable, script, "all", *options, "--", *packages)
    # Nix kills a builder whose output ends, to be sure; one that is just exiting on a busy machine then counts as
    # failed. What it had built until then stays in the store.
    log = folder / "out" / "build.log"
    for _ in range(5):
        done = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)
        if not done.returncode or not log.is_file() or "signal 9" not in log.read_text(errors="replace"):
            break
    assert not done.returncode, f"no closure:\n{done.stderr.decode()[-2000:]}"
    shutil.rmtree(folder / "debs")
    return NixClosure(folder / "out", (folder / "out" / "root").read_text().strip())


@pytest.fixture(scope="session")
def git_closure(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> NixClosure:
    """bash, coreutils, git and all that they need."""
    return debian_closure(shared, tmp_path_factory.mktemp("git"), "bash", "coreutils", "git")


@pytest.fixture(scope="session")
def nix_closure(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> NixClosure:
    """bash, coreutils, Nix and all that they need."""
    return debian_closure(shared, tmp_path_factory.mktemp("nix"), "bash", "coreutils", "nix-bin")


@pytest.fixture(scope="session")
def git_layout(git_closure: NixClosure, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OCI layout with the image of the closure, plain, tagged "1"."""
    layout = tmp_path_factory.mktemp("layout") / "git"
    fastlayers("build", git_closure.folder / "graph.json", "--to", f"oci:{layout}:1", "--cmd", git_closure.command)
    return layout


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("distributions")
    call(sys.executable, "-m", "build", "--outdir", folder, PROJECT)
    return folder


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and all that it needs, far from the source tree."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    call(sys.executable, "-m", "venv", folder)
    call(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return folder


@pytest.fixture(scope="session")
def debian_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment of the system's own Python with numpy alone."""
    python = require_tool("/usr/bin/python3")
    folder = tmp_path_factory.mktemp("debian") / "venv"
    made = subprocess.run([python, "-m", "venv", folder], check=False, capture_output=True, text=True)
    if made.returncode:
        unavailable(f"{python} makes no virtual environment (python3-venv is not installed): {made.stdout}")
    call(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "numpy")
    return folder


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    require_root("mount")
    require_tool("mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder)
    try:
        yield folder
    finally:
        call("umount", folder)
