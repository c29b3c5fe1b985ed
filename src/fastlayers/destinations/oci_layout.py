"""OCI layouts: a folder of blobs and an index. Blobs that are there are kept."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..base import Blob
from ..compression import Codec
from ..disk import flush
from ..errors import DestinationError
from ..image import Image, ImageName, blob_path, canonical_json, index_of
from ..layer import LayerDescriptor, LayerTask, MeasuredLayer, NewFile, Sink, make_layer
from .layout_blobs import LayoutReader, descriptors_in

__all__ = ["OciLayout"]

_REF_NAME = "org.opencontainers.image.ref.name"
_HEXADECIMAL = re.compile("[0-9a-f]{64}")
_LOCK = ".fastlayers-lock"  # where a folder itself cannot be locked
_MADE = ".fastlayers-made"  # what builds that have failed leave to the last one at work to remove, a name a line
_PARTS = ("", "oci-layout", "blobs", "blobs/sha256")  # of an empty layout, in the order in which they are made
_ALIVE = "alive"  # in the work folder, locked as long as its build runs; a file, which NFS locks too
_NO_LOCKS = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_WORK = re.compile("[.]fastlayers-[0-9a-f]{16}")  # the folder of a build at work


class OciLayout:
    """An OCI layout in a folder, new or there already: one of the same tag is replaced, all else stays.

    A blob that is there is taken for what its name says when its size is right; with ``verify``, when its digest is.
    With ``prune`` blobs that no image of the layout names are removed at the end, and what killed builds left.
    """

    waits = False
    sent = None
    read = 0
    notes = ()

    def __init__(self, path: str, name: ImageName, *, prune: bool = False, verify: bool = False) -> None:
        self._path = path
        self._name = name
        self._prune = prune
        self._verify = verify
        self._made: set[str] = set()  # of the parts those that were not there before
        self._work: str | None = None
        self._lock: int | None = None
        self._alive: int | None = None  # locked as long as the work folder is needed: a killed build's is not
        self._ready: list[tuple[str, LayerDescriptor]] = []  # layers in the work folder
        self._kept: dict[int, LayerDescriptor] = {}  # layers whose blobs were there
        self._placed: list[str] = []  # blobs that were not there before
        self._index: str | None = None  # the new index, in the work folder until it counts

    @property
    def previous(self) -> Sequence[Mapping[str, Any]]:
        try:
            entries = [entry for entry in self._read_index()["manifests"] if _tag_of(entry) == self._tag]
            documents = LayoutReader(self._path).documents(entries)
            return [layer for each in documents for layer in descriptors_in(each.get("layers"))]
        except (OSError, DestinationError):  # what begin says, if it matters
            return []

    def begin(
        self, base: Sequence[Blob], layers: Sequence[MeasuredLayer], codec: Codec, *, local: bool
    ) -> Sequence[Sink | None]:
        self._layers, self._codec = layers, codec
        with self._errors():
            while True:
                try:
                    work = self._start()
                    break
                except FileNotFoundError:
                    if os.path.isdir(self._path) or not os.path.isdir(os.path.dirname(os.path.abspath(self._path))):
                        raise  # else a build that had made the folder has ended, and removed it
            return [NewFile(os.path.join(work, str(i)), self._path) for i in range(len(layers))]

    def _start(self) -> str:
        """See that there is a layout, and make the folder to work in, which is given."""
        if not os.path.isdir(self._path):
            self._make_folder("")
        names = {*os.listdir(self._path)} - {_LOCK}  # looked at once: another build may be removing what it made
        if names and "oci-layout" not in names:
            raise DestinationError(f"{self._path}: a folder with other things in it, not an OCI layout")
        with self._locked():
            self._read_index()  # is there a wrong one, say so now
            if not os.path.exists(self._in("oci-layout")):  # first, so that it is never a folder of other things
                self._made.add("oci-layout")
                with open(self._in("oci-layout"), "xb") as file:
                    file.write(b'{"imageLayoutVersion":"1.0.0"}')
            for folder in ("blobs", "blobs/sha256"):
                if not os.path.isdir(self._in(folder)):
                    self._make_folder(folder)
            self._work = self._in(f".fastlayers-{secrets.token_hex(8)}")
            os.mkdir(self._work, 0o700)
            self._alive = os.open(os.path.join(self._work, _ALIVE), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            _flock(self._alive, fcntl.LOCK_NB)  # where it cannot be locked nobody takes it for a killed build's
        return self._work

    def has(self, layer: LayerDescriptor) -> bool:
        with self._errors():
            return self._has(layer.digest, layer.size)

    def add(self, index: int, layer: LayerDescriptor) -> None:
        assert self._work is not None
        path = os.path.join(self._work, str(index))
        if not os.path.exists(path):
            self._kept[index] = layer
            return
        with self._errors():
            self._flush(path)  # here, while workers make other layers
        self._ready.append((path, layer))

    def finish(self, image: Image) -> None:
        with self._errors(), self._locked():
            try:
                self._place(image)
                self._index = self._written("index.json", self._new_index(image.index_entry(self._name)))
                os.rename(self._index, self._in("index.json"))
                with contextlib.suppress(OSError):  # mostly since there is none
                    os.unlink(self._in(_MADE))
                if self._prune:
                    self._remove_unnamed()
                    self._remove_abandoned()
            except BaseException:
                # Once the index has left the work folder the blobs are named. Until then, and still locked, nobody
                # else has an image that counts on them.
                if self._index is None or os.path.exists(self._index):
                    for blob in self._placed:
                        with contextlib.suppress(OSError):
                            os.unlink(blob)
                raise
        self._made.clear()
        self._release()

    def abort(self) -> None:
        began = self._work is not None
        self._release()
        # Of a new layout that nobody has completed the last one removes all, whoever has made it.
        if self._made or (began and not os.path.exists(self._in("index.json"))):
            with contextlib.suppress(OSError), self._locked():
                self._unmake()
        self._made.clear()

    def _release(self) -> None:
        """Remove what nobody else needs."""
        self._ready.clear()
        self._placed.clear()
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None
        alive, self._alive = self._alive, None  # first: a signal may come between any two lines
        if alive is not None:
            os.close(alive)
        self._unlock()

    def _unmake(self) -> None:
        """Remove what was not there before, while it is as empty as it was made; where other builds count on it, the
        last of them does."""
        with contextlib.suppress(FileNotFoundError), open(self._in(_MADE), encoding="utf-8") as file:
            self._made.update(file.read().splitlines())
        if any(_WORK.fullmatch(name) for name in os.listdir(self._path)):
            with open(self._in(_MADE), "w", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in sorted(self._made))
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._in(_MADE))
        for name in reversed(_PARTS):
            if name not in self._made:
                continue
            with contextlib.suppress(OSError):
                if name == "oci-layout":
                    if not os.path.exists(self._in("index.json")):
                        os.unlink(self._in(name))
                else:
                    if name == "" and os.listdir(self._path) == [_LOCK]:
                        os.unlink(self._in(_LOCK))
                    os.rmdir(self._in(name))

    def _make_folder(self, name: str) -> None:
        self._made.add(name)  # before it is: a signal may come between any two lines
        try:
            os.mkdir(self._in(name))
        except OSError:
            self._made.discard(name)
            if not os.path.isdir(self._in(name)):  # else another build was faster
                raise

    def _place(self, image: Image) -> None:
        """Bring all blobs to their places."""
        for index, layer in self._kept.items():
            if not self._there(layer.digest, layer.size):  # another build has removed it meanwhile
                path = os.path.join(self._work or "", str(index))
                sink = NewFile(path, self._path)
                task = LayerTask(self._layers[index].recipe, self._codec, (sink,), known=layer, trust=False)
                self.read += make_layer(task).read
                self._flush(path)
                self._ready.append((path, layer))
        for path, layer in self._ready:
            self._place_blob(path, layer.digest, layer.size)
        for number, blob in enumerate(image.base):
            if not self._has(blob.digest, blob.size):
                path = os.path.join(self._work or "", f"base-{number}")
                with open(path, "xb") as file:
                    blob.copy(file.write)
                    file.flush()
                    os.fsync(file.fileno())
                self._place_blob(path, blob.digest, blob.size)
        for digest, data in ((image.config_digest, image.config), (image.manifest_digest, image.manifest)):
            if not self._has(digest, len(data)):
                self._place_blob(self._written("blob", data), digest, len(data))

    def _new_index(self, entry: dict[str, Any]) -> bytes:
        """The index with this image in it."""

        def replaced(other: dict[str, Any]) -> bool:
            if _tag_of(other) is None:
                return bool(other.get("digest") == entry["digest"])
            return _tag_of(other) == _tag_of(entry)

        index = self._read_index()
        index["manifests"] = [*(other for other in index["manifests"] if not replaced(other)), entry]
        return canonical_json(index)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one build at a time change the layout.

        NFS locks only what is open for writing, which no folder can be, but a file in it. Where neither can be locked
        there is no lock: builds into one layout have to come one after the other.
        """
        try:
            while True:
                self._lock = os.open(self._path, os.O_RDONLY)
                folder = os.fstat(self._lock)
                if not _flock(self._lock):
                    self._lock_file()
                if os.path.samestat(folder, os.stat(self._path)):
                    break
                self._unlock()  # meanwhile it was removed, and made again
            yield
        finally:
            self._unlock()

    def _lock_file(self) -> None:
        """Lock a file in the folder; not one that who had it before has removed."""
        while True:
            self._unlock()
            self._lock = os.open(self._in(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            with contextlib.suppress(OSError):  # who may write into the folder may lock it; it may be another's file
                os.fchmod(self._lock, os.stat(self._path).st_mode & 0o666)
            if not _flock(self._lock):
                return
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._lock), os.stat(self._in(_LOCK))):
                    return

    def _unlock(self) -> None:
        """Also what a signal has kept locked, which may come between any two lines."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                os.close(self._lock)
            self._lock = None

    def _in(self, name: str) -> str:
        return os.path.join(self._path, name) if name else self._path

    def _read_index(self) -> dict[str, Any]:
        if not os.path.exists(self._in("index.json")):
            return index_of([])
        with open(self._in("index.json"), "rb") as file:
            try:
                index = json.load(file)
                manifests = index["manifests"]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise DestinationError(f"{self._in('index.json')}: not an image index") from None
        if not isinstance(manifests, list) or not all(
            isinstance(entry, dict) and isinstance(entry.get("annotations") or {}, dict) for entry in manifests
        ):
            raise DestinationError(f"{self._in('index.json')}: not an image index")
        return dict(index)

    @property
    def _tag(self) -> str | None:
        return (self._name.tag or "latest") if self._name.tag or self._name.repository else None

    def _has(self, digest: str, size: int) -> bool:
        """Whether a blob is there, and whole as far as that is asked for."""
        if not self._there(digest, size):
            return False
        if not self._verify:
            return True
        with open(self._in(blob_path(digest)), "rb", buffering=0) as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == digest

    def _there(self, digest: str, size: int) -> bool:
        try:
            return os.stat(self._in(blob_path(digest))).st_size == size
        except FileNotFoundError:
            return False

    def _remove_unnamed(self) -> None:
        """Remove blobs that no image names, be it in an index within the index."""
        named = LayoutReader(self._path).named()
        folder = self._in("blobs/sha256")
        for name in os.listdir(folder):
            if _HEXADECIMAL.fullmatch(name) and f"sha256:{name}" not in named:
                os.unlink(os.path.join(folder, name))

    def _remove_abandoned(self) -> None:
        """Remove work folders of builds that were killed, as far as we may."""
        for name in os.listdir(self._path):
            if not _WORK.fullmatch(name):
                continue
            with contextlib.suppress(OSError):
                fd = os.open(os.path.join(self._in(name), _ALIVE), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # where a build holds it: BlockingIOError
                    shutil.rmtree(self._in(name))
                finally:
                    os.close(fd)

    def _flush(self, path: str) -> None:
        """Wait until a layer in the work folder is safely on disk."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            flush(fd)
        finally:
            os.close(fd)

    def _place_blob(self, path: str, digest: str, size: int) -> None:
        if not self._there(digest, size):
            self._placed.append(self._in(blob_path(digest)))
        os.rename(path, self._in(blob_path(digest)))  # over one of the same name, which nobody has looked into

    def _written(self, name: str, data: bytes) -> str:
        """A file in the work folder, safely on disk."""
        path = os.path.join(self._work or "", name)
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return path

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is hidden and will be gone is not named, but where it is.
            hidden = self._work is not None and str(error.filename).startswith(self._work)
            place = self._path if hidden or not error.filename else error.filename
            raise DestinationError(f"{place}: {error.strerror or error}") from None


def _flock(fd: int, flags: int = 0) -> bool:
    """Lock what nobody else may have; False where its file system does not do that.

    Raises:
        BlockingIOError: with LOCK_NB, somebody has it.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | flags)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _tag_of(entry: Mapping[str, Any]) -> object:
    return (entry.get("annotations") or {}).get(_REF_NAME)
