"""Files on their way to the disk, which writes while layers are made, so that nobody waits for it at the end."""

from __future__ import annotations

import os
from collections.abc import Callable

from ._archive import start_writing, wait_written
from .errors import DestinationError

__all__ = ["FileOutput", "flush"]

_PART = 8 << 20  # bytes that the disk is given at once; a signal waits for no more than these
# Bytes of one write. The kernel takes memory for a new file in blocks as large as what is written, and a virtual
# machine may have given large free blocks back to its host, which is then asked for each of them again.
_WRITE = 64 << 10


class FileOutput:
    """Writes to a file descriptor, from where it stands on.

    Attributes:
        place: what errors name: the file, or what it is a part of.
    """

    def __init__(self, place: str, fd: int) -> None:
        self.place = place
        self._fd = fd
        self._position = self._started = os.lseek(fd, 0, os.SEEK_CUR)

    def write(self, data: memoryview) -> None:
        """Write a block.

        Raises:
            DestinationError: it cannot be written.
        """
        try:
            while data:
                written = os.write(self._fd, data[:_WRITE])
                data = data[written:]
                self._position += written
            if self._position - self._started >= _PART:
                start_writing(self._fd, self._started, self._position - self._started)
                self._started = self._position
        except OSError as error:
            raise DestinationError(f"{self.place}: {error.strerror}") from None

    def finish(self, digest: str, size: int, again: Callable[[Callable[[memoryview], object]], None]) -> None:
        """Nothing is left to do: :func:`flush` is for who knows that the file is complete."""

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self._fd)


def flush(fd: int) -> None:
    """Wait until a file is safely on the disk: fsync, but for a signal, which need not wait until all is written."""
    for offset in range(0, os.fstat(fd).st_size, _PART):
        wait_written(fd, offset, _PART)
    os.fsync(fd)
