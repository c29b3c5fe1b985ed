"""What earlier closures tell: for every path, in which of the past updates it changed.

An update is a step from one closure to the next that is another set of paths; a closure that equals the one before it
is none. A path changed in an update when it is in the new closure and was not in the old one. Its past is that of the
path whose place it took: store paths are unlike in every version, so a new path is matched with one that is gone, by
its name without the hash part, and where no such path is gone, by that name without its version. A name that more than
one new path or more than one gone path has (two versions of one library) stands for all of them: what is new takes
the union of what is gone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["ChangeHistory", "learn", "package_name", "package_version"]

_VERSION = re.compile("-[0-9][^-]*")
_HASH_LENGTH = 32


@dataclass(frozen=True, slots=True)
class ChangeHistory:
    """The past of the paths of one closure, the newest.

    Attributes:
        changed: for every path of the newest closure a set of bits: bit k says that it changed in update k, 0 being the
            oldest. A path that came in update k, and that took no other's place, has bit k.
        updates: how many updates there were: the bits are below ``1 << updates``.
    """

    changed: Mapping[str, int] = field(default_factory=dict)
    updates: int = 0

    def followed_by(self, paths: Collection[str]) -> ChangeHistory:
        """The history with one closure more, given by its paths; the same history where they are the newest ones."""
        if not self.changed:
            return ChangeHistory(dict.fromkeys(paths, 0), self.updates)
        if len(paths) == len(self.changed) and all(path in self.changed for path in paths):
            return self
        here = set(paths)
        changed = {path: bits for path, bits in self.changed.items() if path in here}
        gone = [path for path in self.changed if path not in here]
        new = [path for path in paths if path not in changed]
        now = 1 << self.updates
        changed.update((path, now | bits) for path, bits in self._inherited(gone, new).items())
        return ChangeHistory(changed, self.updates + 1)

    def bits(self, paths: Sequence[str]) -> list[int]:
        """The past of each path, in their order, when these are the paths of a closure that follows."""
        changed = self.followed_by(paths).changed
        return [changed[path] for path in paths]

    def _inherited(self, gone: Sequence[str], new: Sequence[str]) -> dict[str, int]:
        """What each new path takes from those that are gone."""
        full: dict[str, int] = {}
        short: dict[str, int] = {}
        taken = {_without_hash(path) for path in new}
        for path in gone:
            name = _without_hash(path)
            full[name] = full.get(name, 0) | self.changed[path]
            if name not in taken:
                key = package_name(path)
                short[key] = short.get(key, 0) | self.changed[path]
        found = {}
        for path in new:
            bits = full.get(_without_hash(path))
            found[path] = short.get(package_name(path), 0) if bits is None else bits
        return found


def learn(closures: Iterable[Collection[str]]) -> ChangeHistory:
    """Learn from closures, each given by its paths, oldest first; only one at a time is held."""
    history = ChangeHistory()
    for paths in closures:
        history = history.followed_by(paths)
    return history


def package_name(path: str) -> str:
    """A path's name without hash part and version, such as ``openssl-dev`` of ``...-openssl-3.0.2-dev``.

    A version is what follows a hyphen and begins with a digit, up to the next hyphen. A name that would be empty
    without it keeps it.
    """
    name = _without_hash(path)
    return _VERSION.sub("", name) or name


def package_version(path: str) -> str:
    """A path's version alone, such as ``3.0.2`` of ``...-openssl-3.0.2-dev``; the name where it has none."""
    name = _without_hash(path)
    return "".join(_VERSION.findall(name))[1:] or name


def _without_hash(path: str) -> str:
    """A store path's name; of another node, its whole name."""
    base = path.rpartition("/")[2]
    return base[_HASH_LENGTH + 1 :] if base[_HASH_LENGTH : _HASH_LENGTH + 1] == "-" else path
