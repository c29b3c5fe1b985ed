"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path

from .inputs import CORES

__all__ = ["machine"]

_LIBRARIES = ("numpy", "msgspec", "isal", "backports.zstd")
_PROGRAMS = ("tar", "pigz", "zstd", "gcc")


def _said(*command: str) -> str:
    """The first line that a program prints, or nothing."""
    if not shutil.which(command[0]):
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0] if done.returncode == 0 else ""


def _version(library: str) -> str:
    try:
        return f"{library} {importlib.metadata.version(library)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def machine() -> dict[str, str]:
    """The machine, the versions of all that is measured, and the commit."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    processor = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    commit = _said("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12")
    return {
        "processor": f"{processor}, {CORES} cores, {memory / 1e9:.0f} GB of memory",
        "system": f"{platform.system()} {platform.release()}",
        "fastlayers": f"{importlib.metadata.version('fastlayers')} at commit {commit or 'unknown'}",
        "python": f"{platform.python_version()}, {', '.join(filter(None, map(_version, _LIBRARIES)))}",
        "programs": "; ".join(filter(None, (_said(program, "--version") for program in _PROGRAMS))),
    }
