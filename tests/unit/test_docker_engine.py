"""Docker's engine, as it is documented: what is sent, what is checked, and what is left when something fails."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_engine import FakeEngine, _Handler, chain_ids
from fastlayers import (
    Closure,
    Codec,
    Contradiction,
    DestinationError,
    LayerPlan,
    LayerRecipe,
    PlanError,
    build_image,
    parse_destination,
    read_base,
    read_closure,
)
from fastlayers.build import BuildResult
from fastlayers.engines import held_chains
from fastlayers.memory import Memory
from loads import command_line, load, one_line
from stores import APP, BASE, LIB, make_store, write_file


@pytest.fixture(params=["graph driver", "containerd"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with tempfile.TemporaryDirectory() as folder:  # a socket's name may have 107 bytes
        server = FakeEngine(Path(folder, "s"), containerd=request.param == "containerd")
        monkeypatch.setenv("DOCKER_HOST", server.host)
        yield server
        server.close()


only_graph_driver = pytest.mark.parametrize("engine", ["graph driver"], indirect=True)
only_containerd = pytest.mark.parametrize("engine", ["containerd"], indirect=True)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path)
    return tmp_path


def change(store: Path, path: str) -> None:
    """Another store path in this one's place."""
    write_file(store / "root" / path[1:] / "changed", "changed\n")


def layers_in(members: list[str], made: BuildResult) -> list[str]:
    """Which layers were in an archive, by the names of their nodes."""
    return [layer.paths[0] for layer in made.layers if f"blobs/{layer.descriptor.digest.replace(':', '/')}" in members]


def read_of(made: BuildResult, *nodes: str) -> int:
    """Bytes of the files of some layers, by the names of their nodes, or of all."""
    looks = [layer.descriptor.look for layer in made.layers if not nodes or layer.paths[0] in nodes]
    return sum(look.bytes for look in looks if look is not None)


def remember(monkeypatch: pytest.MonkeyPatch, made: BuildResult, *but: str) -> None:
    """Have the next builds know the layers of one before they look at a file, as NAR hashes would tell them."""
    known = {layer.paths[0]: layer.descriptor for layer in made.layers if layer.paths[0] not in but}

    def look_up(memory: Memory, recipes: Sequence[LayerRecipe], *rest: object, **more: object) -> list[Any]:
        memory.recipes = [None] * len(recipes)
        return [known.get(recipe.contents[0].owner) for recipe in recipes]

    monkeypatch.setattr(Memory, "look_up", look_up)


def test_a_first_load_sends_all(store: Path, engine: FakeEngine) -> None:
    made = load(store)
    layout = build_image(
        read_closure(str(store / "graph.json")),
        [parse_destination(f"oci:{store}/oci:1")],
        layer_plan=made.plan,
        store_root=str(store / "root"),
    )
    assert engine.names == {"app:1": layout.image.config_digest} and engine.whole("app:1")
    assert layers_in(engine.loads[0], made) == [BASE, LIB, APP]
    assert made.sent == engine.received > 20_000 and made.notes == ()
    assert made.read == 2 * read_of(made)  # hashed, then sent: no header of the archive is read


