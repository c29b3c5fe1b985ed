"""podman, ctr and nerdctl: what they are asked, and what happens when they refuse, die or are missing."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlayers import Closure, DestinationError, build_image, parse_destination, read_base
from fastlayers.build import BuildResult
from fastlayers.cli.main import run
from loads import load, one_line
from stores import APP, BASE, LIB, make_store, write_file

# Keeps what it reads; an image's layers are those that its archive names.
_PODMAN = """
case "$1" in
images) [ ! -e layers ] || echo sha256:1;;
image) cat layers;;
load)
    cat > archive-$(ls archive-* 2>/dev/null | wc -l)
    %s
    echo "Loaded image: app"
    ;;
esac
"""

_NERDCTL = """
echo "$@" >> log
case "$1" in
load) cat > archive-0; %s;;
esac
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path)
    return tmp_path


@pytest.fixture
def program(store: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Makes a program the only one on PATH besides the usual ones; it works in the store's folder."""
    folder = store / "bin"
    folder.mkdir()

    def make(name: str, script: str) -> None:
        file = folder / name
        file.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\ncd {store}\n{script}")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", str(folder))
    return make


def layers_in(archive: Path, made: BuildResult) -> list[str]:
    """Which layers are in an archive, by the names of their nodes."""
    data = archive.read_bytes()
    names = [layer.descriptor.digest.replace("sha256:", "blobs/sha256/") for layer in made.layers]
    # Where a name is a member's, zeros follow; manifest.json has all of them, in quotes.
    return [layer.paths[0] for layer, name in zip(made.layers, names, strict=True) if f"{name}\0".encode() in data]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def know(store: Path, *layers: str) -> None:
    """What podman says that it has."""
    (store / "layers").write_text("[" + ",".join(f'"{layer}"' for layer in layers) + "]\nnull\n")


def test_podman_gets_what_it_lacks_in_any_order(store: Path, program: Callable[[str, str], None]) -> None:
    program("podman", _PODMAN % "")
    made = load(store, "podman:app:1")
    assert layers_in(store / "archive-0", made) == [BASE, LIB, APP]
    know(store, made.layers[0].descriptor.diff_id, made.layers[2].descriptor.diff_id)
    made = load(store, "podman:app:2")
    assert layers_in(store / "archive-1", made) == [LIB]
    assert made.sent == (store / "archive-1").stat().st_size and made.notes == ()


def test_podman_that_has_lost_a_layer_gets_all(store: Path, program: Callable[[str, str], None]) -> None:
    program("podman", _PODMAN % '[ ! -e layers ] || { rm layers; echo "Error: no such\nlayer" >&2; exit 125; }')
    made = load(store, "podman:app:1")
    know(store, made.layers[1].descriptor.diff_id)
    made = load(store, "podman:app:1")
    assert [layers_in(store / f"archive-{i}", made) for i in (1, 2)] == [[BASE, APP], [BASE, LIB, APP]]
    assert made.notes == (
        "podman:app:1: did not take the image without the layer that it seemed to have, so that all were sent: "
        "podman load --quiet: Error: no such layer",
    )
    assert made.sent == sum((store / f"archive-{i}").stat().st_size for i in (1, 2))


@pytest.mark.parametrize("known", [False, True])
def test_podman_that_stops_to_read(known: bool, store: Path, program: Callable[[str, str], None]) -> None:
    """It says why, also in the middle of a layer; what is sent again it may take."""
    write_file(store / "root" / LIB[1:] / "large", bytes(4 << 20))
    first = load(store, "docker-archive:" + str(store / "first.tar"))
    if known:
        know(store, first.layers[0].descriptor.diff_id)
    program("podman", _PODMAN.replace("load)", "load) [ -e refused ] || { touch refused; echo no >&2; exit 1; }") % "")
    if known:
        made = load(store, "podman:app:1")
        assert "podman load --quiet: no" in made.notes[0]
        assert layers_in(store / "archive-0", made) == [BASE, LIB, APP]
    else:
        with pytest.raises(DestinationError, match=r"^podman load --quiet: no$"):
            load(store, "podman:app:1")
        assert not (store / "archive-0").exists()


def test_podman_that_is_killed_ends_the_build(store: Path, program: Callable[[str, str], None]) -> None:
    program("podman", _PODMAN % "kill -9 $$")
    first = load(store, "docker-archive:" + str(store / "first.tar"))
    know(store, first.layers[0].descriptor.diff_id)
    with pytest.raises(DestinationError, match=r"^podman load --quiet: ended by SIGKILL$"):
        load(store, "podman:app:1")
    assert not (store / "archive-1").exists()


def test_podman_that_stops_to_read_a_base_image(store: Path, program: Callable[[str, str], None]) -> None:
    """It refuses while base layers go in, which are more than a pipe holds; then it gets all of them."""
    write_file(store / "root" / LIB[1:] / "large", bytes(4 << 20))
    below = load(store, f"oci:{store}/base:1")
    know(store, below.layers[0].descriptor.diff_id)
    program("podman", _PODMAN.replace("load)", "load) [ -e refused ] || { touch refused; echo no >&2; exit 1; }") % "")
    top = "/nix/store/1fxf4fycw8n4f0sj8j2wg936kkv1ajcz-top"
    write_file(store / "root" / top[1:] / "file")
    base = read_base(f"oci:{store}/base:1")
    to = [parse_destination("podman:app:1")]
    made = build_image(Closure([top], [[]]), to, base=base, store_root=str(store / "root"), jobs=1)
    assert made.notes == (
        "podman:app:1: did not take the image without the layer that it seemed to have, so that all were sent: "
        "podman load --quiet: no",
    )
    archive = store / "archive-0"
    assert layers_in(archive, below) == [BASE, LIB, APP] and layers_in(archive, made) == [top]


