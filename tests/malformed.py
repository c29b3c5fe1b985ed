"""Commands that are refused: each gives one line, its exit status, and leaves nothing behind."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastlayers.cli import run
from nix_stores import make_database, registered
from stores import BASE, write_file

USAGE, CLOSURE, PLAN, CONFIG, LAYER, IMAGE, DESTINATION = 2, 3, 4, 5, 6, 7, 8

BUILD = ("build", "graph.json", "--store-root", "root", "--quiet")
TO = ("--to", "docker-archive:out.tar")


@dataclass(frozen=True)
class Case:
    """A command in a folder that has a good store and graph.json, after ``prepare`` has spoilt something."""

    name: str
    arguments: tuple[str, ...]
    status: int
    says: str
    prepare: Callable[[Path], object] = lambda folder: None


def refuse(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Run the case's command in the folder and see what it says, how it ends, and what is left."""
    case.prepare(folder)
    before = listing(folder)
    with pytest.raises(SystemExit) as ended:
        run(case.arguments)
    out, err = capfd.readouterr()
    assert ended.value.code == case.status, err
    assert case.says in err
    assert "Traceback" not in err
    assert err.startswith("fastlayers: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    if case.arguments[:1] != ("stream",):
        assert out == ""
    assert listing(folder) == before


def listing(folder: Path) -> dict[str, tuple[int, str]]:
    """Everything below a folder: its mode, and the digest of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path)] = (mode, hashlib.sha256(os.fsencode(content)).hexdigest())
    return found


def text(name: str, data: str | bytes) -> Callable[[Path], object]:
    return lambda folder: write_file(folder / name, data)


def node(path: str, *references: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "references": list(references), **more}


def database(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        root = folder / "root"
        make_database(root / "nix/var/nix/db", registered(root))
        for change in changes:
            change(folder)

    return write


def damaged(folder: Path) -> None:
    file = folder / "root" / BASE[1:] / "etc" / "base"
    file.chmod(0o644)
    file.write_bytes(b"BASE\n")
