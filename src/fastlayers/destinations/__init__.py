"""Where images go: one module for each kind of destination."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..base import Blob
from ..compression import Codec
from ..errors import DestinationError
from ..image import Image, ImageName
from ..layer import LayerDescriptor, MeasuredLayer, Sink

__all__ = ["TRANSPORTS", "Destination", "parse_destination"]

TRANSPORTS = ("docker-archive", "oci", "oci-archive")


class Destination(Protocol):
    """An image on its way out: :meth:`begin`, :meth:`add` for every layer, then :meth:`finish`; :meth:`abort` instead
    of any of them leaves nothing behind."""

    def begin(
        self, base: Sequence[Blob], layers: Sequence[MeasuredLayer], codec: Codec, *, local: bool
    ) -> Sequence[Sink | None]:
        """Prepare for these layers and say where the stored bytes of each shall go.

        ``local``: layers are made on this machine, so that several processes may write to one file.
        """

    def add(self, index: int, layer: LayerDescriptor) -> None:
        """Take a layer that is made; they come in any order."""

    def finish(self, image: Image) -> None:
        """Make the image appear."""

    def abort(self) -> None:
        """Remove what is half-made; after :meth:`finish` there is nothing to remove."""


def parse_destination(text: str, default: ImageName = ImageName()) -> Destination:  # noqa: B008  frozen
    """Understand ``docker-archive:FILE[:NAME[:TAG]]``, ``oci:DIR[:TAG]`` and ``oci-archive:FILE[:TAG]``.

    Args:
        text: the destination; FILE may be ``-``, standard output.
        default: the image's name where the destination gives none.

    Raises:
        DestinationError: it is none of them.
        ConfigError: the name in it is not one that registries take.
    """
    from .archive import Archive
    from .oci_layout import OciLayout

    transport, colon, rest = text.partition(":")
    path, _, name = rest.partition(":")
    if transport not in TRANSPORTS or not colon or not path:
        raise DestinationError(
            f"{text}: expected docker-archive:FILE[:NAME:TAG], oci:DIR[:TAG] or oci-archive:FILE[:TAG]"
        )
    if transport == "oci":
        if path == "-":
            raise DestinationError(
                f"{text}: an OCI layout is a folder; standard output takes docker-archive: and oci-archive:"
            )
        return OciLayout(path, ImageName(default.repository, name or default.tag))
    if transport == "oci-archive":
        return Archive(path, ImageName(default.repository, name or default.tag))
    named = ImageName.parse(name) if name else default
    return Archive(path, ImageName(named.repository, named.tag or default.tag))
