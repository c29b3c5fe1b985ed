"""What a node brings into a layer: a tree, a list of files, or entries that are nowhere on disk.

Contents are small picklable values. They are looked into where a layer is made, by whichever process makes it, and
only while it is made, so nobody ever holds the entries of a whole closure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

__all__ = ["Contents", "FileList", "FilePart", "Generated", "GeneratedEntry", "Merged", "Tree", "file_state"]


@dataclass(frozen=True, slots=True)
class Tree:
    """Everything at and below ``path``, an absolute path that no other node reaches into: a store path."""

    path: str

    @property
    def owner(self) -> str:
        """The node's name in errors."""
        return self.path


@runtime_checkable
class FileList(Protocol):
    """Files, symlinks and empty directories of one owner, which may share directories with others.

    Implementations are frozen dataclasses, so that they can be sent to another process.
    """

    @property
    def owner(self) -> str:
        """The node's name in errors."""

    def paths(self) -> Iterable[str]:
        """The absolute paths, normalised, each once, in any order; no component of a parent is a symlink.

        Undecodable bytes are surrogate escapes, as :func:`os.fsdecode` gives them.
        """


@dataclass(frozen=True, slots=True)
class FilePart:
    """Bytes on disk: ``size`` of them from ``offset`` on in ``file``, or all of its bytes where ``size`` is None.

    Attributes:
        seen: what :func:`file_state` told of the file when the part was found in it; None where nothing was looked for.
    """

    file: str
    offset: int = 0
    size: int | None = None
    seen: tuple[int, int, int] | None = None


def file_state(file: str | int) -> tuple[int, int, int]:
    """Inode, size and mtime, in nanoseconds, of a file or of what is open as a descriptor."""
    status = os.stat(file)
    return status.st_ino, status.st_size, status.st_mtime_ns


class GeneratedEntry(NamedTuple):  # of which an image may have 100,000
    """A file (with ``data``), a symlink (with ``target``) or else a directory, made for the image.

    Attributes:
        path: absolute, normalised.
        mode: of a file or a directory.
        data: a file's bytes.
        target: a symlink's.
        owner: uid and gid, or None for those of the layer's profile.
        xattrs: extended attributes, pairs of name and value.
    """

    path: str
    mode: int = 0o755
    data: bytes | FilePart | None = None
    target: str | None = None
    owner: tuple[int, int] | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()

    @property
    def is_directory(self) -> bool:
        """Whether it is neither a file nor a symlink."""
        return self.data is None and self.target is None


@dataclass(frozen=True, slots=True)
class Generated:
    """Entries made for the image."""

    owner: str
    entries: tuple[GeneratedEntry, ...]


@dataclass(frozen=True, slots=True)
class Merged:
    """The paths of several lists that are one node."""

    owner: str
    parts: tuple[FileList, ...]

    def paths(self) -> Iterable[str]:
        """The paths of each part in turn."""
        for part in self.parts:
            yield from part.paths()


Contents = Tree | FileList | Generated
