"""Engines: an archive of what is missing goes in while layers are made; a name never names what is not whole.

An engine that does not take the archive without what was left out gets all of it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from dataclasses import replace
from functools import partial

from ..base import Blob
from ..compression import Codec
from ..engines import FULL, Engine, Held, Load, Refused, chain_id
from ..errors import DestinationError
from ..image import Image, ImageName
from ..layer import LayerDescriptor, MeasuredLayer, NewFile, Sink
from ..waiting import background
from .archive import ArchiveStream

__all__ = ["EngineImage"]

_FAREWELL = 0.5  # seconds that giving up may take; an engine does what it was asked for also after these
_COMING = 0.3  # seconds of these in which an engine may yet name an image that it has all of
_POLL = 0.05


class EngineImage:
    """An image in an engine, under a name."""

    waits = False
    previous = ()

    def __init__(self, engine: Engine, name: ImageName, place: str) -> None:
        self._engine, self._name, self._place = engine, name, place
        self._unchecked = replace(name, tag=f"fastlayers-{secrets.token_hex(8)}")
        self._load: Load | None = None
        self._stream: ArchiveStream | None = None
        self._sent_before = self._read_before = 0
        self._refusal: Refused | None = None
        self._spool: str | None = None
        self._spool_place = ""
        self.notes: tuple[str, ...] = ()

    @property
    def sent(self) -> int:
        """Bytes of archives that went to the engine so far."""
        return self._sent_before + (0 if self._stream is None else self._stream.tar.position)

    @property
    def read(self) -> int:
        return self._read_before + (0 if self._stream is None else self._stream.read)

    def begin(
        self, base: Sequence[Blob], layers: Sequence[MeasuredLayer], codec: Codec, *, local: bool
    ) -> Sequence[Sink | None]:
        self._base, self._layers, self._codec = base, layers, codec
        codecs = [blob.media_type_suffix for blob in base] + [codec.media_type_suffix] * len(layers)
        self._held = self._engine.held(codecs)
        if codec.name != "none":
            folder = tempfile.gettempdir()
            self._spool = os.path.join(folder, f".fastlayers-{secrets.token_hex(8)}")
            self._spool_place = f"{self._place}: {folder}"
            try:
                os.mkdir(self._spool, 0o700)  # after its name is known: a signal may come between any two lines
            except OSError as error:
                raise DestinationError(f"{self._spool_place}: {error.strerror}") from None
        try:
            self._open(self._held)
        except Refused as refusal:  # of what the base image leaves out
            self._keep(refusal)
        if self._spool is None:
            return [None] * len(layers)
        return [NewFile(os.path.join(self._spool, str(i)), self._spool_place) for i in range(len(layers))]

    def has(self, layer: LayerDescriptor) -> bool:
        return self._held.has(layer.digest, layer.diff_id)

    def add(self, index: int, layer: LayerDescriptor) -> None:
        if self._refusal is None:  # else all are sent again at the end
            try:
                self._add(index, layer)
            except Refused as refusal:
                self._keep(refusal)

    def finish(self, image: Image) -> None:
        try:
            if self._refusal is not None:
                raise self._refusal
            self._end(image)
        except Refused as refusal:
            self._keep(refusal)
            self._send_all(image)
            self.notes = (
                f"{self._place}: did not take the image without the "
                f"{'layer' if self._left_out == 1 else f'{self._left_out} layers'} that it seemed to have, "
                f"so that all were sent: {refusal}",
            )
        self._load = None
        self.abort()

    def abort(self) -> None:
        if self._load is not None:
            load, self._load = self._load, None
            goes_on = load.give_up()
            if self._engine.checks:
                wait([background(partial(self._drop, goes_on=goes_on))], timeout=_FAREWELL)
        if self._spool is not None:
            shutil.rmtree(self._spool, ignore_errors=True)
            self._spool = None

    def _drop(self, *, goes_on: bool) -> None:
        """Remove the name of what was not checked; an engine that goes on without us may be about to give it."""
        end = time.monotonic() + _COMING
        while not self._engine.drop(self._unchecked) and goes_on and time.monotonic() < end:
            time.sleep(_POLL)

    def _open(self, held: Held) -> None:
        """Begin an archive without what the engine has, and with the base image's layers."""
        self._chain, self._leave, self._left_out = "", held, 0
        self._load = self._engine.load()
        with self._sending():
            self._stream = ArchiveStream(
                self._load.fd, self._layers, self._codec, self._spool, self._leaves_out, self._spool_place
            )
            self._stream.add_base(self._base)

    def _add(self, index: int, layer: LayerDescriptor) -> None:
        assert self._stream is not None
        with self._sending():
            self._stream.add(index, layer)

    def _end(self, image: Image) -> None:
        """Write the end of the archive; then the engine has the image, or refuses it."""
        assert self._stream is not None and self._load is not None
        name = self._unchecked if self._engine.checks else self._name
        with self._sending():
            self._stream.end(image, name)
        self._load.answer()
        if self._engine.checks:
            self._engine.accept(self._unchecked, self._name)

    def _keep(self, refusal: Refused) -> None:
        """Remember why the archive was not taken; raise it where sending more would not help."""
        if not self._left_out or FULL in str(refusal):
            raise refusal
        self._refusal = refusal

    def _send_all(self, image: Image) -> None:
        assert self._stream is not None and self._load is not None
        left_out = self._left_out
        self._load.give_up()
        if self._engine.checks:
            self._engine.drop(self._unchecked)
        self._load = None  # not before, so that a signal until here drops the name
        self._sent_before, self._read_before, self._stream = self.sent, self.read, None
        self._open(Held())
        for index, layer in enumerate(image.layers):
            self._add(index, layer)
        self._end(image)
        self._left_out = left_out

    def _leaves_out(self, digest: str, diff_id: str) -> bool:
        """Whether the engine has a layer; asked of each, bottom first."""
        self._chain = chain_id(self._chain, diff_id)
        chains = self._leave.chains
        out = self._leave.has(digest, diff_id) if chains is None else self._chain in chains
        self._left_out += out
        return out

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """The engine may stop to read; then it says why."""
        try:
            yield
        except OSError as error:
            if error.filename is not None:  # not the engine, but a file in the spool
                raise DestinationError(f"{self._spool_place}: {error.strerror}") from None
            assert self._load is not None
            self._load.answer()
            raise DestinationError(f"{self._place}: does not take the archive: {error.strerror or error}") from None
