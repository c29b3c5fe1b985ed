"""Builds that cost what changed: what is remembered, what destinations keep, and what happens when memory is wrong."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caches import make_canonical, named_nodes
from fastlayers import (
    Codec,
    Contradiction,
    DestinationError,
    DigestCache,
    LayerError,
    Settings,
    build_image,
    layer,
    memory,
    parse_destination,
    read_closure,
    stream_image,
)
from fastlayers.build import BuildResult
from fastlayers.destinations.oci_layout import OciLayout
from stores import APP, BASE, CONF, LIB, make_store, write_file, write_json

GZIP = Codec("gzip")
FLOCK = fcntl.flock


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Nix store: the small closure, and a change of its app, as documents that know NAR hashes."""
    root = tmp_path / "root"
    make_store(tmp_path)
    monkeypatch.setenv("NIX_STORE_DIR", str(root / "nix/store"))
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "named.json", {"graph": named_nodes(root)})
    new = Path(f"{root}{APP}".replace("-app-3.0", "-app-3.1"))
    write_file(new / "bin" / "app", "#!/bin/sh\necho new app\n", 0o555)
    make_canonical(new)
    from oracles.nar import nar_hash

    nodes = named_nodes(root)
    nodes[0] = {**nodes[0], "path": str(new), "narHash": nar_hash(str(new))}
    write_json(tmp_path / "changed.json", {"graph": nodes})
    return root


