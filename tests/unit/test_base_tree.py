"""Symlinks of base images: what is below them, what is put there, and what is refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlayers import (
    Customisation,
    Image,
    ImageError,
    LayerError,
    Settings,
    build_image,
    parse_destination,
    read_base,
    read_closure,
    read_folder,
)
from fastlayers.base_tree import BaseTree, fit_on_base
from fastlayers.contents import Generated, GeneratedEntry, Tree
from fastlayers.entries import read_entries
from images import StoredImage, tar_of
from stores import APP, make_store

Layer = list[tuple[str, bytes | str | None]]


def tree_of(*layers: Layer) -> BaseTree:
    tree = BaseTree()
    for layer in layers:
        tree.add_layer(read_entries([tar_of(*layer)]))
    return tree


def at(tree: BaseTree, path: str) -> tuple[str, str, str]:
    place = tree.find(path)
    assert place is not None
    return place.path, place.link, place.file


MERGED: Layer = [("bin", "usr/bin"), ("usr", None), ("usr/bin", None), ("usr/bin/sh", b""), ("var/run", "/run"),
                 ("up", "../../usr/bin"), ("chain", "bin"), ("file", "usr/bin/sh"), ("a", "b"), ("b", "a")]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/usr/bin", ("/usr/bin", "", "")),
        ("/bin", ("/usr/bin", "/bin", "")),
        ("/bin/x", ("/usr/bin/x", "/bin", "")),
        ("/var/run/x", ("/run/x", "/var/run", "")),
        ("/up/x", ("/usr/bin/x", "/up", "")),
        ("/chain", ("/usr/bin", "/chain", "")),
        ("/file/x", ("/usr/bin/sh/x", "/file", "/usr/bin/sh")),
        ("/usr/bin/sh/x", ("/usr/bin/sh/x", "", "/usr/bin/sh")),
        ("/other/x", ("/other/x", "", "")),
        ("/bin/../x", ("/usr/x", "/bin", "")),
    ],
)
def test_symlinks_are_followed_within_the_image(path: str, found: tuple[str, str, str]) -> None:
    assert at(tree_of(MERGED), path) == found


def test_symlinks_in_a_circle() -> None:
    assert tree_of(MERGED).find("/a/x") is None


@pytest.mark.parametrize(
    ("upper", "path", "found"),
    [
        ([(".wh.bin", b"")], "/bin/x", ("/bin/x", "", "")),
        ([("bin", None)], "/bin/x", ("/bin/x", "", "")),
        ([("bin", "opt")], "/bin/x", ("/opt/x", "/bin", "")),
        ([("usr/.wh..wh..opq", b"")], "/usr/bin/sh/x", ("/usr/bin/sh/x", "", "")),
        ([("usr/bin/.wh.sh", b"")], "/usr/bin/sh/x", ("/usr/bin/sh/x", "", "")),
        ([("usr/bin/.wh.sh", b""), ("usr/bin/sh/link", "/opt")], "/usr/bin/sh/link", ("/opt", "/usr/bin/sh/link", "")),
        ([("usr/new", "/opt"), ("usr/.wh..wh..opq", b"")], "/usr/new", ("/opt", "/usr/new", "")),
        ([("usr", "opt")], "/usr/bin/sh", ("/opt/bin/sh", "/usr", "")),
        ([("usr/bin", b"")], "/usr/bin/sh", ("/usr/bin/sh", "", "/usr/bin")),
        ([("bin/link", "/opt")], "/usr/bin/link", ("/opt", "/usr/bin/link", "")),  # as clients unpack it
        ([("var", None)], "/var/run", ("/run", "/var/run", "")),
    ],
)
def test_layers_lie_over_each_other(upper: Layer, path: str, found: tuple[str, str, str]) -> None:
    assert at(tree_of(MERGED, upper), path) == found


def test_a_hard_link_to_a_symlink_is_one() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link, hard = tarfile.TarInfo("./a"), tarfile.TarInfo("./b")
        link.type, link.linkname = tarfile.SYMTYPE, "usr"
        hard.type, hard.linkname = tarfile.LNKTYPE, "./a"
        tar.addfile(link)
        tar.addfile(hard)
    tree = BaseTree()
    tree.add_layer(read_entries([out.getvalue()]))
    assert at(tree, "/b/x") == ("/usr/x", "/b", "")


names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
targets = st.builds(
    lambda up, path, root: ("/" if root else "../" * up) + path, st.integers(0, 3), paths, st.booleans()
)


@given(st.dictionaries(paths, st.one_of(st.none(), targets, st.just(b"")), max_size=8), paths)
def test_a_path_is_where_the_kernel_has_it(entries: dict[str, Any], path: str) -> None:
    """The oracle is a folder of files, seen from a place where absolute symlinks are those of the image."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp())
    try:
        layer: Layer = []
        for name, content in sorted(entries.items()):
            if any(name.startswith(f"{other}/") and entries[other] is not None for other in entries):
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            layer.append((name, content))
            if content is None:
                (folder / name).mkdir(exist_ok=True)
            elif isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                (folder / name).symlink_to(content)
        found = tree_of(layer).find(f"/{path}")
        expected = follow(folder, path.split("/"))
        assert (None if found is None else found.path) == expected
    finally:
        shutil.rmtree(folder)


