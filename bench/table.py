#!/usr/bin/env python3
"""The table of docs/benchmarks.md: every row is fastlayers beside a peer, in turn, on the same input.

    python bench/table.py [--closure GRAPH.json] [--runs N] [--rows WORD...] [--json FILE] [--markdown FILE]

The closure is an exportReferencesGraph document whose store paths are there; without one, a tree of 400 MB is made.
Peers that are not installed, and rows that need ../shared or root, are left out with their reason. Medians of
alternating runs; a ratio is ours over the peer's, or the peer's over ours where the goal says "times faster".
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
PYTHON = sys.executable
FASTLAYERS = [PYTHON, "-m", "fastlayers"]
CORES = len(os.sched_getaffinity(0))


@dataclass
class Row:
    """One line of the table."""

    work: str
    against: str
    goal: str
    ours: str = ""
    peer: str = ""
    ours_seconds: float | None = None
    peer_seconds: float | None = None
    ratio: float | None = None
    met: bool | None = None
    note: str = ""


@dataclass
class Bench:
    """What rows need."""

    work: Path
    closure: Path
    runs: int
    rows: list[Row] = field(default_factory=list)

    def file(self, name: str) -> Path:
        """A path in the working folder."""
        return self.work / name


def seconds(command: list[str], *, stdin: Path | None = None, drain: bool = False) -> float:
    """How long a command takes; its output is drained by a second process, or thrown away."""
    source = stdin.open("rb") if stdin else subprocess.DEVNULL
    start = time.perf_counter()
    if drain:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as cat:
            status = subprocess.run(command, stdin=source, stdout=cat.stdin, stderr=subprocess.PIPE, check=False)
            assert cat.stdin is not None
            cat.stdin.close()
            cat.wait()
    else:
        status = subprocess.run(command, stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
    taken = time.perf_counter() - start
    if status.returncode:
        raise RuntimeError(f"{' '.join(command)}: {status.stderr.decode(errors='replace')[-300:]}")
    return taken


def alternate(
    ours: Callable[[], float], peer: Callable[[], float], runs: int, before: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Medians of alternating runs, after one of each that is not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(runs + 1):
        for action, taken in ((peer, times[1]), (ours, times[0])):
            before()
            value = action()
            if number:
                taken.append(value)
    return statistics.median(times[0]), statistics.median(times[1])


def compare(
    row: Row,
    bench: Bench,
    ours: list[str],
    peer: list[str],
    *,
    at_most: float | None = None,
    faster: float | None = None,
    before: Callable[[], None] = lambda: None,
    **options: object,
) -> Row:
    """Fill a row from two commands."""
    drain = bool(options.get("drain"))
    peer_stdin = options.get("peer_stdin")
    row.ours, row.peer = " ".join(ours), " ".join(peer)
    row.ours_seconds, row.peer_seconds = alternate(
        lambda: seconds(ours, drain=drain),
        lambda: seconds(peer, drain=drain, stdin=peer_stdin if isinstance(peer_stdin, Path) else None),
        int(str(options.get("runs", bench.runs))),
        before,
    )
    return judge(row, at_most=at_most, faster=faster)


def judge(row: Row, *, at_most: float | None = None, faster: float | None = None) -> Row:
    """Compute the ratio and whether the goal is met."""
    assert row.ours_seconds is not None and row.peer_seconds is not None
    if faster is not None:
        row.ratio = row.peer_seconds / row.ours_seconds
        row.met = row.ratio >= faster
    else:
        row.ratio = row.ours_seconds / row.peer_seconds
        row.met = at_most is None or row.ratio <= at_most
    return row


# --- inputs -----------------------------------------------------------------------------------------------------------


def make_closure(work: Path) -> Path:
    """A tree of 400 MB in 60 store paths below work/root, for machines without a real closure."""
    rng = random.Random(1)
    store = work / "root" / "nix" / "store"
    nodes: list[dict[str, Any]] = []
    for i in range(60):
        name = "".join(rng.choice("0123456789abcdfghijklmnpqrsvwxyz") for _ in range(32)) + f"-made-{i}"
        (store / name / "lib").mkdir(parents=True)
        for k in range(100):
            (store / name / "lib" / f"{k}.py").write_bytes(rng.randbytes(rng.randrange(20_000)))
        (store / name / "lib" / "big.so").write_bytes(rng.randbytes(rng.randrange(12_000_000)))
        references = [f"/nix/store/{other['path'].rpartition('/')[2]}" for other in rng.sample(nodes, min(i, 4))]
        nodes.append({"path": f"/nix/store/{name}", "narSize": 6_000_000, "references": references})
    graph = work / "graph.json"
    graph.write_text(json.dumps({"graph": nodes}))
    return graph


def plans(bench: Bench) -> dict[str, list[list[str]]]:
    """The two plans: popularity, and the 98 largest paths alone with the rest in one more."""
    import fastlayers

    closure = fastlayers.read_closure(str(bench.closure))
    popular = [list(layer) for layer in fastlayers.plan_layers(closure, 99).layers]
    sizes = dict(zip(closure.paths, closure.nar_sizes.tolist(), strict=True))
    order = sorted(closure.paths, key=lambda path: (-sizes[path], path))
    large = [[path] for path in order[:98]] + ([sorted(order[98:])] if order[98:] else [])
    return {"popularity": popular, "98 largest alone": large}


def write_conf(bench: Bench, name: str, layers: list[list[str]]) -> Path:
    """A conf.json of nixpkgs' streamed image with these layers, and an empty customisation layer."""
    import hashlib
    import io
    import tarfile

    folder = bench.file("customisation")
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
    }
    conf |= {"customisation_layer": str(folder), "repo_tag": "bench:1", "created": date, "mtime": date}
    conf |= {"uid": "0", "gid": "0", "uname": "root", "gname": "root", "store_layers": layers}
    file = bench.file(f"conf-{name.split(maxsplit=1)[0]}.json")
    file.write_text(json.dumps(conf))
    return file


