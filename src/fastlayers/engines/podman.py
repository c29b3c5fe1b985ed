"""podman: ``podman load`` takes an archive without any of the layers that are in its storage."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..clients import check_layer_count
from ..image import ImageName
from . import Held
from .program import ProgramLoad, ask, find_program

__all__ = ["Podman"]


class Podman:
    """The podman that is found on PATH, which knows by itself where its storage or its service is."""

    checks = False

    def __init__(self) -> None:
        self._program = find_program("podman")

    def held(self, codecs: Sequence[str]) -> Held:
        """The diff IDs of all images. It may have lost a layer of one, which shows when it refuses the archive."""
        check_layer_count("podman", len(codecs))
        images = sorted(set(ask(self._program, "images", "--quiet", "--no-trunc").split()))
        if not images:
            return Held()
        # One that is removed meanwhile makes it fail, after it has told of the others.
        told = ask(self._program, "image", "inspect", "--format", "{{json .RootFS.Layers}}", *images, whole=False)
        layers: set[str] = set()
        for line in told.splitlines():
            try:
                layers.update(map(str, json.loads(line) or ()))
            except (ValueError, TypeError):
                continue
        return Held(frozenset(layers))

    def load(self) -> ProgramLoad:
        """Begin ``podman load``, which ends with status 0 when it is terminated."""
        return ProgramLoad(self._program, "load", "--quiet", says="Loaded image")

    def accept(self, loaded: ImageName, name: ImageName) -> None:
        """Nothing: what podman names is whole."""

    def drop(self, loaded: ImageName) -> bool:
        """Nothing, for the same reason."""
        return False
