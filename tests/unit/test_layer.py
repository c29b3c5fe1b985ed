"""Layers: what goes in, who owns it, and what happens to files that change under the reader."""

import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastlayers import DestinationError, LayerError, LayerRecipe, LayerTask, Profile, make_layer
from fastlayers import layer as layer_module
from fastlayers.contents import Contents, Generated, GeneratedEntry, Tree
from fastlayers.layer import FileRange, MeasuredLayer, NewFile, measure, rewrite_layer, split_recipe
from stores import APP, BASE, LIB, make_store, write_file


@dataclass(frozen=True)
class Listed:
    """Files of an owner, as a source lists them."""

    owner: str
    names: tuple[str, ...]

    def paths(self) -> Iterable[str]:
        return self.names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_store(tmp_path)
    return tmp_path / "root"


def recipe(root: Path, *contents: Contents | str, **options: object) -> LayerRecipe:
    return LayerRecipe(
        tuple(Tree(item) if isinstance(item, str) else item for item in contents), root=str(root), **options
    )


def bytes_of(task: LayerRecipe) -> bytes:
    layer = measure(task)
    data = bytearray(layer.size + 1)
    got = layer.open().readinto(data)
    assert got == layer.size
    return bytes(data[:got])


def members(task: LayerRecipe) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(bytes_of(task))) as tar:
        found = tar.getmembers()
    assert len({member.name for member in found}) == len(found)
    return {member.name: member for member in found}


def test_trees_and_their_parents(root: Path) -> None:
    found = members(recipe(root, BASE, APP))
    assert list(found) == [
        "/nix",
        "/nix/store",
        BASE,
        f"{BASE}/empty",
        f"{BASE}/etc",
        f"{BASE}/etc/base",
        APP,
        f"{APP}/bin",
        f"{APP}/bin/app",
        f"{APP}/lib",
    ]
    assert [found[name].mode for name in ("/nix", "/nix/store")] == [0o755, 0o755]
    assert found[f"{APP}/lib"].linkname == LIB
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found.values()} == {(0, 0, "root", "root", 1)}


def test_parents_may_be_others(root: Path) -> None:
    found = members(recipe(root, APP, parents=("/nix", "/nix/store", "/elsewhere")))
    assert list(found)[:4] == ["/nix", "/nix/store", "/elsewhere", APP]


def test_hard_links_are_files(root: Path) -> None:
    found = members(recipe(root, LIB))
    assert [found[f"{LIB}/lib/{name}"].type for name in ("lib.so", "lib.so.1")] == [tarfile.REGTYPE] * 2
    assert found[f"{LIB}/lib/lib.so.1"].size == 20_004


def test_file_lists_share_directories(root: Path) -> None:
    for name in ("usr/lib/a", "usr/lib/b", "usr/share/c"):
        write_file(root / name, name)
    (root / "usr/lib").chmod(0o700)
    (root / "usr/lib/link").symlink_to("a")
    one = Listed("one", ("/usr/lib/b", "/usr/share/c", "/usr/lib"))
    two = Listed("two", ("/usr/lib/a", "/usr/lib/link", "/usr/lib"))
    found = members(recipe(root, one, two, profile=Profile(7, 8, "u", "g", 9)))
    names = ["/usr", "/usr/lib", "/usr/lib/a", "/usr/lib/b", "/usr/lib/link", "/usr/share", "/usr/share/c"]
    assert list(found) == names
    assert found["/usr"].mode == found["/usr/share"].mode == 0o755  # parents that nobody lists
    assert found["/usr/lib"].mode == 0o755  # whatever the umask was
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found.values()} == {(7, 8, "u", "g", 9)}
    assert bytes_of(recipe(root, two, one)) != b""
    again = members(recipe(root, two, one, profile=Profile(7, 8, "u", "g", 9)))
    assert list(again) == names


