"""What may be released anew, as names tell it: events, and the nodes that each of them changes by itself.

What has one name before its version, and one version, is released together: most often these are outputs of one
source. Packages of other names that have a version in common may be, as those of KDE are, or not: many are at 1.0. So a
version that several of them have is an event besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..store_path import package_stem, package_version

__all__ = ["Releases", "releases_of"]


class Releases(NamedTuple):
    """Which event changes which node, a pair each.

    Attributes:
        events: int64, shape (p,), ascending, from 0 without gaps; by version, then by name.
        nodes: int64, shape (p,).
        count: how many events there are.
    """

    events: NDArray[np.int64]
    nodes: NDArray[np.int64]
    count: int


def releases_of(paths: Sequence[str]) -> Releases:
    """The events of some nodes; every node has one or two."""
    own = [(package_version(path), package_stem(path)) for path in paths]
    stems: dict[str, str | None] = {}
    for version, stem in own:
        stems[version] = stem if stems.get(version, stem) == stem else None
    pairs = [(key, i) for i, key in enumerate(own)]
    pairs += [((version, ""), i) for i, (version, _) in enumerate(own) if stems[version] is None]
    pairs.sort()
    number = {key: k for k, key in enumerate(dict.fromkeys(key for key, _ in pairs))}
    events = np.array([number[key] for key, _ in pairs], dtype=np.int64)
    return Releases(events, np.array([i for _, i in pairs], dtype=np.int64), len(number))
