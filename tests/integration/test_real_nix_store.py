"""Closures and NAR hashes out of stores that Nix itself made, and is writing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from closures import same_closure
from fastlayers import LayerRecipe, read_closure
from fastlayers.contents import Tree
from fastlayers.errors import ClosureError
from fastlayers.layer import measure
from fastlayers.nar import nar_hash
from fastlayers.sources import nix_database, nix_store
from integration.clients import NixClosure, call, fastlayers, file_digest, place
from nix_stores import snapshot
from required import require_root, require_tool

EXPRESSION = """
let make = name: text: derivation {
  inherit name text;
  system = builtins.currentSystem;
  builder = "/bin/sh";
  args = [ "-c" "eval \\"$text\\"" ];
  PATH = "/usr/bin:/bin";
};
in rec {
  base = make "base" "mkdir -p $out/etc $out/empty; echo base > $out/etc/base";
  library = make "library" "mkdir -p $out/lib; echo $out ${base} > $out/lib/self; ln -s self $out/lib/link";
  script = make "script" "echo '#!/bin/sh' > $out; echo echo ${library} >> $out; chmod +x $out";
  link = make "link" "ln -s ${script} $out";
  app = make "app" "mkdir -p $out/bin; ln -s ${script} $out/bin/app; echo ${link} > $out/note";
}
"""


@dataclass
class Store:
    """A Nix store of a test's own, of a single user, without a daemon."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "conf").mkdir(parents=True)
        (self.folder / "conf/nix.conf").write_text(
            "build-users-group =\nsandbox = false\nfilter-syscalls = false\nsubstituters =\nfsync-metadata = false\n"
            "experimental-features = nix-command flakes\n"
        )
        self.environment = {
            **os.environ,
            "NIX_STORE_DIR": str(self.folder / "store"),
            "NIX_STATE_DIR": str(self.folder / "state"),
            "NIX_LOG_DIR": str(self.folder / "log"),
            "NIX_CONF_DIR": str(self.folder / "conf"),
            "NIX_REMOTE": "local",
            "NIX_PATH": "",
            "HOME": str(self.folder),
        }
        self.call("nix-store", "--init")

    def call(self, *command: str | Path) -> str:
        return call(*command, env=self.environment).strip()

    @property
    def database(self) -> Path:
        return self.folder / "state/db/db.sqlite"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may look into."""
    with place() as folder:
        folder.chmod(0o755)
        yield folder
        subprocess.run(["chmod", "-R", "u+w", folder], check=False)


@pytest.fixture
def store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    require_tool("nix-store")
    made = Store(folder / "nix")
    for name in ("NIX_STORE_DIR", "NIX_STATE_DIR"):
        monkeypatch.setenv(name, made.environment[name])
    return made


@pytest.fixture
def built(store: Store) -> dict[str, str]:
    """Store paths that Nix built: with references and self-references; one is a symlink, one a file."""
    file = store.folder / "x.nix"
    file.write_text(EXPRESSION)
    return {
        name: store.call("nix-build", file, "-A", name, "--out-link", store.folder / f"result-{name}").splitlines()[-1]
        for name in ("app", "library", "base", "link", "script")
    }


@contextlib.contextmanager
def nobody() -> Iterator[None]:
    require_root("another user")
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def documents(store: Store, path: str) -> Iterator[Path]:
    """What Nix writes of the closure of a store path."""
    file = store.folder / "path-info.json"
    file.write_text(store.call("nix", "path-info", "--json", "-r", path))
    yield file


def test_closures_are_those_that_nix_tells(store: Store, built: dict[str, str]) -> None:
    for name, path in built.items():
        found = read_closure(f"nix:{path}")
        assert found.paths == sorted(store.call("nix-store", "--query", "--requisites", path).split())
        for document in documents(store, path):
            same_closure(found, read_closure(document))
        same_closure(read_closure(f"nix:{store.folder}/result-{name}"), found)
    assert len(read_closure(built["app"])) == 5


def test_profiles(store: Store, built: dict[str, str]) -> None:
    profile = store.folder / "state/profiles/mine"
    profile.parent.mkdir(parents=True, exist_ok=True)
    store.call("nix-env", "--profile", profile, "--set", built["library"])
    (store.folder / ".nix-profile").symlink_to(profile)
    same_closure(read_closure(store.folder / ".nix-profile"), read_closure(f"nix:{built['library']}"))


def odd_tree(folder: Path, seed: int) -> None:
    """Executables, symlinks, empty folders, sparse and large files, and names of odd bytes."""
    chance = random.Random(seed)
    folder.mkdir()
    letters = [b"a", b"-", b".", b"Z", b" ", b"\n", b"\xff", b"\xc3", "é".encode(), "\ufb01".encode(), "😀".encode()]
    for number in range(12):
        name = b"".join(chance.choices(letters, k=3)) + str(number).encode()
        path = os.path.join(os.fsencode(folder), name)
        kind = number % 4
        if kind == 0:
            os.mkdir(path)
            with open(path + b"/" + name, "wb") as file:
                file.write(chance.randbytes(chance.choice([0, 1, 7, 8, 9, 4095])))
        elif kind == 1:
            os.symlink(name * chance.randint(1, 20), path)
        elif kind == 2:
            os.mkdir(path)
        else:
            with open(path, "wb") as file:
                file.truncate(chance.choice([0, 5, 3_000_000]))
                file.write(b"start")
                file.seek(chance.choice([0, 2_000_000]))
                file.write(chance.randbytes(9))
            os.chmod(path, chance.choice([0o444, 0o555, 0o744, 0o644]))


@pytest.mark.parametrize("seed", range(4))
def test_nar_hashes_are_those_of_nix(folder: Path, seed: int) -> None:
    require_tool("nix-store")
    top = folder / "tree"
    odd_tree(top, seed)
    layer = measure(LayerRecipe((Tree(str(top)),)))
    environment = {**os.environ, "NIX_STATE_DIR": str(folder), "NIX_CONF_DIR": str(folder)}
    dumped = subprocess.run(["nix-store", "--dump", top], check=True, capture_output=True, env=environment)
    stream = layer.open_nar(str(top))
    data = bytearray(stream.size + 1)
    assert stream.readinto(data) == len(dumped.stdout) == stream.size
    assert data[:-1] == dumped.stdout
    assert nar_hash(layer, str(top)) == "sha256:" + hashlib.sha256(dumped.stdout).hexdigest()
    told = call("nix-hash", "--type", "sha256", top, env=environment).strip()
    assert nar_hash(layer, str(top)) == f"sha256:{told}"


def test_odd_trees_of_a_store_are_verified(store: Store, folder: Path) -> None:
    odd_tree(folder / "tree", 7)
    path = store.call("nix-store", "--add", folder / "tree")
    store.call("nix-store", "--verify-path", path)
    closure = read_closure(f"nix:{path}")
    layer = measure(LayerRecipe((Tree(path),)))
    assert [nar_hash(layer, path)] == closure.nar_hashes
    assert layer.open_nar(path).size == closure.nar_sizes[0]


def test_a_damaged_path_is_refused_as_nix_refuses_it(store: Store, built: dict[str, str], folder: Path) -> None:
    options = ("--to", f"oci:{folder}/image", "--jobs", "1", "--quiet", "--verify-store")
    fastlayers("build", f"nix:{built['app']}", *options)
    file = Path(built["base"]) / "etc/base"
    file.chmod(0o644)
    file.write_text("BASE\n")
    damaged = subprocess.run(["nix-store", "--verify-path", built["base"]], check=False, env=store.environment)
    assert damaged.returncode
    with pytest.raises(AssertionError, match=f"status 6\nfastlayers: {built['base']}: not what Nix registered"):
        fastlayers("build", f"nix:{built['app']}", *options)


def test_nix_leaves_its_database_as_it_is_read(store: Store, built: dict[str, str]) -> None:
    """At rest, whoever reads: nothing is made, nothing is touched."""
    before = snapshot(store.database.parent)
    assert len(read_closure(f"nix:{built['app']}")) == 5
    with nobody():
        assert len(read_closure(f"nix:{built['app']}")) == 5
    assert snapshot(store.database.parent) == before
    assert store.database.read_bytes()[18:20] == b"\2\2"  # in WAL mode


WRITER = """
for number in 1 2 3 4 5 6 7 8 9 10; do
    echo $number > tree/file
    nix-store --add tree >> added