def paths_file(bench: Bench) -> Path:
    """The store paths of the closure, a line each, as limit reads them."""
    document = json.loads(bench.closure.read_text())
    (nodes,) = (value for value in document.values() if isinstance(value, list) and value and "path" in value[0])
    file = bench.file("paths")
    file.write_text("".join(f"{bench.file('root') if made(bench) else ''}{node['path']}\n" for node in nodes))
    return file


def made(bench: Bench) -> bool:
    """Whether the closure is the one made here."""
    return bench.closure == bench.file("graph.json")


def store_root(bench: Bench) -> list[str]:
    """The option that finds the closure's files."""
    return ["--store-root", str(bench.file("root"))] if made(bench) else []


def limit_program(bench: Bench) -> Path:
    """``limit``, which walks, reads and hashes, compiled."""
    program = bench.file("limit")
    if not program.exists():
        command = ["gcc", "-O2", str(SHARED / "bench" / "limit.c"), "-o", str(program), "-lcrypto"]
        subprocess.run(command, check=True, capture_output=True)
    return program


def missing(*programs: str, shared: bool = False, root: bool = False) -> str:
    """Why a row cannot be measured here, or nothing."""
    absent = [program for program in programs if not shutil.which(program)]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if shared and not SHARED.is_dir():
        return "no ../shared"
    if root and os.geteuid():
        return "needs root"
    return ""


def graph_document(bench: Bench, sample: int) -> Path:
    """The graph of nixpkgs, or the closure of so many of its nodes."""
    file = bench.file(f"nixpkgs-{sample}.json")
    if not file.exists():
        folder = SHARED / "closures"
        command = [PYTHON, str(folder / "to_graph.py"), str(folder / "nixpkgs-2025-09.npz"), "--sample", str(sample)]
        with file.open("wb") as out:
            subprocess.run(command, stdout=out, check=True)
    return file


# --- rows -------------------------------------------------------------------------------------------------------------


def popularity_kernel(bench: Bench) -> Iterator[Row]:
    """The kernels alone, beside json.load of the document, in one process."""
    import fastlayers
    from fastlayers.popularity import order_by_popularity
    from fastlayers.sources import read_closure

    for sample, goal in ((600, 0.15), (0, 0.3)):
        row = Row(
            f"popularity kernel, nixpkgs {f'--sample {sample}' if sample else 'whole'}", "json.load", f"<= {goal}"
        )
        row.note = missing(shared=True)
        if not row.note:
            import numpy as np

            from fastlayers import _core

            file = graph_document(bench, sample)
            closure = read_closure(str(file), any_names=True)
            order_by_popularity(closure)

            def kernel(closure: fastlayers.Closure = closure) -> float:
                indptr, indices, n = closure.indptr, closure.indices, len(closure)
                start = time.perf_counter()
                order = np.empty(n, dtype=np.int32)
                _core.topological_order(indptr, indices, order)
                limbs = 1
                while not _core.path_counts(indptr, indices, order, paths := np.empty((n, limbs), dtype=np.uint64)):
                    limbs *= 2
                _core.popularity(indptr, indices, order, paths, np.empty((n, limbs), dtype=np.uint64))
                return time.perf_counter() - start

            def load(file: Path = file) -> float:
                with file.open("rb") as document:
                    start = time.perf_counter()
                    json.load(document)
                    return time.perf_counter() - start

            row.ours, row.peer = "order_by_popularity's kernels", "json.load"
            row.ours_seconds, row.peer_seconds = alternate(kernel, load, 2 * bench.runs + 1)
            judge(row, at_most=goal)
        yield row


