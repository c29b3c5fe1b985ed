"""Names of store paths, taken apart: hash part, name, package, version; and which path is a new version of which.

A store path is ``/nix/store/HASH-NAME``, in any store directory. Its hash part is 32 characters of Nix's base-32
alphabet (without e, o, u and t); then comes a hyphen, then the name. Any other node (of a virtual environment, say) has
its whole text for a name. Hash parts change with every update, so whoever looks for what stays the same goes by names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

__all__ = [
    "BASE32",
    "HASH_PART",
    "Succession",
    "package_name",
    "package_release",
    "package_version",
    "store_name",
    "successions",
]

BASE32 = "0123456789abcdfghijklmnpqrsvwxyz"
HASH_PART = f"[{BASE32}]{{32}}-"  # a regular expression, the hyphen included

_STORE_PATH = re.compile(f"(?:/(?:.*/)?)?{HASH_PART}([^/]+)", re.DOTALL)
_VERSION = re.compile("-[0-9][^-]*")


def store_name(path: str) -> str:
    """A store path without directory and hash part; any other name as it is.

    >>> store_name("/nix/store/7z8xw1hq3sj929nd42amzfprnamgmbkz-lib-2.0")
    'lib-2.0'
    """
    found = _STORE_PATH.fullmatch(path)
    return found[1] if found else path


def package_name(path: str) -> str:
    """The name without its version, which is what follows a hyphen and begins with a digit, up to the next hyphen.

    So outputs of one package keep their own names. A name that would be empty without its version keeps it. A
    distribution of Python's has its version behind ``==``.

    >>> package_name("/nix/store/7z8xw1hq3sj929nd42amzfprnamgmbkz-openssl-3.0.2-dev"), package_name("numpy==2.4.6")
    ('openssl-dev', 'numpy')
    """
    name = store_name(path)
    return _VERSION.sub("", name.partition("==")[0]) or name


def package_version(path: str) -> str:
    """The version alone, such as ``3.0.2`` of ``openssl-3.0.2-dev``; the name where it has none.

    Outputs of one source have one version. Distributions of Python's have nothing in common by theirs, so that theirs
    is the whole name.
    """
    return package_release(path)[0]


def package_release(path: str) -> tuple[str, str]:
    """The version, as :func:`package_version` gives it, and the name before it: all of the name where it has none.

    >>> package_release("/nix/store/7z8xw1hq3sj929nd42amzfprnamgmbkz-openssl-3.0.2-dev")
    ('3.0.2', 'openssl')
    """
    name = store_name(path)
    before, *_ = _VERSION.split(name, maxsplit=1)
    return "".join(_VERSION.findall(name))[1:] or name, before or name


class Succession(NamedTuple):
    """Paths that are gone, and those that have come in their place: of one name, or else of one package.

    Attributes:
        gone, new: at least one each, in no order.
    """

    gone: list[str]
    new: list[str]

    def pairs(self) -> list[tuple[str, str]]:
        """Each path with one that it stands for, (gone, new): in their order, and the last for all that are left."""
        gone, new = (sorted(paths, key=lambda path: (store_name(path), path)) for paths in self)
        return [(gone[min(i, len(gone) - 1)], new[min(i, len(new) - 1)]) for i in range(max(len(gone), len(new)))]


def successions(gone: Iterable[str], new: Iterable[str]) -> Iterator[Succession]:
    """Which of the paths that have come take the place of which that are gone; both are given once each.

    Store paths are unlike in every version. Those of one name are one path built anew; where no path that is gone has
    a name, or none that has come, those of one package are another version. Hash parts decide nothing: several paths of
    one name or package (two versions of one library) belong together.
    """
    for name_of in (store_name, package_name):
        before, after = _named(name_of, gone), _named(name_of, new)
        for name, paths in before.items():
            if name in after:
                yield Succession(paths, after[name])
        gone = [path for name, paths in before.items() if name not in after for path in paths]
        new = [path for name, paths in after.items() if name not in before for path in paths]


def _named(name_of: Callable[[str], str], paths: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in paths:
        found.setdefault(name_of(path), []).append(path)
    return found
