"""Layers that go into a registry while they are made, with nothing on disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from ..layer import Delivery, LayerDescriptor
from ..waiting import attended
from .connection import Answer, Session, connect
from .repository import Repository
from .transport import Trouble
from .upload import Holdings, Stream, abandon, upload_blob

__all__ = ["RegistrySink"]

_HELD = 4 << 20  # bytes; a layer that is not larger has a digest before anything is sent
_NO_PATCH = (400, 405, 411, 415, 501)  # answers of registries that take whole blobs alone

T = TypeVar("T")
Again = Callable[[Callable[[memoryview], object]], None]


@dataclass(frozen=True, slots=True)
class RegistrySink:
    """A sink: a repository of a registry. Who opens it needs nothing but the network.

    Attributes:
        session: how it is reached.
        holdings: what it has.
        size: of the stored bytes, where it is known before they are made.
        digest_first: make the layer once for its digest before anything is sent: it may well be there.
    """

    session: Session
    holdings: Holdings
    size: int | None = None
    digest_first: bool = False

    def open(self, known: LayerDescriptor | None, check: Callable[[], object]) -> _RegistryOutput | Delivery:
        """Begin an upload, where the digest is known; later, where it shows only when the layer is made."""
        output = _RegistryOutput(self, check)
        there = None if known is None else output.begin(known.digest, known.size)
        return there or output


class _Unwanted(Exception):
    """The registry has its answer already; no more of the layer need be made."""


class _RegistryOutput:
    """A layer's way into a registry.

    A small one is held until its digest is known. A large one is sent while it is made: to its digest where that is
    known (PUT), else to an upload that is named at the end (PATCH and PUT). When that fails, the layer is still made to
    its end; then its digest is known, and it is made again as often as the registry needs.
    """

    def __init__(self, sink: RegistrySink, check: Callable[[], object]) -> None:
        self._sink = sink
        self._check = check
        self._connection = connect(sink.session)
        self._repository = Repository(self._connection, push=True)
        self._held: list[bytes] | None = []
        self._held_size = 0
        self._location: str | None = None  # of an upload that is not complete
        self._stream: Stream | None = None
        self._named = False  # the stream goes to its digest

    def begin(self, digest: str, size: int) -> Delivery | None:
        """Start to send a layer with this digest; unless it is there, or could be mounted."""
        if digest in self._sink.holdings.present or self._attended(partial(self._repository.has_blob, digest)):
            return Delivery("skipped")
        source = self._sink.holdings.source(digest)
        self._location = self._attended(partial(self._repository.start_upload, digest, source))
        if self._location is None:
            return Delivery("mounted")
        self._held, self._named = None, True
        self._stream = Stream(partial(self._repository.put, self._location, digest, size), self._check)
        return None

    def write(self, data: memoryview) -> None:
        if self._held is None:
            if self._stream is not None:
                self._stream.write(data)
            return
        self._held.append(bytes(data))
        self._held_size += data.nbytes
        if self._held_size > _HELD:
            held, self._held = self._held, None
            if not self._sink.digest_first and not self._connection.no_patch:
                self._location = self._attended(self._repository.start_upload)
                assert self._location is not None
                patch = partial(self._repository.patch, self._location, self._sink.size)
                self._stream = Stream(patch, self._check)
                for block in held:
                    self._stream.write(memoryview(block))

    def finish(self, digest: str, size: int, again: Again) -> Delivery:
        if self._stream is not None:
            if self._complete(self._stream, digest):
                self._location = None
                return Delivery("uploaded", size)
            self._give_up()
        if (held := self._held) is not None:

            def send(location: str) -> Answer:
                return self._attended(lambda: self._repository.put(location, digest, size, held))

        else:

            def send(location: str) -> Answer:
                stream = Stream(partial(self._repository.put, location, digest, size), self._check)

                def write(block: memoryview) -> None:
                    if not stream.write(block):
                        raise _Unwanted

                try:
                    with contextlib.suppress(_Unwanted):
                        again(write)
                    return stream.answer()
                finally:
                    stream.give_up()

        return upload_blob(self._repository, self._sink.holdings, digest, size, send, check=self._check)

    def close(self) -> None:
        self._give_up()

    def _complete(self, stream: Stream, digest: str) -> bool:
        """End what was sent while the layer was made; whether the registry has it."""
        try:
            answer = stream.answer()
            if not self._named:
                if not 200 <= answer.status < 300:
                    self._connection.no_patch |= answer.status in _NO_PATCH
                    return False
                location = self._location = answer.location or self._location or ""
                answer = self._attended(lambda: self._repository.close_upload(location, digest))
        except Trouble:
            return False
        if answer.status not in (200, 201, 204):
            return False
        self._repository.check_blob(digest, answer)
        return True

    def _give_up(self) -> None:
        if self._stream is not None:
            self._stream.give_up()
            self._stream = None
        if self._location is not None:
            abandon(self._repository, self._location)
            self._location = None

    def _attended(self, call: Callable[[], T]) -> T:
        return attended(call, self._check)
