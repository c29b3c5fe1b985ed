"""OCI layouts that several builds write: blobs that are damaged or lost, locks, and what pruning leaves."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fastlayers import (
    Codec,
    DestinationError,
    DigestCache,
    Settings,
    parse_destination,
)
from fastlayers.destinations.oci_layout import OciLayout
from rebuilds import blobs, build, events
from stores import write_json

FLOCK = fcntl.flock


def test_a_blob_of_another_size_is_written_again(named_store: Path, cache: DigestCache) -> None:
    made = build("named.json", "oci:image", cache=cache)
    Path("image/blobs/sha256", made.image.layers[1].digest[7:]).write_bytes(b"short")
    assert events(build("named.json", "oci:image", cache=cache)) == [
        ["reused", "skipped"],
        ["built", "written"],
        ["reused", "skipped"],
    ]
    assert len(blobs()) == 5


def test_a_blob_of_other_bytes_is_found_by_verify(named_store: Path, cache: DigestCache) -> None:
    made = build("named.json", "oci:image", cache=cache)
    blob = Path("image/blobs/sha256", made.image.layers[1].digest[7:])
    blob.write_bytes(bytes(blob.stat().st_size))
    assert events(build("named.json", "oci:image", cache=cache))[1] == ["reused", "skipped"]
    assert events(build("named.json", "oci:image", cache=cache, verify=True))[1] == ["built", "written"]
    assert len(blobs()) == 5


def test_a_blob_that_is_removed_meanwhile_is_made_again(
    named_store: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build("named.json", "oci:image", cache=cache)
    blob = Path("image/blobs/sha256", made.image.layers[1].digest[7:])

    def make_image_and_remove(*arguments: Any, **options: Any) -> Any:
        blob.unlink()
        return original(*arguments, **options)

    from fastlayers import build as module

    original = module.make_image
    monkeypatch.setattr(module, "make_image", make_image_and_remove)
    build("named.json", "oci:image", cache=cache)
    assert len(blobs()) == 5


@pytest.mark.usefixtures("named_store")
def test_a_build_that_fails_leaves_a_new_layout_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    builds = [parse_destination(f"oci:image:{number}") for number in range(3)]
    for failing in builds:
        failing.begin((), (), Codec(), local=True)
    for failing in builds[:-1]:
        failing.abort()
        assert Path("image/oci-layout").exists() and Path("image/blobs/sha256").is_dir()
    builds[-1].abort()
    assert not Path("image").exists()  # the last one has made nothing of it
    Path("image").mkdir()
    for failing in builds[:2]:
        failing.begin((), (), Codec(), local=True)
    for failing in builds[:2]:
        failing.abort()
    assert os.listdir("image") == []  # which was there
    builds[0].begin((), (), Codec(), local=True)
    builds[1].begin((), (), Codec(), local=True)
    builds[0].abort()
    build("named.json", "oci:image:2")
    builds[1].abort()
    assert sorted(os.listdir("image")) == ["blobs", "index.json", "oci-layout"]
    last = parse_destination("oci:new:1")
    last.begin((), (), Codec(), local=True)
    last.abort()
    assert not Path("new").exists()


def test_builds_that_fail_at_once_leave_nothing_of_a_new_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second ends just after the first has seen that it is at work."""
    monkeypatch.chdir(tmp_path)
    first, second = parse_destination("oci:image:1"), parse_destination("oci:image:2")
    first.begin((), (), Codec(), local=True)
    (own,) = Path("image").glob(".fastlayers-*")
    second.begin((), (), Codec(), local=True)
    (others,) = {*Path("image").glob(".fastlayers-*")} - {own}
    ending, listdir = threading.Thread(target=second.abort), os.listdir

    def end_the_second(path: str) -> list[str]:
        names = listdir(path)
        monkeypatch.setattr(os, "listdir", listdir)
        ending.start()
        while others.exists():
            time.sleep(0.001)
        ending.join(0.1)
        return names

    monkeypatch.setattr(os, "listdir", end_the_second)
    first.abort()
    ending.join(60)
    assert os.listdir() == []


def lock_as_nfs_does(fd: int, flags: int) -> None:
    """What is not open for writing cannot be locked."""
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    FLOCK(fd, flags)


