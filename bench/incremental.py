"""Rows of what is remembered: builds, streams and pushes that cost what changed.

A changed closure is the one in ``../leaf/graph.json`` beside the folder of the closure that is given.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fastlayers

from .inputs import FASTLAYERS, PYTHON, SHARED, Bench, missing, write_conf
from .timing import Command, Failed, Row, compare, in_turn, judge

__all__ = ["changed_build", "pushes", "remembered_stream", "unchanged_build"]

_IMPORTS = [PYTHON, "-c", "import numpy, scipy.sparse"]
_MAX_LAYERS = 99
_PATIENCE = 30  # seconds that a registry may take to start


def _needs_closure(bench: Bench, *, changed: bool = False) -> str:
    """Why a row cannot be measured, or nothing: store paths are remembered where they are, not below a root."""
    if not bench.given:
        return "a store root has no NAR hashes: needs --closure"
    return "" if not changed or _changed(bench).exists() else f"no {_changed(bench)}"


def _changed(bench: Bench) -> Path:
    return bench.closure.resolve().parents[1] / "leaf" / "graph.json"


def _plans(bench: Bench) -> tuple[Path, Path, list[str]]:
    """Plans of the closure and of the changed one, in which each path that is not in both has a layer of its own; and
    the new paths."""
    before, after = (fastlayers.read_closure(str(file)) for file in (bench.closure, _changed(bench)))
    old = [path for path in before.paths if path not in after]
    new = [path for path in after.paths if path not in before]
    common = fastlayers.plan_layers(before, _MAX_LAYERS - max(len(old), len(new)), exclude=old).layers
    files = []
    for name, own in (("before", old), ("after", new)):
        files.append(bench.file(f"plan-{name}.json"))
        files[-1].write_text(json.dumps([*map(list, common), *([path] for path in own)]))
    return files[0], files[1], new


def unchanged_build(bench: Bench) -> Iterator[Row]:
    """A build of what is there, beside imports that a program which computes cannot do without."""
    row = Row("build --to oci:, nothing changed", "import numpy, scipy.sparse", "<= 1, no file of the store opened")
    row.note = _needs_closure(bench) or missing("strace")
    if not row.note:
        cache = bench.file("cache")
        ours = [*FASTLAYERS, "build", str(bench.closure), "--cache", str(cache), "--quiet"]
        ours += ["--to", f"oci:{bench.file('layout')}"]
        Command(ours).run()
        compare([row], Command(ours), [Command(_IMPORTS)], 15, bench.limit)
        judge(row, at_most=1.0)
        trace = bench.file("trace")
        Command(["strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o", str(trace), *ours]).run()
        opened = trace.read_text().count('"/nix/store/')
        row.met = row.met and not opened
        row.note = f"{opened} looks into the store"
        shutil.rmtree(bench.file("layout"))
        shutil.rmtree(cache)
    yield row


def changed_build(bench: Bench) -> Iterator[Row]:
    """A build after a change, by a plan in which what changed has layers of its own."""
    row = Row("build --to oci:, six paths changed", "the whole build", "reads the changed layers, within 10 %")
    row.note = _needs_closure(bench, changed=True)
    if not row.note:
        before, after, new = _plans(bench)
        layout, cache = bench.file("layout"), bench.file("cache")

        def build(closure: Path, plan: Path) -> Command:
            ours = [*FASTLAYERS, "build", str(closure), "--plan", str(plan), "--cache", str(cache), "--quiet"]
            return Command([*ours, "--json", "--to", f"oci:{layout}"], stdout=bench.file("made"))

        def remove() -> None:
            for folder in (layout, cache):
                shutil.rmtree(folder, ignore_errors=True)

        def first() -> float:
            remove()
            return build(bench.closure, before).run()

        peer, ours = build(bench.closure, before), build(_changed(bench), after)
        row.ours, row.peer = str(ours), str(peer)
        (row.peer_seconds, row.ours_seconds), row.runs = in_turn([first, ours.run], bench.runs, bench.limit)
        judge(row, faster=0)
        made = json.loads(bench.file("made").read_text())
        size = sum(layer["tar_size"] for layer in made["layers"] if set(layer["paths"]) & set(new))
        row.met = abs(made["read"] - size) <= 0.1 * size
        row.note = f"{made['read'] / 1e6:.1f} MB read, layers of {size / 1e6:.1f} MB"
        remove()
    yield row


def remembered_stream(bench: Bench) -> Iterator[Row]:
    """A stream whose layers are all remembered, into a pipe that a second process drains."""
    for plan, layers in bench.plans.items():
        row = Row(f"stream, remembered, {plan}", "two_pass.py", "20 times faster", note=missing(shared=True))
        row.note = row.note or ("" if bench.given else "the peer reads /nix/store alone: needs --closure")
        if not row.note:
            cache = bench.file("cache")
            conf = write_conf(bench, plan.partition(" ")[0], layers)
            layers_file = bench.file("layers.json")
            layers_file.write_text(json.dumps(layers))
            ours = Command([*FASTLAYERS, "stream", str(conf), "--cache", str(cache), "--quiet"], drain=True)
            peer = Command([PYTHON, str(SHARED / "bench" / "two_pass.py"), str(layers_file)], drain=True)
            ours.run()
            compare([row], ours, [peer], bench.runs, bench.limit)
            judge(row, faster=20)
            row.bytes = bench.bytes
            shutil.rmtree(cache)
        yield row


@contextlib.contextmanager
def _registry(bench: Bench) -> Iterator[tuple[str, Path]]:
    """A registry with nothing in it: HOST:PORT, and its log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    storage, log, config = bench.file("storage"), bench.file("registry.log"), bench.file("registry.yml")
    shutil.rmtree(storage, ignore_errors=True)
    told = {"storage": {"filesystem": {"rootdirectory": str(storage)}}, "http": {"addr": host}}
    config.write_text(json.dumps({"version": 0.1, **told}))
    with (
        log.open("wb") as out,
        subprocess.Popen(["docker-registry", "serve", config], stdout=out, stderr=out) as server,
    ):
        try:
            end = time.monotonic() + _PATIENCE
            while True:
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", int(host.rpartition(":")[2]))),
                ):
                    break
                if time.monotonic() > end:
                    raise Failed("docker-registry does not start")
                time.sleep(0.02)
            yield host, log
        finally:
            server.kill()
    shutil.rmtree(storage)


