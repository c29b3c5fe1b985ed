"""Links at the root of the image to what is in trees: their directories merged, as nixpkgs' symlinkJoin has it."""

from __future__ import annotations

import errno
import filecmp
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..contents import Generated, GeneratedEntry
from ..errors import ConfigError, LayerError

__all__ = ["DEFAULT_PRIORITY", "LinkedTree", "link_trees"]

DEFAULT_PRIORITY = 5  # a package's in Nix
_MOST_LINKS = 40  # on the way to one file, as Linux has it

# What Nix writes into packages for other packages, and indices of what is installed, which no two packages share: Nix's
# own profiles leave them out too.
_LEFT_OUT = {  # and where
    "nix-support": re.compile(""),
    "propagated-build-inputs": re.compile(""),
    "manifest.nix": re.compile(""),
    "manifest.json": re.compile(""),
    "dir": re.compile(".*/info"),
    "perllocal.pod": re.compile(".*"),
}


@dataclass(frozen=True, slots=True)
class LinkedTree:
    """A directory, absolute in the image, to whose entries links are made at the image's root.

    Of two files at one name the one of the tree with the lower priority number is taken, as Nix has it for packages.
    """

    path: str
    priority: int = DEFAULT_PRIORITY


# An entry of a tree: its priority, where it is in the image, and whether it is itself a directory, no symlink to one.
_Found = tuple[int, str, bool]


def link_trees(trees: Sequence[LinkedTree], root: str = "") -> Generated:
    """Directories as in all the trees, and a symlink to each file and each symlink in them.

    A symlink to a directory is a link too, unless another tree has a directory of that name: then both are merged, as
    nixpkgs' buildEnv does, or it is one link to the merged directory, where that is above it. Two files at one name are
    fine when they are the same: the same bytes, executable or not.

    Args:
        trees: what to link to; of two that have the same file, the link leads to the first.
        root: the folder below which the trees are: "/nix/store/x" is read from root + "/nix/store/x".

    Raises:
        ConfigError: a tree is no directory.
        LayerError: two trees of one priority have different files at one name, or one cannot be read.
    """
    disk = _Disk(root)
    tops = []
    for tree in dict.fromkeys(trees):
        top = disk.resolve(tree.path)
        if top is None or not disk.is_directory(top):
            raise ConfigError(f"{tree.path}: not a directory, so there is nothing to link to at the root of the image")
        tops.append((tree.priority, top))
    entries: list[GeneratedEntry] = []
    merged: dict[str, list[tuple[int, str]]] = {"": tops}
    todo = [""]
    while todo:
        folder = todo.pop()
        for name, found in _names(disk, folder, merged[folder]):
            path = f"{folder}/{name}"
            chosen = found if len(found) == 1 else _choose(disk, path, found)
            _, target, is_directory = chosen[0]
            if is_directory:
                directories = [(priority, directory) for priority, directory, _ in chosen]
                above = None if all(real for _, _, real in found) else _above(path, directories, merged)
                if above is None:
                    merged[path] = directories
                    todo.append(path)
                    entries.append(GeneratedEntry(path))
                    continue
                target = above
            entries.append(GeneratedEntry(path, target=target))
    return Generated("the contents", tuple(entries))


def _above(path: str, directories: Sequence[tuple[int, str]], merged: Mapping[str, Sequence[object]]) -> str | None:
    """The directory above a path of which the same are merged: symlinks to it, merged there, would never end."""
    while path:
        path = path.rpartition("/")[0]
        if merged[path] == directories:
            return path or "/"
    return None


def _names(disk: _Disk, folder: str, sources: Sequence[tuple[int, str]]) -> Iterable[tuple[str, list[_Found]]]:
    """What several directories have, by name; of each name, the entries in the order of the directories."""
    names: dict[str, list[_Found]] = {}
    for priority, directory in sources:
        for name, is_directory in disk.entries(directory):
            if name in _LEFT_OUT and _LEFT_OUT[name].fullmatch(folder):
                continue
            names.setdefault(name, []).append((priority, f"{directory}/{name}", is_directory))
    return names.items()


def _choose(disk: _Disk, path: str, found: Sequence[_Found]) -> list[_Found]:
    """Of several entries at one name: the directories that are to be merged, or the one file to link to."""
    resolved = [disk.resolve(path) for _, path, _ in found]
    directories = [
        (priority, at, True)
        for (priority, _, is_directory), at in zip(found, resolved, strict=True)
        if at and (is_directory or disk.is_directory(at))
    ]
    first = min(found)[0]
    winners = [(one, at or one[1]) for one, at in zip(found, resolved, strict=True) if one[0] == first]
    folders = [one for one in directories if one[0] == first]
    if len(folders) == len(winners):
        merged: dict[str, _Found] = {}  # symlinks may lead to one directory
        for one in directories:
            merged[one[1]] = min(one, merged.get(one[1], one))
        return list(merged.values())
    (one, at), *others = winners
    for other, elsewhere in others:
        if folders or not disk.same(at, elsewhere):
            raise LayerError(f"{path}: two of the contents have it, {one[1]} and {other[1]}: give one a priority")
    return [one]


class _Disk:
    """What is below a folder that stands for the root of the image; symlinks never lead out of it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._directories: dict[str, str | None] = {"": ""}

    def entries(self, directory: str) -> list[tuple[str, bool]]:
        """The names in a directory, sorted, and whether each is a directory itself."""
        try:
            with os.scandir(f"{self._root}{directory}") as found:
                return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
        except OSError as error:
            raise LayerError(f"{self._root}{directory}: {error.strerror}") from None

    def is_directory(self, path: str) -> bool:
        """Whether a resolved path is a directory."""
        return stat.S_ISDIR(os.lstat(f"{self._root}{path}").st_mode)

    def resolve(self, path: str, links: int = _MOST_LINKS) -> str | None:
        """Where a path leads, itself no symlink; None where nothing is."""
        parent, _, name = path.rpartition("/")
        if parent not in self._directories:
            self._directories[parent] = None  # for a symlink that leads to what is below itself
            self._directories[parent] = self.resolve(parent)
        folder = self._directories[parent]
        if folder is None or name in ("", "."):
            return folder
        if name == "..":
            return folder.rpartition("/")[0]
        try:
            target = os.readlink(f"{self._root}{folder}/{name}")
        except OSError as error:
            return f"{folder}/{name}" if error.errno == errno.EINVAL else None
        if not links:
            return None
        return self.resolve(target if target.startswith("/") else f"{folder}/{target}", links - 1)

    def same(self, one: str, other: str) -> bool:
        """Whether two resolved paths are files that no program can tell apart."""
        if one == other:
            return True
        first, second = f"{self._root}{one}", f"{self._root}{other}"
        found = [os.lstat(first), os.lstat(second)]
        kinds = {(stat.S_IFMT(status.st_mode), status.st_mode & stat.S_IXUSR, status.st_size) for status in found}
        if len(kinds) > 1 or not stat.S_ISREG(found[0].st_mode):
            return False
        try:
            return filecmp.cmp(first, second, shallow=False)
        except OSError as error:
            raise LayerError(f"{error.filename}: {error.strerror}") from None