done
"""


def test_nix_is_writing(store: Store, built: dict[str, str]) -> None:
    """Nix adds paths, one process after the other, each of which opens the database and moves its log into it."""
    expected = {name: read_closure(f"nix:{path}") for name, path in built.items()}
    folder = store.folder
    (folder / "tree").mkdir()
    (folder / "added").touch()
    turns = 0
    command = ("sh", "-c", WRITER)
    with subprocess.Popen(command, cwd=folder, env=store.environment, stdin=subprocess.DEVNULL) as writer:
        while writer.poll() is None:
            turns += 1
            with nobody() if turns % 2 else contextlib.nullcontext():
                for name in ("app", "library"):
                    same_closure(read_closure(f"nix:{built[name]}"), expected[name])
                for path in (folder / "added").read_text().split()[-1:]:
                    assert read_closure(f"nix:{path}").paths == [path]
    assert writer.returncode == 0
    assert turns >= 2
    assert len(set((folder / "added").read_text().split())) == 10


@pytest.fixture
def read_only(store: Store, built: dict[str, str], folder: Path) -> Iterator[Path]:
    """The state directory at another place, where nobody may write, not even root."""
    require_root("mount")
    require_tool("mount")
    mounted = folder / "mounted"
    mounted.mkdir()
    call("mount", "--bind", store.folder / "state", mounted)
    call("mount", "-o", "remount,ro,bind", mounted)
    yield mounted
    call("umount", mounted)


def test_a_database_on_a_read_only_mount(
    store: Store, built: dict[str, str], read_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_closure(f"nix:{built['app']}")
    monkeypatch.setenv("NIX_STATE_DIR", str(read_only))
    with pytest.raises(OSError, match="Read-only file system"):
        (read_only / "db/x").touch()
    same_closure(read_closure(f"nix:{built['app']}"), expected)


@pytest.mark.parametrize("schema", ["known", "unknown"])
def test_a_store_below_a_root(folder: Path, monkeypatch: pytest.MonkeyPatch, schema: str) -> None:
    """With a database of a schema that is not known here, but is to this machine's Nix, nix-store is asked."""
    require_tool("nix-store")
    monkeypatch.delenv("NIX_STORE_DIR", raising=False)
    monkeypatch.delenv("NIX_STATE_DIR", raising=False)
    monkeypatch.setenv("NIX_CONF_DIR", str(folder))
    monkeypatch.setenv("HOME", str(folder))
    root = folder / "root"
    root.mkdir()
    odd_tree(folder / "tree", 1)
    path = call("nix-store", "--store", f"local?root={root}", "--add", folder / "tree").strip()
    assert path.startswith("/nix/store/")
    (folder / "result").symlink_to(path)
    if schema == "unknown":
        monkeypatch.setattr(nix_database, "SCHEMA", "none")
    for name in (path, f"{root}{path}", str(folder / "result")):
        found = read_closure(f"nix:{name}", store_root=str(root))
        assert found.paths == [path]
        layer = measure(LayerRecipe((Tree(path),), root=str(root)))
        assert found.nar_hashes == [nar_hash(layer, path)]
        assert found.nar_sizes.tolist() == [layer.open_nar(path).size]
    assert nix_store.nar_hashes([path], store_root=str(root)) == found.nar_hashes


