"""The rows of the table, each fastlayers beside a peer; a function measures those that share their input."""

from __future__ import annotations

import filecmp
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fastlayers
from fastlayers import Customisation, LinkedTree
from fastlayers.customisation import customise

from .graphs import (
    PIPELINE,
    plan_command,
    popularity_command,
    popularity_definition,
    popularity_kernel,
    store_closure,
)
from .incremental import changed_build, pushes, remembered_stream, unchanged_build
from .inputs import (
    CORES,
    FASTLAYERS,
    PYTHON,
    SHARED,
    Bench,
    link_trees,
    missing,
    small_tree,
    write_conf,
)
from .timing import Command, Row, compare, in_turn, judge, peak_memory

__all__ = ["ROWS"]

_FOR_INFORMATION = "for information"

_ONE_LAYER = """
import sys
from fastlayers import LayerRecipe, LayerTask, make_layer
from fastlayers.contents import Tree
make_layer(LayerTask(LayerRecipe(tuple(map(Tree, open(sys.argv[1]).read().split())))))
"""


def linked_contents(bench: Bench) -> Iterator[Row]:
    """Links to 100,000 symlinks in three trees of the same directories, merged, beside what only reads the names."""
    row = Row("--contents of 100,000 links, merged in one process", "find", "<= 2 s", note=missing("find"))
    if not row.note:
        root = bench.file("links")
        link_trees(root, 3)
        contents = tuple(LinkedTree(f"/nix/store/tree-{number}") for number in range(3))
        nothing = fastlayers.Closure([], [])

        def merge() -> float:
            start = time.perf_counter()
            customise(Customisation(contents), nothing, store_root=str(root))
            return time.perf_counter() - start

        peer = Command(["find", str(root)])
        row.ours, row.peer = "customise(Customisation(contents), ...)", str(peer)
        (row.peer_seconds, row.ours_seconds), row.runs = in_turn([peer.run, merge], 2 * bench.runs + 1, bench.limit)
        judge(row)
        row.met = row.ours_seconds <= 2
        subprocess.run(["rm", "-rf", str(root)], check=True)
    yield row


def layer_stream(bench: Bench) -> Iterator[Row]:
    """One layer of everything, one core, nothing compressed, nothing written."""
    row = Row("layer stream, one core", "limit -j1", "<= 1.25 (0.8 of its bytes a second)")
    row.note = missing("gcc", "taskset", shared=True)
    if not row.note:
        one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
        ours = Command([*one_core, PYTHON, "-c", _ONE_LAYER, str(bench.paths)])
        peer = Command([*one_core, str(bench.limit_program), "-j1", "-"], stdin=bench.paths)
        compare([row], ours, [peer], bench.runs, bench.limit)
        judge(row, at_most=1.25)
    yield row


def builds(bench: Bench) -> Iterator[Row]:
    """Whole builds to a file and to a layout, beside limit, which writes as many bytes.

    A build waits until the image is safely on the disk, limit does not: a second row has limit and then sync.
    """
    planning = {}
    for plan, layers in bench.plans.items():
        plan_file = bench.file(f"plan-{plan.partition(' ')[0]}.json")
        plan_file.write_text(json.dumps(layers))
        planning[plan] = ["--plan", str(plan_file)]
    planning |= {"--strategy auto": ["--strategy", "auto"], "--pipeline": ["--pipeline", PIPELINE]}
    for plan, options in planning.items():
        for transport in ("docker-archive", "oci"):
            speed = 0.75 * 0.7 if plan in ("popularity", "--pipeline") else 0.75
            work = f"build --to {transport}:, {plan}"
            row = Row(work, f"limit -w -j{CORES}", f"<= {1 / speed:.2f} ({speed:.3g} of its speed)")
            synced = Row(work, f"limit -w -j{CORES}, then sync", _FOR_INFORMATION)
            row.note = synced.note = missing("gcc", shared=True)
            if not row.note:
                out = bench.file("out")
                ours = [*FASTLAYERS, "build", *bench.source, *options, "--no-cache", "--quiet"]
                ours += ["--to", f"{transport}:{out}/image"]
                peer = [str(bench.limit_program), f"-j{CORES}", "-w", str(out), "-"]
                then_sync = ["sh", "-c", f"{shlex.join(peer)} && sync {shlex.quote(str(out))}/limit-*"]
                peers = [Command(peer, stdin=bench.paths), Command(then_sync, stdin=bench.paths)]

                def clean(out: Path = out) -> None:
                    shutil.rmtree(out, ignore_errors=True)
                    out.mkdir()
                    os.sync()

                compare([row, synced], Command(ours), peers, bench.runs, bench.limit, clean)
                judge(row, at_most=1 / speed)
                judge(synced)
                row.bytes = synced.bytes = bench.bytes
                shutil.rmtree(out)
            yield row
            yield synced


