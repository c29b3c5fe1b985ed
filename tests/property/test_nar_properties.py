"""NARs against a slow writer, on trees that are as awkward as file systems allow."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastlayers._archive import TarLayer, TarStream
from oracles import nar as oracle
from oracles.tar import Owner, layer
from property.test_tar_properties import DISK, PARENTS, TOP, TREES, layer_of, read, write, written


def read_nar(made: TarLayer, top: str = TOP, sizes: Sequence[int] = (1 << 16,)) -> bytes:
    """All bytes, through buffers of these sizes in turn; only the last read may be short."""
    stream: TarStream = made.open_nar(top)
    parts = []
    while True:
        buffer = bytearray(sizes[len(parts) % len(sizes)])
        got = stream.readinto(buffer)
        parts.append(bytes(buffer[:got]))
        if got < len(buffer):
            assert stream.readinto(bytearray(1)) == 0
            data = b"".join(parts)
            assert stream.size == len(data)
            return data


@given(TREES)
@settings(DISK, max_examples=300)
@example(("directory", {b"a": ("directory", {b"z": ("file", 1, 0o444)}), b"a-b": ("file", 0, 0o444)}))
@example(("directory", {"\ufb01".encode(): ("file", 1, 0o444), b"\xff": ("symlink", b"\xff")}))
@example(("directory", {b"\xff": ("directory", {b"x": ("file", 9, 0o555)}), "😀".encode(): ("directory", {})}))
@example(
    ("directory", {b"a": ("directory", {b"b": ("directory", {b"c": ("directory", {})})}), b"b": ("directory", {})})
)
@example(("directory", {b"n" * size: ("file", size, 0o755) for size in range(1, 18)}))
@example(("file", 65537, 0o2711))
@example(("symlink", b"\n" * 300))
def test_trees_are_those_of_the_slow_writer(tree: tuple) -> None:
    with written(tree) as root:
        assert read_nar(layer_of(root, Owner())) == oracle.nar(f"{root}{TOP}")


@given(TREES, st.lists(st.sampled_from([1, 2, 7, 8, 9, 1024, 99_999]), min_size=1, max_size=5))
@settings(DISK, max_examples=60)
def test_any_buffers_give_the_same_bytes(tree: tuple, sizes: list[int]) -> None:
    with written(tree) as root:
        made = layer_of(root, Owner())
        assert read_nar(made, TOP, sizes) == read_nar(made)


@given(st.lists(TREES, min_size=2, max_size=4))
@settings(DISK, max_examples=60)
def test_every_tree_of_a_layer_has_its_own(trees: list[tuple]) -> None:
    tops = [f"/nix/store/{number}-x" for number in range(len(trees))]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "nix/store").mkdir(parents=True)
        for top, tree in zip(tops, trees, strict=True):
            write(os.fsencode(f"{root}{top}"), tree, [])
        made = layer_of(root, Owner(), tops)
        for top in reversed(tops):
            assert read_nar(made, top) == oracle.nar(f"{root}{top}")
        assert read(made) == layer(root, tops, Owner(), PARENTS)  # which is as it was
