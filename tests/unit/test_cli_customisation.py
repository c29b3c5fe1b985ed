"""The options that say what goes into an image besides its closure."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fastlayers.cli import run
from nix_stores import make_registered_store
from stores import ABSENT, APP, BASE, LIB, write_file

SOURCE = ("build", f"nix:{APP}", "--store-root", "root", "--jobs", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small store with its database, in whose folder the test works."""
    make_registered_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("VIRTUAL_ENV", "SOURCE_DATE_EPOCH", "NIX_STORE_DIR", "NIX_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def build(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """The layers that are made."""
    with pytest.raises(SystemExit) as end:
        run([*arguments, "--to", "oci:image", "--json"])
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    return json.loads(printed.out)["layers"]


def entries(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, tarfile.TarInfo]:
    """The entries of the customisation layer."""
    layer = build(capsys, *SOURCE, *options)[-1]
    assert layer["kind"] == "customisation" and layer["paths"] == []
    with tarfile.open(Path("image/blobs") / layer["digest"].replace(":", "/")) as tar:
        return {member.name: member for member in tar}


def test_contents(capsys: pytest.CaptureFixture[str]) -> None:
    found = entries(capsys, "--contents", APP, "--contents", f"{BASE}/")
    assert {name: info.linkname for name, info in found.items() if info.issym()} == {
        "/bin/app": f"{APP}/bin/app",
        "/lib": f"{APP}/lib",
        "/etc/base": f"{BASE}/etc/base",
    }


def test_contents_by_a_symlink(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "result").symlink_to(APP)
    assert entries(capsys, "--contents", "result")["/bin/app"].linkname == f"{APP}/bin/app"
    found = entries(capsys, "--contents", "./result/bin", "--contents", BASE, "--contents-priority", "result/bin=1")
    assert found["/app"].linkname == f"{APP}/bin/app"


def test_priorities(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tree in (APP, BASE):
        write_file(folder / "root" / tree[1:] / "x", tree)
    both = ("--contents", APP, "--contents", BASE)
    assert entries(capsys, *both, "--contents-priority", f"{BASE}=4")["/x"].linkname == f"{BASE}/x"
    assert entries(capsys, *both, "--contents-priority", f"{BASE}=6")["/x"].linkname == f"{APP}/x"
    assert entries(capsys, *both, "--contents-priority", f"{APP}=-1")["/x"].linkname == f"{APP}/x"


def test_extras_in_the_order_of_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(folder / "mine/etc/motd", "folder")
    write_file(folder / "packed/etc/motd", "an archive")
    with tarfile.open("mine.tar", "w") as tar:
        tar.add(folder / "packed/etc/motd", "etc/motd")
    assert entries(capsys, "--extra-files", "mine", "--extra-tar", "mine.tar")["/etc/motd"].size == len("an archive")
    assert entries(capsys, "--extra-tar", "mine.tar", "--extra-files", "mine")["/etc/motd"].size == len("folder")


def test_owners_and_modes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_file(folder / "mine/home/me/a=b")
    (folder / "mine/tmp").mkdir()
    options = ("--owner", "/home/me=1000:100", "--mode", "/tmp=1777", "--mode", "/home/me/a=b=04755")
    found = entries(capsys, "--extra-files", "mine", *options)
    assert {name: (oct(info.mode), info.uid, info.gid) for name, info in found.items()} == {
        "/home": ("0o755", 0, 0),
        "/home/me": ("0o755", 1000, 100),
        "/home/me/a=b": ("0o4755", 1000, 100),
        "/tmp": ("0o1777", 0, 0),
    }


def test_a_nix_database(capsys: pytest.CaptureFixture[str]) -> None:
    found = entries(capsys, "--include-nix-db")
    assert found["/nix/var/nix/db/db.sqlite"].size > 40_000
    assert found[f"/nix/var/nix/gcroots/fastlayers/{os.path.basename(APP)}"].linkname == APP


def test_xattrs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_xattrs import set_xattr

    set_xattr(write_file(folder / "mine/x", "", 0o644), "user.mine", b"1")
    set_xattr(folder / "root" / BASE[1:] / "etc/base", "user.store", b"2")
    plain = build(capsys, *SOURCE, "--extra-files", "mine")
    more = build(capsys, *SOURCE, "--extra-files", "mine", "--xattrs")
    changed = [a["paths"] for a, b in zip(plain, more, strict=True) if a["diff_id"] != b["diff_id"]]
    assert changed == [[BASE], []]


# --- what is named is included ----------------------------------------------------------------------------------------


def paths(layers: list[dict[str, Any]]) -> list[str]:
    return sorted(path for layer in layers for path in layer["paths"])


@pytest.mark.parametrize(
    "options",
    [
        ("--cmd", f"{APP}/bin/app"),
        ("--env", f"X=a:{APP}/bin"),
        ("--contents", APP),
        ("--contents", f"{APP}/bin"),
        ("--extra-files", "mine"),
    ],
)
def test_what_is_named_comes_with_its_closure(
    folder: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    (folder / "mine").mkdir()
    (folder / "mine/link").symlink_to(f"{APP}/bin/app")
    command = ("build", f"nix:{BASE}", "--store-root", "root")
    assert paths(build(capsys, *command)) == [BASE]
    assert paths(build(capsys, *command, *options)) == sorted([APP, LIB, BASE])
    result = folder / "result"
    result.symlink_to(BASE)
    assert paths(build(capsys, "build", "./result", "--store-root", "root", *options)) == sorted([APP, LIB, BASE])


def test_a_database_of_what_is_named_too(capsys: pytest.CaptureFixture[str]) -> None:
    command = ("build", f"nix:{BASE}", "--store-root", "root", "--contents", APP, "--include-nix-db")
    named = build(capsys, *command)[-1]
    assert named["diff_id"] == build(capsys, *SOURCE, "--contents", APP, "--include-nix-db")[-1]["diff_id"]


def test_a_base_may_have_what_the_store_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    build(capsys, *SOURCE)
    os.rename("image", "base")
    command = ("build", f"nix:{BASE}", "--store-root", "root", "--from", "oci:base")
    assert paths(build(capsys, *command, "--cmd", f"{ABSENT}/bin/x {LIB}/x")) == sorted([LIB, BASE])