@pytest.mark.parametrize("changed", [APP, LIB, BASE])
def test_only_what_is_missing_is_sent(changed: str, store: Path, engine: FakeEngine) -> None:
    """To a graph driver, from the first changed layer upward; to containerd's store the changed one."""
    first = load(store)
    change(store, changed)
    made = load(store, "docker-daemon:app:2")
    order = [BASE, LIB, APP]
    expected = [changed] if engine.containerd else order[order.index(changed) :]
    assert layers_in(engine.loads[1], made) == expected
    assert first.sent is not None and made.sent is not None and made.sent + first.sent == engine.received
    assert engine.whole("app:1") and engine.whole("app:2") and len(engine.names) == 2
    assert made.notes == ()
    assert made.read == read_of(made) + read_of(made, *expected)


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_what_is_remembered_and_there_is_not_read(
    codec: Any, store: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(store, codec=Codec(codec))
    shutil.rmtree(store / "root" / LIB[1:])
    change(store, APP)
    remember(monkeypatch, first, APP)
    made = load(store, "docker-daemon:app:2", codec=Codec(codec))
    assert layers_in(engine.loads[1], made) == [APP]
    assert engine.whole("app:2")


@only_graph_driver
@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_what_is_there_in_another_stack_is_sent(
    codec: Any, store: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(store, codec=Codec(codec))
    change(store, BASE)
    remember(monkeypatch, first, BASE)
    made = load(store, "docker-daemon:app:2", codec=Codec(codec))
    assert layers_in(engine.loads[1], made) == [BASE, LIB, APP]
    assert engine.whole("app:2") and made.notes == ()


@only_graph_driver
def test_what_is_sent_after_all_is_hashed(store: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest may have told what it is, which nobody here has seen."""
    first = load(store, codec=Codec("gzip"))
    change(store, BASE)
    base, lib, app = first.layers
    wrong = replace(lib, descriptor=replace(lib.descriptor, diff_id=base.descriptor.diff_id))
    remember(monkeypatch, replace(first, layers=(wrong, app)))
    with pytest.raises(Contradiction, match=f"{lib.descriptor.diff_id}, not {base.descriptor.diff_id} as it was"):
        load(store, "docker-daemon:app:2", codec=Codec("gzip"))
    assert list(engine.names) == ["app:1"]


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_an_image_that_is_lost_meanwhile_is_sent_as_a_whole(codec: Any, store: Path, engine: FakeEngine) -> None:
    load(store, codec=Codec(codec))
    change(store, APP)

    def lose() -> None:
        engine.before_load = lambda: None
        engine.forget("app:1")

    engine.before_load = lose
    before = engine.received
    made = load(store, "docker-daemon:app:2", codec=Codec(codec))
    assert [layers_in(members, made) for members in engine.loads[1:]] == [[APP], [BASE, LIB, APP]]
    assert made.read == 2 * read_of(made) + (0 if codec == "gzip" else read_of(made, APP))
    (note,) = made.notes
    assert note.startswith("docker-daemon:app:2: did not take the image without the 2 layers") and "\n" not in note
    assert list(engine.names) == ["app:2"] and engine.whole("app:2")
    assert made.sent == engine.received - before


def test_layers_of_a_base_image_are_left_out_too(store: Path, engine: FakeEngine) -> None:
    load(store)
    build = {"layer_plan": LayerPlan(((BASE,), (LIB,), (APP,))), "store_root": str(store / "root")}
    closure = read_closure(str(store / "graph.json"))
    below = build_image(closure, [parse_destination(f"oci:{store}/base:1")], **build)  # type: ignore[arg-type]
    top = "/nix/store/1fxf4fycw8n4f0sj8j2wg936kkv1ajcz-top"
    write_file(store / "root" / top[1:] / "file")
    made = build_image(
        Closure([top], [[]]),
        [parse_destination("docker-daemon:app:2")],
        base=read_base(f"oci:{store}/base:1"),
        store_root=str(store / "root"),
    )
    assert layers_in(engine.loads[1], below) == [] and layers_in(engine.loads[1], made) == [top]
    engine.forget("app:1", "app:2")
    load_on_base = parse_destination("docker-daemon:app:3")
    made = build_image(
        Closure([top], [[]]), [load_on_base], base=read_base(f"oci:{store}/base:1"), store_root=str(store / "root")
    )
    assert layers_in(engine.loads[2], below) == [BASE, LIB, APP] and engine.whole("app:3")


def test_who_refuses_all_of_it_ends_the_build(store: Path, engine: FakeEngine) -> None:
    engine.after_load = lambda: "invalid diffID\nfor layer 0"
    with pytest.raises(DestinationError, match="invalid diffID for layer 0") as caught:
        load(store)
    one_line(caught)
    assert engine.names == {} and len(engine.loads) == 1


def test_a_full_disk_is_not_answered_by_sending_more(store: Path, engine: FakeEngine) -> None:
    load(store)
    change(store, APP)
    engine.after_load = lambda: "write /var/lib/docker/x: no space left on device"
    with pytest.raises(DestinationError, match="no space left on device") as caught:
        load(store, "docker-daemon:app:2")
    one_line(caught)
    assert list(engine.names) == ["app:1"] and len(engine.loads) == 2


@pytest.mark.parametrize("when", ["before_load", "after_load"])
def test_an_engine_that_dies_ends_the_build(when: str, store: Path, engine: FakeEngine) -> None:
    load(store)
    change(store, APP)

    def die() -> None:
        raise ConnectionError

    setattr(engine, when, die)
    with pytest.raises(DestinationError, match=f"docker at {engine.host}: ") as caught:
        load(store, "docker-daemon:app:2")
    one_line(caught)
    assert list(engine.names) == ["app:1"] and sum(path == "/images/load" for _, path in engine.seen) == 2


@pytest.mark.parametrize("size", [0, 16 << 20])
def test_a_signal_ends_a_build_while_the_engine_hangs(size: int, store: Path, engine: FakeEngine) -> None:
    """While it does not answer, and while it does not read; what it gets in the end is no archive."""
    write_file(store / "root" / LIB[1:] / "large", bytes(size))
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait(60)

    if size:
        engine.before_load = hang
    else:
        engine.after_load = hang  # type: ignore[assignment]
    command = [sys.executable, "-m", "fastlayers", "build", store / "graph.json", "--store-root", store / "root"]
    try:
        with subprocess.Popen(
            [*command, "--to", "docker-daemon:app:1", "--quiet"], stderr=subprocess.PIPE, text=True
        ) as process:
            assert begun.wait(60)
            if size:
                time.sleep(0.5)  # until all pipes are full
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stderr is not None and process.stderr.read() == "fastlayers: interrupted\n"
    finally:
        go_on.set()
    if size:
        assert engine.names == {}


@only_containerd
def test_an_image_gets_its_name_when_it_has_made_a_container(store: Path, engine: FakeEngine) -> None:
    load(store)
    asked = [(method, re.sub(":?fastlayers-.*", "", path)) for method, path in engine.seen]
    assert asked[asked.index(("POST", "/images/load")) + 1 :] == [
        ("GET", "/images/json"),
        ("POST", "/containers/create"),
        ("DELETE", "/containers/"),
        ("POST", "/images/app"),
        ("DELETE", "/images/app"),
    ]
    assert list(engine.names) == ["app:1"]


@only_containerd
@pytest.mark.parametrize(("status", "left"), [(404, False), (409, True), (500, True)])
def test_a_container_that_cannot_be_removed_is_told(
    status: int, left: bool, store: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is gone is not, and not waited for; and the image is sent once, since it was taken."""
    answer = _Handler.answer

    def remove(handler: Any, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if handler.command == "DELETE" and path.startswith("/containers/"):
            return status, {"message": "not now"}
        return answer(handler, path, query, body)

    monkeypatch.setattr(_Handler, "answer", remove)
    told = pytest.raises(DestinationError, match=r"cannot remove the container fastlayers-[0-9a-f]{16}: not now$")
    with told if left else contextlib.nullcontext():
        load(store)
    assert list(engine.names) == ([] if left else ["app:1"])
    assert len(engine.loads) == 1
    assert [method for method, path in engine.seen if path.startswith("/containers/fastlayers-")] == ["DELETE"]


@only_containerd
@pytest.mark.parametrize("moment", ["before it is named", "when it is named", "when it makes a container"])
def test_a_signal_leaves_no_name_in_an_engine_that_has_all(moment: str, store: Path, engine: FakeEngine) -> None:
    """It goes on without us, and may name the image after we have asked it to forget the name."""
    arrived, asked = threading.Event(), threading.Event()
    answer = _Handler.answer

    def seen(handler: Any, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        if handler.command == "DELETE" and path.startswith("/images/"):
            asked.set()
        if path == "/containers/create" and moment == "when it makes a container":
            arrived.set()
            asked.wait(60)
        return answer(handler, path, query, body)

    def name_late() -> None:
        if moment == "before it is named":
            arrived.set()
            asked.wait(60)

    take = engine.load

    def load_and_wait(data: bytes) -> Iterator[dict[str, Any]]:
        yield from take(data)
        if moment == "when it is named":
            arrived.set()
            asked.wait(60)

    engine.after_load, engine.load = name_late, load_and_wait  # type: ignore[method-assign, assignment]
    arguments = ["build", str(store / "graph.json"), "--store-root", str(store / "root"), "--quiet"]
    program = (
        "from fastlayers.cli.main import run\n"
        "from fastlayers.destinations import engine\n"
        "from fastlayers.engines import docker\n"
        "engine._FAREWELL = engine._COMING = docker._PARTING = 60\n"  # a busy machine need not be quick
        f"run({[*arguments, '--to', 'docker-daemon:app:1']!r})"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Handler, "answer", seen)
        with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True) as process:
            assert arrived.wait(60)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
            assert process.stderr is not None and process.stderr.read() == "fastlayers: interrupted\n"
    assert engine.names == {}
    containers = [method for method, path in engine.seen if path.startswith("/containers/fastlayers-")]
    assert containers == (["DELETE"] if moment == "when it makes a container" else [])


@only_containerd
@pytest.mark.parametrize("told", [False, True])
def test_blobs_that_are_missing_are_noticed(told: bool, store: Path, engine: FakeEngine) -> None:
    """An engine knows an image whose blobs it has not, as one that was pulled in another compression."""
    engine.told = told
    made = load(store)
    engine.blobs.clear()
    made = load(store, "docker-daemon:app:2")
    assert [len(layers_in(members, made)) for members in engine.loads] == [3, 0, 3]
    assert len(made.notes) == 1 and engine.whole("app:2") and sorted(engine.names) == ["app:1", "app:2"]


@only_containerd
def test_an_image_that_cannot_be_unpacked_gets_no_name(store: Path, engine: FakeEngine) -> None:
    take = engine.load

    def lose(data: bytes) -> Iterator[dict[str, Any]]:
        for line in take(data):
            engine.blobs.clear()
            yield line
        yield {"stream": "Error unpacking image app:1: failed to extract layer: no such device\n"}

    engine.load = lose  # type: ignore[method-assign]
    with pytest.raises(DestinationError, match="failed to extract layer: no such device") as caught:
        load(store)
    one_line(caught)
    assert engine.names == {}


@only_graph_driver
def test_what_an_engine_cannot_read_is_told_before_anything_is_made(store: Path, engine: FakeEngine) -> None:
    with pytest.raises(DestinationError, match=r"version 20\.10\.24 reads no zstd, only 23 and later: use gzip"):
        load(store, codec=Codec("zstd"))
    assert ("POST", "/images/load") not in engine.seen
    engine.version = "23.0.1"
    load(store, codec=Codec("zstd"))


@only_graph_driver
def test_an_engine_has_a_limit_of_layers(tmp_path: Path, engine: FakeEngine) -> None:
    paths = [f"/nix/store/{number:032}-small" for number in range(126)]
    for path in paths:
        write_file(tmp_path / path[1:] / "file")
    closure = Closure(paths, [[] for _ in paths])
    with pytest.raises(PlanError, match=r"^126 layers: docker takes at most 125$"):
        build_image(
            closure,
            [parse_destination("docker-daemon:app")],
            layer_plan=LayerPlan(tuple((path,) for path in paths)),
            max_layers=200,
            store_root=str(tmp_path),
        )
    assert ("POST", "/images/load") not in engine.seen


def test_an_engine_that_answers_something_else(store: Path, engine: FakeEngine, monkeypatch: Any) -> None:
    monkeypatch.setattr("fake_engine._Handler.answer", lambda *arguments: (200, ["nonsense"]))
    with pytest.raises(DestinationError, match="does not answer as Docker's engine does") as caught:
        load(store)
    one_line(caught)
    monkeypatch.setattr("fake_engine._Handler.answer", lambda *arguments: (500, {"message": "out of\norder"}))
    with pytest.raises(DestinationError, match="out of order") as caught:
        load(store)
    one_line(caught)


def test_the_command_line_says_that_all_was_sent(
    store: Path, engine: FakeEngine, capfd: pytest.CaptureFixture[str]
) -> None:
    assert command_line(store, "--to", "docker-daemon:app:1") == 0
    engine.blobs.clear()
    assert command_line(store, "--to", "docker-daemon:app:2") == 0
    out, err = capfd.readouterr()
    assert "kB sent, " in out
    assert err.startswith("fastlayers: docker-daemon:app:2: did not take the image without the 3 layers")
    assert err.count("\n") == 1


def test_chain_ids_are_those_of_the_specification() -> None:
    a, b = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    held = held_chains([[a, b], [b]])
    assert held.chains == {*chain_ids([a, b]), b} and held.diff_ids == {a, b}
