"""Builds that are killed, and disks that are full: one line, the right status, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

_PATIENCE = 120  # seconds until a process counts as stuck; nothing is measured by it
_LARGE = 4 << 30  # bytes of a file that has none on disk: its layer is still being made when the signal comes


@pytest.fixture
def store(tmp_path: Path) -> Callable[[int, int], list[str | Path]]:
    """Makes a store of a few paths with a file of some bytes in each; the arguments that build from it."""

    def make(count: int, size: int) -> list[str | Path]:
        root, nodes = tmp_path / "root", []
        for number in range(count):
            path = f"/nix/store/{number:032}-large"
            folder = Path(f"{root}{path}")
            folder.mkdir(parents=True)
            with (folder / "file").open("wb") as file:
                file.truncate(size)
            nodes.append({"path": path, "references": []})
        (tmp_path / "graph.json").write_text(json.dumps({"graph": nodes}))
        return [tmp_path / "graph.json", "--store-root", root]

    return make


def members(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if fields[3] == str(session) and fields[0] not in "ZX":
            found.append(int(folder.name))
    return found


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happens any more"
        time.sleep(0.01)


def start(arguments: Sequence[str | Path], **options: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fastlayers", "build", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)


@pytest.mark.parametrize(
    ("number", "group", "status"),
    [
        (signal.SIGTERM, False, 143),
        (signal.SIGTERM, True, 143),
        (signal.SIGINT, False, 130),
        (signal.SIGINT, True, 130),
    ],
)
@pytest.mark.parametrize(
    ("transport", "options"),
    [
        ("docker-archive", ["--jobs", "2"]),
        ("oci", ["--jobs", "2"]),
        ("oci-archive", ["--jobs", "2", "--compress", "zstd"]),
        ("docker-archive", ["--jobs", "1"]),
    ],
    ids=["archive", "layout", "zstd", "one-job"],
)
def test_a_killed_build_leaves_nothing(
    number: signal.Signals,
    group: bool,
    status: int,
    transport: str,
    options: list[str],
    store: Callable[[int, int], list[str | Path]],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    arguments = store(4, _LARGE)

    def written() -> bool:
        return any(file.stat().st_blocks for file in out.rglob("*") if file.is_file())

    with start([*arguments, "--to", f"{transport}:{out}/image:1", *options]) as building:
        wait_until(lambda: building.poll() is not None or written())
        assert building.poll() is None
        if group:  # as a terminal and a service manager do
            os.killpg(building.pid, number)
        else:
            building.send_signal(number)
        _, printed = building.communicate(timeout=_PATIENCE)
    assert (building.returncode, len(printed.splitlines())) == (status, 1), printed
    assert list(out.iterdir()) == []
    wait_until(lambda: not members(building.pid))


def test_impatience_does_no_harm(store: Callable[[int, int], list[str | Path]], tmp_path: Path) -> None:
    """More signals, while the build is cleaning up after the first one."""
    out = tmp_path / "out"
    out.mkdir()
    with start([*store(4, _LARGE), "--to", f"oci:{out}/image:1", "--jobs", "2"]) as building:
        wait_until(lambda: building.poll() is not None or any(out.rglob("0")))
        while building.poll() is None:
            os.killpg(building.pid, signal.SIGINT)
            time.sleep(0.001)
        _, printed = building.communicate(timeout=_PATIENCE)
    assert (building.returncode, printed) == (130, "fastlayers: interrupted\n")
    assert list(out.iterdir()) == []
    wait_until(lambda: not members(building.pid))


def test_no_worker_outlives_a_build_that_is_gone(store: Callable[[int, int], list[str | Path]], tmp_path: Path) -> None:
    with start([*store(4, _LARGE), "--to", f"oci:{tmp_path}/image:1", "--jobs", "2"]) as building:
        wait_until(lambda: building.poll() is not None or len(members(building.pid)) >= 3)  # one worker, one tracker
        assert building.poll() is None
        building.kill()
        building.communicate(timeout=_PATIENCE)
    wait_until(lambda: not members(building.pid))


def test_a_reader_that_goes_away(store: Callable[[int, int], list[str | Path]]) -> None:
    with start([*store(2, 64 << 20), "--to", "docker-archive:-"], stdout=subprocess.PIPE) as building:
        assert building.stdout
        os.read(building.stdout.fileno(), 512)
        building.stdout.close()
        building.stdout = None
        _, printed = building.communicate(timeout=_PATIENCE)
    assert (building.returncode, len(printed.splitlines())) == (8, 1), printed


@pytest.mark.parametrize("compress", ["none", "gzip", "zstd:1"])
@pytest.mark.parametrize("destination", ["docker-archive:{}/image.tar:a:1", "oci-archive:{}/image.tar", "oci:{}/image"])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_full_disk(
    compress: str, destination: str, jobs: str, store: Callable[[int, int], list[str | Path]], tiny_disk: Path
) -> None:
    arguments = store(3, 16 << 20)
    for folder in (Path(arguments[2]) / "nix/store").iterdir():  # what cannot be compressed to a megabyte
        (folder / "file").write_bytes(os.urandom(16 << 20))
    to = ("--to", destination.format(tiny_disk), "--compress", compress, "--jobs", jobs)
    with start([*arguments, *to]) as building:
        _, printed = building.communicate(timeout=_PATIENCE)
    assert (building.returncode, len(printed.splitlines())) == (8, 1), printed
    place = destination.format(tiny_disk).partition(":")[2].removesuffix(":a:1")
    assert printed == f"fastlayers: {place}: No space left on device\n"
    assert list(tiny_disk.iterdir()) == []


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_layout_that_was_there_stays_as_it_was(
    jobs: str, store: Callable[[int, int], list[str | Path]], tiny_disk: Path
) -> None:
    def build(tag: str) -> int:
        with start([*arguments, "--to", f"oci:{tiny_disk}/image:{tag}", "--jobs", jobs, "--quiet"]) as building:
            building.communicate(timeout=_PATIENCE)
        return building.returncode

    def files() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in tiny_disk.rglob("*") if file.is_file()}

    arguments = store(3, 100)
    assert build("1") == 0
    before = files()
    root = Path(arguments[2]) / "nix/store"
    first, *_, last = sorted(root.iterdir())
    (first / "file").write_bytes(bytes(500_000))
    (last / "file").write_bytes(bytes(600_000))  # one of the two is made, then the disk is full
    assert build("2") == 8
    assert files() == before
    for folder in (first, last):
        (folder / "file").write_bytes(bytes(10))
    assert build("2") == 0
    assert before.keys() < files().keys()


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_disk_that_is_full_at_the_last_bytes(
    jobs: str, store: Callable[[int, int], list[str | Path]], tiny_disk: Path
) -> None:
    arguments = store(1, (1 << 20) - 8192)
    with start([*arguments, "--to", f"docker-archive:{tiny_disk}/image.tar:a:1", "--jobs", jobs]) as building:
        _, printed = building.communicate(timeout=_PATIENCE)
    assert (building.returncode, printed) == (8, f"fastlayers: {tiny_disk}/image.tar: No space left on device\n")
    assert list(tiny_disk.iterdir()) == []


@pytest.mark.parametrize("destination", ["docker-archive:{}/image.tar:a:1", "oci-archive:{}/image.tar", "oci:{}/image"])
def test_a_disk_that_is_read_only(
    destination: str, store: Callable[[int, int], list[str | Path]], tiny_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tiny_disk], check=True)
    with start([*store(1, 100), "--to", destination.format(tiny_disk)]) as building:
        _, printed = building.communicate(timeout=_PATIENCE)
    assert (building.returncode, len(printed.splitlines())) == (8, 1), printed
    assert "Read-only file system" in printed and str(tiny_disk) in printed


def test_a_device_that_is_full(store: Callable[[int, int], list[str | Path]]) -> None:
    with start([*store(2, 100), "--to", "docker-archive:/dev/full"]) as building:
        _, printed = building.communicate(timeout=_PATIENCE)
    assert (building.returncode, printed) == (8, "fastlayers: /dev/full: No space left on device\n")
