"""Rows of graphs: the popularity order, its kernels, plans of nixpkgs as a whole, and closures out of a database."""

from __future__ import annotations

import filecmp
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import fastlayers
from fastlayers import _core

from .inputs import FASTLAYERS, PYTHON, SHARED, Bench, graph_document, made_references, missing
from .timing import Command, Row, compare, in_turn, judge

__all__ = [
    "PIPELINE",
    "kernels",
    "plan_command",
    "popularity_command",
    "popularity_definition",
    "popularity_kernel",
    "store_closure",
]

PIPELINE = '[["popularity_contest"], ["reverse"], ["limit_layers", 99]]'
_JSON_LOAD = [PYTHON, "-c", "import json, sys; json.load(open(sys.argv[1]))"]

# In a process of its own: the most that is resident while the kernels run, less what was before; of that, what the
# topological order, path counts and popularities take, which are left when they are done; and how many nodes there are.
_KERNEL_MEMORY = """
import sys, fastlayers
from bench.graphs import kernels
def resident(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))
closure = fastlayers.read_closure(sys.argv[1], any_names=True)
indptr, indices = closure.indptr, closure.indices
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS:")
results = len(closure) * 4 + 2 * kernels(indptr, indices).nbytes
print((resident("VmHWM:") - before) * 1024, results, len(closure))
"""


def kernels(indptr: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """All of popularity that is done in C: a topological order, path counts, sums; limbs, shape (n, L)."""
    n = len(indptr) - 1
    order = np.empty(n, dtype=np.int32)
    _core.topological_order(indptr, indices, order)
    limbs = 1
    while not _core.path_counts(indptr, indices, order, paths := np.empty((n, limbs), dtype=np.uint64)):
        limbs *= 2
    counts = np.empty_like(paths)
    _core.popularity(indptr, indices, order, paths, counts)
    return counts


def popularity_kernel(bench: Bench) -> Iterator[Row]:
    """The kernels alone, beside json.load of the document, in one process."""
    for sample, goal in ((600, 0.15), (0, 0.3)):
        name = f"nixpkgs --sample {sample}" if sample else "nixpkgs whole"
        row = Row(f"popularity kernel, {name}", "json.load", f"<= {goal}", note=missing(shared=True))
        if not row.note:
            file = graph_document(bench, sample)
            closure = fastlayers.read_closure(str(file), any_names=True)

            def kernel(closure: fastlayers.Closure = closure) -> float:
                start = time.perf_counter()
                kernels(closure.indptr, closure.indices)
                return time.perf_counter() - start

            def load(file: Path = file) -> float:
                with file.open("rb") as document:
                    start = time.perf_counter()
                    json.load(document)
                    return time.perf_counter() - start

            row.ours, row.peer = f"bench.graphs.kernels of {file}", f"json.load of {file}"
            (row.peer_seconds, row.ours_seconds), row.runs = in_turn([load, kernel], 2 * bench.runs + 1, bench.limit)
            judge(row, at_most=goal)
            row.note = f"{len(closure):,} nodes"
        yield row
    row = Row("popularity kernel's memory, nixpkgs whole", "-", "<= 128 bytes a node", note=missing(shared=True))
    if not row.note:
        # Large blocks are given back as soon as they are free, so that none is counted as there before.
        arguments = ["env", "MALLOC_MMAP_THRESHOLD_=65536", PYTHON, "-c", _KERNEL_MEMORY, str(graph_document(bench, 0))]
        command = Command(arguments, stdout=bench.file("memory"))
        row.ours = str(command)
        command.run()
        more, results, nodes = map(int, bench.file("memory").read_text().split())
        row.met = more - results <= 128 * nodes
        row.note = f"{(more - results) / nodes:.0f} in flight, and {results / nodes:.0f} that order and counts take"
    yield row


def popularity_command(bench: Bench) -> Iterator[Row]:
    """The whole command, start-up included."""
    row = Row("fastlayers popularity, nixpkgs whole", "json.load in Python", "<= 1.2", note=missing(shared=True))
    if not row.note:
        file = str(graph_document(bench, 0))
        ours = Command([*FASTLAYERS, "popularity", file])
        compare([row], ours, [Command([*_JSON_LOAD, file])], bench.runs, bench.limit)
        judge(row, at_most=1.2)
    yield row


def popularity_definition(bench: Bench) -> Iterator[Row]:
    """The command beside the definition, which takes about a minute: one run of each."""
    if SHARED.is_dir():
        file = graph_document(bench, 3000)
        name = "nixpkgs --sample 3000"
    else:
        file = bench.file("made-12000.json")
        names = [f"/nix/store/{i:032d}-made" for i in range(12_000)]
        rows = zip(names, made_references(12_000), strict=True)
        nodes = [{"path": name, "references": [names[j] for j in row]} for name, row in rows]
        file.write_text(json.dumps({"graph": nodes}))
        name = "made graph"
    row = Row(f"fastlayers popularity, {name}", "the definition in plain Python", "200 times faster")
    ours = Command([*FASTLAYERS, "popularity", str(file)], stdout=bench.file("order"))
    peer = Command([PYTHON, str(Path(__file__).with_name("definition.py")), str(file)], stdout=bench.file("order-peer"))
    row.ours, row.peer, row.runs = str(ours), str(peer), 1
    row.peer_seconds = peer.run()
    (row.ours_seconds,), _ = in_turn([ours.run], 2 * bench.runs + 1)
    judge(row, faster=200)
    same = filecmp.cmp(bench.file("order"), bench.file("order-peer"), shallow=False)
    row.met = row.met and same
    row.note = f"{len(json.loads(file.read_text())['graph']):,} nodes, {'the same order' if same else 'ANOTHER ORDER'}"
    yield row


def plan_command(bench: Bench) -> Iterator[Row]:
    """Plans of nixpkgs as a whole by its other two programs' rules, start-up and output included."""
    for name, options in (
        ("--strategy auto", ["--strategy", "auto", "--max-layers", "100"]),
        ("--pipeline", ["--pipeline", PIPELINE]),
    ):
        row = Row(f"fastlayers plan {name}, nixpkgs whole", "json.load in Python", "<= 2.5", note=missing(shared=True))
        if not row.note:
            file = str(graph_document(bench, 0))
            ours = Command([*FASTLAYERS, "plan", file, *options, "--format", "layers"])
            compare([row], ours, [Command([*_JSON_LOAD, file])], bench.runs, bench.limit)
            judge(row, at_most=2.5)
        yield row


def store_closure(bench: Bench) -> Iterator[Row]:
    """References, sizes and NAR hashes out of Nix's database, opening it included, beside what tells paths alone."""
    row = Row("nix:PATH, read in one process", "nix-store --query --requisites", "5 times faster")
    row.note = missing("nix-store") or ("" if bench.given else "the store is not Nix's: needs --closure")
    if not row.note:
        closure = fastlayers.read_closure(str(bench.closure))
        root = min(set(closure.paths) - {closure.paths[i] for i in closure.indices.tolist()})

        def read() -> float:
            start = time.perf_counter()
            fastlayers.read_closure(f"nix:{root}")
            return time.perf_counter() - start

        peer = Command(["nix-store", "--query", "--requisites", root])
        row.ours, row.peer = f"read_closure('nix:{root}')", str(peer)
        (row.peer_seconds, row.ours_seconds), row.runs = in_turn([peer.run, read], 2 * bench.runs + 1, bench.limit)
        judge(row, faster=5)
        row.note = f"{len(closure):,} paths"
    yield row
