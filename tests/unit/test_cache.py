"""The digest cache: its files, and the keys under which layers are remembered."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caches import named_nodes
from fastlayers import Codec, DestinationError, DigestCache, LayerDescriptor, LayerRecipe, Profile
from fastlayers.cache import default_folder
from fastlayers.contents import Generated, GeneratedEntry, Tree
from fastlayers.layer import Look, measure
from fastlayers.memory import annotations_of, layers_in, measured_key, recipe_key
from fastlayers.sources.filelists import Files
from stores import APP, BASE, LIB, make_store, write_json

KEY = "ab" * 32
HASHES = {path: f"sha256:{i:064x}" for i, path in enumerate((APP, LIB, BASE))}
GZIP = Codec("gzip")


def layer(codec: Codec = Codec(), letter: str = "1") -> LayerDescriptor:  # noqa: B008
    diff_id = f"sha256:{letter * 64}"
    digest, size = (diff_id, 10240) if codec.name == "none" else (f"sha256:{'2' * 64}", 99)
    return LayerDescriptor(diff_id, 10240, digest, size, codec.profile, codec.media_type_suffix, 7)


@pytest.fixture
def cache(tmp_path: Path) -> DigestCache:
    return DigestCache.open(str(tmp_path / "cache"))


def file_of(cache: DigestCache) -> Path:
    (found,) = (path for path in Path(cache.folder).rglob("*") if path.is_file())
    return found


def test_what_is_put_is_got(cache: DigestCache) -> None:
    assert cache.get(KEY, Codec()) is None
    cache.put(KEY, layer(GZIP))
    assert cache.get(KEY, GZIP) == layer(GZIP)
    assert cache.get(KEY, Codec()) == layer()
    assert cache.get(KEY, Codec("zstd")) is None
    cache.put(KEY, layer(Codec("zstd")))  # beside the other
    cache.put(KEY, layer())
    for codec in (GZIP, Codec("zstd"), Codec()):
        assert cache.get(KEY, codec) == layer(codec)
    cache.put(KEY, layer(letter="3"))  # another diff ID: nothing of what was known can be true
    assert cache.get(KEY, Codec()) == layer(letter="3") and cache.get(KEY, GZIP) is None
    cache.drop(KEY)
    cache.drop(KEY)
    assert cache.get(KEY, Codec()) is None


@pytest.mark.parametrize("fails", ["open", "write", "rename"])
def test_a_signal_leaves_nothing_aside(fails: str, cache: DigestCache, monkeypatch: pytest.MonkeyPatch) -> None:
    call = getattr(os, fails)
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if fails == "open" and not arguments[1] & os.O_CREAT:
            return call(*arguments)
        call(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, fails, interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.put(KEY, layer())
    assert calls
    left = [path.name for path in Path(cache.folder).rglob("*") if path.is_file()]
    assert left == ([KEY[2:]] if fails == "rename" else [])


def test_a_file_is_as_documented(cache: DigestCache) -> None:
    cache.put(KEY, layer(GZIP))
    assert file_of(cache) == Path(cache.folder, KEY[:2], KEY[2:])
    line, digest, end = file_of(cache).read_text().split("\n")
    assert json.loads(line) == {
        "version": 1,
        "recipe": KEY,
        "diff_id": "sha256:" + "1" * 64,
        "tar_size": 10240,
        "entries": 7,
        "stored": {GZIP.profile: {"digest": "sha256:" + "2" * 64, "size": 99}},
    }
    done = subprocess.run(["sha256sum"], input=line + "\n", capture_output=True, text=True, check=True)
    assert (digest, end) == ("sha256:" + done.stdout.split()[0], "")


def test_a_damaged_file_is_as_good_as_none(cache: DigestCache) -> None:
    cache.put(KEY, layer(GZIP))
    file = file_of(cache)
    whole = file.read_bytes()
    spoilt = [whole[:size] for size in range(len(whole))]
    spoilt += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    spoilt += [whole + b"\n", b"\0" * len(whole), b"\n" * 10, whole * 300]
    for data in spoilt:
        file.write_bytes(data)
        assert cache.get(KEY, GZIP) is None
    cache.put(KEY, layer(GZIP))
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"recipe": "cd" * 32},
        {"diff_id": "sha256:1"},
        {"diff_id": None},
        {"tar_size": "10240"},
        {"tar_size": -1},
        {"tar_size": True},
        {"stored": []},
        {"stored": {"x": {"digest": "sha256:" + "2" * 64}}},
        {"entries": 1.5},
    ],
)
def test_what_another_program_wrote_is_as_good_as_none(change: dict[str, Any], cache: DigestCache) -> None:
    """Also where its own digest is right."""
    cache.put(KEY, layer())
    file = file_of(cache)
    line = json.dumps({**json.loads(file.read_text().split("\n")[0]), **change}) + "\n"
    digest = subprocess.run(["sha256sum"], input=line, capture_output=True, text=True, check=True).stdout.split()[0]
    file.write_text(f"{line}sha256:{digest}\n")
    assert cache.get(KEY, Codec()) is None


@pytest.mark.parametrize("key", ["version", "recipe"])
def test_what_does_not_say_what_it_is_is_as_good_as_none(key: str, cache: DigestCache) -> None:
    cache.put(KEY, layer())
    file = file_of(cache)
    document = json.loads(file.read_text().split("\n")[0])
    del document[key]
    line = json.dumps(document) + "\n"
    file.write_text(f"{line}sha256:{hashlib.sha256(line.encode()).hexdigest()}\n")
    assert cache.get(KEY, Codec()) is None
    assert [entry.whole for entry in cache.entries()] == [False]


def test_what_is_no_file_is_not_waited_for(cache: DigestCache, tmp_path: Path) -> None:
    os.makedirs(Path(cache.folder, KEY[:2]))
    path = Path(cache.folder, KEY[:2], KEY[2:])
    os.mkfifo(path)
    assert cache.get(KEY, Codec()) is None
    path.unlink()
    path.mkdir()
    cache.put(KEY, layer())
    assert cache.get(KEY, Codec()) is None
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]  # nothing is left aside
    nowhere = DigestCache(os.devnull)
    nowhere.put(KEY, layer())
    assert nowhere.get(KEY, Codec()) is None


def test_a_folder_that_cannot_be_used(tmp_path: Path, ordinary: Path) -> None:
    (ordinary / "file").write_text("")
    with pytest.raises(DestinationError, match="file/cache: Not a directory"):
        DigestCache.open(str(ordinary / "file/cache"))
    with pytest.raises(DestinationError, match="file: Not a directory"):
        DigestCache.open(str(ordinary / "file"))
    (ordinary / "cache").mkdir(0o555)
    with pytest.raises(DestinationError, match="cache: a cache must be readable and writable"):
        DigestCache.open(str(ordinary / "cache"))
    DigestCache(str(ordinary / "cache")).put(KEY, layer())  # nothing is said


def test_pruning(cache: DigestCache) -> None:
    keys = [f"{i:064x}" for i in range(4)] + [KEY]
    for key in keys:
        cache.put(key, layer())
    paths = [Path(cache.folder, key[:2], key[2:]) for key in keys]
    for days, path in enumerate(paths):
        os.utime(path, (path.stat().st_mtime - 86400 * days,) * 2)
    foreign = Path(cache.folder, "00", "README")
    foreign.write_text("not ours")
    dead, alive = (Path(cache.folder, "00", f".{KEY[2:]}.{letter * 8}") for letter in "de")
    for aside in (dead, alive):
        aside.write_text("half")
    os.utime(dead, (0, 0))
    paths[0].write_text("damaged")
    assert [entry.whole for entry in cache.entries()] == [False, True, True, True, True]
    assert [entry.key for entry in cache.prune(older_than=3.5 * 86400)] == [keys[0], keys[4]]
    assert [path.exists() for path in paths] == [False, True, True, True, False]
    assert not dead.exists() and alive.exists()
    room = 2 * paths[1].stat().st_size
    assert [entry.key for entry in cache.prune(max_size=room)] == [keys[3]]  # the least recently used
    assert len(cache.clear()) == 2
    assert sorted(os.listdir(cache.folder)) == ["00"] and foreign.exists() and not alive.exists()
    assert DigestCache(cache.folder + "/absent").clear() == []


def test_what_is_used_is_not_pruned(cache: DigestCache) -> None:
    cache.put(KEY, layer())
    os.utime(file_of(cache), (1, 1))
    assert cache.get(KEY, Codec()) is not None
    assert cache.prune(older_than=86400) == []


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert default_folder() == "/some/where/fastlayers"
    for nothing in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert default_folder() == f"{tmp_path}/.cache/fastlayers"
    monkeypatch.setenv("HOME", "/homeless-shelter")  # of a Nix build, that must not appear
    assert default_folder() is None


# Keys


def recipe(**change: Any) -> LayerRecipe:
    return replace(LayerRecipe((Tree(APP), Tree(LIB))), **change)


def test_a_key_is_a_contract() -> None:
    """It is in manifests that others have: another key for the same recipe needs another version."""
    assert recipe_key(recipe(), HASHES) == "3507a7fedb27b0b9c35ba952ffe031ce595ded81224bc2f7830444c6c11c417d"


def test_a_key_changes_with_all_that_decides_the_bytes() -> None:
    others = [
        recipe_key(recipe(), {**HASHES, LIB: "sha256:" + "f" * 64}),
        *(
            recipe_key(recipe(**change), HASHES)
            for change in (
                {},
                {"contents": (Tree(LIB), Tree(APP))},
                {"contents": (Tree(APP),)},
                {"contents": (Tree(APP), Tree(BASE))},
                {"parents": ()},
                {"whiteouts": True},
                *({"profile": replace(Profile(), **{name: 7})} for name in ("uid", "gid", "mtime")),
                *({"profile": replace(Profile(), **{name: "x"})} for name in ("uname", "gname")),
                {"profile": Profile(uname="root\0root", gname="")},
            )
        ),
    ]
    assert all(key is not None and re.fullmatch("[0-9a-f]{64}", key) for key in others)
    assert len(set(others)) == len(others)
    assert recipe_key(recipe(parents=("/nix", "/nix/store")), HASHES) == recipe_key(recipe(), HASHES)


@pytest.mark.parametrize(
    "change",
    [
        {"root": "/root"},
        {"xattrs": True},
        {"contents": (Tree(APP), Tree(BASE + "-other"))},
        {"contents": (Tree(APP), Files("x", ("/x",)))},
        {"contents": (Tree(APP), Generated("x", (GeneratedEntry("/x"),)))},
    ],
)
def test_where_nar_hashes_do_not_tell_all(change: dict[str, Any]) -> None:
    assert recipe_key(recipe(**change), HASHES) is None


def test_a_measured_key_sees_what_changes_on_disk(tmp_path: Path) -> None:
    make_store(tmp_path)
    root = tmp_path / "root"
    made = recipe(root=str(root))
    keys = [measured_key(made, Look(*measure(made).look()))]
    assert keys[0] == measured_key(made, Look(*measure(made).look()))
    file = root / LIB[1:] / "lib" / "lib.so"
    before = file.stat()

    def same_times_and_size() -> None:
        file.chmod(0o644)
        file.write_bytes(b"EVIL" + bytes(20_000))
        file.chmod(0o444)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    def other_inode() -> None:
        file.rename(file.with_name("old"))
        file.write_bytes(file.with_name("old").read_bytes())
        file.chmod(0o444)
        file.with_name("old").unlink()

    def other_mode() -> None:
        file.chmod(0o555)

    def another_name() -> None:
        file.rename(file.with_name("lib.so.0"))

    def another_target() -> None:
        (root / APP[1:] / "lib").unlink()
        (root / APP[1:] / "lib").symlink_to(BASE)

    for change in (same_times_and_size, other_inode, other_mode, another_name, another_target):
        change()
        keys.append(measured_key(made, Look(*measure(made).look())))
    assert len(set(keys)) == len(keys)
    assert measured_key(replace(made, profile=Profile(uid=1)), Look(*measure(made).look())) not in keys


@pytest.mark.parametrize(
    "change",
    [
        {"owner": (7, 8)},
        {"owner": (8, 7)},
        {"mode": 0o600},
        {"data": b"other"},
        {"data": None, "target": "data"},
        {"xattrs": (("user.a", b"1"),)},
        {"path": "/etc/other"},
    ],
)
def test_a_measured_key_sees_what_is_made_for_the_image(change: dict[str, Any]) -> None:
    def key(entry: GeneratedEntry) -> str:
        made = LayerRecipe((Generated("x", (entry,)),))
        return measured_key(made, Look(*measure(made).look()))

    entry = GeneratedEntry("/etc/file", 0o644, b"data", owner=(7, 7))
    assert key(entry) == key(entry) != key(entry._replace(**change))


# Manifests


def test_descriptors_tell_layers() -> None:
    described = {"digest": layer(GZIP).digest, "size": 99, "annotations": annotations_of(KEY, layer(GZIP))}
    assert layers_in([described], GZIP) == {KEY: layer(GZIP)}
    assert layers_in([described], Codec()) == layers_in([described], Codec("gzip", 1)) == {}
    plain = {"digest": layer().digest, "size": 10240, "annotations": annotations_of(KEY, layer())}
    assert layers_in([plain], Codec()) == {KEY: layer()}
    assert layers_in([{**plain, "size": 10241}], Codec()) == {}
    assert layers_in([{**plain, "digest": "sha256:" + "2" * 64}], Codec()) == {}


@pytest.mark.parametrize("name", ["recipe", "diff-id", "tar-size", "entries", "codec"])
@pytest.mark.parametrize("value", [None, 7, "", "x", "-1", "1" * 30, []])
def test_annotations_that_are_wrong_tell_nothing(name: str, value: object) -> None:
    annotations = {**annotations_of(KEY, layer(GZIP)), f"dev.fastlayers.{name}": value}
    described = {"digest": layer(GZIP).digest, "size": 99, "annotations": annotations}
    assert layers_in([described], GZIP) == {}
    assert layers_in([{**described, "annotations": value}, {}], GZIP) == {}


@pytest.mark.parametrize(
    "change", [{"digest": 7}, {"digest": "sha512:1"}, {"size": "99"}, {"size": -1}, {"size": True}]
)
def test_descriptors_that_are_wrong_tell_nothing(change: dict[str, Any]) -> None:
    described = {"digest": layer(GZIP).digest, "size": 99, "annotations": annotations_of(KEY, layer(GZIP))}
    assert layers_in([{**described, **change}], GZIP) == {}


# The command


def fastlayers(*arguments: str, status: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "fastlayers", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout if status in (0, 1) else done.stderr


def test_the_command(cache: DigestCache) -> None:
    folder = ("--cache", cache.folder)
    cache.put(KEY, layer())
    cache.put("cd" * 32, layer())
    size = sum(entry.size for entry in cache.entries())
    assert fastlayers("cache", "info", *folder) == f"{cache.folder}: 2 layers, {size} bytes\n"
    assert json.loads(fastlayers("cache", "info", *folder, "--json")) == {
        "folder": cache.folder,
        "layers": 2,
        "bytes": size,
    }
    assert fastlayers("cache", "verify", *folder) == f"{cache.folder}: 2 layers, {size} bytes\n"
    damaged = Path(cache.folder, "cd", ("cd" * 32)[2:])
    damaged.write_text("x")
    assert fastlayers("cache", "verify", *folder, status=1).startswith(f"{damaged}: damaged\n{cache.folder}: 1 layer, ")
    assert fastlayers("cache", "prune", *folder) == f"{cache.folder}: 1 removed, 1 byte\n"
    os.utime(file_of(cache), (1, 1))
    assert "0 removed" in fastlayers("cache", "prune", *folder, "--max-size", "1k")
    assert "1 removed" in fastlayers("cache", "prune", *folder, "--older-than", "30")
    cache.put(KEY, layer())
    assert "1 removed" in fastlayers("cache", "clear", *folder)
    assert "0 layers" in fastlayers("cache", "info", *folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cache"], "ACTION"),
        (["cache", "eat"], "eat"),
        (["cache", "prune", "--older-than", "soon"], "expected a number of days"),
        (["cache", "prune", "--max-size", "1T"], "expected a number of bytes"),
        (["cache", "info", "--max-size", "1k"], "are for prune"),
        (["build", "x", "--to", "oci:y", "--cache", "z", "--no-cache"], "--cache and --no-cache exclude each other"),
        (["build", "x", "--to", "oci-archive:y", "--prune"], "--prune is for a destination oci:"),
    ],
)
def test_a_command_line_that_is_wrong(arguments: list[str], message: str) -> None:
    assert message in fastlayers(*arguments, status=2)


def build(folder: Path, *options: str, status: int = 0, **environment: str) -> str:
    """Build an image of the small store as a user does, and give what she is told of a failure."""
    own = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", "VIRTUAL_ENV")}
    own |= {"HOME": str(folder), "NIX_STORE_DIR": f"{folder}/root/nix/store", **environment}
    command = [sys.executable, "-m", "fastlayers", "build", f"{folder}/named.json", "--to", f"oci:{folder}/image"]
    done = subprocess.run([*command, *options], env=own, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_store(tmp_path)
    write_json(tmp_path / "named.json", {"graph": named_nodes(tmp_path / "root")})
    return tmp_path


def remembered(folder: Path) -> int:
    return len(list(DigestCache(str(folder)).entries()))


def test_a_build_remembers_at_home(folder: Path) -> None:
    def anew(*options: str, **environment: str) -> None:  # a layout that is there tells what it has
        shutil.rmtree(folder / "image", ignore_errors=True)
        build(folder, *options, **environment)

    anew("--no-cache")
    assert not (folder / ".cache").exists()
    anew()
    assert remembered(folder / ".cache/fastlayers") == 3
    anew("--cache", f"{folder}/own/one", XDG_CACHE_HOME=f"{folder}/xdg")
    assert remembered(folder / "own/one") == 3 and not (folder / "xdg").exists()
    anew(XDG_CACHE_HOME=f"{folder}/xdg")
    assert remembered(folder / "xdg/fastlayers") == 3


def test_where_there_is_no_place_nothing_is_said(folder: Path) -> None:
    """But of one that was named."""
    assert build(folder, HOME=f"{folder}/homeless-shelter") == ""
    assert not (folder / "homeless-shelter").exists()
    assert build(folder, XDG_CACHE_HOME="/dev/null") == ""
    assert build(folder, "--cache", "/dev/null/x", status=8) == "fastlayers: /dev/null/x: Not a directory\n"


def test_the_command_line_finds_a_contradiction(folder: Path) -> None:
    build(folder)
    file = folder / "root" / BASE[1:] / "etc/base"
    file.chmod(0o644)
    file.write_text("evil\n")
    assert "as it was remembered" in build(folder, "--verify", status=6)
    assert remembered(folder / ".cache/fastlayers") == 0


def test_the_closing_table(folder: Path) -> None:
    made = build(folder, "--to", "oci-archive:-")
    assert "3 layers, 0.1 MB; 80.1 kB read, 0.2 MB written, " in made, made
    assert made.count("built, written") == 3
    again = build(folder, "--to", f"oci-archive:{folder}/image.tar", "--quiet")
    assert again == ""