@pytest.mark.parametrize("to", ["podman:app", "containerd:app"])
@pytest.mark.usefixtures("program")
def test_programs_that_are_missing(to: str, store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DestinationError, match=r"^(podman|ctr or nerdctl): not installed$"):
        load(store, to)
    with pytest.raises(SystemExit) as caught:  # the command line is right, so its status is another
        run(["build", str(store / "graph.json"), "--to", to])
    assert caught.value.code == 8
    assert capfd.readouterr().err in (
        "fastlayers: podman: not installed\n",
        "fastlayers: ctr or nerdctl: not installed\n",
    )


def test_podman_that_does_not_answer(
    store: Path, program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastlayers.engines.program._ANSWER", 0.2)
    program("podman", "exec sleep 1000")
    with pytest.raises(DestinationError, match=r"^podman images: no answer within 0\.2 seconds$"):
        load(store, "podman:app")


def test_a_signal_ends_a_build_while_podman_does_not_answer(store: Path, program: Callable[[str, str], None]) -> None:
    program("podman", "echo $$ > pid; exec sleep 1000")
    command = [sys.executable, "-m", "fastlayers", "build", store / "graph.json", "--store-root", store / "root"]
    with subprocess.Popen([*command, "--to", "podman:app"], stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: (store / "pid").exists() and (store / "pid").read_text() != "")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None and process.stderr.read() == "fastlayers: interrupted\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((store / "pid").read_text()), 0)


def test_a_program_that_has_all_of_an_archive_is_ended_by_a_signal(
    store: Path, program: Callable[[str, str], None]
) -> None:
    """What it has named meanwhile is removed."""
    program("nerdctl", _NERDCTL % "trap 'kill $!; echo > ended; exit 1' TERM; sleep 1000 & echo $$ > pid; wait")
    command = [sys.executable, "-m", "fastlayers", "build", store / "graph.json", "--store-root", store / "root"]
    with subprocess.Popen([*command, "--to", "containerd:app:1"], stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: (store / "pid").exists() and (store / "pid").read_text() != "")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    wait_for(lambda: [line.split()[0] for line in (store / "log").read_text().splitlines()][1:] == ["rmi"])
    assert (store / "ended").exists()  # by itself, when it was told to, and not killed later


def test_podman_that_does_not_work(store: Path, program: Callable[[str, str], None]) -> None:
    program("podman", "echo 'Error: cannot\nwork' >&2; exit 125")
    with pytest.raises(DestinationError, match=r"^podman images: Error: cannot work$"):
        load(store, "podman:app")


def test_what_podman_says_is_cut_to_one_line(store: Path, program: Callable[[str, str], None]) -> None:
    """It tries formats one after the other; what failed stands at the beginning, and why at the end."""
    tried = ["Error: payload does not match any:", " * oci: not a directory", " * oci-archive: layer %s: no space left"]
    (store / "said").write_text("\n".join([*tried, " * dir: not a directory\n"]) % ("x" * 1000))
    program("podman", _PODMAN % "cat said; exit 125")
    with pytest.raises(DestinationError, match=r"^podman load --quiet: layer xx+ \.\.\. xx+: no space left$") as caught:
        load(store, "podman:app")
    assert len(one_line(caught)) < 450


@pytest.mark.parametrize("there", ["listening", "left behind", "gone"])
def test_ctr_is_not_patient_where_nobody_listens(
    there: str, store: Path, program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked all the same: it may be a script that knows another containerd."""
    program("ctr", 'echo "$@" > log; echo "ctr: failed to dial" >&2; exit 1')
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")
        if there == "listening":
            server.listen()
        monkeypatch.setenv("CONTAINERD_ADDRESS", f"unix://{folder}/{'absent' if there == 'gone' else 's'}")
        with pytest.raises(DestinationError, match=r"^ctr content ls: ctr: failed to dial$"):
            load(store, "containerd:app:1")
    patience = "" if there == "listening" else "--connect-timeout=1s "
    assert (store / "log").read_text() == f"{patience}content ls --quiet\n"


def test_nerdctl_gets_all_under_another_name(store: Path, program: Callable[[str, str], None]) -> None:
    program("nerdctl", _NERDCTL % "")
    made = load(store, "containerd:app:1")
    assert layers_in(store / "archive-0", made) == [BASE, LIB, APP]
    (loading, tagging, removing) = (store / "log").read_text().splitlines()
    assert loading == "load --all-platforms"
    verb, name, target = tagging.split()
    assert (verb, target) == ("tag", "docker.io/library/app:1") and name.startswith("docker.io/library/app:fastlayers-")
    assert removing == f"rmi {name}" and name.encode() in (store / "archive-0").read_bytes()


def test_nerdctl_that_fails_names_nothing(store: Path, program: Callable[[str, str], None]) -> None:
    program("nerdctl", _NERDCTL % "echo 'FATA[0000] no space left on device' >&2; exit 1")
    with pytest.raises(DestinationError, match="no space left on device") as caught:
        load(store, "containerd:app:1")
    one_line(caught)
    assert [line.split()[0] for line in (store / "log").read_text().splitlines()] == ["load", "rmi"]
