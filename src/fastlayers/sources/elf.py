"""Which shared libraries ELF files need, and where the loader finds them."""

from __future__ import annotations

import errno
import os
import re
import subprocess
from dataclasses import dataclass

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from ..errors import ClosureError

__all__ = ["Elf", "Loader", "read_elf"]

_MAGIC = b"\x7fELF"
# "libz.so.1 (libc6,x86-64) => /lib/...": a library for certain processors has a further word, and another machine
# may not be one of them.
_CACHED = re.compile(r"\s*(\S+) \((?![^)]*hwcap)[^)]*\) => (/.+)")


@dataclass(frozen=True, slots=True)
class Elf:
    """What the loader looks at in an ELF file.

    Attributes:
        kind: the machine and the class; the loader takes libraries of the same kind only.
        needed: the names of the libraries.
        rpath: where it and what it loads look before LD_LIBRARY_PATH (nowhere, if it has a runpath).
        runpath: where it looks after LD_LIBRARY_PATH.
        interpreter: the loader, of an executable.
    """

    kind: bytes
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    interpreter: str | None


def _kind(head: bytes) -> bytes:
    return head[4:6] + head[18:20]


def read_elf(path: str) -> Elf | None:
    """Read an ELF file's dynamic section; None when it is another kind of file, or broken: no loader loads that.

    Raises:
        ClosureError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(20)
            if head[:4] != _MAGIC:
                return None
            origin = os.path.dirname(os.path.realpath(path))
            found: dict[str, list[str]] = {"DT_NEEDED": [], "DT_RPATH": [], "DT_RUNPATH": []}
            interpreter: str | None = None
            for segment in ELFFile(file).iter_segments():
                if isinstance(segment, InterpSegment):
                    interpreter = segment.get_interp_name()
                elif isinstance(segment, DynamicSegment):
                    for tag in segment.iter_tags():
                        name = tag.entry.d_tag
                        if name in found:
                            found[name].append(getattr(tag, name[3:].lower()))
    except OSError as error:
        if error.errno == errno.EINVAL:  # an offset that no file has
            return None
        raise ClosureError(f"{path}: {error.strerror}") from None
    except (ELFError, ValueError):
        return None
    runpath = _directories(":".join(found["DT_RUNPATH"]), origin)
    rpath = () if runpath else _directories(":".join(found["DT_RPATH"]), origin)
    return Elf(_kind(head), tuple(found["DT_NEEDED"]), rpath, runpath, interpreter)


def _directories(text: str, origin: str) -> tuple[str, ...]:
    """The absolute directories of a search path; relative ones depend on where a process is started."""
    expanded = text.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)
    return tuple(part for part in expanded.split(":") if part.startswith("/"))


class Loader:
    """Finds libraries as the dynamic loader of this machine does."""

    def __init__(self, multiarch: str, *, musl: bool = False) -> None:
        """``multiarch`` is the directory's name that Debian has for an architecture, or empty."""
        if musl:
            self.defaults: tuple[str, ...] = ("/lib", "/usr/local/lib", "/usr/lib")
        else:
            debian = (f"/lib/{multiarch}", f"/usr/lib/{multiarch}") if multiarch else ()
            self.defaults = (*debian, "/lib64", "/usr/lib64", "/lib", "/usr/lib")
        self.library_path = _directories(os.environ.get("LD_LIBRARY_PATH", ""), "")
        self.cached = {} if musl else _read_cache()
        self._found: dict[tuple[object, ...], tuple[str, bool] | None] = {}

    def find(self, name: str, elf: Elf, inherited: tuple[str, ...] = ()) -> tuple[str, bool] | None:
        """Where a library that ``elf`` needs is, and whether only this machine's settings tell so.

        ``inherited`` are the rpaths of what loaded ``elf``. The settings are LD_LIBRARY_PATH and the loader's cache,
        neither of which an image has. None when there is no such library.
        """
        key = (name, elf.kind, elf.rpath, elf.runpath, inherited)
        if key not in self._found:
            self._found[key] = self._find(name, elf, inherited)
        return self._found[key]

    def _find(self, name: str, elf: Elf, inherited: tuple[str, ...]) -> tuple[str, bool] | None:
        if "/" in name:
            return (name, False) if name.startswith("/") and _is_of_kind(name, elf.kind) else None
        rpath = () if elf.runpath else (*elf.rpath, *inherited)
        places = [(directory, False) for directory in rpath]
        places += [(directory, directory not in self.defaults) for directory in self.library_path]
        places += [(directory, False) for directory in elf.runpath]
        candidates = [(f"{directory}/{name}", settings) for directory, settings in places]
        # The cache comes before the default directories, so a library that is in both is where the cache says.
        real = {os.path.realpath(directory) for directory in self.defaults}
        for path in self.cached.get(name, ()):
            candidates.append((path, os.path.realpath(os.path.dirname(path)) not in real))
        candidates += [(f"{directory}/{name}", False) for directory in self.defaults]
        return next((found for found in candidates if _is_of_kind(found[0], elf.kind)), None)


def _is_of_kind(path: str, kind: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(20)
    except OSError:
        return False
    return head[:4] == _MAGIC and _kind(head) == kind


def _read_cache() -> dict[str, list[str]]:
    """The loader's cache: library names and where they are, in the order in which it takes them."""
    for command in ("/sbin/ldconfig", "ldconfig"):
        try:
            run = subprocess.run([command, "-p"], capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
        except OSError:
            continue
        cached: dict[str, list[str]] = {}
        for line in os.fsdecode(run.stdout).splitlines():
            match = _CACHED.fullmatch(line)
            if match:
                cached.setdefault(match[1], []).append(match[2])
        return cached
    return {}