def _drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def streams(bench: Bench) -> Iterator[Row]:
    """A stream into a pipe that a second process drains."""
    for plan, layers in bench.plans.items():
        for cold in (False, True):
            goal = (4 if cold else 10) * (1 if plan.startswith("98") else 0.7)
            row = Row(f"stream, {'cold' if cold else 'warm'}, {plan}", "two_pass.py", f"{goal:.3g} times faster")
            row.note = missing(shared=True, cold=cold)
            if not row.note and bench.root:
                row.note = "the peer reads /nix/store alone: needs --closure"
            if not row.note:
                conf = write_conf(bench, plan.partition(" ")[0], layers)
                layers_file = bench.file("layers.json")
                layers_file.write_text(json.dumps(layers))
                ours = Command([*FASTLAYERS, "stream", str(conf), "--no-cache", "--quiet"], drain=True)
                peer = Command([PYTHON, str(SHARED / "bench" / "two_pass.py"), str(layers_file)], drain=True)
                before: Callable[[], object] = _drop_caches if cold else lambda: None
                compare([row], ours, [peer], bench.runs, bench.limit, before)
                judge(row, faster=goal)
                row.bytes = bench.bytes
            yield row


def compression(bench: Bench) -> Iterator[Row]:
    """One large layer, compressed: beside the programs on the same tar, and on all cores beside one."""
    size = sum(bench.sizes[path] for path in bench.large_layer)
    graph, plan, plain, out, alone = map(
        bench.file, ("large.json", "large-plan.json", "plain.tar", "all.tar", "one.tar")
    )
    nodes = [{"path": path, "narSize": bench.sizes[path], "references": []} for path in bench.large_layer]
    graph.write_text(json.dumps({"graph": nodes}))
    plan.write_text(json.dumps([bench.large_layer]))
    build = [*FASTLAYERS, "build", str(graph), *bench.source[1:], "--no-cache", "--quiet"]
    build += ["--plan", str(plan), "--to"]
    Command([*build, f"docker-archive:{plain}"]).run()
    one_core = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    # pigz takes most of a minute for each run, so that one has to do.
    for codec, program, goal, most in (
        ("gzip", ["pigz", "-6", "-c"], 8.0, 1.17),
        ("zstd", ["zstd", "-3", "-T0", "-c", "-q"], 1.0, float("inf")),
    ):
        layer = f"one layer of {size / 1e9:.1f} GB"
        ours = Command([*build, f"docker-archive:{out}", "--compress", codec])
        row = Row(f"build --compress {codec}, {layer}", " ".join(program[:3]), f"{goal:g} times faster")
        row.goal += f", <= {most} of its size" if most < float("inf") else ""
        row.note = missing(program[0])
        if not row.note:
            theirs = bench.file("theirs")
            peer = Command([*program, str(plain)], stdout=theirs)
            compare([row], ours, [peer], bench.runs, bench.limit, os.sync)
            judge(row, faster=goal)
            share = out.stat().st_size / theirs.stat().st_size
            row.met = row.met and share <= most
            row.bytes, row.note = size, f"{share:.3f} of its size"
        yield row
        row = Row(f"build --compress {codec}, {layer}, {CORES} cores", "one core", "1.7 times faster, same bytes")
        row.note = missing("taskset") or ("" if CORES > 1 else "one core")
        if not row.note:
            peer = Command([*one_core, *build, f"docker-archive:{alone}", "--compress", codec])
            compare([row], ours, [peer], bench.runs, bench.limit, os.sync)
            judge(row, faster=1.7)
            same = filecmp.cmp(out, alone, shallow=False)
            row.met = row.met and same
            row.bytes, row.note = size, "the same bytes" if same else "OTHER BYTES"
        yield row


def loads(bench: Bench) -> Iterator[Row]:
    """One small store path more in a last layer, loaded into engines that have the rest; beside the whole in a pipe.

    The engines are those that DOCKER_HOST and PATH name; they keep nothing of it.
    """
    for transport, engine in (("docker-daemon", "docker"), ("podman", "podman")):
        row = Row(f"build --to {transport}:, one small path more", f"build | {engine} load", "15 times faster")
        row.note = missing(engine)
        if not row.note and subprocess.run([engine, "version"], capture_output=True, check=False).returncode:
            row.note = f"{engine} does not work here"
        if not row.note:
            yield _load_row(bench, row, transport, engine)
        else:
            yield row