def lock_nothing(fd: int, flags: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("lock", [lock_as_nfs_does, lock_nothing])
def test_where_folders_cannot_be_locked(lock: Any, named_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lock)
    build("named.json", "oci:image:1")
    build("changed.json", "oci:image:2", prune=True)
    index = json.loads(Path("image/index.json").read_bytes())
    assert len(index["manifests"]) == 2
    assert sorted(os.listdir("image")) == [".fastlayers-lock", "blobs", "index.json", "oci-layout"]
    failing = parse_destination("oci:new:1")
    failing.begin((), (), Codec(), local=True)
    failing.abort()
    assert not Path("new").exists()
    Path("other").mkdir()
    Path("other/file").touch()
    with pytest.raises(DestinationError, match="a folder with other things in it"):
        build("named.json", "oci:other")
    assert os.listdir("other") == ["file"]


@pytest.mark.usefixtures("named_store")
def test_builds_into_one_layout_wait_for_each_other_on_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads the index and writes it again; none loses another's image."""
    monkeypatch.setattr(fcntl, "flock", lock_as_nfs_does)
    read = OciLayout._read_index

    def read_slowly(layout: OciLayout) -> dict[str, Any]:
        found = read(layout)
        time.sleep(0.02)
        return found

    monkeypatch.setattr(OciLayout, "_read_index", read_slowly)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            build("named.json", f"oci:image:{number}", settings=Settings({"User": str(number)}))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(json.loads(Path("image/index.json").read_bytes())["manifests"]) == 6


def test_a_lock_that_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a file that goes away with a failed build's folder waits for the next one."""
    monkeypatch.chdir(tmp_path)
    destination = parse_destination("oci:image:1")
    taken = []

    def lock(fd: int, flags: int) -> None:
        lock_as_nfs_does(fd, flags)
        if os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) == "alive":
            return
        if not taken:
            os.unlink("image/.fastlayers-lock")
            os.close(os.open("image/.fastlayers-lock", os.O_CREAT))
        taken.append(os.path.samestat(os.fstat(fd), os.stat("image/.fastlayers-lock")))

    monkeypatch.setattr(fcntl, "flock", lock)
    destination.begin((), (), Codec(), local=True)
    assert taken == [False, True]
    destination.abort()


def test_pruning_keeps_what_any_image_names(named_store: Path) -> None:
    build("named.json", "oci:image:old")
    old = build("named.json", "oci:image:nested", settings=Settings({"User": "nested"}))
    # The second is named by an index in the index alone; of the first nothing but its layers is in use then.
    index = json.loads(Path("image/index.json").read_bytes())
    nested = json.dumps({"schemaVersion": 2, "manifests": [index["manifests"][1]]}).encode()
    digest = hashlib.sha256(nested).hexdigest()
    Path("image/blobs/sha256", digest).write_bytes(nested)
    descriptor = {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": f"sha256:{digest}",
        "size": len(nested),
    }
    write_json(Path("image/index.json"), {**index, "manifests": [descriptor]})
    Path("image/blobs/sha256/README").write_text("not a blob")
    before = set(os.listdir("image/blobs/sha256"))
    made = build("changed.json", "oci:image:new", prune=True)
    after = set(os.listdir("image/blobs/sha256"))
    assert len(before - after) == 2  # manifest and config of the first
    named = {made.image.config_digest, made.image.manifest_digest, *made.image.layer_digests}
    named |= {old.image.config_digest, old.image.manifest_digest, *old.image.layer_digests, f"sha256:{digest}"}
    assert after == {each[7:] for each in named} | {"README"}
    build("changed.json", "oci:image:nested", prune=True)
    build("changed.json", "oci:image:new", prune=True)


def test_pruning_removes_what_killed_builds_left(named_store: Path) -> None:
    """And nothing of builds that run, this one's own folder included."""
    build("named.json", "oci:image:1")
    begin = "destination.begin((), (), Codec(), local=True)"
    program = (
        "import os, signal\n"
        "from fastlayers import Codec, parse_destination\n"
        f"destination = parse_destination('oci:image:killed')\n{begin}\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    (killed,) = Path("image").glob(".fastlayers-*")
    (killed / "0").write_bytes(b"half a layer")
    running = parse_destination("oci:image:running")
    running.begin((), (), Codec(), local=True)
    (others,) = {*Path("image").glob(".fastlayers-*")} - {killed}
    Path("image/.fastlayers-mine").mkdir()
    build("changed.json", "oci:image:2")
    assert killed.exists()
    build("changed.json", "oci:image:2", prune=True)
    assert {*Path("image").glob(".fastlayers-*")} == {others, Path("image/.fastlayers-mine")}
    running.abort()
    assert not others.exists()


def test_nothing_is_pruned_where_a_manifest_is_damaged(named_store: Path) -> None:
    made = build("named.json", "oci:image:1")
    Path("image/blobs/sha256", made.image.manifest_digest[7:]).write_text("{")
    before = set(os.listdir("image/blobs/sha256"))
    with pytest.raises(DestinationError, match="what it names is not known: nothing is removed"):
        build("changed.json", "oci:image:2", prune=True)
    assert before < set(os.listdir("image/blobs/sha256"))