def pushes(bench: Bench) -> Iterator[Row]:
    """Pushes of nothing compressed beside a registry's own limit, with gzip beside nixpkgs' way of working."""
    yield _plain_push(bench)
    yield from _compressed_pushes(bench)


def _plain_push(bench: Bench) -> Row:
    """A first push; the registry's own limit is how long it takes blobs that are ready, on the same cores."""
    row = Row("build --to docker://, nothing compressed, first push", "ready_push.py", "<= 1.1")
    row.note = _needs_closure(bench, changed=True) or missing("docker-registry")
    if row.note:
        return row
    before, _, _ = _plans(bench)
    build = [*FASTLAYERS, "build", str(bench.closure), "--plan", str(before), "--no-cache", "--quiet"]
    build += ["--compress", "none", "--to"]
    layout = bench.file("layout")
    Command([*build, f"oci:{layout}"]).run()
    ready = [PYTHON, str(Path(__file__).with_name("ready_push.py"))]

    def ours(host: str) -> Command:
        return Command([*build, f"docker://{host}/plain:1"])

    def peer(host: str) -> Command:
        return Command([*ready, f"{host}/plain", str(layout / "blobs" / "sha256")])

    def into_a_new_registry(command: Callable[[str], Command]) -> float:
        os.sync()
        with _registry(bench) as (host, _):
            return command(host).run()

    actions = [partial(into_a_new_registry, command) for command in (peer, ours)]
    (row.peer_seconds, row.ours_seconds), row.runs = in_turn(actions, bench.runs, bench.limit)
    row.peer, row.ours = str(peer("HOST:PORT")), str(ours("HOST:PORT"))
    row.bytes = bench.bytes
    shutil.rmtree(layout)
    return judge(row, at_most=1.1)


