"""What is measured on: a real closure or one that is made, graphs, plans, and nixpkgs' conf.json."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .timing import Failed

__all__ = [
    "CORES",
    "FASTLAYERS",
    "PYTHON",
    "SHARED",
    "Bench",
    "csr",
    "graph_document",
    "link_trees",
    "made_references",
    "made_text",
    "missing",
    "small_tree",
    "write_conf",
]

SHARED = Path(__file__).resolve().parents[2] / "shared"
PYTHON = sys.executable
CORES = len(os.sched_getaffinity(0))
# The script that users start, where it is installed beside the interpreter.
_SCRIPT = Path(PYTHON).with_name("fastlayers")
FASTLAYERS = [str(_SCRIPT)] if _SCRIPT.exists() else [PYTHON, "-m", "fastlayers"]

_CORE, _GROUP = 600, 64  # of a made graph: nodes that all may refer to; nodes that refer to each other


@dataclass
class Bench:
    """What every row needs.

    Attributes:
        work: a folder of its own, with room for twice the closure.
        given: an exportReferencesGraph document whose store paths are there; without one a closure is made.
        runs: how many alternating runs are counted, at most.
        seconds: after which a row begins no more runs.
    """

    work: Path
    given: Path | None
    runs: int
    seconds: float
    _start: float = field(default_factory=time.monotonic)

    @property
    def limit(self) -> float:
        """Seconds that the next row has: less when those before have taken as long as twenty rows may."""
        return min(self.seconds, max(20 * self.seconds - (time.monotonic() - self._start), 2))

    def file(self, name: str) -> Path:
        """A path in the working folder."""
        return self.work / name

    @cached_property
    def closure(self) -> Path:
        """The closure's document."""
        return self.given or _make_closure(self.work)

    @property
    def root(self) -> str:
        """The folder below which its store paths are."""
        return "" if self.given else str(self.file("root"))

    @property
    def source(self) -> list[str]:
        """It as the command line's arguments."""
        return [str(self.closure), *(["--store-root", self.root] if self.root else [])]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Bytes of the files of each store path."""
        document = json.loads(self.closure.read_text())
        nodes = next(value for value in document.values() if isinstance(value, list) and value and "path" in value[0])
        return {node["path"]: _tree_size(Path(self.root + node["path"])) for node in nodes}

    @cached_property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(self.sizes.values())

    @cached_property
    def paths(self) -> Path:
        """Its store paths, a line each, as limit reads them."""
        file = self.file("paths")
        file.write_text("".join(f"{self.root}{path}\n" for path in self.sizes))
        return file

    @cached_property
    def plans(self) -> dict[str, list[list[str]]]:
        """The two plans: popularity, and the 98 largest paths alone with the rest in one more."""
        import fastlayers

        closure = fastlayers.read_closure(str(self.closure))
        popular = [list(layer) for layer in fastlayers.plan_layers(closure, 99).layers]
        order = self._largest_first
        alone = [[path] for path in order[:98]] + ([sorted(order[98:])] if order[98:] else [])
        return {"popularity": popular, "98 largest alone": alone}

    @cached_property
    def large_layer(self) -> list[str]:
        """Paths of about 2 GB together, or all when there is less."""
        taken: list[str] = []
        room = 2_000_000_000
        for path in self._largest_first:
            if self.sizes[path] <= room:
                taken.append(path)
                room -= self.sizes[path]
        return sorted(taken)

    @property
    def _largest_first(self) -> list[str]:
        return sorted(self.sizes, key=lambda path: (-self.sizes[path], path))

    @cached_property
    def limit_program(self) -> Path:
        """``limit``, which walks, reads and hashes, compiled."""
        program = self.file("limit")
        command = ["gcc", "-O2", str(SHARED / "bench" / "limit.c"), "-o", str(program), "-lcrypto"]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise Failed(f"limit.c: {made.stderr[-300:]}")
        return program


def _tree_size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    sizes = (os.lstat(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names)
    return sum(status.st_size for status in sizes)


def missing(*programs: str, shared: bool = False, cold: bool = False) -> str:
    """Why a row cannot be measured here, or nothing."""
    absent = [program for program in programs if not shutil.which(program)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if shared and not SHARED.is_dir():
        return "no ../shared"
    if cold and not os.access("/proc/sys/vm/drop_caches", os.W_OK):
        return "needs root"
    return ""


def made_text(rng: random.Random, size: int) -> bytes:
    """Words in lines: compressors make about a third of it."""
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz_", k=rng.randrange(2, 12))) for _ in range(4000)]
    some = rng.choices(words, weights=[1 / (i + 1) for i in range(len(words))], k=size // 4)
    return b"\n".join(b" ".join(some[i : i + 9]) for i in range(0, len(some), 9))[:size]


def _make_closure(work: Path) -> Path:
    """60 store paths of 400 MB below work/root, half text and half noise, for machines without a real closure."""
    rng = random.Random(1)
    text = made_text(rng, 16 << 20)
    store = work / "root" / "nix" / "store"
    nodes: list[dict[str, Any]] = []

    def piece(size: int) -> bytes:
        start = rng.randrange(len(text) - size // 2)
        return text[start : start + size // 2] + rng.randbytes(size // 2)

    for i in range(60):
        name = "".join(rng.choices("0123456789abcdfghijklmnpqrsvwxyz", k=32)) + f"-made-{i}"
        (store / name / "lib").mkdir(parents=True)
        for k in range(100):
            (store / name / "lib" / f"{k}.py").write_bytes(piece(rng.randrange(20_000)))
        (store / name / "lib" / "big.so").write_bytes(piece(rng.randrange(12_000_000)))
        references = [node["path"] for node in rng.sample(nodes, min(i, 4))]
        size = _tree_size(store / name)
        nodes.append({"path": f"/nix/store/{name}", "narSize": size, "references": references})
    graph = work / "graph.json"
    graph.write_text(json.dumps({"graph": nodes}))
    return graph


def write_conf(bench: Bench, name: str, layers: list[list[str]], store_root: Path | None = None) -> Path:
    """A conf.json of nixpkgs' streamed image with these layers, and an empty customisation layer."""
    folder = (store_root or bench.work) / "customisation"
    folder.mkdir(exist_ok=True)
    data = io.BytesIO()
    tarfile.open(fileobj=data, mode="w").close()
    (folder / "layer.tar").write_bytes(data.getvalue())
    (folder / "checksum").write_text(hashlib.sha256(data.getvalue()).hexdigest())
    date = "1970-01-01T00:00:01+00:00"
    conf: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "store_dir": "/nix/store",
        "from_image": None,
        "config": {},
        "customisation_layer": "/customisation" if store_root else str(folder),
        "repo_tag": "bench:1",
        "created": date,
        "mtime": date,
        "uid": "0",
        "gid": "0",
        "uname": "root",
        "gname": "root",
        "store_layers": layers,
    }
    file = bench.file(f"conf-{name}.json")
    file.write_text(json.dumps(conf))
    return file