def popularity_command(bench: Bench) -> Iterator[Row]:
    """The whole command, start-up included."""
    row = Row("fastlayers popularity, nixpkgs whole", "json.load in Python", "<= 1.2")
    row.note = missing(shared=True)
    if not row.note:
        file = str(graph_document(bench, 0))
        peer = [PYTHON, "-c", "import json, sys; json.load(open(sys.argv[1]))", file]
        compare(row, bench, [*FASTLAYERS, "popularity", file], peer, at_most=1.2)
    yield row


PIPELINE = '[["popularity_contest"], ["reverse"], ["limit_layers", 99]]'


def plan_command(bench: Bench) -> Iterator[Row]:
    """Plans of nixpkgs as a whole by its other two programs' rules, start-up and output included."""
    for name, options in (
        ("--strategy auto", ["--strategy", "auto", "--max-layers", "100"]),
        ("--pipeline", ["--pipeline", PIPELINE]),
    ):
        row = Row(f"fastlayers plan {name}, nixpkgs whole", "json.load in Python", "<= 2.5")
        row.note = missing(shared=True)
        if not row.note:
            file = str(graph_document(bench, 0))
            peer = [PYTHON, "-c", "import json, sys; json.load(open(sys.argv[1]))", file]
            compare(row, bench, [*FASTLAYERS, "plan", file, *options, "--format", "layers"], peer, at_most=2.5)
        yield row


def layer_stream(bench: Bench) -> Iterator[Row]:
    """One layer of everything, one core, nothing compressed, nothing written."""
    row = Row("layer stream, one core", "limit -j1", "<= 1.25 (0.8 of its bytes a second)")
    row.note = missing("gcc", "taskset", shared=True)
    if not row.note:
        script = (
            "import sys; from fastlayers import LayerRecipe, LayerTask, make_layer;"
            "from fastlayers.contents import Tree;"
            "paths = open(sys.argv[1]).read().split();"
            "make_layer(LayerTask(LayerRecipe(tuple(map(Tree, paths)))))"
        )
        file = str(paths_file(bench))
        ours = ["taskset", "-c", "0", PYTHON, "-c", script, file]
        peer = ["taskset", "-c", "0", str(limit_program(bench)), "-j1", "-"]
        compare(row, bench, ours, peer, at_most=1.25, peer_stdin=Path(file))
    yield row


def builds(bench: Bench) -> Iterator[Row]:
    """Whole builds to a file and to a layout, beside limit, which writes as many bytes."""
    planning = {}
    for plan, layers in plans(bench).items():
        plan_file = bench.file(f"plan-{plan.split(maxsplit=1)[0]}.json")
        plan_file.write_text(json.dumps(layers))
        planning[plan] = ["--plan", str(plan_file)]
    planning |= {"--strategy auto": ["--strategy", "auto"], "--pipeline": ["--pipeline", PIPELINE]}
    for plan, options in planning.items():
        for transport in ("docker-archive", "oci"):
            goal = 0.75 * 0.7 if plan in ("popularity", "--pipeline") else 0.75
            row = Row(
                f"build --to {transport}:, {plan}",
                f"limit -w -j{CORES}",
                f"<= {1 / goal:.2f} ({goal:.3g} of its speed)",
            )
            row.note = missing("gcc", shared=True)
            if not row.note:
                out = bench.file("out")
                ours = [*FASTLAYERS, "build", str(bench.closure), *store_root(bench), *options, "--quiet"]
                ours += ["--to", f"{transport}:{out}/image"]

                def clean(out: Path = out) -> None:
                    shutil.rmtree(out, ignore_errors=True)
                    out.mkdir()
                    os.sync()

                file = paths_file(bench)
                peer = [str(limit_program(bench)), f"-j{CORES}", "-w", str(out), "-"]
                compare(row, bench, ours, peer, at_most=1 / goal, before=clean, peer_stdin=file)
                shutil.rmtree(out)
            yield row


