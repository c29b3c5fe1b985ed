"""The tar writer against CPython's tarfile, on trees and owners that are as awkward as file systems allow."""

import os
import pickle
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastlayers._archive import TarLayer
from oracles import tar as oracle
from required import unavailable

TOP = "/nix/store/abc-x"
PARENTS = ("/nix", "/nix/store")

# What decides bytes: order (- . / and letters), the two ways of not being ASCII, the lengths at which fields are full.
PIECES = [
    b"a",
    b"-",
    b".",
    b"_",
    b" ",
    b"A",
    b"\n",
    b"\\",
    b"\xff",
    b"\xc3",
    b"\x80",
    "é".encode(),
    "\ufb01".encode(),
    "😀".encode(),
]
NAMES = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map(b"".join),
    st.integers(60, 255).map(lambda n: b"n" * n),
    st.integers(28, 120).map(lambda n: "é".encode() * n),
    st.binary(min_size=1, max_size=20).map(lambda name: name.translate(None, b"/\0") or b"z"),
).filter(lambda name: name not in (b".", b".."))
SIZES = st.sampled_from([0, 1, 511, 512, 513, 1024, 4096, 8703, 8704, 9216, 10239, 10240, 10241, 20480, 65537])
TARGETS = st.one_of(
    st.lists(st.sampled_from([*PIECES, b"/", b".."]), min_size=1, max_size=6).map(b"".join),
    st.integers(95, 300).map(lambda n: b"t" * n),
    st.integers(40, 110).map(lambda n: b"\xff" * n),
)
FILES = st.tuples(st.just("file"), SIZES, st.sampled_from([0o444, 0o555, 0o644, 0o4755, 0o2711, 0o1666]))
LINKS = st.tuples(st.just("symlink"), TARGETS)
HARD_LINKS = st.tuples(st.just("hard link"), st.integers(0, 5))
LEAVES = st.one_of(FILES, LINKS, HARD_LINKS)
TREES = st.recursive(
    LEAVES, lambda below: st.tuples(st.just("directory"), st.dictionaries(NAMES, below, max_size=5)), max_leaves=12
)

OWNER_NAMES = st.one_of(
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=40),
    st.integers(30, 35).map(lambda n: "u" * n),
    # As the file system's encoding gives names that are not UTF-8.
    st.binary(max_size=40).map(lambda name: os.fsdecode(name.replace(b"\0", b""))),
)
IDS = st.one_of(st.integers(0, 70000), st.sampled_from([-1, -(2**63), 2**21 - 1, 2**21, 2**31, 2**63 - 1]))
TIMES = st.one_of(st.integers(-5, 2**33 + 5), st.sampled_from([8**11 - 1, 8**11, -(2**63), 2**63 - 1]))
OWNERS = st.builds(oracle.Owner, IDS, IDS, OWNER_NAMES, OWNER_NAMES, TIMES)


