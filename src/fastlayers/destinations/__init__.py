"""Where images go: one module for each kind of destination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..base import Blob
from ..compression import Codec
from ..errors import ConfigError, DestinationError
from ..image import Image, ImageName
from ..layer import LayerDescriptor, MeasuredLayer, Sink
from ..registry.access import PushOptions, RegistryAccess
from ..registry.reference import Reference

__all__ = ["TRANSPORTS", "Destination", "parse_destination"]

TRANSPORTS = ("docker-archive", "oci", "oci-archive", "docker", "docker-daemon", "podman", "containerd")

_ENGINES = TRANSPORTS[4:]


class Destination(Protocol):
    """An image on its way out: :meth:`begin`, :meth:`add` for every layer, then :meth:`finish`; :meth:`abort` instead
    of any of them leaves nothing behind.

    Attributes:
        waits: its sinks wait for others more than they work, so that more of them than cores may be at it.
        sent: bytes that went to another program so far, besides what its sinks sent; None where none ever do.
        read: bytes of files that it has read for layers itself so far, besides what was read for its sinks.
        notes: what the user should know of how it went, a line each.
    """

    waits: bool

    @property
    def previous(self) -> Sequence[Mapping[str, Any]]:
        """Descriptors of the layers of the image that was there before under the name that the user gave, as its
        manifest has them; none where no manifest is. Asking may take a request or two, once.
        """

    @property
    def sent(self) -> int | None: ...

    @property
    def read(self) -> int: ...

    @property
    def notes(self) -> Sequence[str]: ...

    def begin(
        self, base: Sequence[Blob], layers: Sequence[MeasuredLayer], codec: Codec, *, local: bool
    ) -> Sequence[Sink | None]:
        """Prepare for these layers and say where the stored bytes of each shall go.

        ``local``: layers are made on this machine, so that several processes may write to one file.
        """

    def has(self, layer: LayerDescriptor) -> bool:
        """Whether a layer whose digest is known is there, so that it need not be made: then it is only added.

        Asked after :meth:`begin`, and answered without asking anybody else. Who is wrong about it makes the layer.
        """

    def add(self, index: int, layer: LayerDescriptor) -> None:
        """Take a layer that is made; they come in any order."""

    def finish(self, image: Image) -> None:
        """Make the image appear."""

    def abort(self) -> None:
        """Remove what is half-made; after :meth:`finish` there is nothing to remove."""


def parse_destination(
    text: str,
    default: ImageName = ImageName(),  # noqa: B008  frozen
    access: RegistryAccess = RegistryAccess(),  # noqa: B008
    push: PushOptions = PushOptions(),  # noqa: B008
    *,
    prune: bool = False,
    verify: bool = False,
) -> Destination:
    """Understand ``docker-archive:FILE[:NAME[:TAG]]``, ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]``,
    ``docker://HOST[:PORT]/REPOSITORY[:TAG]``, and ``docker-daemon:``, ``podman:`` and ``containerd:NAME[:TAG]``.

    Args:
        text: the destination; FILE may be ``-``, standard output.
        default: the image's name where the destination gives none.
        access: how a registry is reached.
        push: what a push to a registry may start from.
        prune: remove from an OCI layout what none of its images names.
        verify: hash blobs that an OCI layout keeps, and ask a registry for all that it should have.

    Raises:
        DestinationError: it is none of them, or there is no such engine.
        ConfigError: the name in it is not one that registries take.
    """
    transport, colon, rest = text.partition(":")
    if transport == "docker" and rest.startswith("//"):
        from .registry import Registry

        reference = Reference.parse(text)
        return Registry(replace(reference, tag=reference.tag or default.tag), access, push, verify=verify)
    if transport in _ENGINES and rest:
        return _engine_image(transport, text, ImageName.parse(rest), default)
    from .archive import Archive
    from .oci_layout import OciLayout

    path, _, name = rest.partition(":")
    if transport not in TRANSPORTS or not colon or not path or transport == "docker":
        raise DestinationError(
            f"{text}: expected docker-archive:FILE[:NAME:TAG], oci:DIR[:TAG], oci-archive:FILE[:TAG], "
            "docker://HOST/REPOSITORY[:TAG], or docker-daemon:, podman: or containerd:NAME[:TAG]"
        )
    if transport == "oci" and path == "-":
        raise DestinationError(
            f"{text}: an OCI layout is a folder; standard output takes docker-archive: and oci-archive:"
        )
    try:
        if transport == "docker-archive":
            named = ImageName.parse(name) if name else default
        else:
            named = ImageName(default.repository, name or default.tag)
    except ConfigError as error:  # perhaps it was meant as part of the path
        raise ConfigError(f"{text}: {error} (the path ends at its first colon: {path})") from None
    image = ImageName(named.repository, named.tag or default.tag)
    if transport == "oci":
        return OciLayout(path, image, prune=prune, verify=verify)
    return Archive(path, image)


def _engine_image(transport: str, text: str, name: ImageName, default: ImageName) -> Destination:
    from ..engines import Engine
    from .engine import EngineImage

    engine: Engine
    if transport == "docker-daemon":
        from ..engines.docker import DockerEngine

        engine = DockerEngine()
    elif transport == "podman":
        from ..engines.podman import Podman

        engine = Podman()
    else:
        from ..engines.containerd import Containerd

        engine = Containerd()
    return EngineImage(engine, ImageName(name.repository, name.tag or default.tag or "latest"), text)