def small_tree(root: Path, paths: int, folders: int) -> list[str]:
    """Store paths below root, each of so many folders of 100 files of less than a kilobyte; their names."""
    names = [f"/nix/store/{i:032d}-small" for i in range(paths)]
    for name in names:
        for k in range(folders):
            folder = f"{root}{name}/d{k}"
            os.makedirs(folder)
            for m in range(100):
                fd = os.open(f"{folder}/file-{m}.txt", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                os.write(fd, b"x" * (m * 7 % 900))
                os.close(fd)
    return names


def link_trees(root: Path, trees: int) -> None:
    """Store paths tree-0, tree-1, ... below root, with 100,000 symlinks in all, in directories of the same names."""
    for tree in range(trees):
        for k in range(100):
            folder = f"{root}/nix/store/tree-{tree}/share/directory-{k}"
            os.makedirs(folder)
            for m in range(1000 * tree // trees, 1000 * (tree + 1) // trees):
                os.symlink(f"/nix/store/package-{k}/share/file-{m}", f"{folder}/file-{m}")


# --- graphs -----------------------------------------------------------------------------------------------------------


def graph_document(bench: Bench, sample: int) -> Path:
    """The graph of nixpkgs (0), or the closure of so many of its nodes."""
    file = bench.file(f"nixpkgs-{sample}.json")
    if not file.exists():
        folder = SHARED / "closures"
        command = [PYTHON, str(folder / "to_graph.py"), str(folder / "nixpkgs-2025-09.npz"), "--sample", str(sample)]
        with file.open("wb") as out:
            subprocess.run(command, stdout=out, check=True)
    return file


def made_references(n: int) -> Iterator[list[int]]:
    """What each of n nodes refers to, all of them before it: nine on average, and 320 with what is below.

    The first 600 may be referred to by all, the others by their group of 64 alone; of nixpkgs the same is true roughly.
    """
    rng = random.Random(1)
    for i in range(n):
        group = i - i % _GROUP
        row = set()
        for _ in range(min(i, int(rng.expovariate(0.1)))):
            low, high = (group, i) if i > group and rng.random() < 0.2 else (0, min(i, _CORE))
            row.add(low + int((high - low) * rng.random() ** 2))
        yield sorted(row)


def csr(bench: Bench) -> tuple[str, NDArray[np.int64], NDArray[np.int32]]:
    """A graph of about 130,000 nodes in compressed sparse rows, and what it is: nixpkgs where it is there."""
    if SHARED.is_dir():
        import fastlayers

        closure = fastlayers.read_closure(str(graph_document(bench, 0)), any_names=True)
        return "nixpkgs", closure.indptr, closure.indices
    rows = list(made_references(130_000))
    lengths = np.array([0, *map(len, rows)], dtype=np.int64)
    return "made graph", np.cumsum(lengths), np.array([j for row in rows for j in row], dtype=np.int32)
