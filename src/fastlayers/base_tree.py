"""The tree that a base image's layers make together, so that nothing of ours replaces a symlink in it.

An image's layers repeat the directories above what is in them. Where the base has a symlink at the name of such a
directory (``/bin`` to ``usr/bin``), a client would replace the link, and all that is behind it would be gone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .base import BaseImage
from .contents import Contents, FileList, Generated, GeneratedEntry, Tree
from .entries import Entry, plain_blocks, read_entries
from .errors import ImageError, LayerError

__all__ = ["BaseTree", "PlaceInBase", "fit_on_base", "read_base_tree"]

_LINKS = 40  # that are followed, as Linux does
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"

# A directory is a dict from names to nodes, a symlink its target, anything else None. What no name can be is about the
# directory itself.
_GONE = object()  # a whiteout: what is below has it no more
_HIDES = ""  # nothing of the directory below is seen
_OWN = "."  # it has an entry, and is not only above one: mode, uid and gid


@dataclass(frozen=True, slots=True)
class PlaceInBase:
    """Where a path of the image really is.

    Attributes:
        path: without symlinks.
        link, target: the first symlink on the way and what it says; both "" where there is none.
        file: what is on the way, or at its end, and no directory; "" where there is nothing of the kind.
        own: mode, uid and gid of a directory that is there.
    """

    path: str
    link: str = ""
    target: str = ""
    file: str = ""
    own: tuple[int, int, int] | None = None


class BaseTree:
    """Names and symlinks of a base image, whiteouts applied; about 100 bytes a name."""

    def __init__(self) -> None:
        self._root: dict[str, Any] = {}

    def add_layer(self, entries: Iterable[Entry]) -> None:
        """Lay a layer over what is there."""
        stack = [(self._root, _layer_tree(entries), "")]
        while stack:
            lower, upper, path = stack.pop()
            if upper.pop(_HIDES, None):
                lower.clear()
            for name, node in upper.items():
                if node is _GONE:
                    lower.pop(name, None)
                elif not isinstance(node, dict):
                    lower[name] = node
                else:
                    there = lower.get(name)
                    if isinstance(there, str) and _OWN not in node:  # entries below a symlink go where it leads
                        there = self._directory(f"{path}/{name}")
                    if not isinstance(there, dict):
                        there = lower[name] = {}
                    stack.append((there, node, f"{path}/{name}"))

    def find(self, path: str) -> PlaceInBase | None:
        """Where a path really is, also where only what is above it is there; None for symlinks in a circle."""
        return self._follow(path)[0]

    def link_at(self, path: str) -> PlaceInBase | None:
        """The symlink that has just this name, if there is one."""
        node: Any = self._root
        for name in path.split("/")[1:]:
            node = node.get(name) if isinstance(node, dict) else None
        return PlaceInBase(path, path, node) if isinstance(node, str) else None

    def _directory(self, path: str) -> dict[str, Any] | None:
        found = self._follow(path)[1]
        return found if isinstance(found, dict) else None

    def _follow(self, path: str) -> tuple[PlaceInBase | None, Any]:
        todo = path.split("/")[::-1]
        names: list[str] = []
        nodes: list[Any] = [self._root]
        link = target = file = ""
        links = 0
        while todo:
            name = todo.pop()
            if name in ("", "."):
                continue
            if name == "..":
                del names[-1:]
                del nodes[len(names) + 1 :]
                continue
            node = nodes[-1].get(name, {}) if isinstance(nodes[-1], dict) else {}
            if isinstance(node, str):
                links += 1
                if links > _LINKS:
                    return None, None
                if not link:
                    link, target = "/" + "/".join([*names, name]), node
                if node.startswith("/"):
                    names, nodes = [], [self._root]
                todo += node.split("/")[::-1]
                continue
            names.append(name)
            nodes.append(node)
            if node is None:
                file = "/" + "/".join(names)
        own = nodes[-1].get(_OWN) if isinstance(nodes[-1], dict) else None
        return PlaceInBase("/" + "/".join(names), link, target, file, own), nodes[-1]


def _layer_tree(entries: Iterable[Entry]) -> dict[str, Any]:
    """What a layer brings and takes away."""
    root: dict[str, Any] = {}
    for entry in entries:
        *above, name = entry.path.split("/")[1:]
        if not name or ".." in above or name == "..":  # the root; what no client unpacks
            continue
        node = _descend(root, above)
        if node is None:
            continue
        there = node.get(name)
        if name == _OPAQUE:
            node[_HIDES] = True
        elif name.startswith(_WHITEOUT):
            hidden = name.removeprefix(_WHITEOUT)
            if isinstance(node.get(hidden), dict):
                node[hidden][_HIDES] = True
            elif hidden and not hidden.startswith(_WHITEOUT):  # aufs has names of its own
                node.setdefault(hidden, _GONE)
        elif entry.kind == b"5":
            if not isinstance(there, dict):
                there = node[name] = {_HIDES: True} if there is _GONE else {}
            there[_OWN] = (entry.mode, entry.uid, entry.gid)
        elif entry.kind == b"2":
            node[name] = entry.target
        elif entry.kind == b"1":
            *beside, linked = [part for part in entry.target.split("/") if part not in ("", ".")] or [""]
            found = (_descend(root, beside) or {}).get(linked) if ".." not in beside else None
            node[name] = found if isinstance(found, str) else None
        else:
            node[name] = None
    return root


def _descend(node: dict[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """The directory of a layer at a path, made where it is not there; None below a symlink of the same layer."""
    for name in names:
        there = node.get(name)
        if isinstance(there, str):
            return None
        if not isinstance(there, dict):
            there = node[name] = {_HIDES: True} if there is _GONE else {}
        node = there
    return node


def read_base_tree(base: BaseImage) -> BaseTree:
    """Read all layers of a base image, as a stream.

    Raises:
        ImageError: a layer cannot be read, or is damaged.
        RegistryError: the registry does not give it.
    """
    tree = BaseTree()
    for blob in base.layers:
        try:
            tree.add_layer(read_entries(plain_blocks(blob.blocks())))
        except ImageError as error:
            text = str(error)
            raise ImageError(text if text.startswith(blob.place) else f"{blob.place}: {text}") from None
    return tree


def fit_on_base(
    base: BaseImage | None,
    closure: Sequence[Sequence[Contents]],
    custom: Sequence[Contents],
    asked: Collection[str] = (),
) -> tuple[Contents, ...]:
    """The customisation layer for this base: what is below a symlink of the base's goes where that leads, and its
    directories stay as they are.

    The base is read only where something is not a store path, and not below ``/nix``. Layers of the closure are the
    same on every base: they are refused instead.

    Args:
        base: the base image, if any.
        closure: the contents of the closure's layers.
        custom: the contents of the customisation layer.
        asked: directories in it whose mode somebody asked for.

    Raises:
        LayerError: a directory of the closure would replace a symlink of the base's; or one of the customisation
            layer would, and what the link leads to is no directory, or two entries would become one.
        ImageError, RegistryError: the base cannot be read.
    """
    everything = [contents for layer in [*closure, custom] for contents in layer]
    if base is None or all(map(_is_below_nix, everything)):
        return tuple(custom)
    tree = read_base_tree(base)
    for layer in closure:
        for contents in layer:
            _check_directories(contents, tree)
    return tuple(
        _written_through(one, tree, asked) if isinstance(one, Generated) else _checked(one, tree) for one in custom
    )


def _is_below_nix(contents: Contents) -> bool:
    if isinstance(contents, Tree):
        return True
    return isinstance(contents, Generated) and all(f"{one.path}/".startswith("/nix/") for one in contents.entries)


def _directories(contents: Contents) -> Iterator[str]:
    """Directories that come with what is in a layer, each once, the outer ones first."""
    if isinstance(contents, Tree):
        paths: Iterable[str] = (contents.path,)
    elif isinstance(contents, FileList):
        paths = contents.paths()
    else:
        paths = (entry.path + "/" if entry.is_directory else entry.path for entry in contents.entries)
    seen = set()
    for path in paths:
        above = []
        parent = path.rpartition("/")[0]
        while parent and parent not in seen:
            seen.add(parent)
            above.append(parent)
            parent = parent.rpartition("/")[0]
        yield from reversed(above)


def _check_directories(contents: Contents, tree: BaseTree) -> None:
    for path in _directories(contents):
        place = tree.find(path)
        if place is None:
            raise LayerError(f"{path}: of {contents.owner}: symlinks in a circle are there in the base image")
        if place.link:
            raise LayerError(_replaced(path, contents.owner, place))
    if isinstance(contents, FileList):  # which may have an empty directory
        for path in contents.paths():
            place = tree.link_at(path)
            if place is not None and _is_directory(path):
                raise LayerError(_replaced(path, contents.owner, place))


def _replaced(path: str, owner: str, place: PlaceInBase) -> str:
    return f"{path}: of {owner}, would replace {place.link} of the base image, a symlink to {place.target}"


def _is_directory(path: str) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


def _checked(contents: Contents, tree: BaseTree) -> Contents:
    _check_directories(contents, tree)
    return contents


def _written_through(contents: Generated, tree: BaseTree, asked: Collection[str]) -> Generated:
    """The entries at the places where they really are on the base."""
    places: dict[str, PlaceInBase] = {}
    moved: dict[str, GeneratedEntry] = {}
    before: dict[str, str] = {}
    for entry in contents.entries:
        folder, _, name = (entry.path, "", "") if entry.is_directory else entry.path.rpartition("/")
        if folder not in places:
            places[folder] = _place(folder, contents, tree)
        place = places[folder]
        path = f"{place.path.rstrip('/')}/{name}" if name else place.path
        if path == "/":
            continue
        there = moved.get(path)
        made = entry._replace(path=path)
        if there is not None and there != made:
            if there.is_directory and made == GeneratedEntry(path):
                continue  # takes nothing away from the one that is there
            if not (made.is_directory and there == GeneratedEntry(path)):
                raise LayerError(_twice(before[path], entry.path, path))
        moved[path], before[path] = made, entry.path
    for path in list(moved):
        parent = path.rpartition("/")[0]
        while parent:
            before.setdefault(parent, parent)
            if not moved.setdefault(parent, GeneratedEntry(parent)).is_directory:
                raise LayerError(_twice(before[parent], before[path], parent))
            parent = parent.rpartition("/")[0]
    entries = (entry if before[path] in asked else _as_it_is(entry, tree) for path, entry in moved.items())
    return Generated(contents.owner, tuple(entries))


def _as_it_is(entry: GeneratedEntry, tree: BaseTree) -> GeneratedEntry:
    """A directory with nothing of its own, with the mode and the owner that it has in the base."""
    place = tree.find(entry.path) if entry == GeneratedEntry(entry.path) else None
    if place is None or place.own is None:
        return entry
    mode, uid, gid = place.own
    return entry._replace(mode=mode, owner=(uid, gid))


def _place(folder: str, contents: Generated, tree: BaseTree) -> PlaceInBase:
    place = tree.find(folder)
    if place is None:
        raise LayerError(f"{folder}: of {contents.owner}: symlinks in a circle are there in the base image")
    if place.link and place.file:
        raise LayerError(
            f"{folder}: of {contents.owner}, is behind {place.link} of the base image, a symlink to {place.target}, "
            f"but {place.file} is no directory"
        )
    return place


def _twice(one: str, other: str, path: str) -> str:
    return f"{one} and {other}: in the base image both are at {path}, and one of them would be lost"
