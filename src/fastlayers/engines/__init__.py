"""Engines that take archives: what they have, and how an archive gets to them; one module for each kind."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import DestinationError
from ..image import ImageName

__all__ = ["FULL", "Engine", "Held", "Load", "NoEngine", "Refused", "chain_id", "held_chains"]

FULL = "no space left on device"  # as engines say it


class NoEngine(DestinationError):
    """No engine is where this machine says: its program is not installed, or the environment names none."""


class Refused(DestinationError):
    """The engine has read the archive, or a part of it, and does not take it."""


@dataclass(frozen=True, slots=True)
class Held:
    """Layers that an engine has, which an archive may leave out.

    Attributes:
        diff_ids: of layers, where it tells these.
        digests: of stored layers, where it tells these.
        chains: the chain IDs of its stacks of layers, where only the bottom of an image may be left out; None where
            any layer may.
    """

    diff_ids: frozenset[str] = frozenset()
    digests: frozenset[str] = frozenset()
    chains: frozenset[str] | None = None

    def has(self, digest: str, diff_id: str) -> bool:
        """Whether a layer is there, in whatever stack."""
        return diff_id in self.diff_ids or digest in self.digests


class Load(Protocol):
    """An archive on its way into an engine.

    Attributes:
        fd: what the archive is written to.
    """

    fd: int

    def answer(self) -> None:
        """Say that the archive ends here, and wait for what the engine says.

        Raises:
            Refused: it does not take the archive.
            DestinationError: it cannot be asked any more.
        """

    def give_up(self) -> bool:
        """End the load, if it has not ended; an archive that has no end yet names nothing.

        Returns:
            Whether the engine has all of the archive, and may name the image after this all the same.
        """


class Engine(Protocol):
    """A program that runs containers, and keeps images for them.

    Attributes:
        checks: an image that it has loaded may have gaps and be named all the same, so that it is loaded under another
            name and checked. Known when it was asked what it has.
    """

    checks: bool

    def held(self, codecs: Sequence[str]) -> Held:
        """What the engine has.

        Args:
            codecs: how each layer of the image is compressed, bottom first: ``""``, ``"+gzip"`` or ``"+zstd"``.

        Raises:
            DestinationError: it cannot be asked, or can never take an image of such layers.
        """

    def load(self) -> Load:
        """Begin to load an archive."""

    def accept(self, loaded: ImageName, name: ImageName) -> None:
        """Check that an image is whole that was loaded, and give it its name; where the engine ``checks``.

        Raises:
            Refused: it is not.
        """

    def drop(self, loaded: ImageName) -> bool:
        """Forget a name; whether it was there. What fails is not told."""


def chain_id(below: str, diff_id: str) -> str:
    """The chain ID (OCI image specification) of a layer on top of a chain; ``below`` is empty for the lowest."""
    return "sha256:" + hashlib.sha256(f"{below} {diff_id}".encode()).hexdigest() if below else diff_id


def held_chains(images: Sequence[Sequence[str]]) -> Held:
    """What an engine has that keeps images with these diff IDs, as stacks."""
    chains = set()
    for diff_ids in images:
        chain = ""
        for diff_id in diff_ids:
            chain = chain_id(chain, diff_id)
            chains.add(chain)
    return Held(frozenset(diff_id for diff_ids in images for diff_id in diff_ids), chains=frozenset(chains))
