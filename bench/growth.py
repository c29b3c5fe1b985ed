"""How cost grows with nodes, with files and with bytes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastlayers import LayerRecipe, LayerTask, make_layer
from fastlayers.compression import Codec
from fastlayers.contents import Tree

from .graphs import kernels
from .inputs import CORES, Bench, csr, made_text, missing, small_tree
from .timing import Command

__all__ = ["GROWTH", "Growth"]

_CODECS: tuple[Literal["none", "gzip", "zstd"], ...] = ("none", "gzip", "zstd")


@dataclass
class Growth:
    """Seconds over what grows.

    Attributes:
        title: what is done.
        unit: of what grows: nodes, files or bytes.
        lines: for each way of doing it, points of how much and how many seconds.
    """

    title: str
    unit: str
    lines: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def add(self, line: str, amount: int, seconds: float) -> None:
        """Add a point."""
        self.lines.setdefault(line, []).append((amount, seconds))


def _best(action: Callable[..., object], *arguments: object) -> float:
    """Seconds: the least of up to five runs within two seconds."""
    times: list[float] = []
    while len(times) < 5 and sum(times) < 2:
        start = time.perf_counter()
        action(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


def nodes(bench: Bench) -> Growth:
    """The popularity kernels over more and more of one graph."""
    name, indptr, indices = csr(bench)
    growth = Growth(f"popularity kernel, {name}", "nodes")
    for part_indptr, part_indices in _parts(indptr, indices):
        growth.add("fastlayers", len(part_indptr) - 1, _best(kernels, part_indptr, part_indices))
    return growth


def _parts(
    indptr: NDArray[np.int64], indices: NDArray[np.int32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Closures of random nodes, each three times as large as the one before, and the whole graph."""
    n = len(indptr) - 1
    taken = np.zeros(n, dtype=bool)
    count, wanted = 0, 1000
    for start in random.Random(1).sample(range(n), n):
        todo = [start]
        while todo:
            i = todo.pop()
            if not taken[i]:
                taken[i] = True
                count += 1
                todo += indices[indptr[i] : indptr[i + 1]].tolist()
        if count >= wanted or count == n:
            rank = np.cumsum(taken, dtype=np.int32) - np.int32(1)
            lengths = np.diff(indptr)
            kept = indices[np.repeat(taken, lengths)]
            yield np.concatenate([[0], np.cumsum(lengths[taken])]).astype(np.int64), rank[kept]
            wanted = count * 3
        if count == n:
            break


def files(bench: Bench) -> Growth:
    """One layer of more and more small files, beside GNU tar into a pipe."""
    growth = Growth("one layer of small files, one core", "files")
    root = bench.file("small")
    names = small_tree(root, paths=100, folders=10)
    for count in (1, 3, 10, 30, 100):
        task = LayerTask(LayerRecipe(tuple(map(Tree, names[:count])), root=str(root)))
        growth.add("fastlayers, SHA-256 included", count * 1000, _best(make_layer, task))
        if not missing("tar"):
            tar = Command(
                ["tar", "-C", f"{root}/nix/store", "-cf", "-", *map(os.path.basename, names[:count])], drain=True
            )
            growth.add("tar -cf - | cat", count * 1000, _best(tar.run))
    return growth


def bytes_(bench: Bench) -> Growth:
    """One layer of more and more large files, plain and compressed, on all cores."""
    growth = Growth(f"one layer of large files, {CORES} cores", "bytes")
    rng = random.Random(1)
    data = made_text(rng, 32 << 20) + rng.randbytes(32 << 20)
    folder = bench.file("large")
    folder.mkdir()
    names = [str(folder / f"{i}") for i in range(32)]
    for name in names:
        Path(name).write_bytes(data)
    for codec in _CODECS:
        for count in (1, 2, 4, 8, 16, 32):
            task = LayerTask(LayerRecipe(tuple(map(Tree, names[:count]))), codec=Codec(codec), threads=CORES)
            growth.add("plain" if codec == "none" else codec, count << 26, _best(make_layer, task))
    for name in names:
        os.unlink(name)
    return growth


GROWTH = [nodes, files, bytes_]
