"""Files of the user's own: what is taken from a folder and from a tar archive, and what is refused."""

import errno
import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlayers import ConfigError, LayerError, LayerRecipe, read_folder, read_tar
from fastlayers.contents import FilePart, Generated, GeneratedEntry
from fastlayers.layer import measure
from required import unavailable
from stores import write_file

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep


def by_path(made: Generated) -> dict[str, GeneratedEntry]:
    assert len({entry.path for entry in made.entries}) == len(made.entries)
    return {entry.path: entry for entry in made.entries}


def set_xattr(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        unavailable(f"the file system of {path} keeps no {name}: {error.strerror}")


def unpacked(*contents: Generated, xattrs: bool = False) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    """The members of the layer, with their bytes."""
    layer = measure(LayerRecipe(contents, xattrs=xattrs))
    data = bytearray(layer.size)
    assert layer.open().readinto(data) == layer.size
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {member.name: (member, tar.extractfile(member)) for member in tar}
        return {name: (member, file.read() if file else b"") for name, (member, file) in found.items()}


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder(tmp_path: Path) -> None:
    top = tmp_path / "top"
    write_file(top / "etc/passwd", "root", 0o600)
    write_file(top / "bin/run", "#!", 0o700)
    (top / "empty").mkdir(0o700)
    (top / "bin/link").symlink_to("run")
    made = read_folder(top)
    assert by_path(made) == {
        "/bin": GeneratedEntry("/bin"),
        "/bin/link": GeneratedEntry("/bin/link", target="run"),
        "/bin/run": GeneratedEntry("/bin/run", 0o755, FilePart(f"{top}/bin/run")),
        "/empty": GeneratedEntry("/empty"),
        "/etc": GeneratedEntry("/etc"),
        "/etc/passwd": GeneratedEntry("/etc/passwd", 0o644, FilePart(f"{top}/etc/passwd")),
    }
    members = unpacked(made)
    assert list(members) == sorted(by_path(made))
    assert members["/etc/passwd"][1] == b"root"
    assert {(m.uid, m.gid, m.uname, m.mtime) for m, _ in members.values()} == {(0, 0, "root", 1)}


def test_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process may have another working folder."""
    write_file(tmp_path / "top/x", "x")
    monkeypatch.chdir(tmp_path)
    made = read_folder("top")
    monkeypatch.chdir("/")
    assert unpacked(made)["/x"][1] == b"x"


def test_folders_that_are_refused(ordinary: Path) -> None:
    with pytest.raises(ConfigError, match="absent: No such file"):
        read_folder(ordinary / "absent")
    with pytest.raises(ConfigError, match="file: Not a directory"):
        read_folder(write_file(ordinary / "file"))
    write_file(ordinary / "top/x/y")
    (ordinary / "top/x").chmod(0)
    with pytest.raises(ConfigError, match="top/x: Permission denied"):
        read_folder(ordinary / "top")
    (ordinary / "top/x").chmod(0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(ordinary / "top/x/socket"))
        with pytest.raises(LayerError, match="top/x/socket: a socket, device or pipe"):
            read_folder(ordinary / "top")


@pytest.mark.parametrize("change", ["shrinks", "grows", "changes", "vanishes", "turns"])
def test_a_file_that_changes_after_it_was_measured(tmp_path: Path, change: str) -> None:
    file = write_file(tmp_path / "top/x", b"x" * 100, 0o644)
    layer = measure(LayerRecipe((read_folder(tmp_path / "top"),)))
    if change in ("shrinks", "grows"):
        os.truncate(file, {"shrinks": 50, "grows": 150}[change])
    elif change == "changes":
        os.utime(file, ns=(5, 5))
    else:
        file.unlink()
    if change == "turns":
        file.symlink_to("/etc/passwd")
    says = {"shrinks": "shrank", "grows": "grew", "changes": "changed", "vanishes": "No such file", "turns": "changed"}
    with pytest.raises(LayerError, match=f"{file}: {says[change]}"):
        layer.open().readinto(bytearray(layer.size))


def test_an_empty_file_that_grows(tmp_path: Path) -> None:
    file = write_file(tmp_path / "top/x", b"", 0o644)
    layer = measure(LayerRecipe((read_folder(tmp_path / "top"),)))
    file.write_bytes(b"no longer")
    with pytest.raises(LayerError, match=f"{file}: grew"):
        layer.open().readinto(bytearray(layer.size))


def test_an_extended_attribute_that_no_record_can_hold(tmp_path: Path) -> None:
    set_xattr(write_file(tmp_path / "top/x", "", 0o644), "user.a=b", b"")
    read_folder(tmp_path / "top")
    with pytest.raises(LayerError, match="top/x: an extended attribute whose name has = in it"):
        read_folder(tmp_path / "top", xattrs=True)


def test_a_file_that_vanishes_before_it_is_measured(tmp_path: Path) -> None:
    file = write_file(tmp_path / "top/x")
    made = read_folder(tmp_path / "top")
    file.unlink()
    with pytest.raises(LayerError, match=f"{file}: No such file"):
        measure(LayerRecipe((made,)))
    file.mkdir()
    with pytest.raises(LayerError, match=f"{file}: changed"):
        measure(LayerRecipe((made,)))


def test_extended_attributes_of_a_folder(tmp_path: Path) -> None:
    file = write_file(tmp_path / "top/d/x", "x", 0o755)
    set_xattr(file, "user.note", b"a\0\xff\n=")
    set_xattr(file, "user.empty", b"")
    set_xattr(file.parent, "user.folder", b"yes")
    assert not any(entry.xattrs for entry in read_folder(tmp_path / "top").entries)
    made = by_path(read_folder(tmp_path / "top", xattrs=True))
    assert made["/d/x"].xattrs == (("user.empty", b""), ("user.note", b"a\0\xff\n="))
    assert made["/d"].xattrs == (("user.folder", b"yes"),)


def test_a_file_system_without_extended_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "top/x")

    def listxattr(path: str, *, follow_symlinks: bool) -> list[str]:
        raise OSError(refused, os.strerror(refused), path)

    monkeypatch.setattr(os, "listxattr", listxattr)
    refused = errno.ENOTSUP
    assert read_folder(tmp_path / "top", xattrs=True) == read_folder(tmp_path / "top")
    refused = errno.EIO
    with pytest.raises(ConfigError, match="top/x: Input/output error"):
        read_folder(tmp_path / "top", xattrs=True)


# --- tar archives -----------------------------------------------------------------------------------------------------


def write_tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in values.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar(tmp_path: Path, form: int) -> None:
    file = write_tar(
        tmp_path / "x.tar",
        (member("./", tarfile.DIRTYPE, mode=0o700), b""),
        (member("./tmp", tarfile.DIRTYPE, mode=0o1777), b""),
        (member("etc/shadow", mode=0o640, gid=42, uname="root", gname="shadow", mtime=99), b"secret"),
        (member("/abs//path/", tarfile.DIRTYPE, mode=0o755, uid=1000, gid=1000), b""),
        (member("etc/sudo", mode=0o4755), b"x" * 1000),
        (member("etc/link", tarfile.SYMTYPE, linkname="../tmp"), b""),
        (member("etc/hard", tarfile.LNKTYPE, linkname="./etc/shadow"), b""),
        (member("empty"), b""),
        form=form,
    )
    made = read_tar(file)
    members = unpacked(made)
    assert list(members) == [
        "/abs", "/abs/path", "/empty", "/etc", "/etc/hard", "/etc/link", "/etc/shadow", "/etc/sudo", "/tmp"
    ]  # fmt: skip
    assert members["/tmp"][0].mode == 0o1777
    for name in ("/etc/shadow", "/etc/hard"):
        info, data = members[name]
        assert (info.type, info.mode, info.uid, info.gid, data) == (tarfile.REGTYPE, 0o640, 0, 42, b"secret")
        assert (info.uname, info.gname) == ("root", "")  # 42 is not the profile's group, whose name is root
        assert info.mtime == 1
    assert members["/etc/sudo"][0].mode == 0o4755 and members["/etc/sudo"][1] == b"x" * 1000
    assert (members["/abs/path"][0].uid, members["/abs/path"][0].uname) == (1000, "")
    assert (members["/abs"][0].uid, members["/abs"][0].mode) == (0, 0o755)
    assert members["/etc/link"][0].linkname == "../tmp"


def test_the_last_of_two_entries_counts(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", (member("x"), b"one"), (member("y"), b"other"), (member("./x"), b"two"))
    assert unpacked(read_tar(file))["/x"][1] == b"two"


def test_extended_attributes_of_a_tar(tmp_path: Path) -> None:
    headers = {
        "SCHILY.xattr.security.capability": os.fsdecode(CAPABILITY),
        "SCHILY.xattr.user.a": "1",
        "SCHILY.xattr.security.selinux": "label",
        "comment": "none",
    }
    file = write_tar(tmp_path / "x.tar", (member("x", mode=0o755, pax_headers=headers), b""))
    assert read_tar(file).entries[0].xattrs == ()
    (entry,) = read_tar(file, xattrs=True).entries
    assert entry.xattrs == (("security.capability", CAPABILITY), ("user.a", b"1"))
    info, _ = unpacked(read_tar(file, xattrs=True))["/x"]
    assert os.fsencode(info.pax_headers["SCHILY.xattr.security.capability"]) == CAPABILITY


def sparse(folder: Path) -> Path:
    import subprocess

    from required import require_tool

    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 20)
    command = [require_tool("tar"), "-cSf", folder / "x.tar", "-C", folder, "sparse"]
    subprocess.run(command, check=True)
    return folder / "x.tar"


def damaged(folder: Path, start: int, stop: int, data: bytes = b"") -> Path:
    """Two files, with bytes of the archive replaced."""
    file = write_tar(folder / "x.tar", (member("x"), b"x" * 600), (member("y"), b"y" * 600))
    whole = file.read_bytes()
    file.write_bytes(whole[:start] + data + whole[stop:])
    return file


REFUSED: list[tuple[str, Callable[[Path], Path], type[Exception], str]] = [
    ("absent", lambda f: f / "x.tar", ConfigError, "x.tar: No such file"),
    ("a folder", lambda f: f, ConfigError, "Is a directory"),
    ("empty", lambda f: write_file(f / "x.tar"), ConfigError, "x.tar: not a plain tar archive: empty file"),
    ("something else", lambda f: write_file(f / "x.tar", b"#!" * 9999), ConfigError, "not a plain tar archive"),
    ("a damaged second header", lambda f: damaged(f, 1600, 1601, b"X"), ConfigError,
     "x.tar: not a plain tar archive: no header at byte 1536"),
    ("an end within a header", lambda f: damaged(f, 1700, 10**9), ConfigError,
     "x.tar: not a plain tar archive: no header at byte 1536"),
    ("an end within a file", lambda f: damaged(f, 800, 10**9), ConfigError,
     "x.tar: not a plain tar archive: unexpected end of data"),
    ("dot dot", lambda f: write_tar(f / "x.tar", (member("a/../../b"), b"")), LayerError,
     "x.tar: a/../../b: leads out of the image"),
    ("a hard link out", lambda f: write_tar(f / "x.tar", (member("a", tarfile.LNKTYPE, linkname="../b"), b"")),
     LayerError, "x.tar: a: leads out of the image"),
    ("a hard link to nothing", lambda f: write_tar(f / "x.tar", (member("a", tarfile.LNKTYPE, linkname="b"), b"")),
     LayerError, "x.tar: a: a hard link to b, which is no file before it"),
    ("a device", lambda f: write_tar(f / "x.tar", (member("dev/null", tarfile.CHRTYPE), b"")), LayerError,
     "x.tar: dev/null: a device or pipe cannot go into a layer"),
    ("a pipe", lambda f: write_tar(f / "x.tar", (member("run/p", tarfile.FIFOTYPE), b"")), LayerError,
     "x.tar: run/p: a device or pipe cannot go into a layer"),
    ("an unknown type", lambda f: write_tar(f / "x.tar", (member("z", b"Z"), b"")), LayerError,
     "x.tar: z: an entry of the type b'Z'"),
    ("an owner that is none", lambda f: write_tar(f / "x.tar", (member("x", uid=2**32 - 1), b"")), LayerError,
     "x.tar: x: the owner 4294967295:0 is none that a file can have"),
    ("a symlink to nothing", lambda f: write_tar(f / "x.tar", (member("x", tarfile.SYMTYPE), b"")), LayerError,
     "x.tar: x: a symlink to nothing"),
    ("a sparse file", sparse, LayerError, "x.tar: sparse: a sparse file"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_tars_that_are_refused(tmp_path: Path, make: Callable[[Path], Path], error: type[Exception], says: str) -> None:
    with pytest.raises(error) as refused:
        read_tar(make(tmp_path))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused(tmp_path: Path, mode: str) -> None:
    with tarfile.open(tmp_path / "x.tar", mode) as tar:
        tar.addfile(member("x"))
    with pytest.raises(ConfigError, match="not a plain tar archive"):
        read_tar(tmp_path / "x.tar")


def test_a_whiteout(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", (member("etc/.wh.passwd"), b""))
    with pytest.raises(LayerError, match=r"/etc/\.wh\.passwd: a name that starts with \.wh\."):
        measure(LayerRecipe((read_tar(file),)))


def test_a_symlink_to_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as nix-build's result."""
    write_tar(tmp_path / "x.tar", (member("x"), b"bytes"))
    (tmp_path / "result").symlink_to("x.tar")
    monkeypatch.chdir(tmp_path)
    made = read_tar("result")
    monkeypatch.chdir("/")
    assert unpacked(made)["/x"][1] == b"bytes"


def test_a_tar_that_changes_after_it_was_measured(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", (member("x"), b"x" * 600), (member("y"), b""))
    layer = measure(LayerRecipe((read_tar(file),)))
    os.utime(file, ns=(7, 7))
    with pytest.raises(LayerError, match=f"{file}: changed while it was read"):
        layer.open().readinto(bytearray(layer.size))
    layer = measure(LayerRecipe((read_tar(file),)))
    os.truncate(file, 700)
    with pytest.raises(LayerError, match=f"{file}: shrank"):
        layer.open().readinto(bytearray(layer.size))


@pytest.mark.parametrize("change", ["another", "shorter", "newer", "none"])
def test_a_tar_that_changes_before_it_is_measured(tmp_path: Path, change: str) -> None:
    """What is at the places that were told would be other files' bytes."""
    file = write_tar(tmp_path / "x.tar", (member("x"), b"x" * 600), (member("y"), b""))
    other = write_tar(tmp_path / "other.tar", (member("a"), b"a" * 600), (member("b"), b""))
    made = read_tar(file)
    measure(LayerRecipe((made,)))
    if change == "another":
        os.utime(other, ns=(0, file.stat().st_mtime_ns))
        other.replace(file)
    elif change == "shorter":
        os.truncate(file, 700)
    elif change == "newer":
        os.utime(file, ns=(7, 7))
    else:
        file.unlink()
    says = "No such file" if change == "none" else "changed since its entries were read"
    with pytest.raises(LayerError, match=f"^{file}: {says}"):
        measure(LayerRecipe((made,)))