@pytest.fixture
def cache(tmp_path: Path) -> DigestCache:
    return DigestCache.open(str(tmp_path / "cache"))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled as soon as they are written."""
    monkeypatch.setattr(memory, "_UNSETTLED", -(1 << 62))


def build(document: str, *targets: str, prune: bool = False, **options: Any) -> BuildResult:
    places = [parse_destination(target, prune=prune, verify=options.get("verify", False)) for target in targets]
    return build_image(read_closure(document), places, **{"jobs": 1, **options})


def events(made: BuildResult) -> list[list[str]]:
    return [[event.event for event in built.events] for built in made.layers]


def blobs(folder: str = "image") -> dict[str, tuple[int, int]]:
    """Every blob's inode and mtime, after its digest was checked."""
    found = {}
    for path in Path(folder, "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


@pytest.fixture
def nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def measure(recipe: object) -> None:
            raise AssertionError(recipe)

        monkeypatch.setattr(layer, "measure", measure)
        monkeypatch.setattr("fastlayers.parallel.measure", measure)

    return forbid


@pytest.mark.parametrize("codec", [Codec(), GZIP], ids=["none", "gzip"])
def test_nothing_changed(codec: Codec, store: Path, cache: DigestCache, nothing_is_opened: Callable[[], None]) -> None:
    first = build("named.json", "oci:image:1", codec=codec, cache=cache)
    assert events(first) == [["built", "written"]] * 3
    assert first.read == 40_032 and first.written == sum(one.descriptor.size for one in first.layers)
    before = blobs()
    shutil.rmtree(store)
    nothing_is_opened()
    again = build("named.json", "oci:image:1", codec=codec, cache=cache)
    assert again.image == first.image
    assert events(again) == [["reused", "skipped"]] * 3
    assert (again.read, again.written, again.sent) == (0, 0, None)
    assert blobs() == before


def test_without_a_cache_the_layout_is_what_remembers(store: Path, nothing_is_opened: Callable[[], None]) -> None:
    first = build("named.json", "oci:image:1")
    nothing_is_opened()
    again = build("named.json", "oci:image:1", settings=Settings({"User": "new"}))
    assert events(again) == [["reused", "skipped"]] * 3
    assert again.image.layers == first.image.layers
    with pytest.raises(AssertionError):  # the user named another image
        build("named.json", "oci:image:2")
    with pytest.raises(AssertionError):
        build("named.json", "oci:image:1", codec=GZIP)
    with pytest.raises(AssertionError):
        build("named.json", "oci:image:1", trust_previous=False)


def test_a_manifest_that_lies_reaches_no_cache_and_no_other_destination(store: Path, cache: DigestCache) -> None:
    """It is believed for what is there, under the name that was given, and for nothing else."""
    made = build("named.json", "oci:image:1")
    lie = "sha256:" + "0" * 64
    true = made.layers[0].descriptor.digest
    manifest = blob_of("image", made.image.manifest_digest).read_text().replace(true, lie)
    forged = "sha256:" + hashlib.sha256(manifest.encode()).hexdigest()
    blob_of("image", forged).write_text(manifest)
    index = Path("image/index.json")
    index.write_text(
        index.read_text()
        .replace(made.image.manifest_digest, forged)
        .replace(f'"size":{len(made.image.manifest)}', f'"size":{len(manifest)}')
    )
    with pytest.raises(Contradiction):
        build("named.json", "oci:image:1", cache=cache)
    again = build("named.json", "oci:other:1", cache=cache)
    assert [layer.descriptor.digest for layer in again.layers] == [layer.descriptor.digest for layer in made.layers]
    assert not blob_of("image", lie).exists()


def blob_of(layout: str, digest: str) -> Path:
    return Path(layout, "blobs", *digest.split(":"))


@pytest.mark.parametrize("remembers", ["cache", "layout"])
def test_one_path_changed(remembers: str, store: Path, cache: DigestCache) -> None:
    own = cache if remembers == "cache" else None
    build("named.json", "oci:image:1", cache=own)
    kept = blobs()
    for path in (LIB, BASE):  # unchanged, and never looked at
        shutil.rmtree(f"{store}{path}")
    made = build("changed.json", "oci:image:1", cache=own)
    assert events(made) == [["reused", "skipped"], ["reused", "skipped"], ["built", "written"]]
    assert made.read == len("#!/bin/sh\necho new app\n") and made.written == made.layers[2].descriptor.size
    assert {name: stamp for name, stamp in blobs().items() if name in kept} == kept


@pytest.mark.usefixtures("settled")
def test_files_below_a_root_are_remembered_by_what_they_look_like(tmp_path: Path, cache: DigestCache) -> None:
    os.chdir(tmp_path)
    make_store(tmp_path)
    root = str(tmp_path / "root")
    first = build("graph.json", "oci:image", cache=cache, store_root=root)
    assert events(build("graph.json", "oci:image", cache=cache, store_root=root)) == [["reused", "skipped"]] * 3
    file = tmp_path / "root" / BASE[1:] / "etc/base"
    before = file.stat()
    file.chmod(0o644)
    file.write_text("evil\n")  # as long as before, and with the same mtime
    file.chmod(0o444)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = build("graph.json", "oci:image", cache=cache, store_root=root)
    assert events(again) == [["built", "written"], ["reused", "skipped"], ["reused", "skipped"]]
    assert again.image.layers[0].diff_id != first.image.layers[0].diff_id
    manifest = json.loads(again.image.manifest)
    assert not any("dev.fastlayers.recipe" in each["annotations"] for each in manifest["layers"])


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, cache: DigestCache) -> None:
    """One more change of it need not show in its ctime, which has the clock's resolution."""
    os.chdir(tmp_path)
    make_store(tmp_path)
    root = str(tmp_path / "root")
    build("graph.json", "oci:image", cache=cache, store_root=root)
    assert list(cache.entries()) == []
    assert events(build("graph.json", "oci:image", cache=cache, store_root=root))[0][0] == "built"


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_meanwhile_is_not_remembered(
    tmp_path: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen before is not what the layer was made of, where its table is not kept."""
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path)
    monkeypatch.setattr("fastlayers.parallel._TABLES", 0)
    file = tmp_path / "root" / BASE[1:] / "etc/base"
    file.chmod(0o644)
    measure = layer.measure

    def change_and_measure(recipe: layer.LayerRecipe) -> Any:
        file.write_text("evil\n")
        return measure(recipe)

    monkeypatch.setattr(layer, "measure", change_and_measure)
    build("graph.json", "oci:image", cache=cache, store_root=str(tmp_path / "root"))
    assert len(list(cache.entries())) == 2  # the two other layers


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("to", ["oci:again", "docker-archive:again.tar", "docker-archive:fifo"])
def test_what_is_remembered_of_files_that_change_meanwhile_is_not_trusted(
    to: str, tmp_path: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked at twice, where their table is not kept; they are as long as before."""
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path)
    root = str(tmp_path / "root")
    build("graph.json", "oci:image", cache=cache, store_root=root)
    monkeypatch.setattr("fastlayers.parallel._TABLES", 0)
    file = tmp_path / "root" / BASE[1:] / "etc/base"
    file.chmod(0o644)
    os.utime(file, (7, 7))
    build("graph.json", "oci:image", cache=cache, store_root=root)
    measure = layer.measure

    def change_and_measure(recipe: layer.LayerRecipe) -> Any:
        file.write_text("evil\n")
        return measure(recipe)

    monkeypatch.setattr(layer, "measure", change_and_measure)
    os.mkfifo("fifo")
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(LayerError, match="its files changed while the image was built"):
            build("graph.json", to, cache=cache, store_root=root)
    finally:
        os.close(reader)
    assert len(list(cache.entries())) == 4  # of what was there before, and is not contradicted


