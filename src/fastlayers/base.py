"""Base images: docker archives, OCI layouts, OCI archives, and images in registries."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from typing import IO, TYPE_CHECKING, Any, TypeVar

import msgspec

from .compression import codec_of
from .digest import BLOCK
from .errors import ImageError
from .registry.access import RegistryAccess
from .registry.platforms import choose_platform, default_architecture, platform_name
from .registry.reference import Reference

if TYPE_CHECKING:
    from .registry.repository import Repository

__all__ = [
    "LAYER_TYPES",
    "NO_ARCHIVE",
    "BaseImage",
    "Blob",
    "StoredArchive",
    "StoredFolder",
    "names_there",
    "parse_reference",
    "read_base",
    "read_manifest",
]

T = TypeVar("T")

_LARGEST = 16 << 20  # bytes of a manifest, an index or a config
_NAMES = 5  # that a message lists
NO_ARCHIVE = (tarfile.TarError, EOFError, zlib.error, LZMAError)  # what reading one raises besides OSError
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Blob:
    """A layer of a base image, as it is stored.

    Attributes:
        digest: of the stored bytes.
        size: bytes that are stored.
        diff_id: of the uncompressed tar, as the base's config says.
        media_type_suffix: ``""``, ``"+gzip"`` or ``"+zstd"``.
        open: gives the stored bytes, from the start, each time.
        place: for errors.
        repository: HOST/REPOSITORY of the registry that it is in, empty for files.
    """

    digest: str
    size: int
    diff_id: str
    media_type_suffix: str
    open: Callable[[], AbstractContextManager[IO[bytes]]]
    place: str
    repository: str = ""

    def copy(self, write: Callable[[memoryview], object]) -> None:
        """Write the stored bytes, and see that they are what the digest says.

        Raises:
            ImageError: they are not.
        """
        for block in self.blocks():
            write(block)

    def blocks(self) -> Iterator[memoryview]:
        """The stored bytes, each block valid until the next; at the end, see that they are what the digest says.

        Raises:
            ImageError: they are not.
        """
        digest, size = hashlib.sha256(), 0
        for block in self.unchecked_blocks():
            digest.update(block)
            size += block.nbytes
            yield block
        if size != self.size or "sha256:" + digest.hexdigest() != self.digest:
            raise ImageError(f"{self.place}: its bytes are not those of {self.digest}")

    def unchecked_blocks(self) -> Iterator[memoryview]:
        """The stored bytes, whatever they are, each block valid until the next.

        Raises:
            ImageError: they cannot be read.
        """
        buffer = memoryview(bytearray(BLOCK))
        try:
            with self.open() as source:
                while got := source.readinto(buffer):  # type: ignore[attr-defined]
                    yield buffer[:got]
        except OSError as error:
            raise ImageError(f"{self.place}: {error.strerror or error}") from None
        except NO_ARCHIVE as error:
            raise ImageError(f"{self.place}: {error}") from None


@dataclass(frozen=True, slots=True)
class BaseImage:
    """An image to build on.

    Attributes:
        layers: bottom first.
        config: its config object.
        history: its history.
        architecture, variant: of its platform.
    """

    layers: tuple[Blob, ...]
    config: Mapping[str, Any]
    history: tuple[dict[str, Any], ...]
    architecture: str
    variant: str | None


def parse_reference(reference: str) -> tuple[str, str, str]:
    """Take ``TRANSPORT:PATH[:NAME]`` apart; the name is "" where there is none, and always for ``docker://``.

    Raises:
        ImageError: it is not of that form, or there is no such transport.
        ConfigError: it is no name of an image in a registry.
    """
    transport, _, rest = reference.partition(":")
    if transport == "docker" and rest.startswith("//"):
        return transport, str(Reference.parse(reference)), ""
    path, _, name = rest.partition(":")
    if transport not in ("docker-archive", "oci", "oci-archive") or not path:
        raise ImageError(
            f"{reference}: expected docker-archive:FILE[:NAME:TAG], oci:DIR[:TAG], oci-archive:FILE[:TAG] or "
            "docker://HOST/REPOSITORY[:TAG]"
        )
    return transport, path, name


def read_base(
    reference: str,
    access: RegistryAccess = RegistryAccess(),  # noqa: B008  frozen
    *,
    architecture: str = "",
    variant: str | None = None,
) -> BaseImage:
    """Open ``docker-archive:FILE[:NAME:TAG]``, ``oci:DIR[:TAG]``, ``oci-archive:FILE[:TAG]`` or
    ``docker://HOST/REPOSITORY[:TAG][@DIGEST]``.

    An archive may be compressed. Of an image in a registry nothing but manifest and config is read before it is needed.

    Args:
        reference: the image.
        access: how a registry is reached.
        architecture, variant: which image of several platforms; by default this machine's.

    Raises:
        ImageError: there is no such image, or it is not whole.
        ConfigError: it is no name of an image in a registry.
        RegistryError: the registry cannot be reached, or refuses.
    """
    architecture = architecture or default_architecture()
    return _read(
        reference,
        docker=_read_docker,
        layout=partial(_read_layout, architecture=architecture, variant=variant),
        registry=partial(_read_registry, access=access, architecture=architecture, variant=variant),
    )


def read_manifest(
    reference: str,
    access: RegistryAccess = RegistryAccess(),  # noqa: B008  frozen
    *,
    architecture: str = "",
    variant: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the config of an image, named as for :func:`read_base`; its layers are not looked into.

    Of a docker archive without a manifest of OCI's, the manifest has digests and sizes of the layers and no annotation.

    Raises:
        ImageError, ConfigError, RegistryError: as for :func:`read_base`.
    """
    architecture = architecture or default_architecture()
    return _read(
        reference,
        docker=_docker_manifest,
        layout=partial(_layout_manifest, architecture=architecture, variant=variant),
        registry=lambda found: _registry_manifest(found, access, architecture, variant)[1:],
    )


