"""The image around the layers: configuration, manifest, index, and the names that images have."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .base import BaseImage, Blob
from .digest import sha256
from .errors import ConfigError
from .layer import LayerDescriptor
from .layering.carried import PATHS, PLAN, VERSION
from .memory import annotations_of
from .registry.platforms import default_architecture
from .registry.reference import HOST, NAME, TAG
from .store_path import HASH_PART

__all__ = [
    "EPOCH",
    "Image",
    "ImageName",
    "Settings",
    "default_architecture",
    "make_image",
    "parse_date",
    "read_config",
    "store_paths_in",
]

EPOCH = "1970-01-01T00:00:01Z"  # the date of an image that is given none, as nixpkgs has it

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_ANNOTATIONS = 1 << 20  # bytes that annotations of layers may take; registries take manifests of 4 MB
_PATHS_IN_HISTORY = 20  # of one layer; a config is fetched before anything else, so it stays small


@dataclass(frozen=True, slots=True)
class ImageName:
    """A repository and a tag, either of which may be missing; ``NAME:TAG`` where both are there.

    Raises:
        ConfigError: one of them is not what registries take.
    """

    repository: str | None = None
    tag: str | None = None

    def __post_init__(self) -> None:
        if self.repository is not None:
            first, slash, rest = self.repository.partition("/")
            host = bool(slash) and ("." in first or ":" in first or first == "localhost")
            parts = rest.split("/") if host else self.repository.split("/")
            if not all(map(NAME.fullmatch, parts)) or (host and not HOST.fullmatch(first)):
                raise ConfigError(
                    f"{self.repository}: not a name for an image: lower-case letters, digits, . _ - and /"
                )
        if self.tag is not None and not TAG.fullmatch(self.tag):
            raise ConfigError(f"{self.tag}: not a tag: letters, digits, . _ -, at most 128")

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """Read ``NAME``, ``NAME:TAG``; a colon before a slash belongs to a port."""
        name, colon, tag = text.rpartition(":")
        return cls(name, tag) if colon and "/" not in tag else cls(text)

    @property
    def full(self) -> str | None:
        """``NAME:TAG``, the tag being "latest" where none is given; None without a name."""
        return f"{self.repository}:{self.tag or 'latest'}" if self.repository else None

    @property
    def normalised(self) -> str | None:
        """The full name with the host and the folder that Docker leaves out, as containerd wants it."""
        if self.full is None:
            return None
        first, slash, _ = self.full.partition("/")
        if not slash:
            return f"docker.io/library/{self.full}"
        return self.full if "." in first or ":" in first or first == "localhost" else f"docker.io/{self.full}"


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides an image's configuration besides its layers.

    Attributes:
        config: an OCI config object: Cmd, Entrypoint, Env, WorkingDir, User, Labels, ExposedPorts, Volumes, ...
        architecture: as Go names it ("amd64"); "" for the base image's, or this machine's.
        variant: of the architecture ("v8"), or None.
        created: an RFC 3339 date.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = ""
    variant: str | None = None
    created: str = EPOCH


@dataclass(frozen=True, slots=True)
class Image:
    """A finished image: the bytes of config and manifest, and the layers that they name, bottom first.

    Attributes:
        config: the bytes of the config; their digest is the image ID.
        manifest: the bytes of the manifest.
        base: the base image's layers.
        layers: the layers on top of them.
    """

    config: bytes
    manifest: bytes
    base: tuple[Blob, ...]
    layers: tuple[LayerDescriptor, ...]

    @property
    def config_digest(self) -> str:
        """The image ID."""
        return sha256(self.config)

    @property
    def manifest_digest(self) -> str:
        """What registries call the image by."""
        return sha256(self.manifest)

    @property
    def layer_digests(self) -> list[str]:
        """Digests of all layers, the base's first."""
        return [blob.digest for blob in self.base] + [layer.digest for layer in self.layers]

    def index(self, name: ImageName) -> bytes:
        """An index that holds this image alone."""
        return canonical_json(index_of([self.index_entry(name)]))

    def index_entry(self, name: ImageName) -> dict[str, Any]:
        """The image's descriptor in an index."""
        config = json.loads(self.config)
        described = {key: config[key] for key in ("architecture", "os", "variant") if key in config}
        entry: dict[str, Any] = {
            "mediaType": _MANIFEST,
            "digest": self.manifest_digest,
            "size": len(self.manifest),
            "platform": described,
        }
        annotations = {}
        if name.normalised:
            annotations["io.containerd.image.name"] = name.normalised
        if name.tag or name.repository:
            annotations["org.opencontainers.image.ref.name"] = name.tag or "latest"
        if annotations:
            entry["annotations"] = annotations
        return entry

    def docker_manifest(self, name: ImageName) -> bytes:
        """The ``manifest.json`` of a docker archive whose blobs lie as in an OCI layout."""
        entry = {
            "Config": blob_path(self.config_digest),
            "RepoTags": [name.full] if name.full else None,
            "Layers": [blob_path(digest) for digest in self.layer_digests],
        }
        return canonical_json([entry])


