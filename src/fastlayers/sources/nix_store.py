"""Closures of what is in a Nix store of this machine, as the store itself has it registered.

References, NAR sizes and NAR hashes are read from the store's database (:mod:`fastlayers.sources.nix_database`). Where
that cannot be done, as with a schema of a future Nix or on a machine that shares nothing but the daemon's socket,
``nix-store`` is asked instead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..closure import Closure
from ..errors import ClosureError
from .nix_database import DatabaseError, NotValid, read_nar_hashes, read_registered
from .nix_json import store_dir

__all__ = ["nar_hashes", "read", "resolve", "state_dir"]

DEFAULT_STATE_DIR = "/nix/var/nix"

_LINKS = 40  # symlinks that are followed, as the kernel does
_AT_ONCE = 1000  # store paths on one command line


def state_dir() -> str:
    """Where Nix keeps its database and profiles: NIX_STATE_DIR, as Nix itself has it, or /nix/var/nix."""
    return os.environ.get("NIX_STATE_DIR") or DEFAULT_STATE_DIR


def read(names: Sequence[str], *, store_root: str = "") -> Closure:
    """Read the closure of what is in the store.

    Args:
        names: store paths, paths below them, or symlinks (``result``, profiles) that lead to one of these.
        store_root: the folder below which the store directory and the state directory are, "" for none.

    Raises:
        ClosureError: a name is not in the store, or not registered, or nobody tells what is registered.
    """
    paths = [_store_path(name, store_root) for name in names]
    try:
        found = read_registered(_database(store_root), paths)
    except NotValid as path:
        raise _not_valid(str(path), store_root) from None
    except DatabaseError as reason:
        return _Program(store_root, str(reason)).closure(paths)
    return Closure(found.paths, found.references, nar_sizes=found.nar_sizes, nar_hashes=found.nar_hashes)


def nar_hashes(paths: Sequence[str], *, store_root: str = "") -> list[str]:
    """The NAR hashes that store paths are registered with, ``sha256:`` and 64 hexadecimal digits.

    Raises:
        ClosureError: one is not registered, or nobody tells what is registered.
    """
    try:
        return read_nar_hashes(_database(store_root), paths)
    except NotValid as path:
        raise _not_valid(str(path), store_root) from None
    except DatabaseError as reason:
        return [node.nar_hash for node in _Program(store_root, str(reason)).registered(paths)]


def resolve(name: str, *, store_root: str = "") -> str | None:
    """The path below the store directory that a path is, or leads to by symlinks; None where it leads elsewhere.

    As Nix has it: what is a link within the store is not followed, for it is a store path as it is.
    """
    directory = store_dir()
    root = os.path.realpath(store_root) if store_root else ""
    # By its name, which links below a root have too, and by where it really is, which a link may have led through.
    places = (directory, store_root + directory, root + directory, os.path.realpath(store_root + directory))
    path = "/" + os.path.abspath(name).lstrip("/") if name else "/"
    for _ in range(_LINKS):
        for place in places:
            if path.startswith(f"{place}/"):
                return directory + path.removeprefix(place)
        link = _first_link(path)
        if link is None:
            return None
        target = os.readlink(link)
        if store_root and target.startswith("/") and link.startswith((f"{store_root}/", f"{root}/")):
            target = root + target
        path = os.path.normpath(os.path.join(os.path.dirname(link), target) + path.removeprefix(link))
    return None


def _database(store_root: str) -> str:
    return os.path.join(store_root + state_dir(), "db")


def _not_valid(path: str, store_root: str) -> ClosureError:
    return ClosureError(f"{path}: not a valid path of the store whose database is in {_database(store_root)}")


def _store_path(name: str, store_root: str) -> str:
    directory = store_dir()
    inside = resolve(name, store_root=store_root)
    if inside is None:
        if not os.path.lexists(name):
            raise ClosureError(f"{name}: No such file or directory" if name else "nix: expected nix:PATH")
        raise ClosureError(f"{name}: not in the store {store_root}{directory}, and no symlink into it")
    return f"{directory}/{inside.removeprefix(directory).split('/')[1]}"


def _first_link(path: str) -> str | None:
    parts = path.split("/")
    heads = ("/".join(parts[:end]) for end in range(2, len(parts) + 1))
    return next((head for head in heads if os.path.islink(head)), None)


@dataclass(frozen=True, slots=True)
class _Node:
    """What ``nix-store --dump-db`` prints of one path."""

    path: str
    nar_hash: str
    nar_size: int
    references: list[str]


@dataclass(frozen=True, slots=True)
class _Program:
    """``nix-store``, which reads any database that its Nix reads, or asks the daemon.

    Attributes:
        store_root: as above.
        reason: why it is asked; one line, for errors.
    """

    store_root: str
    reason: str

    def closure(self, paths: Sequence[str]) -> Closure:
        """The closure of store paths."""
        names = self._lines("--query", "--requisites", *paths)
        nodes = self.registered(sorted(set(names)))
        return Closure(
            [node.path for node in nodes],
            [node.references for node in nodes],
            nar_sizes=[node.nar_size or None for node in nodes],
            nar_hashes=[node.nar_hash for node in nodes],
        )

    def registered(self, paths: Sequence[str]) -> list[_Node]:
        """What is registered of these paths, in their order."""
        found: dict[str, _Node] = {}
        for at in range(0, len(paths), _AT_ONCE):
            lines = iter(self._lines("--dump-db", *paths[at : at + _AT_ONCE]))
            try:
                found |= {node.path: node for node in _nodes(lines)}
            except (ValueError, RuntimeError):  # a number that is none; an end within a node
                raise ClosureError(f"nix-store --dump-db: not what it is known to print ({self.reason})") from None
        try:
            return [found[path] for path in paths]
        except KeyError as path:
            raise ClosureError(f"{path.args[0]}: nix-store --dump-db tells nothing of it ({self.reason})") from None

    def _lines(self, *arguments: str) -> list[str]:
        import shutil
        import subprocess
        from urllib.parse import quote

        program = shutil.which("nix-store")
        if program is None:
            raise ClosureError(f"{self.reason}; and there is no nix-store to ask instead")
        store = []
        absent = not os.path.exists(os.path.join(_database(self.store_root), "db.sqlite"))
        if self.store_root:
            # A store of its own has no daemon, and Nix would make a database where there is none.
            if absent:
                raise ClosureError(self.reason)
            root, real, state = (quote(self.store_root + folder) for folder in ("", store_dir(), state_dir()))
            store = ["--store", f"local?root={root}&real={real}&state={state}"]
        elif absent and os.environ.get("NIX_REMOTE", "") in ("", "auto", "local"):
            store = ["--store", "daemon"]  # for the same reason
        done = subprocess.run(
            [program, *store, *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
        if done.returncode:
            said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"status {done.returncode}"]
            errors = [line for line in said if line.startswith("error: ")] or said
            raise ClosureError(f"nix-store: {errors[-1].removeprefix('error: ')} ({self.reason})")
        return done.stdout.splitlines()


def _nodes(lines: Iterator[str]) -> Iterator[_Node]:
    """Each node is its path, NAR hash, NAR size, deriver, number of references and the references, a line each."""
    for path in lines:
        digest, size, _, count = (next(lines) for _ in range(4))
        yield _Node(path, f"sha256:{digest}", int(size), [next(lines) for _ in range(int(count))])