def test_modes_that_nix_would_not_give_are_not_remembered_by_nar_hash(store: Path, cache: DigestCache) -> None:
    Path(f"{store}{BASE}/etc").chmod(0o755)
    made = build("named.json", "oci:image", cache=cache)
    manifest = json.loads(made.image.manifest)
    assert ["dev.fastlayers.recipe" in each["annotations"] for each in manifest["layers"]] == [False, True, True]
    assert len(list(cache.entries())) == 2


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("to", ["oci:other:1", "docker-archive:file.tar", "docker-archive:fifo"])
def test_modes_that_have_changed_since_are_a_contradiction(to: str, jobs: int, store: Path, cache: DigestCache) -> None:
    """The NAR hash and the size of the tar are the same, the bytes are not."""
    build("named.json", "oci:image", cache=cache)
    Path(f"{store}{BASE}/etc").chmod(0o755)
    os.mkfifo("fifo")
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(Contradiction, match="as it was remembered"):
            build("named.json", to, cache=cache, jobs=jobs)
    finally:
        os.close(reader)
    assert list(cache.entries()) == []
    again = build("named.json", "oci:other:1", cache=cache)
    assert [one.descriptor.made for one in again.layers] == [True] * 3
    blobs("other")


def test_the_manifest_does_not_depend_on_what_is_remembered(store: Path, cache: DigestCache) -> None:
    first = build("named.json", "oci:image", cache=cache)
    assert build("named.json", "oci:image", cache=cache).image == first.image
    assert build("named.json", "oci:image", trust_previous=False).image == first.image
    assert build("named.json", "oci:other").image == first.image


def test_a_plan_can_be_read_from_a_manifest(store: Path) -> None:
    made = build("named.json", "oci:image")
    manifest = json.loads(made.image.manifest)
    assert manifest["annotations"]["dev.fastlayers.plan"] == "1"
    told = [tuple(json.loads(each["annotations"]["dev.fastlayers.paths"])) for each in manifest["layers"]]
    assert told == list(made.plan.layers)


# Memory that is wrong


def spoil(store: Path) -> None:
    """Another file in the store path of the same NAR hash, as long as before."""
    file = Path(f"{store}{BASE}/etc/base")
    file.chmod(0o644)
    file.write_text("evil\n")
    file.chmod(0o444)