def index_of(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An image index of these descriptors."""
    return {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list(entries)}


def blob_path(digest: str) -> str:
    """Where an OCI layout keeps a blob."""
    algorithm, _, value = digest.partition(":")
    return f"blobs/{algorithm}/{value}"


def canonical_json(value: object) -> bytes:
    """JSON in which one value has one form: sorted keys, no white space, UTF-8."""
    # A surrogate, which stands for a byte that is not UTF-8, becomes JSON's own escape for it.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )


def parse_date(text: str) -> datetime.datetime:
    """A date in RFC 3339 or ISO 8601, or ``now``; without a time zone it is UTC.

    Raises:
        ConfigError: it is none of them.
    """
    if text == "now":
        return datetime.datetime.now(datetime.UTC)
    try:
        date = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text}: not a date: expected ISO 8601, such as 2024-05-06T07:08:09Z") from None
    return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)


class _Config(msgspec.Struct):
    """The types of a config object's fields; other fields are passed on as they are."""

    Cmd: list[str] | None = None
    Entrypoint: list[str] | None = None
    Env: list[str] | None = None
    User: str | None = None
    WorkingDir: str | None = None
    StopSignal: str | None = None
    Labels: dict[str, str] | None = None
    ExposedPorts: dict[str, dict[str, Any]] | None = None
    Volumes: dict[str, dict[str, Any]] | None = None


def read_config(file: str) -> dict[str, Any]:
    """Read an OCI or Docker config object from a file; of a whole image config, its ``config``.

    Raises:
        ConfigError: the file cannot be read, is not JSON, or a field has a wrong type.
    """
    try:
        with open(file, "rb") as document:
            config = msgspec.json.decode(document.read(), type=dict[str, Any])
        if isinstance(config.get("config"), dict):
            config = config["config"]
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not a config object: {error}") from None
    check_config(config, file)
    return config


def check_config(config: Mapping[str, Any], place: str) -> None:
    """Check the types of a config object's fields.

    Raises:
        ConfigError: one is wrong; the message says which, after ``place``.
    """
    try:
        checked = msgspec.convert(config, _Config)
        json.dumps(config, ensure_ascii=False).encode()
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {error}") from None
    except UnicodeEncodeError as error:
        raise ConfigError(f"{place}: {error.object[max(error.start - 20, 0) : error.end]}: not UTF-8") from None
    for variable in checked.Env or ():
        if "=" not in variable or variable.startswith("="):
            raise ConfigError(f"{place}: Env: {variable}: expected NAME=VALUE")


def store_paths_in(value: object, store_dir: str) -> list[str]:
    """Store paths that a configuration, or anything else that is JSON, names in its texts, sorted."""
    pattern = re.compile(re.escape(store_dir) + f"/{HASH_PART}[0-9A-Za-z+._?=-]+")
    return sorted(set(pattern.findall(json.dumps(value, ensure_ascii=False))))


def merge_config(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """An image's configuration over its base's, as ``docker build`` has it.

    Variables, labels, volumes and ports are added (ours win), all else replaces; an entrypoint of ours, be it empty,
    drops the base's command. What is null is not given.
    """
    merged = dict(base)
    if own.get("Entrypoint") is not None:
        merged.pop("Cmd", None)
    for key, value in own.items():
        if value is None:
            continue
        if key == "Env":
            merged[key] = merge_env(base.get("Env") or (), value)
        elif key in ("Labels", "Volumes", "ExposedPorts"):
            merged[key] = {**(base.get(key) or {}), **value}
        else:
            merged[key] = value
    return merged


def merge_env(base: Iterable[str], own: Iterable[str]) -> list[str]:
    """Variables in the order of their first appearance, each with its last value."""
    return list({variable.partition("=")[0]: variable for variable in [*base, *own]}.values())


def make_image(
    settings: Settings,
    layers: Sequence[tuple[LayerDescriptor, str, Sequence[str]]],
    *,
    base: BaseImage | None,
    annotations: Mapping[str, str],
    recipes: Sequence[str | None] = (),
) -> Image:
    """Put the image together.

    Args:
        settings: the configuration.
        layers: bottom first: what was made, what it is ("closure", "customisation"), and the names of its nodes.
        base: the image below, if any.
        annotations: of the manifest.
        recipes: of each layer the key by which other builders know its recipe, if there is one.
    """
    base_layers = base.layers if base else ()
    history: list[dict[str, Any]] = list(base.history) if base else []
    for _, kind, paths in layers:
        named = ", ".join(paths[:_PATHS_IN_HISTORY])
        more = f" and {len(paths) - _PATHS_IN_HISTORY} more" if len(paths) > _PATHS_IN_HISTORY else ""
        comment = f"{kind}: {named}{more}" if paths else kind
        history.append({"created": settings.created, "created_by": "fastlayers", "comment": comment})
    made = [layer for layer, _, _ in layers]
    config: dict[str, Any] = {
        "created": settings.created,
        "architecture": settings.architecture or (base.architecture if base else default_architecture()),
        "os": "linux",
        "config": merge_config(base.config, settings.config) if base else dict(settings.config),
        "rootfs": {"type": "layers", "diff_ids": [b.diff_id for b in base_layers] + [layer.diff_id for layer in made]},
        "history": history,
    }
    variant = settings.variant or (base.variant if base and not settings.architecture else None)
    if variant:
        config["variant"] = variant
    config_bytes = canonical_json(config)
    blobs: list[Blob | LayerDescriptor] = [*base_layers, *made]
    described: list[dict[str, Any]] = [
        {"mediaType": _LAYER + blob.media_type_suffix, "digest": blob.digest, "size": blob.size} for blob in blobs
    ]
    told = _layer_annotations(layers, recipes)
    for descriptor, own in zip(described[len(base_layers) :], told, strict=True):
        if own:
            descriptor["annotations"] = own
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "digest": sha256(config_bytes), "size": len(config_bytes)},
        "layers": described,
        "annotations": {**annotations, **({PLAN: VERSION} if any(PATHS in own for own in told) else {})},
    }
    return Image(config_bytes, canonical_json(manifest), tuple(base_layers), tuple(made))


def _layer_annotations(
    layers: Sequence[tuple[LayerDescriptor, str, Sequence[str]]], recipes: Sequence[str | None]
) -> list[dict[str, str]]:
    """What the descriptors of layers say: how others know them, and the names of their nodes, as a JSON array.

    Where all take too much, names are left out, and where even that is too much, everything.
    """
    keys = recipes or [None] * len(layers)
    known = [annotations_of(key, layer) for key, (layer, _, _) in zip(keys, layers, strict=True)]
    named = [
        {**own, PATHS: canonical_json(list(paths)).decode()} if paths else own
        for own, (_, _, paths) in zip(known, layers, strict=True)
    ]
    for each in (named, known):
        if len(canonical_json(each)) <= _ANNOTATIONS:
            return each
    return [{} for _ in layers]
