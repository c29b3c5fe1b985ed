"""What goes into an image besides its closure, as the clients see it: on disk, and inside a running container."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tarfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.clients import (
    Docker,
    Engine,
    NixClosure,
    Podman,
    Runc,
    call,
    fastlayers,
    file_digest,
    image_config,
    layers_of,
)
from required import require_root, require_tool
from stores import write_file

NAME = "fastlayers-custom:1"
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
BUSYBOX = "/opt/busybox"


@dataclass(frozen=True)
class Custom:
    """An image with something of everything, as an archive and as a layout, and the options that it was built with."""

    closure: NixClosure
    archive: Path
    layout: Path
    options: Sequence[str]

    def store_path(self, name: str) -> str:
        """The store path of a package."""
        (path,) = (path for path in self.closure.paths if path[44:].startswith(f"{name}-"))
        return path

    @property
    def layer(self) -> Path:
        return layers_of(self.layout)[-1]


@pytest.fixture(scope="module")
def image(nix_closure: NixClosure, tmp_path_factory: pytest.TempPathFactory) -> Custom:
    folder = tmp_path_factory.mktemp("custom")
    mine = folder / "mine"
    write_file(mine / "etc/passwd", "root:x:0:0::/root:/bin/bash\nme:x:1000:1000::/home/me:/bin/bash\n")
    write_file(mine / "etc/group", "root:x:0:\nme:x:1000:\n")
    write_file(mine / "home/me/.profile", "", 0o600)
    (mine / "tmp").mkdir()
    busybox = write_file(mine / BUSYBOX[1:], Path(require_tool("busybox")).read_bytes(), 0o755)
    os.setxattr(busybox, "security.capability", CAPABILITY)
    os.setxattr(mine / "tmp", "user.note", b"a note")
    with tarfile.open(folder / "mine.tar", "w") as tar:
        shadow = tarfile.TarInfo("./etc/shadow")
        shadow.mode, shadow.gid, shadow.mtime = 0o640, 42, 99
        tar.addfile(shadow)
    made = Custom(nix_closure, folder / "image.tar", folder / "image", ())
    tree = made.store_path("nix-bin")
    options = [
        *("--contents", made.store_path("bash"), "--contents", made.store_path("coreutils"), "--contents", tree),
        *("--extra-files", str(mine), "--extra-tar", str(folder / "mine.tar"), "--xattrs", "--include-nix-db"),
        *("--owner", "/home/me=1000:1000", "--mode", "/home/me=0700", "--mode", "/tmp=1777", "--user", "me"),
        *("--env", "PATH=/bin:/usr/bin", "--env", f"LD_LIBRARY_PATH={tree}/usr/lib/nix", "--env", "NIX_REMOTE=local"),
        *("--env", "NIX_CONFIG=build-users-group =\nsandbox = false\nsubstituters =\n"),
        *("--cmd", "bash -c 'id -un'", "--name", NAME, "--quiet"),
    ]
    to = ("--to", f"docker-archive:{made.archive}", "--to", f"oci:{made.layout}:1")
    fastlayers("build", nix_closure.folder / "path-info.json", *to, *options)
    return Custom(nix_closure, made.archive, made.layout, options)


def check_container(engine: Engine, image: Custom) -> None:
    with engine.loaded(image.archive, NAME):
        script = f"""
            exec 2>/dev/null
            id -un
            stat -c '%n %a %u:%g' /tmp /home/me /home/me/.profile /etc/passwd /etc/shadow
            touch /tmp/x /home/me/x && echo written
            touch /etc/x || echo not allowed
            {BUSYBOX} grep CapEff: /proc/self/status
            /usr/bin/env bash -c 'readlink /bin/bash /bin/ls /usr/bin/nix-store'
            for name in bash coreutils nix-bin; do test -e /usr/share/doc/$name/copyright && echo $name; done
        """
        assert engine.run(NAME, "bash", "-c", script).splitlines() == [
            "me",
            "/tmp 1777 0:0",
            "/home/me 700 1000:1000",
            "/home/me/.profile 644 1000:1000",
            "/etc/passwd 644 0:0",
            "/etc/shadow 640 0:42",
            "written",
            "not allowed",
            "CapEff:\t0000000000000400",  # cap_net_bind_service, for a user who is not root
            f"{image.store_path('bash')}/bin/bash",
            f"{image.store_path('coreutils')}/bin/ls",
            f"{image.store_path('nix-bin')}/usr/bin/nix-store",
            "bash",
            "coreutils",
            "nix-bin",
        ]
        check_nix(engine, image)


def check_nix(engine: Engine, image: Custom) -> None:
    """Nix in the container takes every path for valid and whole, and none for garbage; and it can add to its store."""
    root = image.closure.root
    script = f"""
        nix-store --verify --check-contents 2>/dev/null; echo "verified $?"
        nix-store --gc --print-dead 2>/dev/null
        echo "no garbage"
        nix-store --query --requisites {root}
        echo text > /tmp/text && nix-store --add /tmp/text >/dev/null && nix-store --verify 2>/dev/null && echo "added"
    """
    lines = engine.run(NAME, "bash", "-c", script, options=("--user", "0")).splitlines()
    assert lines[:2] == ["verified 0", "no garbage"]
    assert sorted(lines[2:-1]) == image.closure.paths
    assert lines[-1] == "added"


def test_docker(docker: Docker, image: Custom) -> None:
    check_container(docker, image)


def test_podman(podman: Podman, image: Custom) -> None:
    check_container(podman, image)


def check_tree(root: Path) -> None:
    """What was unpacked by root has modes, owners and attributes."""
    seen = {}
    for path in ("/tmp", "/home/me", "/home/me/.profile", "/etc/passwd", "/etc/shadow", BUSYBOX):
        status = os.lstat(f"{root}{path}")
        seen[path] = (oct(status.st_mode & 0o7777), status.st_uid, status.st_gid, status.st_mtime)
    assert seen == {
        "/tmp": ("0o1777", 0, 0, 1),
        "/home/me": ("0o700", 1000, 1000, 1),
        "/home/me/.profile": ("0o644", 1000, 1000, 1),
        "/etc/passwd": ("0o644", 0, 0, 1),
        "/etc/shadow": ("0o640", 0, 42, 1),
        BUSYBOX: ("0o755", 0, 0, 1),
    }
    assert os.getxattr(f"{root}{BUSYBOX}", "security.capability") == CAPABILITY
    assert os.getxattr(f"{root}/tmp", "user.note") == b"a note"


def test_umoci_and_runc(runc: Runc, image: Custom) -> None:
    with runc.unpacked(image.layout, "1") as bundle:
        check_tree(bundle / "rootfs")
        assert runc.run(bundle) == "me\n"


def test_gnu_tar(image: Custom, tmp_path: Path) -> None:
    require_root("files of other owners")
    # Without --numeric-owner: an owner whose name is that of another user here would be that user's.
    call("tar", "-xpf", image.layer, "--xattrs", "--xattrs-include=*", "-C", tmp_path)
    check_tree(tmp_path)
    getcap = require_tool("getcap")
    assert call(getcap, f"{tmp_path}{BUSYBOX}").strip() == f"{tmp_path}{BUSYBOX} cap_net_bind_service=ep"


def test_the_same_options_give_the_same_bytes(image: Custom, tmp_path: Path) -> None:
    again = tmp_path / "again.tar"
    graph = image.closure.folder / "graph.json"  # tells NAR hashes in another spelling
    fastlayers("build", graph, "--to", f"docker-archive:{again}", *image.options, "--jobs", "2")
    assert file_digest(again) == file_digest(image.archive)


def test_a_store_gives_the_same_bytes(image: Custom, tmp_path: Path) -> None:
    """What the configuration and the contents name comes from the store; references to oneself are known there too."""
    options = ("build", f"nix:{image.store_path('bash')}", "--contents", image.closure.root, "--include-nix-db")
    fastlayers(*options, "--to", f"oci:{tmp_path}/store:1", "--quiet")
    document = image.closure.folder / "path-info.json"
    fastlayers("build", document, *options[2:], "--to", f"oci:{tmp_path}/document:1", "--quiet")
    one, other = layers_of(tmp_path / "store"), layers_of(tmp_path / "document")
    assert [file_digest(layer) for layer in one] == [file_digest(layer) for layer in other]


def test_without_xattrs_there_are_none(image: Custom, tmp_path: Path) -> None:
    options = [option for option in image.options if option != "--xattrs"]
    fastlayers("build", image.closure.folder / "path-info.json", "--to", f"oci:{tmp_path}/plain:1", *options)
    layers = [file_digest(layer) for layer in layers_of(tmp_path / "plain")]
    assert b"SCHILY" not in layers_of(tmp_path / "plain")[-1].read_bytes()
    assert b"SCHILY" in image.layer.read_bytes()
    assert (
        layers[:-1] == [file_digest(layer) for layer in layers_of(image.layout)][:-1]
    )  # Nix takes them from its store
    assert [f"sha256:{digest}" for digest in layers] != image_config(image.archive)["rootfs"]["diff_ids"]


def test_the_database_is_that_of_nix(image: Custom, tmp_path: Path) -> None:
    """nix-store --load-db makes the same rows of what nix-store --dump-db tells."""
    state = {
        **os.environ,
        "NIX_STATE_DIR": f"{tmp_path}/var",
        "NIX_REMOTE": "local",
        "NIX_CONFIG": "build-users-group =",
    }
    dumped = call("nix-store", "--dump-db", *image.closure.paths)
    subprocess.run(["nix-store", "--load-db"], input=dumped, text=True, env=state, check=True, capture_output=True)
    call("tar", "-xf", image.layer, "-C", tmp_path)
    ours = tmp_path / "nix/var/nix/db"
    assert (ours / "schema").read_bytes() == (tmp_path / "var/db/schema").read_bytes()
    assert told(ours / "db.sqlite") == told(tmp_path / "var/db/db.sqlite")


def told(file: Path) -> list[list[tuple[object, ...]]]:
    """What a database tells: its tables, its paths but for their derivers and dates, and references."""
    rows = "select path, hash, narSize, ultimate, sigs from ValidPaths order by path"
    pairs = """
        select a.path, b.path from Refs
        join ValidPaths a on a.id = referrer join ValidPaths b on b.id = reference order by 1, 2
    """
    names = "select type, name, tbl_name from sqlite_master order by 1, 2"
    with closing(sqlite3.connect(file)) as database:
        return [database.execute(query).fetchall() for query in (rows, pairs, names)]
