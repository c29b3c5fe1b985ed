"""The entries of layers that are stored: decompressed and read as a stream, with nothing on disk.

This reads what others have written, so it is stricter than :mod:`tarfile`, which ends in silence at a damaged header.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from .compression import codec_of, decompressed
from .errors import ImageError

__all__ = ["Entry", "plain_blocks", "read_entries"]

_LARGEST_NAMES = 16 << 20  # bytes of one pax header; what is longer than any path is damage
_HEADER_ONLY = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))  # links, devices, directories, pipes
_GNU_SPARSE = b"S"
_NUMBERS = frozenset((b"size", b"uid", b"gid"))  # pax records


class Entry(NamedTuple):
    """An entry of a layer.

    Attributes:
        path: absolute, without empty components and ".", but with ".." where the tar has it; "/" is the root.
        kind: the type in its header: ``b"5"`` is a directory, ``b"2"`` a symlink, ``b"1"`` a hard link.
        target: what a link leads to, as it is written.
        mode, uid, gid: permissions and owner.
    """

    path: str
    kind: bytes
    target: str
    mode: int
    uid: int
    gid: int


def plain_blocks(blocks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """A layer's tar out of its stored bytes, which are decompressed as their first bytes say.

    Raises:
        ImageError: they cannot be.
    """
    source = iter(blocks)
    start = b""
    while len(start) < 4 and (block := next(source, None)) is not None:
        start += block
    codec = codec_of(start[:4])
    whole = chain([start], source)
    yield from whole if codec == "none" else decompressed(whole, codec)


def read_entries(blocks: Iterable[bytes | memoryview]) -> Iterator[Entry]:
    """The entries of a tar, in its order; then all bytes behind its end are taken too.

    Pax headers, GNU's long names and sparse files are understood (POSIX.1-2001 pax; GNU tar's manual, "Basic Tar
    Format").

    Raises:
        ImageError: it is damaged; the message says at which byte.
    """
    tar = _Bytes(blocks)
    names: dict[str, str] = {}  # of the next entry: what its own header has no room for
    while True:
        at = tar.position
        header = tar.take(tarfile.BLOCKSIZE)
        if not header:
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            if header.count(0) == tarfile.BLOCKSIZE:
                break
            raise ImageError(f"byte {at} of the tar: no header: {error}") from None
        kind, size = info.type, info.size
        if size < 0:
            raise ImageError(f"byte {at} of the tar: {info.name}: a size of {size} bytes")
        if kind in (b"x", b"g", b"L", b"K"):
            if size > _LARGEST_NAMES:
                raise ImageError(f"byte {at} of the tar: a header of {size} bytes")
            more = _names(kind, tar.take(size), at)
            names |= more
            tar.skip(-size % tarfile.BLOCKSIZE, info.name)
            continue
        if kind == _GNU_SPARSE and header[482]:
            while tar.take(tarfile.BLOCKSIZE)[504:505] not in (b"", b"\0"):
                pass
        name = names.get("GNU.sparse.name") or names.get("path") or info.name
        target = names.get("linkpath") or info.linkname
        size, uid, gid = (
            int(names.get(key, said)) for key, said in (("size", size), ("uid", info.uid), ("gid", info.gid))
        )
        names = {}
        path = "/" + "/".join(part for part in name.split("/") if part not in ("", "."))
        yield Entry(path, kind, target, info.mode & 0o7777, uid, gid)
        if kind not in _HEADER_ONLY:
            tar.skip(size + -size % tarfile.BLOCKSIZE, name)
    if names:
        raise ImageError(f"byte {tar.position} of the tar: the end, where an entry was announced")
    tar.drain()


def _names(kind: bytes, data: bytes, at: int) -> dict[str, str]:
    """What a pax header or one of GNU's says; a global one says nothing about names."""
    if kind == b"g":
        return {}
    if kind in (b"L", b"K"):
        text = data.partition(b"\0")[0].decode("utf-8", "surrogateescape")
        return {"path" if kind == b"L" else "linkpath": text}
    found = {}
    position = 0
    while position < len(data) and data[position]:
        length, space, _ = data[position : position + 20].partition(b" ")
        end = position + int(length) if space and length.isdigit() else 0
        key, equals, value = data[position + len(length) + 1 : end - 1].partition(b"=")
        if not equals or end > len(data) or data[end - 1 : end] != b"\n" or (key in _NUMBERS and not value.isdigit()):
            raise ImageError(f"byte {at} of the tar: a pax header that is none")
        found[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        position = end
    return found


class _Bytes:
    """Blocks as one stream.

    Attributes:
        position: bytes that were taken or skipped.
    """

    def __init__(self, blocks: Iterable[bytes | memoryview]) -> None:
        self.position = 0
        self._blocks = iter(blocks)
        self._block = memoryview(b"")

    def take(self, count: int) -> bytes:
        """So many bytes, none at the end.

        Raises:
            ImageError: the end comes in between.
        """
        data = b""
        while len(data) < count and self._next():
            part = self._block[: count - len(data)]
            self._block = self._block[len(part) :]
            data += part
        self.position += len(data)
        if data and len(data) < count:
            raise ImageError(f"byte {self.position} of the tar: its end, in the middle of a header")
        return data

    def skip(self, count: int, name: str) -> None:
        """Pass over so many bytes of an entry.

        Raises:
            ImageError: there are not as many.
        """
        while count and self._next():
            part = min(count, len(self._block))
            self._block = self._block[part:]
            self.position += part
            count -= part
        if count:
            raise ImageError(f"byte {self.position} of the tar: its end, in the middle of {name}")

    def drain(self) -> None:
        """Pass over the rest."""
        while self._next():
            self._block = self._block[len(self._block) :]

    def _next(self) -> bool:
        """Whether there are more bytes; then some are in the block."""
        while not self._block:
            block = next(self._blocks, None)
            if block is None:
                return False
            self._block = memoryview(block)
        return True
