"""NAR hashes of a layer's store paths, and what happens when they are not those that are expected."""

import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fastlayers import LayerError, LayerRecipe, LayerTask, digest, make_layer, nar
from fastlayers.contents import Generated, GeneratedEntry, Tree
from fastlayers.layer import measure
from fastlayers.nar import check_nar_hashes, nar_hash
from oracles.nar import nar as slow_nar
from oracles.nar import nar_hash as slow_nar_hash
from stores import APP, BASE, LIB, make_store, write_file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_store(tmp_path)
    return tmp_path / "root"


def recipe(root: Path, *paths: str) -> LayerRecipe:
    return LayerRecipe(tuple(Tree(path) for path in paths), root=str(root))


def hashes(root: Path, *paths: str) -> tuple[tuple[str, str], ...]:
    return tuple((path, slow_nar_hash(f"{root}{path}")) for path in paths)


def test_nar_hashes_are_those_of_the_slow_writer(root: Path) -> None:
    layer = measure(recipe(root, LIB, APP, BASE))
    for path in (APP, BASE, LIB):
        assert nar_hash(layer, path) == slow_nar_hash(f"{root}{path}")


def test_a_path_that_is_not_in_the_layer(root: Path) -> None:
    layer = measure(recipe(root, LIB))
    for path in (APP, f"{LIB}/lib", "", "/"):
        with pytest.raises(KeyError):
            layer.open_nar(path)


def test_tables_that_were_put_together_and_sent_elsewhere(root: Path) -> None:
    layer = measure(recipe(root, LIB))
    layer.add_layer(measure(recipe(root, APP, BASE)))
    for table in (layer, pickle.loads(pickle.dumps(layer))):
        assert [nar_hash(table, path) for path in (APP, BASE, LIB)] == [
            slow_nar_hash(f"{root}{path}") for path in (APP, BASE, LIB)
        ]


def test_a_tree_beside_files_that_are_made(root: Path) -> None:
    made = Generated("x", (GeneratedEntry("/nix/store/a-file", 0o644, b"x"), GeneratedEntry("/nix/z")))
    layer = measure(LayerRecipe((made, Tree(BASE)), root=str(root)))
    assert nar_hash(layer, BASE) == slow_nar_hash(f"{root}{BASE}")


def test_large_and_sparse_files(root: Path) -> None:
    """A hole is never read whole where the size tells it all."""
    top = root / BASE[1:]
    with (top / "hole").open("wb") as file:
        file.truncate(30 << 20)
        file.seek(20 << 20)
        file.write(b"x")
    assert nar_hash(measure(recipe(root, BASE)), BASE) == slow_nar_hash(top)
    os.truncate(top / "hole", 1)
    size = len(slow_nar(top))
    os.truncate(top / "hole", (9 << 30) + 1)
    stream = measure(recipe(root, BASE)).open_nar(BASE)
    assert stream.size == size + (9 << 30)
    start = bytearray(1000)
    stream.readinto(start)
    assert ((9 << 30) + 1).to_bytes(8, "little") in start


def test_executable_is_what_its_owner_may_execute(root: Path) -> None:
    found = set()
    for mode in (0o444, 0o455, 0o544, 0o4744):
        (root / BASE[1:] / "etc" / "base").chmod(mode)
        found.add(nar_hash(measure(recipe(root, BASE)), BASE))
        assert slow_nar_hash(f"{root}{BASE}") in found
    assert len(found) == 2


def shrink(path: Path) -> None:
    os.truncate(path, 100)


def grow(path: Path) -> None:
    os.truncate(path, 30_000)


def rewrite(path: Path) -> None:
    path.write_bytes(b"X" * path.stat().st_size)
    os.utime(path, ns=(5, 5))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (shrink, "shrank while it was read"),
        (grow, "grew while it was read"),
        (rewrite, "changed while it was read"),
        (Path.unlink, "No such file or directory"),
    ],
)
def test_a_file_that_changes_after_it_was_measured(root: Path, change: Callable[[Path], object], says: str) -> None:
    file = root / LIB[1:] / "lib" / "lib.so"
    file.chmod(0o644)
    layer = measure(recipe(root, LIB))
    change(file)
    with pytest.raises(LayerError, match=f"lib.so(.1)?: {says}"):
        nar_hash(layer, LIB)


def test_an_empty_file_that_grows(root: Path) -> None:
    file = write_file(root / BASE[1:] / "nothing", mode=0o644)
    layer = measure(recipe(root, BASE))
    file.write_bytes(b"x")
    with pytest.raises(LayerError, match="nothing: grew while it was read"):
        nar_hash(layer, BASE)


@pytest.mark.parametrize(("threads", "small"), [(1, 0), (3, 0), (3, 1 << 30)])
def test_layers_are_checked_before_they_are_made(
    root: Path, monkeypatch: pytest.MonkeyPatch, threads: int, small: int
) -> None:
    monkeypatch.setattr(nar, "_SMALL", small)
    task = LayerTask(recipe(root, APP, LIB, BASE), threads=threads, nar_hashes=hashes(root, APP, LIB, BASE))
    assert make_layer(task) == make_layer(LayerTask(task.recipe))
    file = root / LIB[1:] / "lib" / "lib.so"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[10_000] ^= 1
    file.write_bytes(data)
    found = slow_nar_hash(f"{root}{LIB}")
    with pytest.raises(LayerError) as refused:
        make_layer(task)
    expected = dict(task.nar_hashes)[LIB]
    assert str(refused.value) == f"{LIB}: not what Nix registered: its NAR hash is {found}, not {expected}"
    make_layer(LayerTask(task.recipe, threads=threads, nar_hashes=hashes(root, APP, BASE)))  # that one is not asked for


@pytest.mark.parametrize("threads", [1, 3])
def test_checking_can_be_stopped(root: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(nar, "_SMALL", 0)

    def tick(count: int) -> None:
        assert count == 0  # progress counts the layer's own bytes
        raise InterruptedError

    with pytest.raises(InterruptedError):
        check_nar_hashes(measure(recipe(root, APP, BASE)), hashes(root, APP, BASE), threads=threads, tick=tick)


def test_several_threads_read_one_layer(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nar, "_SMALL", 0)
    meeting = threading.Barrier(3, timeout=60)
    check_nar_hashes(
        measure(recipe(root, APP, LIB, BASE)),
        hashes(root, APP, LIB, BASE),
        threads=3,
        tick=lambda count: meeting.wait(),
    )


def test_a_large_tree_is_hashed_by_a_second_thread(root: Path) -> None:
    data = bytes(range(256)) * (digest._SMALL // 256) + b"end"
    write_file(root / BASE[1:] / "big", data)
    assert nar_hash(measure(recipe(root, BASE)), BASE) == slow_nar_hash(f"{root}{BASE}")
