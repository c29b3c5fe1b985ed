"""Archives: one tar file that is an OCI layout and a docker archive at once.

Members, in this order: the base image's layers, the layers, config, manifest, index.json, oci-layout, manifest.json. A
file of plain layers is written at once by all workers, since sizes and so offsets are known before a byte is. What
cannot seek, and what is built on a base that may have a layer already, gets the layers one after the other, each after
its digest.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence

from ..base import Blob
from ..compression import Codec
from ..disk import flush
from ..errors import DestinationError
from ..image import Image, ImageName, blob_path
from ..layer import FileRange, LayerDescriptor, MeasuredLayer, NewFile, Sink
from ..outer import LayersInOrder, OuterTar, member_header, padding

__all__ = ["Archive", "ArchiveStream"]

_MTIME = 1  # of the archive's members
_ANY_DIGEST = "sha256:" + "0" * 64  # a header is as long for any digest


class ArchiveStream:
    """An archive on its way to a file descriptor, one member after the other.

    Attributes:
        tar: what it is written to.
    """

    def __init__(
        self,
        fd: int,
        layers: Sequence[MeasuredLayer],
        codec: Codec,
        spool: str | None = None,
        leave_out: Callable[[str, str], bool] = lambda digest, diff_id: False,
        spool_place: str = "",
    ) -> None:
        """``leave_out`` is asked once for each layer, bottom first, with its digest and diff ID.

        ``spool`` and ``spool_place`` are as for :class:`~fastlayers.outer.LayersInOrder`.
        """
        self.tar = OuterTar(fd, _MTIME)
        self._written: set[str] = set()
        self._leave_out = leave_out
        self._in_order = LayersInOrder(self.tar, layers, self._member_name, codec, spool, spool_place)

    @property
    def read(self) -> int:
        """Bytes of files that were read for layers."""
        return self._in_order.read

    def add_base(self, base: Sequence[Blob]) -> None:
        """Write the layers of a base image, before all others."""
        for blob in base:
            if self._wanted(blob.digest, blob.diff_id):
                self.tar.header(blob_path(blob.digest), blob.size)
                blob.copy(self.tar.write)
                self.tar.pad(blob.size)

    def add(self, index: int, layer: LayerDescriptor) -> None:
        """Take a layer that is made; they come in any order."""
        self._in_order.add(index, layer)

    def end(self, image: Image, name: ImageName) -> None:
        """Write what comes behind the layers."""
        self.tar.member(blob_path(image.config_digest), image.config)
        self.tar.member(blob_path(image.manifest_digest), image.manifest)
        self.tar.member("index.json", image.index(name))
        self.tar.member("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        self.tar.member("manifest.json", image.docker_manifest(name))
        self.tar.end()

    def _wanted(self, digest: str, diff_id: str) -> bool:
        """Whether a layer is to be written: once, since images may have one layer twice."""
        if self._leave_out(digest, diff_id) or digest in self._written:
            return False
        self._written.add(digest)
        return True

    def _member_name(self, index: int, layer: LayerDescriptor) -> str | None:
        return blob_path(layer.digest) if self._wanted(layer.digest, layer.diff_id) else None


class Archive:
    """A docker archive or OCI archive, in a file or on standard output (``-``)."""

    waits = False
    previous = ()
    sent = None
    notes = ()

    def __init__(self, path: str, name: ImageName) -> None:
        self._path = path
        self._name = name
        self._place = "standard output" if path == "-" else path
        self._fd: int | None = None
        self._partial: str | None = None
        self._spool: str | None = None
        self._spool_place = self._place
        self._stream: ArchiveStream | None = None

    @property
    def read(self) -> int:
        return 0 if self._stream is None else self._stream.read

    def begin(
        self, base: Sequence[Blob], layers: Sequence[MeasuredLayer], codec: Codec, *, local: bool
    ) -> Sequence[Sink | None]:
        self._offsets: list[int] | None = None  # where each layer's header goes, in a file of plain layers
        with self._errors():
            seekable = self._open()
            assert self._fd is not None
            if codec.name != "none" or (seekable and not local):
                if self._partial is None:
                    folder = tempfile.gettempdir()
                    self._spool_place = f"{self._place}: {folder}"
                else:
                    folder = os.path.dirname(self._partial)
                self._spool = os.path.join(folder, f".fastlayers-{secrets.token_hex(8)}")
                os.mkdir(self._spool, 0o700)  # after its name is known: a signal may come between any two lines
            self._stream = ArchiveStream(self._fd, layers, codec, self._spool, spool_place=self._spool_place)
            self._stream.add_base(base)
            if self._spool is not None:
                return [NewFile(os.path.join(self._spool, str(i)), self._spool_place) for i in range(len(layers))]
            # A layer may be one that the base has. That is known when it is made: too late for a place in the file.
            if not seekable or base:
                return [None] * len(layers)
            assert self._partial is not None
            self._offsets = []
            sinks = []
            tar = self._stream.tar
            for layer in layers:
                self._offsets.append(tar.position)
                start = tar.position + len(self._header(_ANY_DIGEST, layer.size))
                sinks.append(FileRange(self._partial, start, self._place))
                tar.position = start + layer.size + padding(layer.size)
            os.truncate(self._fd, tar.position)
            os.lseek(self._fd, tar.position, os.SEEK_SET)
            return sinks

    def has(self, layer: LayerDescriptor) -> bool:
        return False

    def add(self, index: int, layer: LayerDescriptor) -> None:
        with self._errors():
            if self._offsets is not None:
                assert self._fd is not None
                os.pwrite(self._fd, self._header(layer.digest, layer.size), self._offsets[index])
                return
            assert self._stream is not None
            self._stream.add(index, layer)

    def finish(self, image: Image) -> None:
        with self._errors():
            assert self._stream is not None and self._fd is not None
            self._stream.end(image, self._name)
            if self._partial is not None:
                flush(self._fd)
            fd, self._fd = self._fd, None
            os.close(fd)
            if self._partial is not None:
                os.rename(self._partial, self._path)
                self._partial = None
        self.abort()

    def abort(self) -> None:
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = None
        if self._partial is not None:
            with contextlib.suppress(OSError):  # not made; or why it cannot be removed is why the build failed
                os.unlink(self._partial)
            self._partial = None
        if self._spool is not None:
            shutil.rmtree(self._spool, ignore_errors=True)
            self._spool = None

    def _open(self) -> bool:
        """Open the output; whether it can seek."""
        if self._path == "-":
            if os.isatty(1):
                raise DestinationError("standard output: an archive is not written to a terminal: redirect it")
            self._fd = os.dup(1)
            return False
        try:
            mode = os.stat(self._path).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise DestinationError(f"{self._path}: is a directory")
        if not stat.S_ISREG(mode):  # a pipe or a device is written to, never replaced
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            return False
        self._path = os.path.realpath(self._path)
        folder, name = os.path.split(self._path)
        self._partial = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.partial")
        self._fd = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        return True

    @staticmethod
    def _header(digest: str, size: int) -> bytes:
        return member_header(blob_path(digest), size, _MTIME)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DestinationError(f"{self._place}: {error.strerror or error}") from None