def test_a_umask_decides_no_mode_of_a_listed_file(root: Path) -> None:
    for name, mode in (("a", 0o600), ("b", 0o664), ("c", 0o700), ("d", 0o4755)):
        write_file(root / name)
        (root / name).chmod(mode)
    found = members(recipe(root, Listed("one", ("/a", "/b", "/c", "/d"))))
    assert [found[f"/{name}"].mode for name in "abcd"] == [0o644, 0o644, 0o755, 0o755]


def test_nothing_reaches_into_a_tree(root: Path) -> None:
    write_file(root / "st/p/lib/x")
    with pytest.raises(LayerError, match="/st/p/lib/x: owned by both one and /st/p"):
        measure(recipe(root, Tree("/st/p"), Listed("one", ("/st/p/lib/x",))))


def test_nothing_is_below_a_symlink(root: Path) -> None:
    write_file(root / "st/x")
    (root / "ln").symlink_to("st")
    with pytest.raises(LayerError, match="/ln: of two, is no directory"):
        measure(recipe(root, Listed("one", ("/ln/x",)), Listed("two", ("/ln",))))


def test_more_links_to_a_file_are_no_change(root: Path) -> None:
    write_file(root / "st/x", "x")
    layer = measure(recipe(root, Tree("/st")))
    os.link(root / "st/x", root / "another")
    buffer = bytearray(layer.size)
    assert layer.open().readinto(buffer) == layer.size


def test_an_empty_file_that_grows(root: Path) -> None:
    write_file(root / "st/x", "")
    layer = measure(recipe(root, Tree("/st")))
    write_file(root / "st/x", "no longer")
    with pytest.raises(LayerError, match="st/x: grew while it was read"):
        layer.open().readinto(bytearray(layer.size))


def test_a_file_has_one_owner(root: Path) -> None:
    write_file(root / "usr/lib/a")
    lists = (Listed("one", ("/usr/lib/a",)), Listed("two", ("/usr/lib/a",)))
    with pytest.raises(LayerError, match="/usr/lib/a: owned by both one and two"):
        measure(recipe(root, *lists))


def test_a_symlink_to_a_directory_has_one_owner(root: Path) -> None:
    write_file(root / "usr/lib/a")
    (root / "usr/lib64").symlink_to("lib")
    with pytest.raises(LayerError, match="/usr/lib64: owned by both one and two"):
        measure(recipe(root, Listed("one", ("/usr/lib64",)), Listed("two", ("/usr/lib64",))))


def test_order_is_by_components(root: Path) -> None:
    for name in ("a/z", "a-b", "a.c", "a/-"):
        write_file(root / "d" / name)
    found = list(members(recipe(root, Listed("x", ("/d/a.c", "/d/a/z", "/d/a-b", "/d/a/-")))))
    assert found == ["/d", "/d/a", "/d/a/-", "/d/a/z", "/d/a-b", "/d/a.c"]


def test_trees_lists_and_what_is_made(root: Path) -> None:
    write_file(root / "usr/bin/x", "x", 0o755)
    made = (
        GeneratedEntry("/tmp", 0o1777),
        GeneratedEntry("/etc/passwd", 0o644, b"root:x:0:0::/:\n"),
        GeneratedEntry("/bin", target="usr/bin"),
    )
    task = recipe(root, Generated("image", made), Listed("x", ("/usr/bin/x",)), BASE)
    found = members(task)
    assert list(found)[:5] == ["/bin", "/etc", "/etc/passwd", "/nix", "/nix/store"]
    assert found["/bin"].linkname == "usr/bin" and found["/bin"].mode == 0o777
    assert found["/tmp"].mode == 0o1777 and found["/etc/passwd"].mode == 0o644
    assert f"{BASE}/etc/base" in found and "/usr/bin/x" in found
    with tarfile.open(fileobj=io.BytesIO(bytes_of(task))) as tar:
        assert tar.extractfile("/etc/passwd").read() == b"root:x:0:0::/:\n"


def test_nothing_is_two_blocks_of_zeros() -> None:
    assert bytes_of(LayerRecipe(())) == bytes(10240)