@pytest.fixture
def daemon(store: Store, built: dict[str, str]) -> Iterator[None]:
    """Nix's daemon, which has the only key to its database."""
    require_root("a daemon that serves others")
    log = (store.folder / "daemon.log").open("wb")
    with log, subprocess.Popen(["nix-daemon"], env=store.environment, stdin=subprocess.DEVNULL, stderr=log) as server:
        try:
            socket = store.folder / "state/daemon-socket/socket"
            limit = time.monotonic() + 60
            while not socket.exists():
                assert time.monotonic() < limit and server.poll() is None
                time.sleep(0.02)
            yield
        finally:
            server.terminate()


@pytest.mark.parametrize("remote", ["daemon", ""])
def test_the_daemon_is_asked_where_the_database_may_not_be_read(
    store: Store, built: dict[str, str], daemon: None, monkeypatch: pytest.MonkeyPatch, remote: str
) -> None:
    expected = read_closure(f"nix:{built['app']}")
    store.database.chmod(0o600)
    store.database.parent.chmod(0o700)
    for name in ("NIX_CONF_DIR", "HOME"):
        monkeypatch.setenv(name, store.environment[name])
    monkeypatch.setenv("NIX_REMOTE", remote)
    with nobody():
        same_closure(read_closure(f"nix:{built['app']}"), expected)
        hashes = nix_store.nar_hashes([built["app"]])
    assert hashes == [expected.nar_hashes[expected.index(built["app"])]]


def test_nix_makes_no_store_where_there_is_none(
    store: Store, built: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nix itself, as a user who may, would make a database: it is not asked, but its daemon, which is not there."""
    for name in ("NIX_CONF_DIR", "HOME"):
        monkeypatch.setenv(name, store.environment[name])
    monkeypatch.delenv("NIX_REMOTE", raising=False)
    monkeypatch.setenv("NIX_STATE_DIR", f"{folder}/none")
    with pytest.raises(ClosureError, match=rf"^nix-store: .*connect.* \({folder}/none/db/schema: No such file"):
        read_closure(f"nix:{built['app']}")
    assert not (folder / "none").exists()


def test_three_ways_to_one_image(git_closure: NixClosure, tmp_path: Path) -> None:
    """The store's own database, exportReferencesGraph and path-info: same closure, same image, to the last bit."""
    sources = [
        f"nix:{git_closure.root}",
        git_closure.folder / "result",
        git_closure.folder / "graph.json",
        git_closure.folder / "path-info.json",
    ]
    closures = [read_closure(source) for source in sources]
    digests = set()
    for source, closure in zip(sources, closures, strict=True):
        same_closure(closure, closures[0])
        archive = tmp_path / "image.tar"
        fastlayers("build", source, "--to", f"docker-archive:{archive}:git:1", "--quiet")
        digests.add(file_digest(archive))
    assert len(digests) == 1