@pytest.mark.parametrize("codec", [Codec(), GZIP], ids=["none", "gzip"])
def test_verify_finds_a_contradiction_and_forgets(codec: Codec, store: Path, cache: DigestCache) -> None:
    first = build("named.json", "oci:image", cache=cache, codec=codec)
    verified = build("named.json", "oci:image", cache=cache, codec=codec, verify=True)
    assert events(verified) == [["built", "skipped"]] * 3 and verified.image == first.image
    assert verified.read == first.read and verified.written == 0
    spoil(store)
    assert build("named.json", "oci:image", cache=cache, codec=codec).image == first.image  # it is trusted
    with pytest.raises(Contradiction, match=rf"{BASE}: is sha256:\w+, not {first.image.layers[0].diff_id} as it was"):
        build("named.json", "oci:image", cache=cache, codec=codec, verify=True)
    assert list(cache.entries()) == []
    again = build("named.json", "oci:image", cache=cache, codec=codec, trust_previous=False)
    assert again.image.layers[0].diff_id != first.image.layers[0].diff_id


def test_a_cache_that_is_wrong_often_is_forgotten_at_once(store: Path, cache: DigestCache) -> None:
    """One build fails, not one for each entry that is wrong. What other images alone have stays."""
    made = build("named.json", "oci:image", cache=cache)
    entries = {cache.get(entry.key, Codec()): entry.key for entry in cache.entries()}
    build("changed.json", "oci:other", cache=cache)
    for number, right in enumerate(made.image.layers):
        wrong = f"sha256:{number:064}"
        cache.put(entries[right], replace(right, digest=wrong, diff_id=wrong))
    with pytest.raises(Contradiction):
        build("named.json", "oci:new", cache=cache, verify=True)
    assert len(list(cache.entries())) == 1
    assert build("named.json", "oci:new", cache=cache).image == made.image


def test_a_manifest_that_is_wrong_costs_the_cache_nothing(store: Path, cache: DigestCache) -> None:
    made = build("named.json", "oci:image", cache=cache)
    (key,) = [entry.key for entry in cache.entries() if cache.get(entry.key, Codec()) == made.image.layers[0]]
    cache.drop(key)  # so that the manifest alone tells this layer
    spoil(store)
    with pytest.raises(Contradiction):
        build("named.json", "oci:image", cache=cache, verify=True)
    assert len(list(cache.entries())) == 2


def test_a_contradiction_of_a_worker_process_travels(store: Path) -> None:
    import pickle

    error = pickle.loads(pickle.dumps(Contradiction("one line", "sha256:1")))
    assert isinstance(error, LayerError) and (str(error), error.digest) == ("one line", "sha256:1")


def test_a_compressed_layer_that_comes_out_otherwise(store: Path, cache: DigestCache) -> None:
    """As where an encoder of the same profile gives other bytes on another machine."""
    made = build("named.json", "oci:image", cache=cache, codec=GZIP)
    (key,) = [entry.key for entry in cache.entries() if cache.get(entry.key, GZIP) == made.image.layers[0]]
    cache.put(key, replace(made.image.layers[0], digest="sha256:" + "1" * 64))
    with pytest.raises(Contradiction, match="when compressed"):
        build("named.json", "oci:other", cache=cache, codec=GZIP)
    assert cache.get(key, GZIP) is None
    assert build("named.json", "oci:other", cache=cache, codec=GZIP).image == made.image


# Layouts


def test_a_blob_of_another_size_is_written_again(store: Path, cache: DigestCache) -> None:
    made = build("named.json", "oci:image", cache=cache)
    Path("image/blobs/sha256", made.image.layers[1].digest[7:]).write_bytes(b"short")
    assert events(build("named.json", "oci:image", cache=cache)) == [
        ["reused", "skipped"],
        ["built", "written"],
        ["reused", "skipped"],
    ]
    assert len(blobs()) == 5


def test_a_blob_of_other_bytes_is_found_by_verify(store: Path, cache: DigestCache) -> None:
    made = build("named.json", "oci:image", cache=cache)
    blob = Path("image/blobs/sha256", made.image.layers[1].digest[7:])
    blob.write_bytes(bytes(blob.stat().st_size))
    assert events(build("named.json", "oci:image", cache=cache))[1] == ["reused", "skipped"]
    assert events(build("named.json", "oci:image", cache=cache, verify=True))[1] == ["built", "written"]
    assert len(blobs()) == 5


