"""Blobs on their way into a registry: ask whether it is there, mount it from elsewhere, or send it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import wait
from dataclasses import dataclass, field
from functools import partial

from ..layer import Delivery
from ..waiting import attend, attended, background
from .connection import Answer
from .repository import Repository
from .transport import Expired, Trouble

__all__ = ["Holdings", "Stream", "abandon", "upload_blob"]

_POLL = 0.1  # seconds between looks at whether the work shall end
_AHEAD = 2 << 20  # bytes that may be made before they are sent
_FAREWELL = 2.0  # seconds that giving up may take
_REDIRECTS = 3
_SECOND_CHANCES = 2  # where a registry has lost the upload, or got other bytes than were sent


@dataclass(frozen=True, slots=True)
class Holdings:
    """Where a registry has blobs, as far as it was told.

    Attributes:
        present: digests of blobs that the repository has.
        elsewhere: repositories that have other ones, by digest.
        mount_from: the repository that may have any other.
    """

    present: frozenset[str] = frozenset()
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    mount_from: str | None = None

    def has(self, digest: str) -> bool:
        """Whether the registry has said that it has a blob, in whichever repository."""
        return digest in self.present or digest in self.elsewhere

    def source(self, digest: str) -> str | None:
        """The repository that a blob may be mounted from."""
        return self.elsewhere.get(digest, self.mount_from)


def abandon(repository: Repository, location: str) -> None:
    """Tell the registry that an upload will not be completed, if it listens."""
    wait([background(partial(repository.cancel, location))], timeout=_FAREWELL)


class Stream:
    """A request whose body is made in this thread and sent by another."""

    def __init__(self, send: Callable[[Iterable[bytes]], Answer], check: Callable[[], object]) -> None:
        self._check = check
        self._changed = threading.Condition()
        self._blocks: deque[bytes] = deque()
        self._size = 0  # bytes in the blocks
        self._ended = self._given_up = False  # by this thread
        self._complete = self._gone = False  # the other: has sent all; sends no more
        self._answer = background(partial(self._send, send))

    def write(self, data: memoryview) -> bool:
        """Add to the body, as soon as there is room; False when it is not wanted any more."""
        with self._changed:
            while self._size >= _AHEAD and not self._gone:
                if not self._changed.wait(_POLL):
                    self._check()
            if not self._gone:
                self._blocks.append(bytes(data))
                self._size += data.nbytes
                self._changed.notify_all()
            return not self._gone

    def answer(self) -> Answer:
        """End the body, and wait for the answer.

        Raises:
            Trouble: the connection broke, or the registry had its answer before it had everything.
            RegistryError: another failure below HTTP.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        answer = attend(self._answer, self._check)
        if not self._complete and 200 <= answer.status < 300:
            raise Trouble("the registry did not take the whole body")
        return answer

    def give_up(self) -> None:
        """Break the request off, so that it never looks complete."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
        wait([self._answer], timeout=_FAREWELL)

    def _send(self, send: Callable[[Iterable[bytes]], Answer]) -> Answer:
        try:
            return send(self._body())
        finally:
            with self._changed:
                self._gone = True
                self._blocks.clear()
                self._changed.notify_all()

    def _body(self) -> Iterator[bytes]:
        while True:
            with self._changed:
                while not (self._blocks or self._ended or self._given_up):
                    self._changed.wait()
                if self._given_up:
                    raise _GivenUp
                if not self._blocks:
                    self._complete = True
                    return
                block = self._blocks.popleft()
                self._size -= len(block)
                self._changed.notify_all()
            yield block


class _GivenUp(Exception):
    """Breaks a request off."""


def upload_blob(
    repository: Repository,
    holdings: Holdings,
    digest: str,
    size: int,
    send: Callable[[str], Answer],
    *,
    ask: bool = True,
    check: Callable[[], object] | None = None,
) -> Delivery:
    """Bring a blob to a repository that may have it, with as few requests as there can be.

    Args:
        repository: where to.
        holdings: what is known of it.
        digest, size: of the blob.
        send: sends all of it to a location, once.
        ask: ask for it first; False where it is hardly there and as small as the question.
        check: to be called while waiting; it raises when the work shall end. None where signals can do that.

    Returns:
        What became of it.

    Raises:
        RegistryError: it is not there at the end.
    """
    if digest in holdings.present:
        return Delivery("skipped")
    call: Callable[[Callable[[], object]], object] = (
        (lambda todo: todo()) if check is None else partial(attended, check=check)
    )
    patience = repository.connection.patience(partial(_sleep, check))
    chances = _SECOND_CHANCES
    while True:
        if ask and call(partial(repository.has_blob, digest)):
            return Delivery("skipped")
        ask = True  # from the second attempt on: the first may have come through
        location = call(partial(repository.start_upload, digest, holdings.source(digest)))
        if location is None:
            return Delivery("mounted")
        assert isinstance(location, str)
        try:
            answer = _follow(send, location)
        except Trouble as trouble:
            patience.after(trouble)
            continue
        except BaseException:
            abandon(repository, location)
            raise
        if answer.status in (400, 404, 416) and chances:
            chances -= 1
            continue
        repository.check_blob(digest, answer)
        return Delivery("uploaded", size)


def _follow(send: Callable[[str], Answer], location: str) -> Answer:
    """Send to a location, or to where it says that the bytes should go."""
    redirects = _REDIRECTS
    while True:
        try:
            answer = send(location)
        except Expired:
            answer = send(location)
        if not (answer.status in (307, 308) and answer.location and redirects):
            return answer
        redirects -= 1
        location = answer.location


def _sleep(check: Callable[[], object] | None, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if check is not None:
            check()
        time.sleep(min(left, _POLL) if check is not None else left)