def test_a_device(root: Path) -> None:
    with pytest.raises(LayerError, match="/dev/null: a socket, device or pipe cannot go into a layer"):
        measure(LayerRecipe((Listed("x", ("/dev/null",)),)))


@pytest.mark.parametrize("listed", [False, True])
def test_whiteouts(root: Path, listed: bool) -> None:
    name = f"{BASE}/.wh.etc"
    write_file(root / name[1:])
    contents: Contents | str = Listed("x", (name,)) if listed else BASE
    with pytest.raises(LayerError, match=r"\.wh\.etc: a name that starts with \.wh\. would delete a file"):
        measure(recipe(root, contents))
    assert name in members(recipe(root, contents, whiteouts=True))


def test_names_that_only_look_like_whiteouts(root: Path) -> None:
    for name in (".whx", "a.wh.b", ".wh"):
        write_file(root / BASE[1:] / name)
    assert f"{BASE}/.whx" in members(recipe(root, BASE))


def test_a_directory_that_may_not_be_read(ordinary: Path) -> None:
    make_store(ordinary)
    (ordinary / "root" / BASE[1:] / "etc").chmod(0o300)
    with pytest.raises(LayerError, match=f"{BASE}/etc: Permission denied"):
        measure(recipe(ordinary / "root", BASE))


def test_a_directory_that_may_not_be_entered(ordinary: Path) -> None:
    make_store(ordinary)
    (ordinary / "root" / BASE[1:] / "etc").chmod(0o600)
    with pytest.raises(LayerError, match=f"{BASE}/etc/base: Permission denied"):
        measure(recipe(ordinary / "root", BASE))


def test_a_file_that_may_not_be_read(ordinary: Path) -> None:
    make_store(ordinary)
    (ordinary / "root" / BASE[1:] / "etc" / "base").chmod(0)
    task = LayerTask(recipe(ordinary / "root", BASE), sinks=(NewFile(str(ordinary / "out")),))
    assert measure(task.recipe).size == 10240
    with pytest.raises(LayerError, match=f"{BASE}/etc/base: Permission denied"):
        make_layer(task)


FILE = Path(LIB[1:]) / "lib" / "lib.so.1"  # the second of two names: the first one is read before


def shrink(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 100)


def grow(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 30_000)


def replace(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def rewrite(path: Path) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"X")
    os.utime(path, ns=(5, 5))


def turn_into_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def turn_into_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def turn_into_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (shrink, "shrank while it was read"),
    (grow, "grew while it was read"),
    (Path.unlink, "No such file or directory"),
    (replace, "changed while it was read"),
    (rewrite, "changed while it was read"),
    (turn_into_symlink, "changed while it was read"),
    (turn_into_fifo, "while it was read"),
    (turn_into_directory, "Is a directory"),
]


@pytest.mark.parametrize(("change", "says"), CHANGES, ids=lambda item: getattr(item, "__name__", ""))
def test_a_file_that_changes_after_it_was_measured(root: Path, change: Callable[[Path], object], says: str) -> None:
    path = root / FILE
    os.link(path, root / "kept")  # so that no other file gets its inode
    write_file(path.with_name("other"), b"x" * 20_004)
    path.unlink()
    path.with_name("other").rename(path)
    os.link(path, root / "kept too")
    layer = measure(recipe(root, LIB))
    stream = layer.open()
    change(path)
    with pytest.raises(LayerError) as refused:
        stream.readinto(bytearray(layer.size))
    assert str(refused.value).startswith(f"{path}: ") and says in str(refused.value)
    with pytest.raises(ValueError, match="the stream is broken"):
        stream.readinto(bytearray(1))


@pytest.mark.parametrize(("change", "says"), CHANGES[:2], ids=["shrink", "grow"])
def test_a_file_that_changes_while_it_is_read(root: Path, change: Callable[[Path], object], says: str) -> None:
    path = write_file(root / BASE[1:] / "big", bytes(3_000_000), 0o644)
    layer = measure(recipe(root, BASE))
    stream = layer.open()
    assert stream.readinto(bytearray(1_000_000)) == 1_000_000
    os.truncate(path, {shrink: 2_000_000, grow: 3_000_001}[change])
    with pytest.raises(LayerError, match=f"big: {says}"):
        stream.readinto(bytearray(layer.size))


