"""What earlier closures tell: for every path, in which of the past updates it changed.

An update is a step from one closure to the next that is another set of paths; a closure that equals the one before it
is none. A path changed in an update when it is in the new closure and was not in the old one. Its past is that of the
paths whose place it took (:func:`fastlayers.store_path.successions`); of several, it takes the union.

A package that is gone for a while has its past again when it comes back. A closure is a set: a path that it is given
twice counts once. One without any path tells nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..store_path import successions

__all__ = ["ChangeHistory", "learn"]


@dataclass(frozen=True, slots=True)
class ChangeHistory:
    """The past of the paths of one closure, the newest.

    Attributes:
        changed: for every path of the newest closure a set of bits: bit k says that it changed in update k, 0 being the
            oldest. A path that came in update k, and that took no other's place, has bit k.
        updates: how many updates there were: the bits are below ``1 << updates``.
        gone: the past of paths that are in no closure any more, and whose place none has taken.
    """

    changed: Mapping[str, int] = field(default_factory=dict)
    updates: int = 0
    gone: Mapping[str, int] = field(default_factory=dict)

    def followed_by(self, paths: Collection[str]) -> ChangeHistory:
        """The history with one closure more, given by its paths; the same history where they are the newest ones."""
        paths = dict.fromkeys(paths)
        if not paths or (len(paths) == len(self.changed) and all(path in self.changed for path in paths)):
            return self
        if not self.changed:
            return ChangeHistory(dict.fromkeys(paths, 0), self.updates)
        now = 1 << self.updates
        changed = {path: bits for path, bits in self.changed.items() if path in paths}
        gone = {path: bits for path, bits in self.changed.items() if path not in paths}
        lost = dict(self.gone)
        new = [path for path in paths if path not in changed]
        for places in (gone, lost):  # what was lost before gives its past only to what has no other
            changed.update((path, now | bits) for path, bits in _inherited(places, new).items())
            new = [path for path in new if path not in changed]
        changed.update(dict.fromkeys(new, now))
        return ChangeHistory(changed, self.updates + 1, lost | gone)

    def bits(self, paths: Sequence[str]) -> list[int]:
        """The past of each path, in their order, when these are the paths of a closure that follows."""
        changed = self.followed_by(paths).changed
        return [changed[path] for path in paths]


def _inherited(gone: dict[str, int], new: Sequence[str]) -> dict[str, int]:
    """The past of those that take the place of a path that is gone, which is forgotten."""
    found: dict[str, int] = {}
    for succession in successions(gone, new) if gone and new else ():
        bits = 0
        for path in succession.gone:
            bits |= gone.pop(path)
        found.update(dict.fromkeys(succession.new, bits))
    return found


def learn(closures: Iterable[Collection[str]]) -> ChangeHistory:
    """Learn from closures, each given by its paths, oldest first; only one at a time is held."""
    history = ChangeHistory()
    for paths in closures:
        history = history.followed_by(paths)
    return history
