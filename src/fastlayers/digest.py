"""Streams to digests: every byte of a layer is read once and hashed while it is in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

__all__ = ["BLOCK", "Readable", "pump", "sha256"]

BLOCK = 1 << 20  # bytes; compressors cut the stream here, so it is part of every codec profile
_SMALL = 8 * BLOCK  # below it, starting a second thread takes longer than it saves


class Readable(Protocol):
    """A pull stream. ``readinto`` fills the buffer, but for the end of the stream, and gives the bytes that it put."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int: ...


def sha256(data: bytes) -> str:
    """The digest of some bytes, as images write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def pump(stream: Readable, size: int, consume: Callable[[memoryview], object], tick: Callable[[int], object]) -> str:
    """Send a stream of ``size`` bytes through SHA-256 and ``consume`` it, a block at a time.

    A large stream is hashed by a second thread while this one reads and consumes.

    Args:
        stream: what to read.
        size: bytes that it is known to have.
        consume: gets every block, which is valid until it returns.
        tick: is told of every block's length after it is consumed; what it raises ends the work.

    Returns:
        The digest.
    """
    digest = hashlib.sha256()
    if size < _SMALL:
        view = memoryview(bytearray(min(BLOCK, max(size, 1))))
        while got := stream.readinto(view):
            digest.update(view[:got])
            consume(view[:got])
            tick(got)
    else:
        with ThreadPoolExecutor(1, thread_name_prefix="sha256") as hasher:
            hashed: Future[None] | None = None
            block, other = memoryview(bytearray(BLOCK)), memoryview(bytearray(BLOCK))
            while got := stream.readinto(block):
                if hashed:
                    hashed.result()
                hashed = hasher.submit(digest.update, block[:got])
                consume(block[:got])
                tick(got)
                block, other = other, block
    return "sha256:" + digest.hexdigest()