def test_a_layer_opened_twice_gives_the_same_bytes(root: Path) -> None:
    layer = measure(recipe(root, APP, LIB))
    first, second = layer.open(), layer.open()
    one, two = bytearray(layer.size), bytearray(layer.size)
    for at in range(0, layer.size, 1000):  # side by side
        first.readinto(memoryview(one)[at : at + 1000])
        second.readinto(memoryview(two)[at : at + 1000])
    assert one == two == bytes_of(recipe(root, APP, LIB))
    with pytest.raises(ValueError, match="opened"):
        layer.add_directory("/x")


@pytest.mark.parametrize("path", ["", "x", "/", "/x/", "/a\0b"])
def test_names_that_are_no_absolute_paths(path: str) -> None:
    layer = measure(LayerRecipe(()))
    for add in (layer.add_directory, layer.add_path, layer.add_tree):
        with pytest.raises(ValueError):
            add(path)


def test_make_layer_writes_to_every_sink(root: Path, tmp_path: Path) -> None:
    whole = write_file(tmp_path / "range", b"#" * 100_000, 0o644)
    task = LayerTask(recipe(root, APP, LIB), sinks=(NewFile(str(tmp_path / "new")), FileRange(str(whole), 1000)))
    ticks: list[int] = []
    made = make_layer(task, ticks.append)
    data = bytes_of(task.recipe)
    assert (tmp_path / "new").read_bytes() == data
    assert whole.read_bytes()[1000 : 1000 + len(data)] == data
    assert whole.read_bytes()[:1000] == b"#" * 1000
    assert sum(ticks) == len(data) == made.size == made.tar_size
    assert made.diff_id == made.digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert made.entries == len(members(task.recipe))
    assert made == make_layer(LayerTask(task.recipe))


def test_tasks_and_descriptors_can_be_pickled(root: Path) -> None:
    task = LayerTask(recipe(root, APP, Generated("x", (GeneratedEntry("/tmp"),))), sinks=(FileRange("/x", 5),))
    assert pickle.loads(pickle.dumps(task)) == task
    made = make_layer(LayerTask(task.recipe))
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_sink_that_is_there_or_full(root: Path, tmp_path: Path) -> None:
    taken = write_file(tmp_path / "taken")
    with pytest.raises(DestinationError, match="taken: File exists"):
        make_layer(LayerTask(recipe(root, APP), sinks=(NewFile(str(taken)),)))
    with pytest.raises(DestinationError, match="/dev/full: No space left on device"):
        make_layer(LayerTask(recipe(root, APP), sinks=(FileRange("/dev/full", 0),)))
    with pytest.raises(DestinationError, match="absent: No such file"):
        make_layer(LayerTask(recipe(root, APP), sinks=(FileRange(str(tmp_path / "absent"), 0),)))


def pipe_of(write: Callable[[int], object]) -> bytes:
    """What is written to a pipe."""
    reading, writing = os.pipe()
    with ThreadPoolExecutor(1) as reader, open(reading, "rb") as out:
        data = reader.submit(out.read)
        try:
            write(writing)
        finally:
            os.close(writing)
        return data.result()


@pytest.mark.parametrize(("pipe", "splice"), [(False, False), (True, False), (True, True)])
def test_streams_write_themselves(root: Path, tmp_path: Path, pipe: bool, splice: bool) -> None:
    write_file(root / BASE[1:] / "big", bytes(range(256)) * 10_001)
    write_file(root / BASE[1:] / "bigger", bytes(range(255)) * 20_000)
    layer = measure(recipe(root, BASE, LIB))
    if pipe:
        data = pipe_of(lambda fd: layer.open().write_to(fd, splice=splice))
    else:
        with (tmp_path / "out").open("wb") as file:
            layer.open().write_to(file.fileno(), splice=splice)
        data = (tmp_path / "out").read_bytes()
    assert data == bytes_of(recipe(root, BASE, LIB))


