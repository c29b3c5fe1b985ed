"""The digest cache: what recipes gave before, one small file each, in a folder that many builders share.

A file is written aside and renamed, so that no lock is needed, and a reader sees a whole one or none; what a file holds
ends with its own digest. A file that is damaged, or of another program, is as good as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .compression import Codec
from .digest import sha256
from .errors import DestinationError
from .layer import LayerDescriptor

__all__ = ["CacheEntry", "DigestCache", "default_folder"]

_VERSION = 1
_LARGEST = 1 << 16  # bytes of a file; ours have a few hundred
_UNUSED = 86400  # seconds after which a file that is used is marked as used
_LEFT_BEHIND = 3600  # seconds after which what is written aside will not be renamed any more
_FOLDER = re.compile("[0-9a-f]{2}")
_NAME = re.compile("[0-9a-f]{62}")
_ASIDE = re.compile(r"\.[0-9a-f]{62}\.[0-9a-f]{8}")
_DIGEST = re.compile("sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A file of the cache.

    Attributes:
        key: the recipe's.
        path: of the file.
        size: its bytes.
        used: when it was last written or used, seconds since 1970; a day more or less.
        whole: whether it is what was written.
    """

    key: str
    path: str
    size: int
    used: float
    whole: bool


@dataclass(frozen=True, slots=True)
class _Remembered:
    """What a file holds; stored bytes by codec profile: digest and size."""

    diff_id: str
    tar_size: int
    entries: int
    stored: dict[str, tuple[str, int]]


