"""What an environment needs in order to run by itself: its interpreter, shared libraries and the loader, as nodes."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Collection, Iterable, MutableMapping
from dataclasses import dataclass, field
from operator import attrgetter

from ..contents import FileList
from ..errors import ClosureError
from .elf import Elf, Loader, read_elf
from .filelists import CACHE, Files, StandardLibrary, resolve, walk
from .interpreter import Interpreter

__all__ = ["Node", "Runtime", "regular_size"]

# What glibc loads without an ELF file that says so: when a thread ends, and for the names of users and hosts.
_COMPANIONS = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2")
_OWNED = re.compile(r"(?!diversion by )([^,:]+)[^/]*: (/.*)")


@dataclass(slots=True)
class Node:
    """A node while its closure is put together; the size is that of its regular files."""

    contents: FileList
    size: int = 0
    references: set[str] = field(default_factory=set)


def regular_size(status: os.stat_result) -> int:
    """The size of a regular file, 0 for anything else."""
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


class Runtime:
    """The interpreter's node and the nodes of the libraries that ELF files turn out to need.

    Attributes:
        name: the interpreter's node.
        library_path: directories that the loader of an image finds only by LD_LIBRARY_PATH.
    """

    def __init__(self, python: Interpreter, prefix: str) -> None:
        """``prefix`` is the real path of the environment, whose own files need no node.

        Raises:
            ClosureError: the interpreter is not whole, or is not outside the environment.
        """
        self.library_path: set[str] = set()
        self._prefix = prefix
        self._python = python
        self._binary, self._links = resolve(python.base_executable)
        if self._binary.startswith(f"{prefix}/"):
            # Before 3.11 a binary that was copied into the environment takes itself for the original.
            self._binary, self._links = resolve(f"{python.home}/python{python.markers['python_version']}")
        self.name = f"python:{self._binary}"
        self._directories = _outermost({os.path.realpath(python.stdlib), os.path.realpath(python.platstdlib)})
        for directory in self._directories:
            if f"{directory}/".startswith(f"{prefix}/") or f"{prefix}/".startswith(f"{directory}/"):
                raise ClosureError(f"{prefix}: the standard library {directory} is not apart from the environment")
        self._needed: dict[str, set[str]] = {}  # by node: the real paths of libraries
        self._libraries: dict[str, set[str]] = {}  # by a library's real path: those that it needs
        self._seen: set[tuple[str, tuple[str, ...]]] = set()  # libraries that were looked into, with which rpaths
        self._ways: dict[str, set[str]] = {}  # by a library's real path: the symlinks that lead to it
        self._own: set[str] = set()  # libraries that are part of the interpreter
        self._size = 0
        self._targets: list[str] = []
        binary = read_elf(self._binary)
        loader = binary.interpreter if binary else None
        self._first = os.path.realpath(loader) if loader else ""
        musl = os.path.basename(loader or "").startswith("ld-musl")
        self._loader = Loader(python.multiarch, musl=musl)
        self._inherited = binary.rpath if binary else ()
        if binary is not None:
            missing = [name for name in binary.needed if self._loader.find(name, binary, self._inherited) is None]
            if missing:
                raise ClosureError(f"{self._binary}: its shared library {missing[0]} is not found")
            needed = self._need(binary, self._inherited)
            self._own = {path for path in needed if os.path.basename(path).startswith("libpython")}
            # The companions are looked for as the C library itself would.
            companions = Elf(binary.kind, () if musl else _COMPANIONS, binary.rpath, (), None)
            self._needed[self.name] = needed | self._need(companions, self._inherited)
        for directory in self._directories:
            for entry in sorted(walk(directory, omit=StandardLibrary.omits), key=attrgetter("path")):
                status = entry.stat(follow_symlinks=False)
                self._size += regular_size(status)
                self.look_into(self.name, entry.path, status)
                if stat.S_ISLNK(status.st_mode):
                    self._targets.append(entry.path)

    def look_into(self, node: str, path: str, status: os.stat_result) -> None:
        """Note what a node's file needs, should it be an ELF file.

        Raises:
            ClosureError: it cannot be read.
        """
        if not stat.S_ISREG(status.st_mode):
            return
        if status.st_mode & 0o111 or ".so" in path[path.rindex("/") :]:
            elf = read_elf(path)
            if elf is not None:
                self._needed.setdefault(node, set()).update(self._need(elf, self._inherited))

    def add_to(self, nodes: MutableMapping[str, Node]) -> dict[str, str]:
        """Add the nodes, and the references of those that are there; the answer is which node has which path."""
        owners = self._owners()
        claimed: dict[str, str] = {}

        def claim(node: str, paths: Iterable[str]) -> None:
            for path in paths:
                if not self._is_walked(path):
                    claimed.setdefault(path, node)

        # Symlinks that lead to several nodes, such as /lib, are the loader's: it is in every closure.
        for library in sorted(owners, key=lambda path: (path != self._first, path)):
            claim(owners[library], [library, *sorted(self._ways[library])])
        python = self._python
        claim(self.name, [self._binary, *self._links])
        for path in (python.home, python.base_prefix, python.stdlib, python.platstdlib):
            claim(self.name, resolve(path)[1])
        bin_directory = f"{self._prefix}/bin"
        for name in sorted(os.listdir(bin_directory)):
            target, links = resolve(f"{bin_directory}/{name}")
            if target == self._binary:
                claim(self.name, links)
        for path in self._targets:
            target, links = resolve(path)
            claim(self.name, [*links, target] if os.path.isfile(target) else links)

        files: dict[str, list[str]] = {name: [] for name in {self.name, *owners.values()}}
        for path in sorted(claimed):
            files[claimed[path]].append(path)
        for name in nodes:
            nodes[name].references.add(self.name)
        for name, paths in files.items():
            size = sum(regular_size(os.lstat(path)) for path in paths)
            nodes[name] = Node(Files(name, tuple(paths)), size)
        nodes[self.name].contents = StandardLibrary(self.name, self._directories, tuple(files[self.name]))
        nodes[self.name].size += self._size
        for name, needed in self._needed.items():
            nodes[name].references.update(owners[path] for path in needed)
        for library, needed in self._libraries.items():
            nodes[owners[library]].references.update(owners[path] for path in needed)
        for name in files:
            nodes[name].references.discard(name)
        return claimed

    def _need(self, elf: Elf, inherited: tuple[str, ...]) -> set[str]:
        """The real paths of the libraries that an ELF file needs, each looked into when it is new."""
        needed: set[str] = set()
        found = [self._loader.find(name, elf, inherited) for name in elf.needed]
        if elf.interpreter:
            found.append(self._loader.find(elf.interpreter, elf))
        for path, settings in filter(None, found):
            real, links = resolve(path)
            if settings:
                self.library_path.add(os.path.dirname(path))
            if real.startswith(f"{self._prefix}/"):
                continue
            needed.add(real)
            self._ways.setdefault(real, set()).update(links)
            self._libraries.setdefault(real, set())
            # What a library needs is looked for in the rpaths of those that need it too: once for each such list.
            rpaths = tuple(dict.fromkeys((*elf.rpath, *inherited)))
            if (real, rpaths) not in self._seen:
                self._seen.add((real, rpaths))
                library = read_elf(real)
                if library is not None:
                    self._libraries[real] |= self._need(library, rpaths)
        return needed

    def _owners(self) -> dict[str, str]:
        """The node of each library: the interpreter, a Debian package, or else its directory."""
        packages = _debian_packages(self._libraries)
        owners = {}
        for path in self._libraries:
            if path in self._own or self._is_walked(path):
                owners[path] = self.name
            elif path in packages:
                owners[path] = f"deb:{packages[path]}"
            else:
                owners[path] = f"lib:{os.path.dirname(path)}"
        return owners

    def _is_walked(self, path: str) -> bool:
        """Whether a node has this path because it has a whole directory."""
        if path.startswith(f"{self._prefix}/"):
            return True
        for directory in self._directories:
            if path.startswith(f"{directory}/"):
                parts = path[len(directory) + 1 :].split("/")
                return CACHE not in parts and not StandardLibrary.omits(parts[0])
        return False


def _outermost(directories: Collection[str]) -> tuple[str, ...]:
    """The directories that are within none of the others, sorted."""
    return tuple(sorted(one for one in directories if not any(one.startswith(f"{other}/") for other in directories)))


def _debian_packages(paths: Iterable[str]) -> dict[str, str]:
    """The packages that have these files, as dpkg knows them; none where there is no dpkg."""
    # Where /lib is a symlink to /usr/lib, packages may list their files below either.
    spellings = {}
    for path in paths:
        spellings[path] = path
        if path.startswith("/usr/"):
            spellings[path.removeprefix("/usr")] = path
    if not spellings:
        return {}
    try:
        run = subprocess.run(
            ["dpkg-query", "-S", *sorted(spellings)],
            capture_output=True,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError:
        return {}
    packages: dict[str, str] = {}
    for line in os.fsdecode(run.stdout).splitlines():
        match = _OWNED.fullmatch(line)
        if match and match[2] in spellings:
            packages.setdefault(spellings[match[2]], match[1])
    return packages
