"""Streams to digests: every byte of a layer is read once and hashed while it is in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Protocol

__all__ = ["BLOCK", "Readable", "pass_on", "pump", "sha256"]

BLOCK = 1 << 20  # bytes; compressors cut the stream here, so it is part of every codec profile
_PART = BLOCK // 4  # hashed as soon as it is read, while it is in the nearest cache
_SMALL = 8 * BLOCK  # below it, starting a second thread takes longer than it saves
_AHEAD = 4  # blocks that the second thread may be behind


class Readable(Protocol):
    """A pull stream. ``readinto`` fills the buffer, but for the end of the stream, and gives the bytes that it put."""

    def readinto(self, buffer: bytearray | memoryview, /) -> int: ...


def sha256(data: bytes) -> str:
    """The digest of some bytes, as images write it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def pump(
    stream: Readable,
    size: int,
    consume: Callable[[memoryview], object],
    tick: Callable[[int], object],
    threads: int = 1,
) -> str:
    """Send a stream of ``size`` bytes through SHA-256 and ``consume`` it, a block at a time.

    Args:
        stream: what to read.
        size: bytes that it is known to have.
        consume: gets every block, which is valid until it returns.
        tick: is told of every block's length after it is consumed; what it raises ends the work.
        threads: with more than one a large stream is hashed by a second thread, while this one reads and consumes.

    Returns:
        The digest.
    """
    digest = hashlib.sha256()
    if threads > 1 and size >= _SMALL:
        _pump_beside(stream, digest.update, consume, tick)
        return "sha256:" + digest.hexdigest()
    block = memoryview(bytearray(min(BLOCK, max(size, 1))))
    filled = 0
    while got := stream.readinto(block[filled : filled + _PART]):
        digest.update(block[filled : filled + got])
        filled += got
        if filled == len(block):
            consume(block)
            tick(filled)
            filled = 0
    if filled:
        consume(block[:filled])
        tick(filled)
    return "sha256:" + digest.hexdigest()


def pass_on(
    stream: Readable, size: int, consume: Callable[[memoryview], object], tick: Callable[[int], object]
) -> None:
    """Consume a stream as :func:`pump` does, with one thread and no digest."""
    block = memoryview(bytearray(min(BLOCK, max(size, 1))))
    while got := stream.readinto(block):
        consume(block[:got])
        tick(got)


def _pump_beside(
    stream: Readable,
    update: Callable[[memoryview], object],
    consume: Callable[[memoryview], object],
    tick: Callable[[int], object],
) -> None:
    free: SimpleQueue[memoryview] = SimpleQueue()
    full: SimpleQueue[tuple[memoryview, int]] = SimpleQueue()
    for _ in range(_AHEAD):
        free.put(memoryview(bytearray(BLOCK)))

    def hash_blocks() -> None:
        while True:
            block, filled = full.get()
            if not filled:
                return
            update(block[:filled])
            free.put(block)

    hasher = Thread(target=hash_blocks, name="sha256")
    hasher.start()
    try:
        block = free.get()
        while got := stream.readinto(block):
            full.put((block, got))
            consume(block[:got])
            tick(got)
            block = free.get()
    finally:
        full.put((memoryview(b""), 0))
        hasher.join()
