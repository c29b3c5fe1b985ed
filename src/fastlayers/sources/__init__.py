"""Where closures come from: one module for each kind of source."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import ClosureError

if TYPE_CHECKING:
    from ..closure import Closure

__all__ = ["in_store", "read_closure"]


def read_closure(
    source: str | os.PathLike[str],
    *,
    key: str | None = None,
    any_names: bool = False,
    interpreter: bool = True,
    store_root: str = "",
) -> Closure:
    """Read a closure from a source.

    Args:
        source: ``venv:DIR``, a virtual environment; ``nix:PATH``, what is in the Nix store of this machine, or what a
            symlink (``result``, a profile) leads to there. A directory in the store, or a symlink that leads to one,
            needs no ``nix:``. Anything else is a file that Nix made (``-``: standard input), whose format is
            recognised: see :mod:`fastlayers.sources.nix_json`.
        key: which list of nodes to take from an exportReferencesGraph document that has several.
        any_names: take any strings as the names of nodes; such a closure can be ordered, not built.
        interpreter: whether a virtual environment brings its interpreter and shared libraries along.
        store_root: the folder below which the Nix store and its database are, "" for none.

    Raises:
        ClosureError: the source cannot be read, or is no closure.
    """
    # Imported here, so that worker processes, which need the contents alone, load neither numpy nor parsers.
    source = os.fspath(source)
    if source.startswith("venv:"):
        from . import venv

        _no_key(source, key)
        return venv.read(source.removeprefix("venv:"), interpreter=interpreter)
    from . import nix_json, nix_store

    if in_store(source, store_root=store_root):
        _no_key(source, key)
        return nix_store.read([source.removeprefix("nix:")], store_root=store_root)
    try:
        return nix_json.read(source, key=key, any_names=any_names)
    except ClosureError as error:
        if source == "-" or nix_store.resolve(source, store_root=store_root) is None:
            raise
        raise ClosureError(f"{error} (nix:{source} is the closure of this store path)") from None


def in_store(source: str, *, store_root: str = "") -> bool:
    """Whether a source is in the Nix store of this machine, from which :func:`read_closure` reads it then."""
    from . import nix_store

    if source == "-" or source.startswith("venv:"):
        return False
    if source.startswith("nix:"):
        return True
    inside = nix_store.resolve(source, store_root=store_root)
    return inside is not None and os.path.isdir(store_root + inside)


def _no_key(source: str, key: str | None) -> None:
    if key is not None:
        raise ClosureError(f"{source}: no key {key}: this is not a document")