def _read(
    reference: str,
    *,
    docker: Callable[[StoredArchive, str | None], T],
    layout: Callable[[StoredFolder | StoredArchive, str | None], T],
    registry: Callable[[Reference], T],
) -> T:
    """Read an image by what is for its kind of place; a name goes with what is in files, None where none is given."""
    transport, path, name = parse_reference(reference)
    if transport == "docker":
        return registry(Reference.parse(path))
    with _whole(path):
        if transport == "oci":
            return layout(StoredFolder(path), name or None)
        archive = StoredArchive(path)
        if transport == "docker-archive" and archive.has("manifest.json"):
            return docker(archive, name or None)
        return layout(archive, name or None)


@contextlib.contextmanager
def _whole(path: str) -> Iterator[None]:
    """What goes wrong while an image in files is read, as the error that it is."""
    try:
        yield
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except NO_ARCHIVE as error:
        raise ImageError(f"{path}: not a tar archive: {error}") from None
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ImageError(f"{path}: not a whole image: {type(error).__name__} {error}") from None


class StoredFolder:
    """The files of an OCI layout in a folder, by their names in it."""

    def __init__(self, path: str) -> None:
        """Take a folder, which is not looked into.

        Raises:
            ImageError: it is a file.
        """
        if os.path.isfile(path):
            raise ImageError(f"{path}: not a folder: an archive is oci-archive:FILE or docker-archive:FILE")
        self.path = path

    def has(self, name: str) -> bool:
        """Whether there is such a file.

        Raises:
            PermissionError: nobody may tell.
        """
        try:
            os.stat(os.path.join(self.path, name))
        except PermissionError:
            raise
        except (OSError, ValueError):
            return False
        return True

    def size(self, name: str) -> int:
        """Its bytes."""
        return os.stat(os.path.join(self.path, name)).st_size

    def read(self, name: str) -> bytes:
        """All that is in it: a document.

        Raises:
            ImageError: it is too large for one.
        """
        with self.open(name) as file:
            return _document(file, f"{self.path}: {name}")

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Its bytes, from the start."""
        return open(os.path.join(self.path, name), "rb")


class StoredArchive:
    """The members of a tar archive, which may be compressed; those that are links stand for what they link to."""

    def __init__(self, path: str) -> None:
        self.path = path
        with tarfile.open(path) as tar:
            self._members = {os.path.normpath(member.name): member for member in tar if not member.isdir()}

    def _member(self, name: str) -> tarfile.TarInfo:
        for _ in range(40):
            member = self._members.get(os.path.normpath(name))
            if member is None:
                raise ImageError(f"{self.path}: no member {name}")
            if member.isreg():
                return member
            if not (member.issym() or member.islnk()):
                break
            name = os.path.join(os.path.dirname(name) if member.issym() else "", member.linkname)
        raise ImageError(f"{self.path}: {name}: not a file")

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return os.path.normpath(name) in self._members

    def size(self, name: str) -> int:
        """Its bytes."""
        return self._member(name).size

    def read(self, name: str) -> bytes:
        """All that is in it: a document.

        Raises:
            ImageError: it is too large for one.
        """
        with self.open(name) as file:
            return _document(file, f"{self.path}: {name}")

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Its bytes, from the start."""
        member = self._member(name)
        with tarfile.open(self.path) as tar:
            file = tar.extractfile(member)
            if file is None:
                raise ImageError(f"{self.path}: {name}: not a file")
            with file:
                yield file


