"""Docker's engine, over its HTTP API: with graph drivers, and with containerd's store of images.

Graph drivers look a layer up by its chain ID before they read it, so the bottom of an image that is there may be left
out, and name an image last. containerd's store looks blobs up by digest, and names an image before it is unpacked: what
goes wrong then is only printed, so an image is loaded under another name and tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from functools import partial
from typing import Any
from urllib.parse import quote

import urllib3
from urllib3.exceptions import HTTPError

from ..clients import check_layer_count
from ..errors import DestinationError
from ..image import ImageName
from ..registry.transport import as_error
from ..waiting import background
from . import Held, Refused, held_chains
from .docker_host import DockerHost, open_pool

__all__ = ["DockerEngine"]

_QUICK = 60.0  # seconds until an answer to a question
_FAREWELL = 10.0  # seconds for what is done when all else has failed
_PARTING = 0.4  # seconds of these that a signal leaves
_COMING = 0.3  # seconds of those in which an engine may yet make a container
_POLL = 0.05
_LOAD = 600.0  # seconds that the engine may let us wait while it reads an archive; it may take any time to unpack it
_BLOCK = 1 << 20  # bytes that are read of the archive at once
_LARGEST = 64 << 20  # bytes of an answer
_ZSTD = 23  # the version from which on the engine reads zstd
_CONTAINERD = ["driver-type", "io.containerd.snapshotter.v1"]
_NOT_UNPACKED = "Error unpacking image"


class DockerEngine:
    """The engine that DOCKER_HOST names.

    Attributes:
        checks: it has containerd's store.
    """

    def __init__(self) -> None:
        self._host = DockerHost.from_environment()
        self._place = f"docker at {self._host}"
        self._pool = open_pool(self._host)
        self.checks = False

    def held(self, codecs: Sequence[str]) -> Held:
        """What is known of all images; whether their layers are there, graph drivers see to."""
        with self._understood():
            version, info = self._get("/version"), self._get("/info")
            self.checks = _CONTAINERD in (info.get("DriverStatus") or ())
            docker = [part["Version"] for part in version.get("Components") or () if part["Name"] == "Engine"]
            if docker:  # other engines speak the same API, and have other limits
                self._check(codecs, str(docker[0]))
            images = []
            for identity in sorted({image["Id"] for image in self._get("/images/json")}):
                image = self._get(f"/images/{quote(identity)}/json", missing={})
                images.append([str(diff_id) for diff_id in (image.get("RootFS") or {}).get("Layers") or ()])
        held = held_chains(images)
        return Held(held.diff_ids) if self.checks else held

    def load(self) -> _DockerLoad:
        """Begin to send an archive."""
        return _DockerLoad(self._place, self._pool)

    def accept(self, loaded: ImageName, name: ImageName) -> None:
        """Try whether the image makes a container, which needs all of it; then name it."""
        self._check_contents(loaded)
        container = loaded.tag  # of as random a name, so that it can be removed also when its making is interrupted
        tried = {"Image": loaded.full, "Entrypoint": [], "Cmd": ["/"]}
        try:
            self._change("POST", f"/containers/create?name={container}", tried)
        except BaseException:
            wait([background(partial(self._remove_what_comes, container))], timeout=_PARTING)
            raise
        status, data = self._remove(container)
        if status != 404 and not 200 <= status < 300:  # not Refused: the image was taken
            raise DestinationError(f"{self._place}: cannot remove the container {container}: {_message(status, data)}")
        target = f"repo={quote(name.repository or '', safe='')}&tag={quote(name.tag or 'latest')}"
        self._change("POST", f"/images/{quote(loaded.full or '')}/tag?{target}")
        self.drop(loaded)

    def _remove(self, container: str | None) -> tuple[int, bytes]:
        return self._ask("DELETE", f"/containers/{container}?force=1&v=1", timeout=_FAREWELL)

    def _remove_what_comes(self, container: str | None) -> None:
        """Remove a container also if the engine has yet to make it; why the build fails is told already."""
        end = time.monotonic() + _COMING
        while self._remove(container)[0] == 404 and time.monotonic() < end:
            time.sleep(_POLL)

    def drop(self, loaded: ImageName) -> bool:
        """Remove a name, and the image if it has no other."""
        try:
            status, _ = self._ask("DELETE", f"/images/{quote(loaded.full or '')}?force=1", timeout=_FAREWELL)
        except DestinationError:
            return False
        return status == 200

    def _check(self, codecs: Sequence[str], version: str) -> None:
        major = version.partition(".")[0]
        if "+zstd" in codecs and major.isdecimal() and int(major) < _ZSTD:
            raise DestinationError(f"{self._place}: version {version} reads no zstd, only {_ZSTD} and later: use gzip")
        check_layer_count("containerd" if self.checks else "docker", len(codecs))

    def _check_contents(self, loaded: ImageName) -> None:
        """See whether the engine itself says that a blob is missing; from version 28 on it can."""
        reference = quote(json.dumps({"reference": [loaded.full]}))
        with self._understood():
            for image in self._get(f"/images/json?manifests=1&filters={reference}"):
                for manifest in image.get("Manifests") or ():
                    if manifest.get("Available") is False:
                        raise Refused(f"{self._place}: not all of the image is there")

    def _get(self, path: str, missing: Any = None) -> Any:
        """The JSON at a path; or ``missing``, where that is given and there is nothing."""
        status, data = self._ask("GET", path)
        if status == 404 and missing is not None:
            return missing
        if status != 200:
            raise DestinationError(f"{self._place}: {_message(status, data)}")
        return json.loads(data)

    def _change(self, method: str, path: str, document: Any = None) -> bytes:
        """Ask for a change; the answer.

        Raises:
            Refused: the engine does not do it.
        """
        status, data = self._ask(method, path, document)
        if not 200 <= status < 300:
            raise Refused(f"{self._place}: {_message(status, data)}")
        return data

    def _ask(self, method: str, path: str, document: Any = None, timeout: float = _QUICK) -> tuple[int, bytes]:
        body = None if document is None else json.dumps(document).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = self._pool.urlopen(
                method, path, body, headers, retries=False, timeout=timeout, preload_content=False
            )
            data = response.read(_LARGEST + 1)
            response.release_conn()
        except HTTPError as error:
            raise DestinationError(str(as_error(self._place, error))) from None
        if len(data) > _LARGEST:
            raise DestinationError(f"{self._place}: an answer of more than {_LARGEST} bytes")
        return response.status, data

    @contextlib.contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
            reason = f"{type(error).__name__} {error}"
            raise DestinationError(f"{self._place}: does not answer as Docker's engine does: {reason}") from None


class _DockerLoad:
    """An archive on its way to the engine: a thread, which nobody has to wait for, sends what is written to a pipe."""

    def __init__(self, place: str, pool: urllib3.HTTPConnectionPool) -> None:
        self._place = place
        self._given_up = False
        read, self.fd = os.pipe()
        self._open = True
        self._answer = background(partial(self._send, pool, read))

    def answer(self) -> None:
        self._close()
        self._answer.result()

    def give_up(self) -> bool:
        if not self._open:
            return not self._answer.done()
        self._given_up = True
        self._close()
        return False

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.fd)

    def _blocks(self, read: int) -> Iterator[memoryview]:
        block = memoryview(bytearray(_BLOCK))
        while got := os.readv(read, [block]):
            yield block[:got]
        if self._given_up:
            raise DestinationError(f"{self._place}: given up")

    def _send(self, pool: urllib3.HTTPConnectionPool, read: int) -> None:
        try:
            response = pool.urlopen(
                "POST",
                "/images/load?quiet=0",
                self._blocks(read),  # type: ignore[arg-type]  # blocks of any kind
                {"Content-Type": "application/x-tar"},
                retries=False,
                chunked=True,
                timeout=urllib3.Timeout(connect=_LOAD, read=None),
                preload_content=False,
            )
            self._read_progress(response)
        except HTTPError as error:
            raise DestinationError(str(as_error(self._place, error))) from None
        finally:
            os.close(read)  # who writes need not go on

    def _read_progress(self, response: urllib3.BaseHTTPResponse) -> None:
        """Read what the engine tells, a line of JSON at a time, to its end."""
        rest, failure = b"", None
        for data in response.stream(1 << 16):
            if response.status != 200:
                rest = (rest + data)[:_LARGEST]
                continue
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                failure = _failure(line) or failure
        if response.status != 200:
            raise Refused(f"{self._place}: {_message(response.status, rest)}")
        failure = _failure(rest) or failure
        if failure is not None:
            raise Refused(f"{self._place}: {failure}")


def _failure(line: bytes) -> str | None:
    """What a line of progress says that went wrong."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    if told.get("error"):
        return _printable(str(told["error"]))
    text = str(told.get("stream") or "")
    return _printable(text) if _NOT_UNPACKED in text else None


def _message(status: int, data: bytes) -> str:
    """What an answer says of an error."""
    try:
        text = str(json.loads(data)["message"])
    except (ValueError, LookupError, TypeError):
        text = ""
    return _printable(text) or f"status {status}"


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text[:600]).split())
