"""Where closures come from: one module for each kind of source."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import ClosureError

if TYPE_CHECKING:
    from ..closure import Closure

__all__ = ["read_closure"]


def read_closure(
    source: str | os.PathLike[str], *, key: str | None = None, any_names: bool = False, interpreter: bool = True
) -> Closure:
    """Read a closure from a source.

    Args:
        source: ``venv:DIR``, a virtual environment; or a file that Nix made (``-``: standard input), whose format is
            recognised: see :mod:`fastlayers.sources.nix_json`.
        key: which list of nodes to take from an exportReferencesGraph document that has several.
        any_names: take any strings as the names of nodes; such a closure can be ordered, not built.
        interpreter: whether a virtual environment brings its interpreter and shared libraries along.

    Raises:
        ClosureError: the source cannot be read, or is no closure.
    """
    # Imported here, so that worker processes, which need the contents alone, load neither numpy nor parsers.
    source = os.fspath(source)
    if source.startswith("venv:"):
        from . import venv

        if key is not None:
            raise ClosureError(f"{source}: no key {key}: this is not a document")
        return venv.read(source.removeprefix("venv:"), interpreter=interpreter)
    from . import nix_json

    return nix_json.read(source, key=key, any_names=any_names)