def _compressed_pushes(bench: Bench) -> Iterator[Row]:
    """A first push and one after a change.

    Each as on a machine that has done neither before: without a cache of ours, and without skopeo's cache of blobs. So
    the peer's second push does what its first does, and is not run.
    """
    first = Row("build --to docker://, gzip, first push", "two_pass.py, skopeo copy", "4 times faster")
    again = Row("build --to docker://, gzip, six paths changed", "two_pass.py, skopeo copy", "20 times faster")
    again.goal += ", <= 3 + new layers GET and HEAD"
    first.note = again.note = _needs_closure(bench, changed=True) or missing("docker-registry", "skopeo", shared=True)
    if first.note:
        yield first
        yield again
        return
    before, after, _ = _plans(bench)
    with _registry(bench) as (host, log):

        def ours(closure: Path, plan: Path) -> Command:
            cache = bench.file("cache")
            shutil.rmtree(cache, ignore_errors=True)
            push = [*FASTLAYERS, "build", str(closure), "--plan", str(plan), "--cache", str(cache), "--quiet"]
            return Command([*push, "--to", f"docker://{host}/ours:1"])

        # Each may be done once: what is there is not sent again.
        peer, command = _two_pass_push(bench, before, f"{host}/peer:1"), ours(bench.closure, before)
        first.peer_seconds, first.ours_seconds = peer.run(), command.run()
        first.peer, first.ours, first.runs = str(peer), str(command), 1
        yield judge(first, faster=4)
        asked = len(_questions(log))
        command = ours(_changed(bench), after)
        again.peer_seconds, again.ours_seconds = first.peer_seconds, command.run()
        again.peer, again.ours, again.runs = str(peer), str(command), 1
        judge(again, faster=20)
        mine = [path for path in _questions(log)[asked:] if path.startswith("/v2/ours/")]
        old, new = ({json.dumps(layer) for layer in json.loads(plan.read_text())} for plan in (before, after))
        again.met = again.met and len(mine) <= 3 + len(new - old)
        again.note = f"{len(mine)} GET and HEAD, {len(new - old)} new layers; the peer's time is that of its first push"
        yield again
    shutil.rmtree(bench.file("cache"))


def _two_pass_push(bench: Bench, plan: Path, name: str) -> Command:
    """The way of working of nixpkgs, and skopeo, to a place in a registry."""
    program, two_pass = Path(__file__).with_name("two_pass_image.py"), SHARED / "bench" / "two_pass.py"
    stream = shlex.join([PYTHON, str(program), str(two_pass), str(plan)])
    # Where skopeo remembers compressed blobs, which for root is not in XDG_DATA_HOME unless it takes him for a user.
    remembers = bench.file("skopeo")
    shutil.rmtree(remembers, ignore_errors=True)
    copy = f"env _CONTAINERS_ROOTLESS_UID=1 XDG_DATA_HOME={shlex.quote(str(remembers))} "
    copy += "skopeo copy -q --insecure-policy --dest-tls-verify=false --dest-compress-format gzip"
    # Not every skopeo reads an archive from a pipe (1.9 does not); those that do put it into a file too.
    archive = shlex.quote(str(bench.file("image.tar")))
    return Command(
        ["sh", "-c", f"{stream} > {archive} && {copy} docker-archive:{archive} docker://{name} && rm {archive}"]
    )


def _questions(log: Path) -> list[str]:
    """The paths that were asked for with GET or HEAD."""
    time.sleep(0.1)  # the log is written after the answer
    return re.findall(r'"(?:GET|HEAD) (/v2/\S*) HTTP/1\.1" \d+', log.read_text())
