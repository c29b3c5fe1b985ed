"""The customisation layer: what an image has besides its closure, made of all that brings something."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..contents import Contents, Generated, GeneratedEntry
from ..errors import ConfigError, LayerError
from ..image import store_paths_in
from .extras import HIGHEST_ID, read_folder, read_tar
from .links import DEFAULT_PRIORITY, LinkedTree, link_trees

if TYPE_CHECKING:
    from ..closure import Closure

__all__ = [
    "DEFAULT_PRIORITY",
    "Customisation",
    "LinkedTree",
    "customise",
    "named_store_paths",
    "read_folder",
    "read_tar",
]


@dataclass(frozen=True, slots=True)
class Customisation:
    """What goes into an image besides its closure.

    Attributes:
        contents: trees, to whose entries there are links at the root of the image.
        extras: what :func:`read_folder` and :func:`read_tar` gave; later ones replace files of earlier ones, of the
            contents and of the closure.
        owners: uid and gid by path, for a path and all below it; the longest path counts.
        modes: permissions by path, for that path alone.
        nix_db: whether a Nix database, in which the closure is registered, is in the image.

    Raises:
        ConfigError: a path is not absolute and normalised, or a number is none that a file can have.
    """

    contents: tuple[LinkedTree, ...] = ()
    extras: tuple[Generated, ...] = ()
    owners: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    nix_db: bool = False

    def __post_init__(self) -> None:
        for path in [*self.owners, *self.modes, *(tree.path for tree in self.contents)]:
            if not path.startswith("/") or path.startswith("//") or posixpath.normpath(path) != path:
                raise ConfigError(f"{path}: not an absolute path in the image, such as /home/me")
        for path, ids in self.owners.items():
            if not all(0 <= number <= HIGHEST_ID for number in ids):
                raise ConfigError(f"{path}: {ids[0]}:{ids[1]} is no owner: two numbers from 0 to {HIGHEST_ID}")
        for path, mode in self.modes.items():
            if not 0 <= mode <= 0o7777:
                raise ConfigError(f"{path}: {mode:o} is no mode: from 0 to 7777")


def named_store_paths(customisation: Customisation, config: Mapping[str, Any], store_dir: str) -> list[str]:
    """Store paths that an image must have to be whole, sorted.

    They are those that its configuration names, those of the trees that are linked to, and those that symlinks of the
    user's own lead to.
    """
    links = [entry.target for part in customisation.extras for entry in part.entries if entry.target is not None]
    return store_paths_in([config, [tree.path for tree in customisation.contents], links], store_dir)


def customise(
    customisation: Customisation,
    closure: Closure,
    own: Sequence[Contents] = (),
    *,
    store_dir: str | None = None,
    store_root: str = "",
    time: int = 1,
    excluded: AbstractSet[str] = frozenset(),
) -> tuple[Contents, ...]:
    """What goes into the customisation layer; nothing, where there is nothing to put into it.

    Args:
        customisation: what is wanted.
        closure: for the Nix database.
        own: what the closure needs in every image of it.
        store_dir: the store directory, for the Nix database.
        store_root: the folder below which trees of the contents are.
        time: when the closure was registered in the Nix database, in seconds since 1970.
        excluded: nodes of the closure that are not in the image.

    Raises:
        ConfigError: there is nothing at a path that an owner or a mode is for; and what the parts raise.
        LayerError: two parts have a directory and something else at one path; and what the parts raise.
    """
    parts = [part for part in own if isinstance(part, Generated)]
    others = tuple(part for part in own if not isinstance(part, Generated))
    if customisation.contents:
        parts.append(link_trees(customisation.contents, store_root))
    if customisation.nix_db:
        from .nix_db import nix_database

        if store_dir is None:
            raise ConfigError("a Nix database is for a closure of store paths")
        parts.append(nix_database(closure, store_dir, time, excluded))
    entries = _lay_over([*parts, *customisation.extras])
    _set_owners(entries, customisation.owners)
    _set_modes(entries, customisation.modes)
    return (*([Generated("the customisation", tuple(entries.values()))] if entries else []), *others)


def _lay_over(parts: Iterable[Generated]) -> dict[str, GeneratedEntry]:
    """The entries of all parts, with the directories above them: files of later parts replace those of earlier ones."""
    entries: dict[str, GeneratedEntry] = {}
    owners: dict[str, str] = {}
    for part in parts:
        for entry in part.entries:
            before = entries.get(entry.path)
            if before is not None:
                if before.is_directory != entry.is_directory:
                    raise LayerError(_clash(entry.path, part.owner, owners[entry.path], entry.is_directory))
                if entry == GeneratedEntry(entry.path):
                    continue  # a directory like any other takes nothing away from the one that is there
            entries[entry.path] = entry
            owners[entry.path] = part.owner
    seen: set[str] = set()
    for path in list(entries):
        parent = path.rpartition("/")[0]
        while parent and parent not in seen:
            seen.add(parent)
            if not entries.setdefault(parent, GeneratedEntry(parent)).is_directory:
                raise LayerError(_clash(parent, owners[path], owners[parent], True))
            owners.setdefault(parent, owners[path])
            parent = parent.rpartition("/")[0]
    return entries


def _clash(path: str, one: str, other: str, one_is_directory: bool) -> str:
    directory, file = (one, other) if one_is_directory else (other, one)
    return f"{path}: a directory in {directory}, but none in {file}"


def _set_owners(entries: dict[str, GeneratedEntry], owners: Mapping[str, tuple[int, int]]) -> None:
    for path in sorted(owners, key=lambda path: path.split("/")):  # what is below comes later, and wins
        below = [other for other in entries if other == path or other.startswith(path.rstrip("/") + "/")]
        if not below:
            raise ConfigError(f"an owner for {path}: nothing in the customisation layer is there")
        for other in below:
            entries[other] = entries[other]._replace(owner=owners[path])


def _set_modes(entries: dict[str, GeneratedEntry], modes: Mapping[str, int]) -> None:
    for path, mode in sorted(modes.items()):
        if path not in entries:
            raise ConfigError(f"a mode for {path}: nothing in the customisation layer is there")
        if entries[path].target is not None:
            raise ConfigError(f"a mode for {path}: a symlink has none")
        entries[path] = entries[path]._replace(mode=mode)