def follow(root: Path, names: list[str]) -> str | None:
    """Where a path below a folder is, a symlink at a time; slow and obvious."""
    done: list[str] = []
    for _ in range(400):
        if not names:
            return "/" + "/".join(done)
        name, *names = names
        if name == "..":
            done = done[:-1]
        elif name not in ("", "."):
            path = root.joinpath(*done, name)
            if path.is_symlink():
                target = os.readlink(path)
                done = [] if target.startswith("/") else done
                names = target.split("/") + names
            else:
                done.append(name)
    return None


def entry(path: str, **more: Any) -> GeneratedEntry:
    return GeneratedEntry(path, **more)


@dataclass(frozen=True)
class Files:
    """A list of files."""

    owner: str
    names: tuple[str, ...]

    def paths(self) -> tuple[str, ...]:
        return self.names


def base_of(folder: Path, *layers: Layer) -> Any:
    StoredImage([tar_of(*layer) for layer in layers]).write(folder / "base")
    return read_base(f"oci:{folder}/base")


def fitted(folder: Path, *entries: GeneratedEntry, base: Layer = MERGED) -> list[GeneratedEntry]:
    (part,) = fit_on_base(base_of(folder, base), [], [Generated("the customisation", entries)])
    assert isinstance(part, Generated) and part.owner == "the customisation"
    return list(part.entries)


def test_what_is_below_a_symlink_goes_where_it_leads(tmp_path: Path) -> None:
    ours = [entry("/bin"), entry("/bin/app", target="/nix/store/x"), entry("/etc"), entry("/etc/me", data=b"me")]
    made = fitted(tmp_path, *ours)
    assert made == [
        entry("/usr/bin", owner=(0, 0)), entry("/usr/bin/app", target="/nix/store/x"), entry("/etc"),
        entry("/etc/me", data=b"me"), entry("/usr", owner=(0, 0)),
    ]  # fmt: skip