def default_folder() -> str | None:
    """``$XDG_CACHE_HOME/fastlayers``, or ``~/.cache/fastlayers`` where there is a home.

    In a Nix build HOME names a folder that must not appear.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return os.path.join(given, "fastlayers")
    home = os.path.expanduser("~")
    return os.path.join(home, ".cache", "fastlayers") if os.path.isabs(home) and os.path.isdir(home) else None


class DigestCache:
    """Digests of layers by the keys of their recipes (64 hexadecimal digits).

    Reading and writing never fail: what cannot be read is not known, and what cannot be written is not remembered.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: str) -> DigestCache:
        """The cache in a folder, which is made where it is not there.

        Raises:
            DestinationError: it cannot be made, or not be written to.
        """
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError:
            raise DestinationError(f"{folder}: Not a directory") from None
        except OSError as error:
            raise DestinationError(f"{folder}: {error.strerror}") from None
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise DestinationError(f"{folder}: a cache must be readable and writable")
        return cls(folder)

    def get(self, key: str, codec: Codec) -> LayerDescriptor | None:
        """What a recipe gives with a codec, if that is known."""
        found = self._read(key)
        if found is None:
            return None
        digest, size = (
            (found.diff_id, found.tar_size) if codec.name == "none" else found.stored.get(codec.profile, (None, 0))
        )
        if digest is None:
            return None
        self._mark_used(key)
        return LayerDescriptor(
            found.diff_id, found.tar_size, digest, size, codec.profile, codec.media_type_suffix, found.entries
        )

    def put(self, key: str, made: LayerDescriptor) -> None:
        """Remember what a recipe gave, beside what it gave with other codecs."""
        before = self._read(key)
        stored = {} if made.codec == "none" else {made.codec: (made.digest, made.size)}
        now = _Remembered(made.diff_id, made.tar_size, made.entries, stored)
        if before is not None and replace(before, stored={}) == replace(now, stored={}):
            now = replace(now, stored={**before.stored, **stored})
        if now != before:
            self._write(key, now)

    def drop(self, key: str) -> None:
        """Forget what a recipe gave."""
        with contextlib.suppress(OSError):
            os.unlink(self._path(key))

    def entries(self) -> Iterator[CacheEntry]:
        """Every file that has the name of an entry, by key.

        Raises:
            DestinationError: the folder cannot be read.
        """
        for folder, name in self._names(_NAME):
            path = os.path.join(self.folder, folder, name)
            try:
                found = os.lstat(path)
            except OSError:  # another builder has removed it
                continue
            whole = self._read(folder + name) is not None
            yield CacheEntry(folder + name, path, found.st_size, found.st_mtime, whole)

    def prune(self, *, older_than: float | None = None, max_size: int | None = None) -> list[CacheEntry]:
        """Remove what is damaged, what was not used for ``older_than`` seconds, and then the least recently used until
        all take at most ``max_size`` bytes; and what builds that were killed left behind.

        Raises:
            DestinationError: the folder cannot be read, or a file not be removed.
        """
        now = time.time()
        entries = sorted(self.entries(), key=lambda entry: (-entry.used, entry.key))
        gone = []
        size = 0
        for entry in entries:
            old = older_than is not None and now - entry.used > older_than
            if not entry.whole or old or (max_size is not None and size + entry.size > max_size):
                gone.append(entry)
            else:
                size += entry.size
        self._remove([entry.path for entry in gone])
        self._remove([path for path, modified in self._aside() if now - modified > _LEFT_BEHIND])
        return gone

    def clear(self) -> list[CacheEntry]:
        """Remove every entry, and what is left behind; files of others stay.

        Raises:
            DestinationError: the folder cannot be read, or a file not be removed.
        """
        gone = list(self.entries())
        self._remove([entry.path for entry in gone])
        self._remove([path for path, _ in self._aside()])
        for folder in self._folders():
            with contextlib.suppress(OSError):  # of which not all is ours
                os.rmdir(os.path.join(self.folder, folder))
        return gone

    def _path(self, key: str) -> str:
        return os.path.join(self.folder, key[:2], key[2:])

    def _mark_used(self, key: str) -> None:
        with contextlib.suppress(OSError):  # not ours, or gone
            if time.time() - os.stat(self._path(key)).st_mtime > _UNUSED:
                os.utime(self._path(key))

    def _read(self, key: str) -> _Remembered | None:
        try:
            # Whatever it is, it is not waited for.
            fd = os.open(self._path(key), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                data = os.read(fd, _LARGEST)
            finally:
                os.close(fd)
        except OSError:
            return None
        return _parse(key, data)

    def _write(self, key: str, value: _Remembered) -> None:
        folder, name = os.path.split(self._path(key))
        aside = os.path.join(folder, f".{name}.{secrets.token_hex(4)}")
        try:
            os.makedirs(folder, exist_ok=True)
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                data = _format(key, value)
                written = os.write(fd, data)
            finally:
                os.close(fd)
            if written == len(data):
                os.rename(aside, self._path(key))
        except OSError:
            pass
        finally:  # also when a signal ends the build here
            with contextlib.suppress(OSError):  # mostly since it was renamed
                os.unlink(aside)

    def _folders(self) -> list[str]:
        try:
            return sorted(filter(_FOLDER.fullmatch, os.listdir(self.folder)))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DestinationError(f"{self.folder}: {error.strerror}") from None

    def _names(self, pattern: re.Pattern[str]) -> Iterator[tuple[str, str]]:
        for folder in self._folders():
            try:
                names = sorted(filter(pattern.fullmatch, os.listdir(os.path.join(self.folder, folder))))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise DestinationError(f"{os.path.join(self.folder, folder)}: {error.strerror}") from None
            yield from ((folder, name) for name in names)

    def _aside(self) -> Iterator[tuple[str, float]]:
        for folder, name in self._names(_ASIDE):
            path = os.path.join(self.folder, folder, name)
            with contextlib.suppress(OSError):
                yield path, os.lstat(path).st_mtime

    def _remove(self, paths: list[str]) -> None:
        for path in paths:
            try:
                os.unlink(path)
            except FileNotFoundError:  # another builder was faster
                pass
            except OSError as error:
                raise DestinationError(f"{path}: {error.strerror}") from None


def _format(key: str, value: _Remembered) -> bytes:
    document = {
        "version": _VERSION,
        "recipe": key,
        "diff_id": value.diff_id,
        "tar_size": value.tar_size,
        "entries": value.entries,
        "stored": {
            profile: {"digest": digest, "size": size} for profile, (digest, size) in sorted(value.stored.items())
        },
    }
    line = json.dumps(document).encode() + b"\n"
    return line + sha256(line).encode() + b"\n"


def _parse(key: str, data: bytes) -> _Remembered | None:
    """What a file holds; None unless it is all that :func:`_format` wrote for this key."""
    line, _, end = data.partition(b"\n")
    if end != sha256(line + b"\n").encode() + b"\n":
        return None
    try:
        document = json.loads(line)
        found = _Remembered(
            document["diff_id"],
            document["tar_size"],
            document["entries"],
            {profile: (each["digest"], each["size"]) for profile, each in document["stored"].items()},
        )
        digests = [found.diff_id, *(digest for digest, _ in found.stored.values())]
        numbers = [found.tar_size, found.entries, *(size for _, size in found.stored.values())]
        known = (document["version"], document["recipe"]) == (_VERSION, key)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    if (
        known
        and all(isinstance(digest, str) and _DIGEST.fullmatch(digest) for digest in digests)
        and all(type(number) is int and number >= 0 for number in numbers)
    ):
        return found
    return None