def _load_row(bench: Bench, row: Row, transport: str, engine: str) -> Row:
    closure = fastlayers.read_closure(str(bench.closure))
    below = {closure.paths[i] for i in closure.indices.tolist()}
    top = min(set(closure.paths) - below, key=lambda path: (bench.sizes[path], path))
    layers = [[path for path in layer if path != top] for layer in fastlayers.plan_layers(closure, 19).layers]
    plan, plan_below = map(bench.file, ("loads.json", "loads-below.json"))
    plan_below.write_text(json.dumps([layer for layer in layers if layer]))
    plan.write_text(json.dumps([*filter(None, layers), [top]]))
    name = "fastlayers-bench"
    build = ["env", f"XDG_CACHE_HOME={bench.file('cache')}", *FASTLAYERS, "build", *bench.source, "--quiet", "--plan"]

    def forget(*tags: str) -> None:
        subprocess.run([engine, "rmi", *(f"{name}:{tag}" for tag in tags)], capture_output=True, check=False)

    try:
        Command([*build, str(plan_below), "--exclude", top, "--to", f"{transport}:{name}:below"]).run()
        ours = Command([*build, str(plan), "--to", f"{transport}:{name}:top"])
        piped = shlex.join([*build, str(plan), "--to", f"docker-archive:-:{name}:top"])
        peer = Command(["sh", "-c", f"{piped} | {engine} load"])
        compare([row], ours, [peer], bench.runs, bench.limit, lambda: forget("top"))
    finally:
        forget("top", "below")
    row.note = f"{bench.sizes[top]:,} bytes of {bench.bytes:,}"
    return judge(row, faster=15)


def memory(bench: Bench) -> Iterator[Row]:
    """The largest sum of PSS of all processes of a build."""
    for codec in ("none", "gzip", "zstd"):
        command = [*FASTLAYERS, "build", *bench.source, "--no-cache", "--quiet", "--compress", codec]
        command += ["--to", f"docker-archive:{bench.file('memory.tar')}"]
        yield _memory_row(f"peak memory of a build, --compress {codec}", command, len(bench.sizes))


def _memory_row(work: str, command: list[str], nodes: int) -> Row:
    peak = peak_memory(command)
    row = Row(work, "-", f"<= {150 + 20 * CORES} MB + 1 KB a node", ours=shlex.join(command))
    row.met = peak <= (150 + 20 * CORES) * 1e6 + 1000 * nodes
    row.note = f"{peak / 1e6:.0f} MB of PSS, all processes"
    return row


def start_up(bench: Bench) -> Iterator[Row]:
    """The time until something is said."""
    for option, goal in (("--version", 2.0), ("--help", 4.0)):
        row = Row(f"fastlayers {option}", "python -c pass", f"<= {goal:g}")
        compare([row], Command([*FASTLAYERS, option]), [Command([PYTHON, "-c", "pass"])], 15, bench.limit)
        yield judge(row, at_most=goal)


def small_files(bench: Bench) -> Iterator[Row]:
    """A million small files in one closure."""
    row = Row("stream of 1,000,000 small files, digests included", "tar -cf - | cat", "<= 1")
    row.note = missing("tar") or ("" if os.statvfs(bench.work).f_favail > 2_000_000 else "too few inodes")
    if row.note:
        yield row
        return
    root = bench.file("million")
    names = small_tree(root, paths=100, folders=100)
    conf = write_conf(bench, "million", [[name] for name in names], root)
    ours = [*FASTLAYERS, "stream", str(conf), "--store-root", str(root), "--no-cache", "--quiet"]
    peer = Command(["tar", "-C", str(root), "-cf", "-", "nix"], drain=True)
    compare([row], Command(ours, drain=True), [peer], bench.runs, bench.limit)
    yield judge(row, at_most=1.0)
    yield _memory_row("peak memory of that stream", ours, len(names))
    subprocess.run(["rm", "-rf", str(root)], check=True)  # half the time of shutil.rmtree


ROWS: list[Callable[[Bench], Iterator[Row]]] = [
    popularity_kernel,
    popularity_command,
    popularity_definition,
    plan_command,
    store_closure,
    linked_contents,
    layer_stream,
    builds,
    streams,
    unchanged_build,
    changed_build,
    remembered_stream,
    pushes,
    compression,
    loads,
    memory,
    start_up,
    small_files,
]