def test_directories_of_the_base_stay_as_they_are(tmp_path: Path) -> None:
    """Where nobody asks for another mode or owner."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode, owner in (("tmp", 0o1777, 0), ("home", 0o755, 0), ("home/me", 0o700, 3_000_000)):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, owner, owner
            tar.addfile(info)
    StoredImage([out.getvalue(), tar_of(("tmp/x", b""))]).write(tmp_path / "base")
    base = read_base(f"oci:{tmp_path}/base")
    me = (3_000_000, 3_000_000)
    ours = [entry("/tmp"), entry("/home"), entry("/home/me"), entry("/home/me/new"), entry("/home/you", owner=me)]
    (part,) = fit_on_base(base, [], [Generated("c", tuple(ours))])
    assert isinstance(part, Generated)
    assert [(one.path, one.mode, one.owner) for one in part.entries] == [
        ("/tmp", 0o1777, (0, 0)), ("/home", 0o755, (0, 0)), ("/home/me", 0o700, me), ("/home/me/new", 0o755, None),
        ("/home/you", 0o755, me),
    ]  # fmt: skip
    (part,) = fit_on_base(base, [], [Generated("c", tuple(ours))], asked=["/tmp"])
    assert isinstance(part, Generated) and part.entries[0] == entry("/tmp")


def test_a_symlink_of_ours_replaces_one_of_the_base(tmp_path: Path) -> None:
    """It is no directory: that is what was asked for."""
    assert fitted(tmp_path, entry("/bin", target="/opt")) == [entry("/bin", target="/opt")]


def test_directories_that_become_one(tmp_path: Path) -> None:
    own = entry("/usr/bin", mode=0o700)
    for both in ([entry("/bin"), own], [own, entry("/bin")]):
        assert fitted(tmp_path, entry("/usr"), *both) == [entry("/usr", owner=(0, 0)), own]
    same = entry("/usr/bin/x", data=b"1")
    made = fitted(tmp_path, entry("/bin/x", data=b"1"), same)
    assert [one for one in made if not one.is_directory] == [same]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([entry("/bin/x", data=b"1"), entry("/usr/bin/x", data=b"2")],
         "/bin/x and /usr/bin/x: in the base image both are at /usr/bin/x"),
        ([entry("/bin", mode=0o700), entry("/usr/bin", mode=0o711)], "/bin and /usr/bin: in the base image both"),
        ([entry("/usr/bin", target="/opt"), entry("/bin/x", data=b"")], "/usr/bin and /bin/x: in the base image both"),
        ([entry("/a/x", data=b"")], "/a: of the customisation: symlinks in a circle"),
        ([entry("/file/x", data=b"")],
         "/file: of the customisation, is behind /file of the base image, a symlink to usr/bin/sh, but /usr/bin/sh"),
    ],
)  # fmt: skip
def test_what_would_be_lost_is_refused(entries: list[GeneratedEntry], says: str, tmp_path: Path) -> None:
    with pytest.raises(LayerError) as caught:
        fitted(tmp_path, *entries)
    assert str(caught.value).startswith(says)


def test_layers_of_the_closure_are_refused(tmp_path: Path) -> None:
    base = base_of(tmp_path, [("lib", "usr/lib"), ("nix", "/data")], [("empty", "/opt")])
    lists = Files("deb:libc6", ("/lib/x86_64-linux-gnu/libc.so.6",))
    says = "/lib: of deb:libc6, would replace /lib of the base image, a symlink to usr/lib"
    with pytest.raises(LayerError) as caught:
        fit_on_base(base, [[lists]], [])
    assert str(caught.value) == says
    with pytest.raises(LayerError, match=r"/nix: of /nix/store/x, would replace /nix .* a symlink to /data"):
        fit_on_base(base, [[Tree("/nix/store/x")]], [Generated("c", (entry("/etc/x", data=b""),))])
    assert fit_on_base(base, [[Files("one", ("/opt/x",))]], []) == ()


def test_an_empty_directory_at_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    base = base_of(tmp_path, [(f"{tmp_path}/empty"[1:], "/opt")])
    with pytest.raises(LayerError, match=r"/empty: of one, would replace .*, a symlink to /opt"):
        fit_on_base(base, [[Files("one", (f"{tmp_path}/empty",))]], [])


def test_the_base_is_read_only_when_there_is_something_to_check(tmp_path: Path) -> None:
    base = base_of(tmp_path, MERGED)
    for blob in (tmp_path / "base/blobs/sha256").iterdir():
        blob.unlink()
    nix = Generated("the Nix database", (entry("/nix"), entry("/nix/var", mode=0o755)))
    assert fit_on_base(base, [[Tree(APP)]], [nix]) == (nix,)
    assert fit_on_base(None, [], [Generated("c", ())]) == (Generated("c", ()),)
    with pytest.raises(ImageError, match="No such file"):
        fit_on_base(base, [], [Generated("c", (entry("/etc/x", data=b""),))])


def test_a_damaged_base(tmp_path: Path) -> None:
    image = StoredImage([tar_of(("bin", "usr/bin"))[:700]])
    image.write(tmp_path / "base")
    with pytest.raises(ImageError, match=r"blobs/sha256/\w+: byte 700 of the tar"):
        fit_on_base(read_base(f"oci:{tmp_path}/base"), [], [Generated("c", (entry("/etc/x", data=b""),))])


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_image_on_a_base_with_merged_folders(jobs: int, tmp_path: Path) -> None:
    """The link stays, what is ours is behind it; the layers of the closure are those of any other image."""
    base = base_of(tmp_path, MERGED)
    extra = tmp_path / "extra"
    (extra / "bin").mkdir(parents=True)
    (extra / "bin/mine").write_text("mine\n")
    closure = read_closure(str(make_store(tmp_path)))

    def build(name: str, **more: Any) -> Image:
        made = build_image(
            closure,
            [parse_destination(f"oci:{tmp_path}/{name}:1")],
            customisation=Customisation(extras=(read_folder(extra),)),
            settings=Settings({"Cmd": ["/bin/mine"]}),
            store_root=f"{tmp_path}/root",
            jobs=jobs,
            **more,
        )
        return made.image

    image = build("image", base=base)
    plain = build("plain")
    assert image.layers[:-1] == plain.layers[:-1]
    custom = tmp_path / "image/blobs/sha256" / image.layers[-1].digest[7:]
    done = subprocess.run(["tar", "-tf", custom, "--absolute-names"], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["/usr/", "/usr/bin/", "/usr/bin/mine"]
    manifest = json.loads(image.manifest)
    assert manifest["layers"][0]["digest"] == base.layers[0].digest