def _document(file: IO[bytes], place: str) -> bytes:
    data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ImageError(f"{place}: more than {_LARGEST} bytes, too many for a document")
    return data


def names_there(names: Iterable[object]) -> str:
    """The end of a message that there is no image of some name: the names that there are, at most five."""
    found = sorted({name for name in names if isinstance(name, str)})
    more = ", ..." if len(found) > _NAMES else ""
    verb = "is" if len(found) == 1 else "are"
    return f"; there {verb} {', '.join(found[:_NAMES])}{more}" if found else ""


def _object(data: bytes, place: str) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise ImageError(f"{place}: not JSON: {error}") from None


def _check_diff_ids(config: Any, layers: Any, place: str) -> None:
    count = len(config["rootfs"]["diff_ids"])
    if count != len(layers):
        raise ImageError(f"{place}: the number of its layers is {len(layers)}, that of its diff IDs {count}")


def _docker_entry(archive: StoredArchive, name: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a docker archive says of an image, and its config."""
    entries = _object(archive.read("manifest.json"), f"{archive.path}: manifest.json")
    names = [each for entry in entries for each in entry.get("RepoTags") or ()]
    if name is not None:
        entries = [entry for entry in entries if name in (entry.get("RepoTags") or ())]
    if len(entries) != 1:
        which = f" named {name}" if name else ": name one of them"
        raise ImageError(f"{archive.path}: {len(entries)} images{which}{names_there(names)}")
    entry = entries[0]
    config = _object(archive.read(entry["Config"]), f"{archive.path}: {entry['Config']}")
    _check_diff_ids(config, entry["Layers"], archive.path)
    return entry, config


def _read_docker(archive: StoredArchive, name: str | None) -> BaseImage:
    entry, config = _docker_entry(archive, name)
    layers = []
    for member, diff_id in zip(entry["Layers"], config["rootfs"]["diff_ids"], strict=True):
        with archive.open(member) as file:
            suffix = _suffix(file.read(4))
        digest = diff_id  # a plain layer's digest; copying it checks it
        if suffix and (named := _BLOB.fullmatch(os.path.normpath(member))):
            digest = f"sha256:{named[1]}"  # an OCI layout too; copying it checks it
        elif suffix:
            with archive.open(member) as file:
                digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        layers.append(_blob(archive, member, digest, archive.size(member), diff_id, suffix))
    return _image(tuple(layers), config)


def _docker_manifest(archive: StoredArchive, name: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    entry, config = _docker_entry(archive, name)
    data = archive.read(entry["Config"])
    own = "sha256:" + hashlib.sha256(data).hexdigest()
    if archive.has("index.json"):  # it is an OCI layout too
        for listed in _object(archive.read("index.json"), f"{archive.path}: index.json")["manifests"]:
            manifest = _checked(archive, listed["digest"])
            if manifest.get("config", {}).get("digest") == own:
                return manifest, config
    layers = [{"digest": blob.digest, "size": blob.size} for blob in _read_docker(archive, name).layers]
    return {"config": {"digest": own, "size": len(data)}, "layers": layers}, config


def _layout_manifest(
    layout: StoredFolder | StoredArchive, tag: str | None, architecture: str, variant: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    if not layout.has("index.json"):
        raise ImageError(f"{layout.path}: no index.json: not an OCI layout")
    manifests = _object(layout.read("index.json"), f"{layout.path}: index.json")["manifests"]
    key = "org.opencontainers.image.ref.name"
    tags = [(entry.get("annotations") or {}).get(key) for entry in manifests]
    if tag is not None:
        manifests = [entry for entry, own in zip(manifests, tags, strict=True) if own == tag]
    if len(manifests) != 1:
        which = f" with the tag {tag}" if tag else ": name one by its tag"
        raise ImageError(f"{layout.path}: {len(manifests)} images{which}{names_there(tags)}")
    manifest = _checked(layout, manifests[0]["digest"])
    if "manifests" in manifest:
        chosen = choose_platform(manifest["manifests"], architecture, variant)
        if chosen is None:
            wanted = platform_name({"architecture": architecture, "variant": variant})
            raise ImageError(f"{layout.path}: {manifests[0]['digest']}: an index with nothing for {wanted}")
        manifest = _checked(layout, chosen["digest"])
    config = _checked(layout, manifest["config"]["digest"])
    _check_diff_ids(config, manifest["layers"], layout.path)
    return manifest, config


def _read_layout(
    layout: StoredFolder | StoredArchive, tag: str | None, architecture: str, variant: str | None
) -> BaseImage:
    manifest, config = _layout_manifest(layout, tag, architecture, variant)
    layers = []
    for descriptor, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        path = _blob_path(descriptor["digest"])
        if layout.size(path) != descriptor["size"]:
            raise ImageError(f"{layout.path}: {path}: {layout.size(path)} bytes, not {descriptor['size']}")
        with layout.open(path) as file:
            suffix = _suffix(file.read(4))
        layers.append(_blob(layout, path, descriptor["digest"], descriptor["size"], diff_id, suffix))
    return _image(tuple(layers), config)


LAYER_TYPES = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "+zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "+zstd",
}


def _registry_manifest(
    reference: Reference, access: RegistryAccess, architecture: str, variant: str | None
) -> tuple[Repository, dict[str, Any], dict[str, Any]]:
    from .registry.pull import find_manifest, open_repository, read_small_blob

    repository = open_repository(reference, access, push=False)
    manifest = find_manifest(repository, reference.digest or reference.tag or "latest", architecture, variant)
    if manifest is None:
        raise ImageError(f"{reference}: there is no such image")
    with _whole(str(reference)):
        config = _object(read_small_blob(repository, manifest.document["config"]), f"{reference}: its config")
        _check_diff_ids(config, manifest.document["layers"], str(reference))
        return repository, manifest.document, config


def _read_registry(reference: Reference, access: RegistryAccess, architecture: str, variant: str | None) -> BaseImage:
    from .registry.pull import BlobReader

    repository, manifest, config = _registry_manifest(reference, access, architecture, variant)
    with _whole(str(reference)):
        layers = []
        for descriptor, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            digest = descriptor["digest"]
            _blob_path(digest), _blob_path(diff_id)  # are digests
            if descriptor["mediaType"] not in LAYER_TYPES:
                raise ImageError(f"{reference}: a layer of the type {descriptor['mediaType']}")
            suffix = LAYER_TYPES[descriptor["mediaType"]]
            opener: Any = partial(BlobReader, repository, digest)
            place = f"{reference}: {digest}"
            layers.append(Blob(digest, int(descriptor["size"]), diff_id, suffix, opener, place, reference.name))
        return _image(tuple(layers), config)


def _suffix(start: bytes) -> str:
    codec = codec_of(start)
    return "" if codec == "none" else f"+{codec}"


def _blob_path(digest: str) -> str:
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"{digest}: not a digest that is understood")
    return f"blobs/sha256/{value}"


def _checked(layout: StoredFolder | StoredArchive, digest: str) -> Any:
    path = _blob_path(digest)
    data = layout.read(path)
    if hashlib.sha256(data).hexdigest() != path.rpartition("/")[2]:
        raise ImageError(f"{layout.path}: {path}: its bytes are not those of the digest")
    return _object(data, f"{layout.path}: {path}")


class _Config(msgspec.Struct):
    """The types of what an image's configuration is merged by."""

    Env: list[str] | None = None
    Labels: dict[str, str] | None = None
    ExposedPorts: dict[str, Any] | None = None
    Volumes: dict[str, Any] | None = None


class _Facts(msgspec.Struct):
    """The types of what is taken from a base image's config."""

    architecture: str
    variant: str | None = None
    config: _Config | None = None
    history: list[dict[str, Any]] | None = None


def _blob(place: StoredFolder | StoredArchive, path: str, digest: str, size: int, diff_id: str, suffix: str) -> Blob:
    _blob_path(diff_id)  # is one
    return Blob(digest, size, diff_id, suffix, lambda: place.open(path), f"{place.path}: {path}")


def _image(layers: tuple[Blob, ...], config: dict[str, Any]) -> BaseImage:
    msgspec.convert(config, _Facts)
    history = config.get("history") or []
    if sum(not entry.get("empty_layer") for entry in history) != len(layers):
        history = [{"comment": f"layer {number} of the base image"} for number in range(1, len(layers) + 1)]
    return BaseImage(layers, config.get("config") or {}, tuple(history), config["architecture"], config.get("variant"))