def drop_caches() -> None:
    """Make the next reads cold."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def streams(bench: Bench) -> Iterator[Row]:
    """A stream into a pipe that a second process drains."""
    for plan, layers in plans(bench).items():
        for cold in (False, True):
            goal = (4 if cold else 10) * (1 if plan.startswith("98") else 0.7)
            row = Row(f"stream, {'cold' if cold else 'warm'}, {plan}", "two_pass.py", f"{goal:.3g} times faster")
            row.note = missing(shared=True, root=cold)
            if not row.note and made(bench):
                row.note = "the peer reads /nix/store alone: needs --closure"
            if not row.note:
                conf = write_conf(bench, plan, layers)
                layer_file = bench.file("layers.json")
                layer_file.write_text(json.dumps(layers))
                ours = [*FASTLAYERS, "stream", str(conf), "--quiet"]
                peer = [PYTHON, str(SHARED / "bench" / "two_pass.py"), str(layer_file)]
                before = drop_caches if cold else lambda: None
                runs = min(bench.runs, 2)
                compare(row, bench, ours, peer, faster=goal, before=before, drain=True, runs=runs)
            yield row


def compression(bench: Bench) -> Iterator[Row]:
    """Compressed archives, beside the programs on the same tar."""
    tar = bench.file("plain.tar")
    base = [*FASTLAYERS, "build", str(bench.closure), *store_root(bench), "--quiet", "--max-layers", "2"]
    out = bench.file("compressed.tar")
    ours = [*base, "--to", f"docker-archive:{out}"]
    for codec, peer, goal in (("gzip", ["pigz", "-6", "-c"], 8.0), ("zstd", ["zstd", "-3", "-T0", "-c", "-q"], 1.0)):
        row = Row(f"build --compress {codec}", " ".join(peer[:-1]), f"{goal:g} times faster")
        row.note = missing(peer[0])
        if not row.note:
            if not tar.exists():
                subprocess.run([*base, "--to", f"docker-archive:{tar}"], check=True)
            compare(row, bench, [*ours, "--compress", codec], [*peer, str(tar)], faster=goal, runs=1)
            theirs = int(
                subprocess.run(["sh", "-c", f"{' '.join(peer)} {tar} | wc -c"], capture_output=True, check=True).stdout
            )
            row.note = f"{out.stat().st_size / theirs:.3f} of its size"
        yield row
    row = Row(f"build --compress gzip, one layer, {CORES} cores", "one core", "1.7 times faster")
    row.note = missing("taskset") or ("" if CORES > 1 else "one core")
    if not row.note:
        command = [*ours, "--compress", "gzip"]
        compare(row, bench, command, ["taskset", "-c", "0", *command], faster=1.7, runs=1)
    yield row


def peak_memory(bench: Bench) -> Iterator[Row]:
    """The largest sum of PSS of all processes of a build."""
    for codec in ("none", "gzip"):
        row = Row(f"peak memory of a build, --compress {codec}", "MB of PSS", f"<= {150 + 20 * CORES} + 1 KB a node")
        command = [*FASTLAYERS, "build", str(bench.closure), *store_root(bench), "--quiet", "--compress", codec]
        command += ["--to", f"docker-archive:{bench.file('memory.tar')}"]
        row.ours = " ".join(command)
        peak = 0
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
            while process.poll() is None:
                peak = max(peak, pss(process.pid))
                time.sleep(0.02)
        nodes = len(json.loads(bench.closure.read_text()).popitem()[1])
        row.note = f"{peak / 1e6:.0f} MB"
        row.met = peak <= (150 + 20 * CORES) * 1e6 + 1000 * nodes
        yield row


def pss(session: int) -> int:
    """Bytes of PSS of all processes of a session."""
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getsid(int(folder.name)) == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue
    return total


def start_up(bench: Bench) -> Iterator[Row]:
    """The time until something is said."""
    for option, goal in (("--version", 2.0), ("--help", 4.0)):
        row = Row(f"fastlayers {option}", "python -c pass", f"<= {goal:g}")
        yield compare(row, bench, [*FASTLAYERS, option], [PYTHON, "-c", "pass"], at_most=goal, runs=15)


def small_files(bench: Bench) -> Iterator[Row]:
    """A million small files in one closure."""
    row = Row("stream of 1,000,000 small files, digests included", "tar -cf - | cat", "<= 1")
    row.note = missing("tar") or ("" if os.statvfs(bench.work).f_favail > 2_000_000 else "too few inodes")
    if not row.note:
        root = bench.file("million")
        layers = []
        for i in range(100):
            top = root / "nix" / "store" / f"{i:032d}-small"
            for k in range(100):
                folder = top / f"d{k}"
                folder.mkdir(parents=True)
                for m in range(100):
                    (folder / f"file-{m}.txt").write_bytes(b"x" * (m * 7 % 900))
            layers.append([f"/nix/store/{i:032d}-small"])
        conf = write_conf(bench, "million", layers)
        data = json.loads(conf.read_text())
        customisation = root / "nix" / "store" / "customisation"
        shutil.copytree(data["customisation_layer"], customisation)
        conf.write_text(json.dumps(data | {"customisation_layer": "/nix/store/customisation"}))
        ours = [*FASTLAYERS, "stream", str(conf), "--store-root", str(root), "--quiet"]
        peer = ["tar", "-C", str(root), "-cf", "-", "nix"]
        compare(row, bench, ours, peer, at_most=1.0, drain=True, runs=min(bench.runs, 3))
        shutil.rmtree(root)
    yield row


def linked_contents(bench: Bench) -> Iterator[Row]:
    """Links to 100,000 symlinks in three trees, whose directories are the same."""
    row = Row("build with --contents of 100,000 links, whole", "find", "<= 2 s")
    row.note = missing("find")
    if not row.note:
        root, path = bench.file("links"), f"/nix/store/{'0' * 32}-links"
        trees = [f"{path}/tree{k}" for k in range(3)]
        for k, tree in enumerate(trees):
            for i in range(100):
                folder = root / tree[1:] / "share" / f"directory-{i}"
                folder.mkdir(parents=True)
                for m in range(334):
                    (folder / f"file-{k}-{m}").symlink_to(f"/nix/store/{k:032d}-package/share/file-{m}")
        graph = bench.file("links.json")
        graph.write_text(json.dumps([{"path": path, "references": []}]))
        ours = [*FASTLAYERS, "build", str(graph), "--store-root", str(root), "--quiet"]
        ours += [f"--contents={tree}" for tree in trees] + [f"--to=docker-archive:{bench.file('links.tar')}"]
        compare(row, bench, ours, ["find", *(f"{root}{tree}" for tree in trees), "-printf", "%p %l\\n"])
        row.met = row.ours_seconds is not None and row.ours_seconds <= 2
        shutil.rmtree(root)
    yield row


ROWS = [
    popularity_kernel,
    popularity_command,
    plan_command,
    layer_stream,
    builds,
    streams,
    compression,
    peak_memory,
    start_up,
    small_files,
    linked_contents,
]


def shown(value: float | None, form: str = ".3g") -> str:
    """A number, or a dash."""
    return "-" if value is None else f"{value:{form}}"


def markdown(rows: list[Row]) -> str:
    """The rows as a table."""
    lines = ["| work | against | goal | ours, s | peer, s | ratio | met | |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        met = {True: "yes", False: "no", None: "-"}[row.met]
        cells = [row.work, row.against, row.goal, shown(row.ours_seconds), shown(row.peer_seconds), shown(row.ratio)]
        lines.append(f"| {' | '.join([*cells, met, row.note])} |")
    return "\n".join(lines)


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    import fastlayers

    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")
    commit = subprocess.run(
        ["git", "-C", str(HERE), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "processor": f"{cpu}, {CORES} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "fastlayers": f"{fastlayers.__version__} at {commit.stdout.strip() or 'an unknown commit'}",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--closure", type=Path, help="an exportReferencesGraph document of store paths that are there")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", nargs="*", help=f"only these: {', '.join(row.__name__ for row in ROWS)}")
    parser.add_argument("--work", type=Path, help="a folder with room for twice the closure [default: a temporary one]")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fastlayers-bench-", dir=args.work) as folder:
        work = Path(folder)
        bench = Bench(work, args.closure or make_closure(work), args.runs)
        for row_maker in ROWS:
            if args.rows and row_maker.__name__ not in args.rows:
                continue
            for row in row_maker(bench):
                bench.rows.append(row)
                met = {True: "met", False: "NOT MET", None: "-"}[row.met]
                figures = f"{shown(row.ours_seconds)} s, peer {shown(row.peer_seconds)} s, ratio {shown(row.ratio)}"
                print(f"{row.work} | {row.against} | {row.goal}: {figures}, {met} {row.note}", flush=True)
    report = {"machine": machine(), "closure": str(args.closure or "made"), "rows": [asdict(row) for row in bench.rows]}
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    if args.markdown:
        lines = [f"- {key}: {value}" for key, value in machine().items()]
        args.markdown.write_text("\n".join(lines) + "\n\n" + markdown(bench.rows) + "\n")


if __name__ == "__main__":
    main()
