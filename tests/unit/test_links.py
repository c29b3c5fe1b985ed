"""Links at the root of the image: directories merged, clashes told, priorities heeded."""

from pathlib import Path

import pytest

from fastlayers import ConfigError, LayerError, LinkedTree
from fastlayers.customisation import link_trees
from stores import write_file


def links(root: Path | str, *trees: str | LinkedTree) -> dict[str, str | None]:
    listed = [LinkedTree(tree) if isinstance(tree, str) else tree for tree in trees]
    return {entry.path: entry.target for entry in link_trees(listed, str(root)).entries}


def test_directories_are_merged(tmp_path: Path) -> None:
    for name in ("a/bin/x", "a/share/doc/a", "b/bin/y", "b/share/doc/b", "b/share/man/b"):
        write_file(tmp_path / name, name)
    assert links(tmp_path, "/a", "/b") == {
        "/bin": None,
        "/bin/x": "/a/bin/x",
        "/bin/y": "/b/bin/y",
        "/share": None,
        "/share/doc": None,
        "/share/doc/a": "/a/share/doc/a",
        "/share/doc/b": "/b/share/doc/b",
        "/share/man": None,
        "/share/man/b": "/b/share/man/b",
    }


def test_without_a_root(tmp_path: Path) -> None:
    write_file(tmp_path / "a/x")
    assert links("", LinkedTree(f"{tmp_path}/a")) == {"/x": f"{tmp_path}/a/x"}


def test_symlinks_are_linked_to_as_they_are(tmp_path: Path) -> None:
    """A relative one would lead elsewhere from the root of the image."""
    write_file(tmp_path / "a/lib/x")
    (tmp_path / "a/lib64").symlink_to("lib")
    (tmp_path / "a/y").symlink_to("../b/y")
    assert links(tmp_path, "/a") == {"/lib": None, "/lib/x": "/a/lib/x", "/lib64": "/a/lib64", "/y": "/a/y"}


def test_a_symlink_to_a_directory_is_merged_with_a_directory(tmp_path: Path) -> None:
    write_file(tmp_path / "a/lib/x")
    (tmp_path / "a/lib64").symlink_to("/a/lib")  # absolute: within the root
    write_file(tmp_path / "b/lib64/y")
    made = links(tmp_path, "/a", "/b")
    assert made["/lib64"] is None
    assert (made["/lib64/x"], made["/lib64/y"]) == ("/a/lib/x", "/b/lib64/y")


def test_two_symlinks_to_one_directory(tmp_path: Path) -> None:
    write_file(tmp_path / "c/x")
    for tree in "ab":
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "d").symlink_to("/c")
    assert links(tmp_path, "/a", "/b") == {"/d": None, "/d/x": "/c/x"}


def test_a_tree_that_is_a_symlink(tmp_path: Path) -> None:
    write_file(tmp_path / "a/x")
    (tmp_path / "b").symlink_to("a")
    assert links(tmp_path, "/b", "/a") == {"/x": "/a/x"}


def test_a_clash_names_both(tmp_path: Path) -> None:
    write_file(tmp_path / "a/bin/x", "a")
    write_file(tmp_path / "b/bin/x", "b")
    with pytest.raises(LayerError, match=r"^/bin/x: two of the contents have it, /a/bin/x and /b/bin/x: give one a"):
        links(tmp_path, "/a", "/b")
    with pytest.raises(LayerError, match=r"^/bin/x: two of the contents have it, /b/bin/x and /a/bin/x: give one a"):
        links(tmp_path, "/b", "/a")


def test_priorities(tmp_path: Path) -> None:
    for tree in "abc":
        write_file(tmp_path / tree / "bin/x", tree)
        write_file(tmp_path / tree / "bin" / tree)
    made = links(tmp_path, "/a", LinkedTree("/b", 4), "/c")
    assert made["/bin/x"] == "/b/bin/x"
    assert made["/bin/c"] == "/c/bin/c"  # nothing else of it is lost
    with pytest.raises(LayerError, match="/bin/x: two of the contents have it, /a/bin/x and /b/bin/x"):
        links(tmp_path, "/a", "/b", LinkedTree("/c", 6))


def test_a_file_and_a_directory(tmp_path: Path) -> None:
    write_file(tmp_path / "a/x", "a")
    write_file(tmp_path / "b/x/y", "b")
    with pytest.raises(LayerError, match=r"^/x: two of the contents have it, /a/x and /b/x"):
        links(tmp_path, "/a", "/b")
    assert links(tmp_path, LinkedTree("/a", 1), "/b") == {"/x": "/a/x"}
    assert links(tmp_path, "/a", LinkedTree("/b", 1)) == {"/x": None, "/x/y": "/b/x/y"}