@contextmanager
def written(tree: tuple, top: str = TOP):
    """The tree on disk below a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.fsencode(folder) + os.fsencode(top)
        os.makedirs(os.path.dirname(path))
        write(path, tree, [])
        yield Path(folder)


def write(path: bytes, tree: tuple, files: list[bytes]) -> None:
    kind, *rest = tree
    if kind == "hard link" and not files:
        kind, rest = "file", [7, 0o644]
    if kind == "directory":
        os.mkdir(path)
        for name, below in rest[0].items():
            write(path + b"/" + name, below, files)
    elif kind == "symlink":
        os.symlink(rest[0], path)
    elif kind == "hard link":
        os.link(files[rest[0] % len(files)], path)
    else:
        with open(path, "xb") as file:
            file.write((path[-1:] + b"data") * (rest[0] // 5) + b"x" * (rest[0] % 5))
        os.chmod(path, rest[1])
        files.append(path)


def layer_of(root: Path, owner: oracle.Owner, tops: Sequence[str] = (TOP,)) -> TarLayer:
    layer = TarLayer(
        uid=owner.uid,
        gid=owner.gid,
        uname=owner.uname,
        gname=owner.gname,
        mtime=owner.mtime,
        root=str(root),
        whiteouts=True,
    )
    for parent in PARENTS:
        layer.add_directory(parent)
    for top in tops:
        layer.add_tree(top)
    return layer


def read(layer: TarLayer, sizes: Sequence[int] = (1 << 16,)) -> bytes:
    """All bytes, through buffers of these sizes in turn; only the last read may be short."""
    stream = layer.open()
    parts = []
    number = 0
    while True:
        buffer = bytearray(sizes[number % len(sizes)])
        number += 1
        got = stream.readinto(buffer)
        parts.append(bytes(buffer[:got]))
        if got < len(buffer):
            assert stream.readinto(bytearray(1)) == 0
            return b"".join(parts)


DISK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@given(TREES, OWNERS)
@settings(DISK, max_examples=400)
@example(("directory", {b"a": ("directory", {b"z": ("file", 1, 0o444)}), b"a-b": ("file", 0, 0o444)}), oracle.Owner())
@example(("directory", {b"bad\xff": ("file", 1, 0o444), "é".encode(): ("file", 1, 0o444)}), oracle.Owner())
@example(("directory", {"\ufb01".encode(): ("file", 1, 0o444), b"\xff": ("symlink", b"\xff")}), oracle.Owner(uname="é"))
@example(("directory", {"\uffff".encode(): ("file", 1, 0o444), "😀".encode(): ("file", 1, 0o444)}), oracle.Owner())
@example(("directory", {b"o": ("file", 9, 0o444), b"p": ("hard link", 0)}), oracle.Owner(uid=2**21, gid=-1, mtime=-1))
def test_trees_are_those_of_tarfile(tree: tuple, owner: oracle.Owner) -> None:
    with written(tree) as root:
        layer = layer_of(root, owner)
        data = read(layer)
        assert data == oracle.layer(root, [TOP], owner, PARENTS)
        assert layer.size == len(data)
        top = os.fsencode(root) + TOP.encode()
        assert len(layer) == len(PARENTS) + 1 + sum(
            len(f) + len(d) for _, d, f in ([] if os.path.islink(top) else os.walk(top))
        )


@given(TREES, OWNERS, st.lists(st.sampled_from([1, 2, 511, 512, 513, 1024, 10240, 99_999]), min_size=1, max_size=5))
@settings(DISK, max_examples=60)
def test_any_buffers_give_the_same_bytes(tree: tuple, owner: oracle.Owner, sizes: list[int]) -> None:
    with written(tree) as root:
        layer = layer_of(root, owner)
        assert read(layer, sizes) == read(layer)


@given(st.lists(TREES, min_size=2, max_size=4), st.randoms(use_true_random=False))
@settings(DISK, max_examples=60)
def test_trees_keep_the_order_in_which_they_are_given(trees: list[tuple], rng) -> None:
    tops = [f"/nix/store/{'ba-é'[number]}-x" for number in range(len(trees))]
    rng.shuffle(tops)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "nix/store").mkdir(parents=True)
        for top, tree in zip(tops, trees, strict=True):
            write(os.fsencode(f"{root}{top}"), tree, [])
        assert read(layer_of(root, oracle.Owner(), tops)) == oracle.layer(root, tops, oracle.Owner(), PARENTS)


@given(
    st.lists(st.tuples(NAMES, NAMES, st.binary(max_size=2000), TARGETS), unique_by=lambda item: item[0], max_size=6),
    OWNERS,
)
@settings(DISK, max_examples=100)
def test_entries_that_are_made_are_those_of_tarfile(
    items: list[tuple[bytes, bytes, bytes, bytes]], owner: oracle.Owner
) -> None:
    layer = layer_of(Path("/nowhere"), owner, ())
    expected = [owner.directory(parent).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") for parent in PARENTS]
    for folder, name, data, target in items:
        at = "/" + os.fsdecode(folder)
        layer.add_directory(at, 0o1777)
        layer.add_file(f"{at}/{os.fsdecode(name)}", data, 0o640)
        layer.add_symlink(f"{at}/{os.fsdecode(name)}.link", os.fsdecode(target))
        made = owner.directory(at)
        made.mode = 0o1777
        expected.append(made.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        expected.append(oracle.header(f"{at}/{os.fsdecode(name)}", len(data), 0o640, owner))
        expected.append(data + bytes(-len(data) % 512))
        link = owner.apply(tarfile.TarInfo(f"{at}/{os.fsdecode(name)}.link"))
        link.type, link.mode, link.linkname = tarfile.SYMTYPE, 0o777, os.fsdecode(target)
        expected.append(link.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
    whole = b"".join(expected) + bytes(1024)
    whole += bytes(-len(whole) % 10240)
    assert read(layer) == whole
    assert layer.size == len(whole)


XATTRS = st.dictionaries(
    NAMES.map(lambda name: os.fsdecode(b"user." + name.replace(b"=", b""))), st.binary(max_size=600), max_size=4
)
OWN = st.tuples(st.one_of(st.none(), st.tuples(IDS, IDS)), XATTRS)


@given(st.lists(st.tuples(NAMES, st.sampled_from("dfsp"), st.binary(max_size=1500), OWN), max_size=8), OWNERS)
@settings(DISK, max_examples=200)
@example([(b"x", "f", b"", ((0, 0), {"user.a": b""})), (b"y", "f", b"", ((5, 0), {}))], oracle.Owner(uid=5, uname="é"))
def test_entries_with_owners_and_extended_attributes_of_their_own(
    items: list[tuple[bytes, str, bytes, tuple]], owner: oracle.Owner
) -> None:
    layer = layer_of(Path("/nowhere"), owner, ())
    expected = [owner.directory(parent).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") for parent in PARENTS]
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, kind, drawn, (own, xattrs)) in enumerate(items):
            data, path = drawn, "/" + os.fsdecode(name)
            options = {"owner": own, "xattrs": tuple(xattrs.items())}
            info = owner.apply(tarfile.TarInfo(path))
            info.type, info.mode = {"d": tarfile.DIRTYPE, "s": tarfile.SYMTYPE}.get(kind, tarfile.REGTYPE), 0o2750
            if own is not None:
                # A name stays with its number alone.
                info.uname, info.gname = info.uname * (own[0] == info.uid), info.gname * (own[1] == info.gid)
                info.uid, info.gid = own
            if kind == "d":
                layer.add_directory(path, 0o2750, **options)
            elif kind == "s":
                info.mode, info.linkname = 0o777, os.fsdecode(data.replace(b"\0", b""))
                layer.add_symlink(path, info.linkname, **options)
            elif kind == "f":
                info.size = len(data)
                layer.add_file(path, data, 0o2750, **options)
            else:
                source, start = f"{folder}/{number}", len(data) // 3
                Path(source).write_bytes(drawn)
                data = drawn[start : 2 * start]
                info.size = len(data)
                layer.add_part(path, source, start, len(data), 0o2750, **options)
            expected += [oracle.with_xattrs(info, tuple(xattrs.items()))]
            expected += [data + bytes(-len(data) % 512)] if info.isreg() else []
        whole = b"".join(expected) + bytes(1024)
        whole += bytes(-len(whole) % 10240)
        assert read(layer, [700]) == read(layer) == whole
        assert read(pickle.loads(pickle.dumps(layer))) == whole
        assert layer.size == len(whole)


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 8**11 + 1, 3 * 8**11])
@pytest.mark.parametrize("owner", [oracle.Owner(), oracle.Owner(uid=2**21, uname="ü", mtime=-1)])
def test_files_of_8_gib(tmp_path: Path, size: int, owner: oracle.Owner) -> None:
    """A hole is never read whole: the header is looked at, and the size by arithmetic."""
    path = tmp_path / TOP[1:]
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(b"start")
        try:
            file.truncate(size)
        except OSError:
            unavailable("this file system has no files of 8 GiB with holes")
    path.chmod(0o444)
    layer = layer_of(tmp_path, owner)
    parents = b"".join(owner.directory(p).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") for p in PARENTS)
    expected = parents + oracle.header(TOP, size, 0o444, owner)
    buffer = bytearray(len(expected) + 8)
    stream = layer.open()
    assert stream.readinto(buffer) == len(buffer)
    assert bytes(buffer) == expected + b"start\0\0\0"
    end = len(expected) + size + -size % 512 + 1024
    assert layer.size == end + -end % 10240


def test_the_deepest_tree_that_a_path_can_name(tmp_path: Path) -> None:
    top = tmp_path / TOP[1:]
    top.mkdir(parents=True)
    folder = os.open(top, os.O_RDONLY)
    depth = (4090 - len(str(top))) // 51
    for _ in range(depth):
        os.mkdir("d" * 50, dir_fd=folder)
        below = os.open("d" * 50, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    layer = layer_of(tmp_path, oracle.Owner())
    assert len(layer) == len(PARENTS) + 1 + depth
    assert read(layer) == oracle.layer(tmp_path, [TOP], oracle.Owner(), PARENTS)
    shutil.rmtree(top)
