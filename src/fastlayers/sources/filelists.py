"""The contents of a virtual environment's nodes: values that list their paths in whichever process makes the layer.

Worker processes import this module, so it imports neither numpy nor anything that reads metadata or ELF files.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..errors import ClosureError

__all__ = ["Distribution", "Files", "StandardLibrary", "Unowned", "resolve", "walk"]

CACHE = "__pycache__"
_MOST_SYMLINKS = 40  # as the kernel counts them before it says ELOOP


@dataclass(frozen=True, slots=True)
class Files:
    """Paths that are known already."""

    owner: str
    files: tuple[str, ...]

    def paths(self) -> Iterable[str]:
        """The paths."""
        return self.files


@dataclass(frozen=True, slots=True)
class Distribution:
    """What an installed distribution's RECORD lists, without ``__pycache__`` and without ``excluded``.

    Attributes:
        owner: the node's name.
        record: the path of RECORD, whose parents are no symlinks.
        excluded: paths that it lists and does not own: what is another's, directories, bytecode that is not there.
    """

    owner: str
    record: str
    excluded: frozenset[str] = frozenset()

    def paths(self) -> Iterable[str]:
        """The paths that this distribution owns."""
        listed = self.listed()
        return (path for path in listed if path not in self.excluded) if self.excluded else listed

    def listed(self) -> dict[str, str]:
        """Every path that RECORD lists, its parent resolved, and the digest that RECORD gives it (or nothing).

        Raises:
            ClosureError: RECORD cannot be read.
        """
        site = os.path.dirname(os.path.dirname(self.record))
        parents: dict[str, str] = {}
        found: dict[str, str] = {}
        try:
            with open(self.record, encoding="utf-8", errors="surrogateescape", newline="") as lines:
                for row in csv.reader(lines):
                    if not row:
                        continue
                    parent, _, name = row[0].rpartition("/")
                    if row[0].startswith("/"):
                        parent = parent or "/"
                    real = parents.get(parent)
                    if real is None:
                        real = parents[parent] = _real_directory(os.path.join(site, parent))
                    # A row that ends in a slash is a directory.
                    if name and name != CACHE and not (CACHE in real and CACHE in real.split("/")):
                        found[f"{real}/{name}"] = row[1] if len(row) > 1 else ""
        except OSError as error:
            raise ClosureError(f"{self.owner}: {self.record}: {error.strerror}") from None
        except csv.Error as error:
            raise ClosureError(f"{self.owner}: {self.record}: {error}") from None
        return found


@dataclass(frozen=True, slots=True)
class Unowned:
    """What is in an environment and in none of its distributions, without ``__pycache__``.

    Attributes:
        owner: the node's name.
        prefix: the environment's real path.
        distributions: those that own the rest.
        files: paths outside the environment that are needed to get there: symlinks.
    """

    owner: str
    prefix: str
    distributions: tuple[Distribution, ...]
    files: tuple[str, ...] = ()

    def paths(self) -> Iterable[str]:
        """``files``, and a walk through the environment."""
        owned: set[str] = set()
        for distribution in self.distributions:
            owned.update(distribution.paths())
        yield from self.files
        for entry in walk(self.prefix):
            if entry.path not in owned:
                yield entry.path


@dataclass(frozen=True, slots=True)
class StandardLibrary:
    """An interpreter: its standard library and files of it elsewhere.

    Attributes:
        owner: the node's name.
        directories: real paths, none within another.
        files: the binary, the symlinks that lead to it, and what symlinks in the directories point to.
    """

    owner: str
    directories: tuple[str, ...]
    files: tuple[str, ...]

    def paths(self) -> Iterable[str]:
        """``files``, and a walk through the directories."""
        yield from self.files
        for directory in self.directories:
            for entry in walk(directory, omit=self.omits):
                yield entry.path

    @staticmethod
    def omits(name: str) -> bool:
        """Whether an entry of a standard library's directory is none of it, or only of use to those who build."""
        return name in ("site-packages", "dist-packages", "test") or name.startswith("config-")


def walk(top: str, *, omit: Callable[[str], bool] | None = None) -> Iterator[os.DirEntry[str]]:
    """Every entry below ``top`` that is no directory, and the directories with nothing in them.

    ``__pycache__`` counts as nothing: whether Python has run must not show. ``omit`` chooses names directly below
    ``top`` that are left out too.

    Raises:
        ClosureError: a directory cannot be read.
    """
    directories: list[os.DirEntry[str] | str] = [top]
    while directories:
        directory = directories.pop()
        empty = True
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name == CACHE or (omit is not None and directory is top and omit(entry.name)):
                        continue
                    empty = False
                    if entry.is_dir(follow_symlinks=False):
                        directories.append(entry)
                    else:
                        yield entry
        except OSError as error:
            raise ClosureError(f"{os.fspath(directory)}: {error.strerror}") from None
        if empty and not isinstance(directory, str):
            yield directory


def resolve(path: str) -> tuple[str, list[str]]:
    """The real path behind an absolute path, and each symlink met on the way, named by its real parent.

    What does not exist is taken to be no symlink.

    Raises:
        ClosureError: symlinks lead in a circle.
    """
    links: list[str] = []
    real = ""
    left = path.split("/")[::-1]
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            real = real.rpartition("/")[0]
            continue
        here = f"{real}/{name}"
        try:
            target = os.readlink(here)
        except OSError:
            real = here
            continue
        links.append(here)
        if len(links) > _MOST_SYMLINKS:
            raise ClosureError(f"{path}: too many symlinks")
        left.extend(target.split("/")[::-1])
        if target.startswith("/"):
            real = ""
    return real or "/", list(dict.fromkeys(links))


def _real_directory(path: str) -> str:
    real = os.path.realpath(path)
    return "" if real == "/" else real
