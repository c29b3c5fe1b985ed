"""The customisation layer: what lies over what, owners and modes, and the paths that an image must have."""

import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fastlayers import (
    ConfigError,
    Customisation,
    ImageName,
    LayerError,
    LinkedTree,
    Profile,
    build_image,
    named_store_paths,
    parse_destination,
    read_closure,
    read_folder,
    read_tar,
)
from fastlayers.closure import Closure
from fastlayers.contents import Contents, Generated, GeneratedEntry, Tree
from fastlayers.customisation import customise
from stores import ABSENT, APP, BASE, LIB, NODES, make_store, write_file, write_json

EMPTY = Closure([], [])


def made(custom: Customisation, *own: Contents, **options: Any) -> dict[str, GeneratedEntry]:
    contents = customise(custom, EMPTY, own, **options)
    if not contents:
        return {}
    (one,) = contents
    assert isinstance(one, Generated)
    return {entry.path: entry for entry in one.entries}


def part(name: str, *entries: GeneratedEntry) -> Generated:
    return Generated(name, entries)


def file(path: str, data: bytes = b"", **more: Any) -> GeneratedEntry:
    return GeneratedEntry(path, 0o644, data, **more)


def link(path: str, target: str = "x") -> GeneratedEntry:
    return GeneratedEntry(path, target=target)


# --- what lies over what ----------------------------------------------------------------------------------------------


def test_nothing() -> None:
    assert customise(Customisation(), EMPTY) == ()


def test_later_files_replace_earlier_ones(tmp_path: Path) -> None:
    write_file(tmp_path / "tree/etc/passwd", "tree")
    write_file(tmp_path / "tree/etc/hosts", "tree")
    custom = Customisation(
        (LinkedTree("/tree"),),
        (part("one", file("/etc/passwd", b"one"), file("/etc/group", b"one")), part("two", file("/etc/group", b"two"))),
    )
    found = made(custom, part("own", file("/etc/hosts"), GeneratedEntry("/tmp", 0o1777)), store_root=str(tmp_path))
    assert found == {
        "/etc": GeneratedEntry("/etc"),
        "/etc/group": file("/etc/group", b"two"),
        "/etc/hosts": link("/etc/hosts", "/tree/etc/hosts"),
        "/etc/passwd": file("/etc/passwd", b"one"),
        "/tmp": GeneratedEntry("/tmp", 0o1777),
    }


def test_a_directory_like_any_other_takes_nothing_away() -> None:
    own = part("own", GeneratedEntry("/tmp", 0o1777))
    assert made(Customisation(extras=(part("a folder", GeneratedEntry("/tmp")),)), own)["/tmp"].mode == 0o1777
    stated = GeneratedEntry("/tmp", 0o755, owner=(0, 0))
    assert made(Customisation(extras=(part("a tar", stated),)), own)["/tmp"] == stated


def test_parents_are_directories() -> None:
    found = made(Customisation(extras=(part("one", file("/a/b/c/d"), file("/a/b/e")),)))
    assert list(found.values()) == [
        file("/a/b/c/d"),
        file("/a/b/e"),
        *(GeneratedEntry(path) for path in ("/a/b/c", "/a/b", "/a")),
    ]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (file("/a"), GeneratedEntry("/a")),
        (link("/a"), GeneratedEntry("/a")),
        (file("/a"), file("/a/b/c")),
        (link("/a"), file("/a/b")),
        (link("/a"), GeneratedEntry("/a/b")),
    ],
)
def test_a_directory_and_something_else_at_one_path(one: GeneratedEntry, two: GeneratedEntry) -> None:
    for first, second in ((one, two), (two, one)):
        parts = tuple(part("one" if entry is one else "two", entry) for entry in (first, second))
        with pytest.raises(LayerError, match=r"^/a: a directory in two, but none in one$"):
            made(Customisation(extras=parts))


def test_lists_of_files_are_left_alone() -> None:
    tree = Tree("/x")
    found = customise(Customisation(extras=(part("one", file("/a")),)), EMPTY, (tree,))
    assert [type(one) for one in found] == [Generated, Tree]


# --- owners and modes -------------------------------------------------------------------------------------------------


def test_an_owner_is_for_all_below_and_the_longest_path_counts() -> None:
    entries = (file("/home/me/x"), link("/home/me/y"), file("/home/me/sub/z"), file("/home/men"), file("/etc/x"))
    owners = {"/home/me/sub": (3, 4), "/home/me": (1000, 100), "/etc/x": (5, 6)}
    found = made(Customisation(extras=(part("one", *entries),), owners=owners))
    assert {path: entry.owner for path, entry in found.items() if entry.owner} == {
        "/home/me": (1000, 100),
        "/home/me/x": (1000, 100),
        "/home/me/y": (1000, 100),
        "/home/me/sub": (3, 4),
        "/home/me/sub/z": (3, 4),
        "/etc/x": (5, 6),
    }


