"""What a verification finds, while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ..base import Blob
from ..errors import ImageError
from .documents import Manifest

__all__ = ["ANY_CODEC", "NO_TAR", "Fault", "Findings", "FoundImage", "FoundLayer"]

T = TypeVar("T")

ANY_CODEC = "?"  # no media type tells a layer's codec
NO_TAR = "-"  # it is a blob of something that is no image


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is wrong.

    Attributes:
        place: the document, blob, layer or entry.
        what: what is wrong with it.
    """

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclass(frozen=True, slots=True)
class FoundLayer:
    """A layer of an image whose blob can be read.

    Attributes:
        place: for faults.
        number: in the image, from 1.
        key: of its blob in :class:`Findings`.
        size: bytes that are stored, as the manifest says.
        diff_id: what the config says; None where that cannot be told.
        codec: what its media type says, :data:`ANY_CODEC` or :data:`NO_TAR`.
    """

    place: str
    number: int
    key: str
    size: int
    diff_id: str | None
    codec: str


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image, or what else a manifest may be of: an attestation, a signature, a chart.

    Attributes:
        place: its config, for faults.
        is_image: whether it is one.
        count: how many layers it names.
        layers: those that can be read, bottom first.
    """

    place: str
    is_image: bool
    count: int
    layers: tuple[FoundLayer, ...]


@dataclass(slots=True)
class Findings:
    """What the documents say, and what is wrong with them.

    Attributes:
        faults, notes: for the verdict.
        images: all that there are.
        blobs: their layers, each once: by digest; in a docker archive that is no OCI layout by name, without a digest.
        manifests: by the digest of their config.
        seen: descriptors of manifests and indexes that were looked at, as JSON without annotations.
    """

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    images: list[FoundImage] = field(default_factory=list)
    blobs: dict[str, Blob] = field(default_factory=dict)
    manifests: dict[str, Manifest] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set)

    def add(self, place: str, what: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(place, what))

    def attempt(self, place: str, call: Callable[[], T]) -> T | None:
        """What a call gives; None where it cannot, and a fault, whose text does not repeat the place's last word."""
        try:
            return call()
        except ImageError as error:
            self.add(place, str(error).removeprefix(f"{place.rpartition(' ')[2]}: "))
        except OSError as error:
            self.add(place, error.strerror or str(error))
        return None
