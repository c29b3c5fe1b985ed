"""What earlier closures tell: for every path, in which of the past updates it changed.

An update is a step from one closure to the next that is another set of paths; a closure that equals the one before it
is none. A path changed in an update when it is in the new closure and was not in the old one. Its past is that of the
paths whose place it took (:func:`fastlayers.store_path.successions`); of several, it takes the union.

A closure is a set: a path that it is given twice counts once.
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
    """

    changed: Mapping[str, int] = field(default_factory=dict)
    updates: int = 0

    def followed_by(self, paths: Collection[str]) -> ChangeHistory:
        """The history with one closure more, given by its paths; the same history where they are the newest ones."""
        paths = dict.fromkeys(paths)
        if not self.changed:
            return ChangeHistory(dict.fromkeys(paths, 0), self.updates)
        if len(paths) == len(self.changed) and all(path in self.changed for path in paths):
            return self
        changed = {path: bits for path, bits in self.changed.items() if path in paths}
        gone = [path for path in self.changed if path not in paths]
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
        found = dict.fromkeys(new, 0)
        for succession in successions(gone, new):
            bits = 0
            for path in succession.gone:
                bits |= self.changed[path]
            found.update(dict.fromkeys(succession.new, bits))
        return found


def learn(closures: Iterable[Collection[str]]) -> ChangeHistory:
    """Learn from closures, each given by its paths, oldest first; only one at a time is held."""
    history = ChangeHistory()
    for paths in closures:
        history = history.followed_by(paths)
    return history