def test_an_owner_of_everything() -> None:
    found = made(Customisation(extras=(part("one", file("/a/b", owner=(7, 8))),), owners={"/": (1, 2)}))
    assert [(path, entry.owner) for path, entry in found.items()] == [("/a/b", (1, 2)), ("/a", (1, 2))]


def test_a_mode_is_for_one_path() -> None:
    custom = Customisation(extras=(part("one", file("/tmp/x")),), modes={"/tmp": 0o1777, "/tmp/x": 0})
    assert {path: entry.mode for path, entry in made(custom).items()} == {"/tmp": 0o1777, "/tmp/x": 0}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"owners": {"/absent": (0, 0)}}, "^an owner for /absent: nothing in the customisation layer is there$"),
        ({"modes": {"/absent": 0}}, "^a mode for /absent: nothing in the customisation layer is there$"),
        ({"modes": {"/l": 0}}, "^a mode for /l: a symlink has none$"),
    ],
)
def test_what_is_not_there_or_has_no_mode(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        made(Customisation(extras=(part("one", link("/l")),), **options))


@pytest.mark.parametrize("path", ["", "x", "./x", "/x/", "/x/../y", "//x", "/x//y"])
def test_paths_that_are_none_of_an_image(path: str) -> None:
    for options in ({"owners": {path: (0, 0)}}, {"modes": {path: 0}}, {"contents": (LinkedTree(path),)}):
        with pytest.raises(ConfigError, match="not an absolute path in the image"):
            Customisation(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("owner", [(-1, 0), (0, -1), (2**32 - 1, 0), (0, 2**64)])
def test_numbers_that_are_no_owner(owner: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"^/x: {owner[0]}:{owner[1]} is no owner: two numbers from 0 to 4294967294"):
        Customisation(owners={"/x": owner})


@pytest.mark.parametrize("mode", [-1, 0o10000])
def test_numbers_that_are_no_mode(mode: int) -> None:
    with pytest.raises(ConfigError, match=r"^/x: -?[0-9]+ is no mode: from 0 to 7777"):
        Customisation(modes={"/x": mode})


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small store, in whose folder the test works."""
    make_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(**options: Any) -> dict[str, tarfile.TarInfo]:
    """An image of the small store; the members of its customisation layer."""
    closure = options.pop("closure", None) or read_closure("graph.json")
    defaults = {"store_root": os.path.abspath("root"), "store_dir": "/nix/store", "jobs": 1}
    result = build_image(closure, [parse_destination("oci:image", ImageName())], **{**defaults, **options})
    last = result.layers[-1]
    if last.kind != "customisation":
        return {}
    with tarfile.open(Path("image/blobs") / last.descriptor.digest.replace(":", "/")) as tar:
        return {member.name: member for member in tar}


def test_an_image_with_everything(store: Path) -> None:
    write_file(store / "mine/etc/passwd", "me:x:1000:1000::/home/me:/bin/sh\n", 0o600)
    write_file(store / "mine/home/me/.profile", "")
    (store / "mine/tmp").mkdir()
    with tarfile.open(store / "mine.tar", "w") as tar:
        shadow = tarfile.TarInfo("etc/shadow")
        shadow.mode, shadow.gid = 0o640, 42
        tar.addfile(shadow)
    custom = Customisation(
        (LinkedTree(APP), LinkedTree(LIB)),
        (read_folder("mine"), read_tar("mine.tar")),
        {"/home/me": (1000, 1000)},
        {"/tmp": 0o1777, "/home/me": 0o700},
    )
    found = build(customisation=custom, profile=Profile(mtime=99))
    seen = {name: (oct(info.mode), info.uid, info.gid, info.uname, info.linkname) for name, info in found.items()}
    assert seen == {
        "/bin": ("0o755", 0, 0, "root", ""),
        "/bin/app": ("0o777", 0, 0, "root", f"{APP}/bin/app"),
        "/etc": ("0o755", 0, 0, "root", ""),
        "/etc/passwd": ("0o644", 0, 0, "root", ""),
        "/etc/shadow": ("0o640", 0, 42, "root", ""),
        "/home": ("0o755", 0, 0, "root", ""),
        "/home/me": ("0o700", 1000, 1000, "", ""),
        "/home/me/.profile": ("0o644", 1000, 1000, "", ""),
        "/lib": ("0o755", 0, 0, "root", ""),  # of the one a symlink to the other
        "/lib/lib": ("0o755", 0, 0, "root", ""),
        "/lib/lib/lib.so": ("0o777", 0, 0, "root", f"{LIB}/lib/lib.so"),
        "/lib/lib/lib.so.1": ("0o777", 0, 0, "root", f"{LIB}/lib/lib.so.1"),
        "/lib/lib.so": ("0o777", 0, 0, "root", f"{LIB}/lib/lib.so"),
        "/lib/lib.so.1": ("0o777", 0, 0, "root", f"{LIB}/lib/lib.so.1"),
        "/tmp": ("0o1777", 0, 0, "root", ""),
    }
    assert list(seen) == sorted(seen, key=lambda name: name.split("/"))
    assert {info.mtime for info in found.values()} == {99}


def test_store_layers_do_not_depend_on_it(store: Path) -> None:
    ids = []
    for custom in (Customisation(), Customisation((LinkedTree(APP),))):
        result = build_image(
            read_closure("graph.json"), [], customisation=custom, store_root=os.path.abspath("root"), jobs=1
        )
        ids.append([layer.descriptor.diff_id for layer in result.layers if layer.kind == "closure"])
    assert ids[0] == ids[1] and len(ids[0]) == 3


def test_the_manifest_names_the_profile(store: Path) -> None:
    for xattrs, name in ((False, '"nixpkgs/1"'), (True, '"nixpkgs/1+xattrs"')):
        closure = read_closure("graph.json")
        result = build_image(closure, [], store_root=os.path.abspath("root"), jobs=1, xattrs=xattrs)
        assert f'"dev.fastlayers.tar":{name}'.encode() in result.image.manifest


def test_store_paths_that_are_not_in_the_closure(store: Path) -> None:
    with pytest.raises(ConfigError, match=f"^{ABSENT}: named in the configuration or the contents, but not in the clo"):
        build(customisation=Customisation((LinkedTree(ABSENT),)))
    write_file(store / "root" / ABSENT[1:] / "x")
    with pytest.raises(ConfigError, match=f"^{ABSENT}: named in the"):
        build(customisation=Customisation((LinkedTree(f"{ABSENT}/sub"),)))
    (store / "mine").mkdir()
    (store / "mine/link").symlink_to(f"{ABSENT}/bin/x")
    with pytest.raises(ConfigError, match=f"^{ABSENT}: named in the"):
        build(customisation=Customisation(extras=(read_folder("mine"),)))


def test_named_store_paths(tmp_path: Path) -> None:
    custom = Customisation(
        (LinkedTree(f"{LIB}/share"), LinkedTree("/usr/share")),
        (part("one", link("/x", f"{BASE}/x"), link("/y", "z"), file("/f", ABSENT.encode())),),
    )
    assert named_store_paths(custom, {"Cmd": [f"{APP}/bin/app"]}, "/nix/store") == sorted([APP, BASE, LIB])
    assert named_store_paths(custom, {}, "/gnu/store") == []


def test_on_a_base_the_closures_own_files_are_the_bases(store: Path) -> None:
    from fastlayers import read_base

    build()
    own = part("own", file("/etc/passwd"))
    closure = Closure([BASE], [[]], contents=[Tree(BASE)], extra=[own])
    base = read_base("oci:image")
    extras = (part("mine", file("/etc/group")),)
    result = build_image(
        closure, [], base=base, customisation=Customisation(extras=extras), store_root=os.path.abspath("root"), jobs=1
    )
    assert [layer.descriptor.entries for layer in result.layers if layer.kind == "customisation"] == [2]


def test_an_environment_with_a_user_of_ones_own(store: Path) -> None:
    """What a closure needs in every image gives way."""
    own = part("own", file("/etc/passwd", b"root"), GeneratedEntry("/tmp", 0o1777))
    closure = Closure([BASE], [[]], contents=[Tree(BASE)], extra=[own])
    write_file(store / "mine/etc/passwd", "me and root")
    found = build(closure=closure, customisation=Customisation(extras=(read_folder("mine"),)))
    assert found["/etc/passwd"].size == len("me and root")
    assert found["/tmp"].mode == 0o1777


def test_a_nix_database_needs_a_store(store: Path) -> None:
    custom = Customisation(nix_db=True)
    with pytest.raises(ConfigError, match="a Nix database is for a closure of store paths"):
        build(customisation=custom, store_dir=None)
    with pytest.raises(ConfigError, match=f"^{APP}: a Nix database needs its NAR hash"):
        build(customisation=custom)
    write_json(store / "hashed.json", [{**node, "narHash": f"sha256:{'0' * 64}"} for node in NODES])
    found = build(customisation=custom, closure=read_closure("hashed.json"))
    assert found["/nix/var/nix/db/db.sqlite"].mode == 0o644
    assert found[f"/nix/var/nix/gcroots/fastlayers/{os.path.basename(APP)}"].linkname == APP
    found = build(customisation=custom, closure=read_closure("hashed.json"), exclude=[APP])
    assert found[f"/nix/var/nix/gcroots/fastlayers/{os.path.basename(LIB)}"].linkname == LIB
    with pytest.raises(ConfigError, match=f"its reference {BASE}, which is excluded"):
        build(customisation=custom, closure=read_closure("hashed.json"), exclude=[BASE])
