"""Registries: layers go up while they are made, the manifest last, so that a tag never names an incomplete image."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from ..base import Blob
from ..compression import Codec
from ..errors import DestinationError, ImageError
from ..image import Image
from ..layer import LayerDescriptor, LayerTask, MeasuredLayer, Sink, make_layer
from ..memory import tar_sizes_in
from ..registry.access import PushOptions, RegistryAccess
from ..registry.platforms import default_architecture
from ..registry.pull import choose_manifest, open_repository
from ..registry.reference import Reference
from ..registry.repository import MANIFESTS, Denied, MissingBlobs, Repository
from ..registry.sink import RegistrySink
from ..registry.upload import Holdings, upload_blob
from ..waiting import background

__all__ = ["Registry", "check_blobs", "push_blob", "push_blobs"]

_UPLOADS = 4  # blobs of other images that go up at once


@dataclass(frozen=True, slots=True)
class _Previous:
    """What is there before a push.

    Attributes:
        holdings: where blobs are.
        layers: their descriptors in the image that the tag names, or that was named to start from.
        tagged: the digest that the tag names.
    """

    holdings: Holdings
    layers: tuple[Mapping[str, Any], ...] = ()
    tagged: str | None = None


class Registry:
    """An image in a registry, under a tag."""

    waits = True
    sent = read = 0  # but for its sinks
    notes: Sequence[str] = ()

    def __init__(
        self, reference: Reference, access: RegistryAccess, options: PushOptions, *, verify: bool = False
    ) -> None:
        """``verify``: ask for every blob, also for those that the manifest before names."""
        if reference.digest is not None:
            raise DestinationError(f"{reference}: an image is pushed to a tag, not to a digest")
        self._reference = replace(reference, tag=reference.tag or "latest")
        self._access = access
        self._options = options
        self._verify = verify
        self._repository = open_repository(self._reference, access, push=True)
        self._base: list[Future[None]] = []
        self._stopped = threading.Event()

    @property
    def previous(self) -> Sequence[Mapping[str, Any]]:
        """The descriptors of the layers that are there before; asking takes a request or two, once.

        Raises:
            RegistryError: the registry does not say.
        """
        return self._previous.layers

    def begin(
        self, base: Sequence[Blob], layers: Sequence[MeasuredLayer], codec: Codec, *, local: bool
    ) -> Sequence[Sink | None]:
        self._layers, self._codec, self._blobs = layers, codec, base
        holdings = self._holdings = self._previous.holdings
        if self._verify:
            holdings = self._holdings = replace(holdings, present=frozenset())
            base = [replace(blob, repository="") if blob.repository == self._reference.name else blob for blob in base]
        session = self._repository.connection.share()
        self._base = push_blobs(self._repository, holdings, base, self._stopped)
        # What is as large as a layer that is there is probably that layer; a mount needs the digest too.
        there = [each for each in self.previous if self._previous.holdings.has(str(each.get("digest")))]
        sizes_before = tar_sizes_in(there, codec)
        return [
            RegistrySink(
                session,
                holdings,
                layer.size if codec.name == "none" else None,
                self._verify or self._options.mount_from is not None or layer.size in sizes_before,
            )
            for layer in layers
        ]

    def has(self, layer: LayerDescriptor) -> bool:
        return layer.digest in self._holdings.present

    def add(self, index: int, layer: LayerDescriptor) -> None:
        check_blobs(self._base)  # one that has failed ends the work now

    def finish(self, image: Image) -> None:
        wait(self._base, return_when=FIRST_EXCEPTION)
        check_blobs(self._base)
        if self._previous.tagged == image.manifest_digest and not self._verify:
            return
        try:
            self._put(image)
        except MissingBlobs:
            if not self._holdings.present:
                raise
            # The image that was there names blobs that the registry has lost since. It is asked for every one then.
            self._holdings = replace(self._holdings, present=frozenset())
            self._replace_lost(image)
            self._put(image)

    def abort(self) -> None:
        self._stopped.set()

    @cached_property
    def _previous(self) -> _Previous:
        """Get the manifest that the tag has, or the one to start from."""
        own, start, access = self._reference, self._options.base or self._reference, self._access
        repository = self._repository
        if start.name != own.name:
            if start.host != own.host:
                access = replace(access, credentials=None)
            repository = open_repository(start, access, push=False)
        try:
            top = repository.manifest(start.digest or start.tag or "latest")
        except Denied:
            if self._options.base is not None:
                raise
            top = None  # whether we may push, the registry says when we do
        if top is None:
            if self._options.base is not None:
                raise ImageError(f"{start}: there is no such image")
            return _Previous(Holdings(mount_from=self._options.mount_from))
        architecture = self._options.architecture or default_architecture()
        try:
            document = choose_manifest(repository, top, architecture, self._options.variant).document
        except ImageError:
            if self._options.base is not None:
                raise
            document = {}  # images of other platforms
        listed, config = document.get("layers"), document.get("config")
        layers = tuple(layer for layer in listed if isinstance(layer, dict)) if isinstance(listed, list) else ()
        named = [*layers, config] if isinstance(config, dict) else layers
        digests = [str(each.get("digest")) for each in named]
        present: frozenset[str] = frozenset()
        elsewhere: dict[str, str] = {}
        if start.name == own.name:
            present = frozenset(digests)
        elif start.host == own.host:
            elsewhere = dict.fromkeys(digests, start.repository)
        holdings = Holdings(present, elsewhere, self._options.mount_from)
        return _Previous(holdings, layers, top.digest if start == own else None)

    def _put(self, image: Image) -> None:
        digest, size = image.config_digest, len(image.config)
        put = partial(self._repository.put, digest=digest, size=size, body=image.config)
        upload_blob(self._repository, self._holdings, digest, size, put, ask=False)
        assert self._reference.tag is not None
        self._repository.put_manifest(self._reference.tag, image.manifest, MANIFESTS[0])

    def _replace_lost(self, image: Image) -> None:
        for blob in self._blobs:
            push_blob(self._repository, self._holdings, blob, self._stopped)
        session = self._repository.connection.share()
        sent = []
        for measured, layer in zip(self._layers, image.layers, strict=True):
            sink = RegistrySink(session, self._holdings)
            task = LayerTask(measured.recipe, self._codec, (sink,), known=layer, trust=False)
            made = make_layer(task)
            self.read += made.read
            sent += [delivery.bytes for delivery in made.deliveries if delivery.bytes]
        if sent:
            self.sent += sum(sent)
            lost = "1 layer" if len(sent) == 1 else f"{len(sent)} layers"
            self.notes = (f"{self._reference}: it had lost {lost} of the image before: sent again",)


def push_blobs(
    repository: Repository, holdings: Holdings, blobs: Sequence[Blob], stopped: threading.Event
) -> list[Future[None]]:
    """Begin to bring blobs of other images to a repository, a few at once, until ``stopped`` is set."""
    slots = threading.BoundedSemaphore(_UPLOADS)

    def push(blob: Blob) -> None:
        with slots:
            push_blob(repository, holdings, blob, stopped)

    missing = {blob.digest: blob for blob in blobs if blob.digest not in holdings.present}
    return [background(partial(push, blob)) for blob in missing.values()]


def check_blobs(pushes: Sequence[Future[None]]) -> None:
    """Raise what has failed of :func:`push_blobs`, if anything."""
    for push in pushes:
        if push.done():
            push.result()


def push_blob(repository: Repository, holdings: Holdings, blob: Blob, stopped: threading.Event) -> None:
    """Bring a blob of another image to a repository: it is not read where that can be avoided.

    Raises:
        ImageError: it cannot be read.
        RegistryError: it is not there at the end.
    """
    host, _, path = blob.repository.partition("/")
    if host == repository.reference.host and path:
        if path == repository.reference.repository:
            return
        if blob.digest not in holdings.elsewhere:
            holdings = replace(holdings, elsewhere={**holdings.elsewhere, blob.digest: path})

    def body() -> Iterator[memoryview]:
        for block in blob.blocks():
            if stopped.is_set():
                raise DestinationError(f"{repository.reference}: given up")
            yield block

    upload_blob(
        repository,
        holdings,
        blob.digest,
        blob.size,
        lambda location: repository.put(location, blob.digest, blob.size, body()),
    )
