"""Extended attributes: which are kept, and that nothing changes where nobody asks for them."""

import os
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from fastlayers import LayerError, LayerRecipe
from fastlayers._archive import TarLayer, keeps_xattr
from fastlayers.contents import Tree
from fastlayers.layer import measure
from required import require_root, unavailable
from stores import LIB, make_store, write_file

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
FILE = f"{LIB}/lib/lib.so"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_store(tmp_path)
    return tmp_path / "root"


def set_xattr(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as error:
        unavailable(f"the file system of {path} keeps no {name}: {error.strerror}")


def bytes_of(root: Path, xattrs: bool) -> bytes:
    layer = measure(LayerRecipe((Tree(LIB),), root=str(root), xattrs=xattrs))
    data = bytearray(layer.size)
    assert layer.open().readinto(data) == layer.size
    return bytes(data)


def xattrs_of(data: bytes) -> dict[str, dict[str, bytes]]:
    with tarfile.open(fileobj=BytesIO(data)) as tar:
        return {
            member.name: {key: value.encode("utf-8", "surrogateescape") for key, value in member.pax_headers.items()}
            for member in tar
            if member.pax_headers
        }


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("security.capability", True),
        ("user.a", True),
        ("user.\udcff", True),
        ("security.selinux", False),
        ("security.capability2", False),
        ("security.ima", False),
        ("system.posix_acl_access", False),
        ("trusted.overlay.opaque", False),
        ("username", False),
    ],
)
def test_which_are_kept(name: str, kept: bool) -> None:
    assert keeps_xattr(name) is kept


def test_they_are_kept_when_they_are_wanted(root: Path) -> None:
    plain = bytes_of(root, False)
    assert bytes_of(root, True) == plain  # there are none
    set_xattr(root / FILE[1:], "user.b", b"2\n\0\xff")
    set_xattr(root / FILE[1:], "user.a", b"")
    set_xattr(root / LIB[1:], "user.folder", b"x" * 600)
    assert bytes_of(root, False) == plain
    value = {"SCHILY.xattr.user.a": b"", "SCHILY.xattr.user.b": b"2\n\0\xff"}
    assert xattrs_of(bytes_of(root, True)) == {
        LIB: {"SCHILY.xattr.user.folder": b"x" * 600},
        FILE: value,
        FILE + ".1": value,  # a hard link to it
    }


def test_many_of_them(root: Path) -> None:
    """More than a small buffer holds; they are sorted by name."""
    names = [f"user.{letter * 200}" for letter in "hgfedcba"]
    for name in names:
        set_xattr(root / FILE[1:], name, b"x")
    found = xattrs_of(bytes_of(root, True))[FILE]
    assert list(found) == [f"SCHILY.xattr.{name}" for name in sorted(names)]


def test_capabilities(root: Path) -> None:
    require_root("a file capability")
    set_xattr(root / FILE[1:], "security.capability", CAPABILITY)
    set_xattr(root / FILE[1:], "trusted.mine", b"label of this machine")
    assert xattrs_of(bytes_of(root, True))[FILE] == {"SCHILY.xattr.security.capability": CAPABILITY}


def test_one_that_changes_between_two_looks(root: Path) -> None:
    set_xattr(root / FILE[1:], "user.a", b"1")
    recipe = LayerRecipe((Tree(LIB),), root=str(root), xattrs=True)
    before = measure(recipe)
    set_xattr(root / FILE[1:], "user.a", b"2")
    assert measure(recipe).fingerprint != before.fingerprint
    assert measure(recipe).size == before.size


def test_names_that_no_record_can_hold(root: Path) -> None:
    set_xattr(root / FILE[1:], "user.a=b", b"")
    bytes_of(root, False)
    with pytest.raises(LayerError, match="an extended attribute whose name has = in it"):
        bytes_of(root, True)
    layer = TarLayer(uid=0, gid=0, uname="", gname="", mtime=0)
    with pytest.raises(ValueError, match="= in it"):
        layer.add_directory("/x", xattrs=(("user.a=b", b""),))


def test_a_list_of_files(root: Path) -> None:
    from test_layer import Listed

    write_file(root / "usr/x", "x")
    set_xattr(root / "usr/x", "user.a", b"1")
    layer = measure(LayerRecipe((Listed("x", ("/usr/x",)),), root=str(root), xattrs=True))
    data = bytearray(layer.size)
    layer.open().readinto(data)
    assert xattrs_of(bytes(data)) == {"/usr/x": {"SCHILY.xattr.user.a": b"1"}}