def test_a_dangling_symlink_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").symlink_to("/nowhere")
    write_file(tmp_path / "b/x", "b")
    assert links(tmp_path, "/a") == {"/x": "/a/x"}
    with pytest.raises(LayerError, match="/x: two of the contents have it, /a/x and /b/x"):
        links(tmp_path, "/a", "/b")


def test_symlinks_that_lead_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").symlink_to("y")
    (tmp_path / "a/y").symlink_to("x")
    (tmp_path / "a/z").symlink_to("/a/z/z")
    for name in "xyz":
        write_file(tmp_path / "b" / name)
    with pytest.raises(LayerError, match="/x: two of the contents have it"):
        links(tmp_path, "/a", "/b")
    assert links(tmp_path, "/a", LinkedTree("/b", 4)) == {"/x": "/b/x", "/y": "/b/y", "/z": "/b/z"}


def test_symlinks_to_a_directory_above(tmp_path: Path) -> None:
    """In one tree such a link is a link; in two, what would be merged for ever is a link to where it is merged."""
    for tree in "ab":
        write_file(tmp_path / tree / "bin" / tree)
        (tmp_path / tree / "bin/X11").symlink_to(".")
        (tmp_path / tree / "usr").symlink_to("/" + tree)
    assert links(tmp_path, "/a") == {"/bin": None, "/bin/a": "/a/bin/a", "/bin/X11": "/a/bin/X11", "/usr": "/a/usr"}
    files = {"/bin": None, "/bin/a": "/a/bin/a", "/bin/b": "/b/bin/b"}
    assert links(tmp_path, "/a", "/b") == {**files, "/bin/X11": "/bin", "/usr": "/"}
    # With a third tree it is another directory at first.
    write_file(tmp_path / "c/bin/X11/c")
    made = links(tmp_path, "/a", "/b", "/c")
    assert {path: target for path, target in made.items() if path.startswith("/bin/")} == {
        "/bin/a": "/a/bin/a",
        "/bin/b": "/b/bin/b",
        "/bin/X11": None,
        "/bin/X11/a": "/a/bin/a",
        "/bin/X11/b": "/b/bin/b",
        "/bin/X11/c": "/c/bin/X11/c",
        "/bin/X11/X11": None,
        "/bin/X11/X11/a": "/a/bin/a",
        "/bin/X11/X11/b": "/b/bin/b",
        "/bin/X11/X11/X11": "/bin/X11/X11",
    }
    assert made["/usr"] is None
    assert made["/usr/usr"] == "/usr"


@pytest.mark.parametrize(("data", "mode", "same"), [("x", 0o444, True), ("y", 0o444, False), ("x", 0o555, False)])
def test_files_that_are_the_same(tmp_path: Path, data: str, mode: int, same: bool) -> None:
    write_file(tmp_path / "a/x", "x", 0o444)
    write_file(tmp_path / "b/x", data, mode)
    if same:
        assert links(tmp_path, "/b", "/a") == {"/x": "/b/x"}
    else:
        with pytest.raises(LayerError):
            links(tmp_path, "/b", "/a")


def test_two_ways_to_one_file(tmp_path: Path) -> None:
    write_file(tmp_path / "c/x", "x")
    for tree, target in (("a", "/c/x"), ("b", "../c/../c/./x")):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "x").symlink_to(target)
    assert links(tmp_path, "/a", "/b") == {"/x": "/a/x"}


def test_what_packages_keep_for_themselves_is_left_out(tmp_path: Path) -> None:
    for tree in "ab":
        for name in ("nix-support/setup-hook", "propagated-build-inputs", "share/info/dir", "lib/perl5/perllocal.pod"):
            write_file(tmp_path / tree / name, tree)
        write_file(tmp_path / tree / "lib/nix-support" / tree)
    assert [path for path, target in links(tmp_path, "/a", "/b").items() if target] == [
        "/lib/nix-support/a",
        "/lib/nix-support/b",
    ]


def test_a_tree_that_is_none(tmp_path: Path) -> None:
    write_file(tmp_path / "file")
    for tree in ("/file", "/absent"):
        with pytest.raises(ConfigError, match=f"{tree}: not a directory"):
            links(tmp_path, tree)


def test_a_directory_that_may_not_be_read(ordinary: Path) -> None:
    write_file(ordinary / "a/x/y")
    (ordinary / "a/x").chmod(0)
    with pytest.raises(LayerError, match="/a/x: Permission denied"):
        links(ordinary, "/a")