def test_the_second_writing_of_a_layer(root: Path, tmp_path: Path) -> None:
    task = recipe(root, LIB)
    made = make_layer(LayerTask(task))
    out = tmp_path / "out"
    kept, dropped = MeasuredLayer(task, made.tar_size, measure(task)), MeasuredLayer(task, made.tar_size, None)
    with out.open("wb") as file:
        rewrite_layer(kept, made, file.fileno())
    assert out.read_bytes() == bytes_of(task)
    assert pipe_of(lambda fd: rewrite_layer(dropped, made, fd)) == bytes_of(task)
    os.utime(root / LIB[1:] / "lib" / "lib.so", ns=(1, 1))
    with pytest.raises(LayerError, match=f"the layer from {LIB} to {LIB}: its files changed"):
        rewrite_layer(dropped, made, -1)
    with pytest.raises(LayerError, match=r"lib\.so: changed while it was read"):
        rewrite_layer(kept, made, os.open(os.devnull, os.O_WRONLY))


def test_a_table_travels(root: Path) -> None:
    """To a worker process, that need not look at the entries again."""
    task = recipe(root, APP, LIB, BASE)
    table = measure(task)
    copy = pickle.loads(pickle.dumps(table))
    assert (copy.size, len(copy), copy.fingerprint, copy.memory) == (
        table.size,
        len(table),
        table.fingerprint,
        table.memory,
    )
    assert make_layer(LayerTask(task, table=copy)) == make_layer(LayerTask(task))
    sent = pickle.loads(pickle.dumps(LayerTask(task, table=table)))
    assert sent.recipe.contents == ()  # a table says it all
    assert make_layer(sent) == make_layer(LayerTask(task))
    with pytest.raises(ValueError, match="has been opened"):
        copy.add_directory("/more")
    function, (profile, owners, trees, packed) = table.__reduce__()
    for spoilt in (b"", packed[:-1], packed + b"x", bytes(8) + packed[8:]):
        with pytest.raises(ValueError, match="not a layer"):
            function(profile, owners, trees, spoilt)


@pytest.mark.parametrize("trees", [1, 2, 100])
def test_layers_measured_in_parts(root: Path, trees: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recipe(root, APP, LIB, BASE)
    monkeypatch.setattr(layer_module, "_TREES", trees)
    parts = split_recipe(whole)
    assert len(parts) == -(-3 // trees)
    table = measure(parts[0])
    for part in parts[1:]:
        table.add_layer(measure(part))
    assert (table.size, len(table), table.fingerprint) == (
        measure(whole).size,
        len(measure(whole)),
        measure(whole).fingerprint,
    )
    assert make_layer(LayerTask(whole, table=table)) == make_layer(LayerTask(whole))
    with pytest.raises(ValueError, match="another profile"):
        measure(whole).add_layer(measure(recipe(root, APP, profile=Profile(uid=1))))


@pytest.mark.parametrize("change", ["mode", "name", "target", "size", "new"])
def test_the_fingerprint_sees_every_change(root: Path, change: str) -> None:
    before = measure(recipe(root, APP, BASE)).fingerprint
    assert measure(recipe(root, APP, BASE)).fingerprint == before
    file = root / BASE[1:] / "etc" / "base"
    if change == "mode":
        file.chmod(0o555)
    elif change == "name":
        file.rename(file.with_name("bare"))
    elif change == "target":
        (root / APP[1:] / "lib").unlink()
        (root / APP[1:] / "lib").symlink_to(LIB[:-1] + "1")
    elif change == "size":
        file.chmod(0o644)
        os.truncate(file, 4)
    else:
        write_file(file.with_name("new"))
    assert measure(recipe(root, APP, BASE)).fingerprint != before
