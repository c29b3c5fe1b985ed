"""Files of the user's own: a folder, or a tar archive, that is laid over the root of the image."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from .. import _archive
from ..contents import FilePart, Generated, GeneratedEntry, file_state
from ..errors import ConfigError, LayerError

__all__ = ["HIGHEST_ID", "read_folder", "read_tar"]

HIGHEST_ID = 2**32 - 2  # of a user or group; the one above means "none" to the system's calls

_XATTR = "SCHILY.xattr."


def read_folder(directory: str | os.PathLike[str], *, xattrs: bool = False) -> Generated:
    """Read what is in a folder: directory/etc/x is /etc/x in the image. Its files are read when the layer is made.

    A umask decides nothing: modes are 0755 for directories and where the owner may execute a file, else 0644.

    Args:
        directory: the folder.
        xattrs: keep Linux capabilities and ``user.*`` attributes.

    Raises:
        ConfigError: it cannot be read.
        LayerError: a socket, device or pipe is in it.
    """
    folder = os.path.abspath(directory)
    return Generated(os.fspath(directory), tuple(_walk(folder, "", xattrs)))


def _walk(folder: str, below: str, xattrs: bool) -> Iterator[GeneratedEntry]:
    try:
        with os.scandir(folder + below) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            path = f"{below}/{entry.name}"
            status = entry.stat(follow_symlinks=False)
            attributes = _xattrs(entry.path) if xattrs else ()
            if stat.S_ISLNK(status.st_mode):
                yield GeneratedEntry(path, target=os.readlink(entry.path), xattrs=attributes)
            elif stat.S_ISDIR(status.st_mode):
                yield GeneratedEntry(path, xattrs=attributes)
                yield from _walk(folder, path, xattrs)
            elif stat.S_ISREG(status.st_mode):
                mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
                yield GeneratedEntry(path, mode, FilePart(entry.path), xattrs=attributes)
            else:
                raise LayerError(f"{entry.path}: a socket, device or pipe cannot go into a layer")
    except OSError as error:
        raise ConfigError(f"{error.filename or folder + below}: {error.strerror}") from None


def _xattrs(path: str) -> tuple[tuple[str, bytes], ...]:
    if not hasattr(os, "listxattr"):
        raise ConfigError(f"{path}: extended attributes cannot be read on this system")
    try:
        found = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:  # a file system without them
            return ()
        raise
    names = sorted(filter(_archive.keeps_xattr, found))
    if any("=" in name for name in names):
        raise LayerError(f"{path}: an extended attribute whose name has = in it cannot go into a layer")
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)


def read_tar(file: str | os.PathLike[str], *, xattrs: bool = False) -> Generated:
    """Read what is in a plain tar archive, with modes and owners' numbers. Its bytes are read when the layer is made.

    Of an entry that occurs twice the last counts; hard links become files of their own; dates are those of the layer.

    Args:
        file: the archive.
        xattrs: keep Linux capabilities and ``user.*`` attributes (pax records ``SCHILY.xattr.*``).

    Raises:
        ConfigError: it cannot be read, is no plain tar archive, or is damaged.
        LayerError: an entry is one that the image cannot have: outside the root, a device, a pipe, a sparse file.
    """
    name = os.fspath(file)
    entries: dict[str, GeneratedEntry] = {}
    try:
        with (
            open(file, "rb") as archive,
            tarfile.open(fileobj=archive, mode="r:", encoding="utf-8", errors="surrogateescape") as tar,
        ):
            whole = FilePart(os.path.realpath(file), seen=file_state(archive.fileno()))
            for member in tar:
                if (entry := _entry(name, whole, member, entries, xattrs)) is not None:
                    entries[entry.path] = entry
            _check_end(archive, tar.offset)
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror or error}") from None
    except (tarfile.TarError, ValueError) as error:  # of a compressed one, too
        raise ConfigError(f"{name}: not a plain tar archive: {error}") from None
    return Generated(name, tuple(entries.values()))


def _check_end(archive: BinaryIO, offset: int) -> None:
    """Where an archive ends, there is nothing, or a block of zeros; at a damaged header, tarfile ends in silence."""
    archive.seek(offset)
    block = archive.read(tarfile.BLOCKSIZE)
    if block and block != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no header at byte {offset}")


def _entry(
    name: str, whole: FilePart, member: tarfile.TarInfo, before: dict[str, GeneratedEntry], xattrs: bool
) -> GeneratedEntry | None:
    """The entry of a member of an archive, which is ``whole``; None for the root itself."""
    place = f"{name}: {member.name}"
    path = _path(member.name, place)
    if path == "/":
        return None
    attributes = _attributes(member, place) if xattrs else ()
    if not (0 <= member.uid <= HIGHEST_ID and 0 <= member.gid <= HIGHEST_ID):
        raise LayerError(f"{place}: the owner {member.uid}:{member.gid} is none that a file can have")
    made = GeneratedEntry(path, member.mode & 0o7777, owner=(member.uid, member.gid), xattrs=attributes)
    if member.issparse():
        raise LayerError(f"{place}: a sparse file: pack it as a whole one")
    if member.isreg():
        return made._replace(data=replace(whole, offset=member.offset_data, size=member.size))
    if member.isdir():
        return made
    if member.issym():
        if not member.linkname or "\0" in member.linkname:
            raise LayerError(f"{place}: a symlink to nothing that has a name")
        return made._replace(target=member.linkname)
    if member.islnk():
        linked = before.get(_path(member.linkname, place))
        if linked is None or linked.is_directory:
            raise LayerError(f"{place}: a hard link to {member.linkname}, which is no file before it in the archive")
        return linked._replace(path=path)
    if member.ischr() or member.isblk() or member.isfifo():
        raise LayerError(f"{place}: a device or pipe cannot go into a layer")
    raise LayerError(f"{place}: an entry of the type {member.type!r}, which is none of tar's")


def _path(name: str, place: str) -> str:
    if ".." in name.split("/") or "\0" in name:
        raise LayerError(f"{place}: leads out of the image")
    return posixpath.normpath("/" + name.lstrip("/"))


def _attributes(member: tarfile.TarInfo, place: str) -> tuple[tuple[str, bytes], ...]:
    found = []
    for key, value in member.pax_headers.items():
        attribute = key.removeprefix(_XATTR)
        if attribute != key and _archive.keeps_xattr(attribute):
            if not attribute.removeprefix("user."):
                raise LayerError(f"{place}: an extended attribute without a name")
            found.append((attribute, value.encode("utf-8", "surrogateescape")))
    return tuple(sorted(found))
