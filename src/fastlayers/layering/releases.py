"""What is released together, as far as names tell it.

Paths of one version that have one name before it (``openssl-3.0.2`` and ``openssl-3.0.2-dev``) are most often outputs
of one source. Packages of unlike names that have a version in common may be released together, as KDE's are, or not:
very many are at 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..store_path import package_release

__all__ = ["Releases", "releases_of"]


class Releases(NamedTuple):
    """Which of n nodes have a version in common, and which a name before it too.

    Attributes:
        versions: int64, shape (n,). The number of each node's version, from 0 without gaps, in alphabetical order.
        packages: int64, shape (n,). The number of its version and name; ascending with the version.
    """

    versions: NDArray[np.int64]
    packages: NDArray[np.int64]


def releases_of(paths: Sequence[str]) -> Releases:
    """What names tell of some nodes; hash parts decide nothing."""
    released = list(map(package_release, paths))
    versions = [version for version, _ in released]
    packages = ["\0".join(release) for release in released]  # sorted sooner than pairs, and as they are
    of_version = {key: number for number, key in enumerate(sorted(set(versions)))}
    of_package = {key: number for number, key in enumerate(sorted(set(packages)))}
    return Releases(
        np.array([of_version[key] for key in versions], dtype=np.int64),
        np.array([of_package[key] for key in packages], dtype=np.int64),
    )