def test_a_blob_that_is_removed_meanwhile_is_made_again(
    store: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.usefixtures("store")
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
def test_where_folders_cannot_be_locked(lock: Any, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.usefixtures("store")
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


def test_pruning_keeps_what_any_image_names(store: Path) -> None:
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


def test_pruning_removes_what_killed_builds_left(store: Path) -> None:
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


def test_nothing_is_pruned_where_a_manifest_is_damaged(store: Path) -> None:
    made = build("named.json", "oci:image:1")
    Path("image/blobs/sha256", made.image.manifest_digest[7:]).write_text("{")
    before = set(os.listdir("image/blobs/sha256"))
    with pytest.raises(DestinationError, match="what it names is not known: nothing is removed"):
        build("changed.json", "oci:image:2", prune=True)
    assert before < set(os.listdir("image/blobs/sha256"))


# Archives and streams


@pytest.mark.parametrize("codec", [Codec(), GZIP], ids=["none", "gzip"])
@pytest.mark.parametrize("place", ["file", "pipe"])
def test_an_archive_of_what_is_remembered_is_not_hashed(
    place: str, codec: Codec, store: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("named.json", "docker-archive:first.tar:app:1", codec=codec, cache=cache)

    def pump(*arguments: object) -> str:
        raise AssertionError(arguments)

    monkeypatch.setattr(layer, "pump", pump)
    if place == "file":
        build("named.json", "docker-archive:again.tar:app:1", codec=codec, cache=cache)
    else:
        os.mkfifo("fifo")
        with open("again.tar", "wb") as out, subprocess.Popen(["cat", "fifo"], stdout=out):
            made = build("named.json", "docker-archive:fifo:app:1", codec=codec, cache=cache)
        assert made.written == sum(one.descriptor.size for one in made.layers)
    assert Path("first.tar").read_bytes() == Path("again.tar").read_bytes()


def write_conf(store: Path) -> Path:
    layers = [[str(path)] for path in sorted((store / "nix/store").iterdir())]
    Path("customisation").mkdir(exist_ok=True)
    with tarfile.open("customisation/layer.tar", "w"):
        pass
    digest = hashlib.sha256(Path("customisation/layer.tar").read_bytes()).hexdigest()
    Path("customisation/checksum").write_text(digest)
    conf = {**CONF, "store_dir": str(store / "nix/store"), "store_layers": layers}
    conf["customisation_layer"] = os.path.abspath("customisation")
    return write_json(Path("conf.json"), conf)


def stream(conf: Path, **options: Any) -> bytes:
    with open("stream.tar", "wb") as out:
        stream_image(str(conf), out.fileno(), **options)
    return Path("stream.tar").read_bytes()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_a_stream_of_what_is_remembered(
    changed: int, store: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not comes between the rest."""
    conf = write_conf(store)
    before = stream(conf, jobs=1)
    assert stream(conf, jobs=1, cache=cache) == before
    for entry in list(cache.entries())[:changed]:
        cache.drop(entry.key)
    hashed = []
    make = layer.make_layer
    monkeypatch.setattr("fastlayers.parallel.make_layer", lambda *task: hashed.append(task) or make(*task))
    assert stream(conf, jobs=1, cache=cache) == before
    assert len(hashed) == changed
    assert len(list(cache.entries())) == 4
    hashed.clear()
    assert stream(conf, jobs=1, cache=cache, verify=True) == before
    assert len(hashed) == 4


@pytest.mark.usefixtures("settled")
def test_a_stream_whose_memory_is_wrong(store: Path, cache: DigestCache) -> None:
    conf = write_conf(store)
    right = stream(conf, jobs=1, cache=cache)
    entry = next(cache.entries())
    found = cache.get(entry.key, Codec())
    assert found is not None
    cache.put(entry.key, replace(found, diff_id="sha256:" + "1" * 64, digest="sha256:" + "1" * 64))
    with pytest.raises(Contradiction):
        stream(conf, jobs=1, cache=cache, verify=True)
    assert cache.get(entry.key, Codec()) is None
    assert stream(conf, jobs=1, cache=cache) == right
