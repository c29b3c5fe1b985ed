"""The outer tar: the archive that an image's layers, config and manifest are members of."""

from __future__ import annotations

import contextlib
import os
import stat
import tarfile
from collections.abc import Callable, Sequence

from .compression import Codec
from .digest import BLOCK
from .layer import LayerDescriptor, LayerTask, MeasuredLayer, NewFile, make_layer, rewrite_layer

__all__ = ["LayersInOrder", "OuterTar", "member_header", "padding"]

_RECORD = 10240  # an archive's size is a multiple of it
_PIPE = 1 << 20  # bytes in a pipe; more is for root alone


def member_header(name: str, size: int, mtime: int) -> bytes:
    """The header of a member, with all else as :class:`tarfile.TarInfo` has it: mode 0644, owner 0, no names."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, mtime
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> int:
    """How many zeros follow a member of this size."""
    return -size % tarfile.BLOCKSIZE


class OuterTar:
    """Writes members one after the other to a file descriptor, which may be a pipe.

    Attributes:
        fd: the file descriptor.
        position: how many bytes are before the next.
    """

    def __init__(self, fd: int, mtime: int) -> None:
        self.fd = fd
        self.position = 0
        self._mtime = mtime
        os.set_blocking(fd, True)
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            _widen(fd)

    def write(self, data: bytes | memoryview) -> None:
        """Write some bytes."""
        view = memoryview(data)
        self.position += view.nbytes
        while view:
            view = view[os.write(self.fd, view) :]

    def header(self, name: str, size: int) -> None:
        """Write the header of a member, whose bytes and padding follow."""
        self.write(member_header(name, size, self._mtime))

    def pad(self, size: int) -> None:
        """Write the zeros behind a member of this size."""
        self.write(bytes(padding(size)))

    def member(self, name: str, data: bytes) -> None:
        """Write a whole member."""
        self.header(name, len(data))
        self.write(data)
        self.pad(len(data))

    def end(self) -> None:
        """Write the end of the archive."""
        size = self.position + 2 * tarfile.BLOCKSIZE
        self.write(bytes(2 * tarfile.BLOCKSIZE + -size % _RECORD))


class LayersInOrder:
    """Writes layers to an outer tar in their order, each as soon as it and all before it are made.

    The files of plain layers are read once more; compressed layers lie in a folder until they are written.

    Attributes:
        read: bytes of files that were read for that.
    """

    def __init__(
        self,
        tar: OuterTar,
        layers: Sequence[MeasuredLayer],
        name: Callable[[int, LayerDescriptor], str | None],
        codec: Codec = Codec(),  # noqa: B008  frozen
        spool: str | None = None,
        spool_place: str = "",
    ) -> None:
        """``name`` is told the index of the next layer, and gives its member's name; None when it is not wanted.

        ``spool`` is the folder in which layer i is the file i; one that is not there is made with ``codec``.
        ``spool_place`` is what errors name instead of the folder.
        """
        self._tar = tar
        self._layers = layers
        self._name = name
        self._codec = codec
        self._spool = spool
        self._spool_place = spool_place
        self._ready: dict[int, LayerDescriptor] = {}
        self._next = 0
        self.read = 0

    def add(self, index: int, made: LayerDescriptor) -> None:
        """Take a layer that is made; they come in any order.

        Raises:
            LayerError: its files are not what they were when it was made.
            OSError: the output cannot be written.
        """
        self._ready[index] = made
        while self._next in self._ready:
            layer = self._ready.pop(self._next)
            name = self._name(self._next, layer)
            if name is not None:
                self._tar.header(name, layer.size)
                if self._spool is None:
                    self.read += rewrite_layer(self._layers[self._next], layer, self._tar.fd)
                    self._tar.position += layer.size
                else:
                    self._copy(layer)
                self._tar.pad(layer.size)
            if self._spool is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._spooled)
            self._next += 1

    @property
    def _spooled(self) -> str:
        return os.path.join(self._spool or "", str(self._next))

    def _copy(self, layer: LayerDescriptor) -> None:
        if not os.path.exists(self._spooled):  # remembered, and was thought not to be wanted
            recipe = self._layers[self._next].recipe
            sink = NewFile(self._spooled, self._spool_place)
            self.read += make_layer(LayerTask(recipe, self._codec, (sink,), known=layer, trust=False)).read
        with open(self._spooled, "rb", buffering=0) as stored:
            block = memoryview(bytearray(BLOCK))
            while got := stored.readinto(block):
                self._tar.write(block[:got])


def _widen(fd: int) -> None:
    """Let a pipe hold more, so that writer and reader wait for each other less often; as it is where it must not."""
    try:
        import fcntl
    except ImportError:
        return
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE)
