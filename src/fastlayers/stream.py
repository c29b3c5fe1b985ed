"""The stand-in for nixpkgs' stream_layered_image.py: a conf.json in, the same docker archive out, byte for byte."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import pathlib
import tarfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import msgspec

from .base import NO_ARCHIVE
from .cache import DigestCache
from .compression import Codec
from .contents import Tree
from .digest import BLOCK
from .errors import ConfigError, ImageError
from .image import check_config, merge_env
from .layer import Contradiction, LayerDescriptor, LayerRecipe, LayerTask, MeasuredLayer, Profile
from .memory import Memory
from .outer import LayersInOrder, OuterTar
from .parallel import available_cores, make_layers, measure_each

__all__ = ["stream_image"]


class _Conf(msgspec.Struct):
    """The keys that nixpkgs writes; it writes more, which decide nothing."""

    architecture: str
    config: dict[str, Any]
    store_dir: str
    from_image: str | None
    store_layers: list[list[str]]
    customisation_layer: str
    repo_tag: str
    created: str
    mtime: str
    uid: str
    gid: str
    uname: str
    gname: str


@dataclass(slots=True)
class _Output:
    """The outer archive, and what its manifest will say."""

    tar: OuterTar
    mtime: int
    log: Callable[[str], object]
    layers: list[tuple[str, str, list[str]]] = field(default_factory=list)  # diff ID in hex, member, paths


def stream_image(
    conf_file: str,
    fd: int,
    *,
    repo_tag: str | None = None,
    store_root: str = "",
    verify_store: bool = False,
    jobs: int | None = None,
    cache: DigestCache | None = None,
    verify: bool = False,
    log: Callable[[str], object] = lambda line: None,
) -> None:
    """Write the image of a conf.json of nixpkgs' streamLayeredImage.

    Args:
        conf_file: the file; nixpkgs has it as the attribute ``conf`` of an image.
        fd: the file descriptor that the archive is written to; it may be a pipe.
        repo_tag: the image's name and tag, other than conf.json's.
        store_root: the folder below which store paths are: the layers', ``from_image`` and ``customisation_layer``.
        verify_store: check each layer's store paths against the NAR hashes that the store has registered.
        jobs: how many worker processes, default all cores.
        cache: what layers gave before, and what they give now; a layer that is remembered is not hashed again.
        verify: hash also what is remembered.
        log: gets the lines that the original writes to standard error.

    Raises:
        Contradiction: a layer is not what was remembered of it; the cache has forgotten it.
        ConfigError: conf.json is not what nixpkgs writes.
        ClosureError: a store path that is to be verified is not registered.
        ImageError: the base image or the customisation layer is not whole.
        LayerError: a store path cannot be read, or is not what was registered.
        OSError: the output cannot be written.
    """
    conf = _read_conf(conf_file)
    # One "now" for both, as the original has it.
    now = datetime.datetime.now(datetime.UTC)
    created = _date(conf_file, "created", conf.created, now)
    try:
        mtime = int(_date(conf_file, "mtime", conf.mtime, now).timestamp())
    except (ValueError, OverflowError) as error:  # a date without a time zone, at either end of the calendar
        raise ConfigError(f"{conf_file}: mtime: {conf.mtime}: {error}") from None
    uid, gid = _number(conf_file, "uid", conf.uid), _number(conf_file, "gid", conf.gid)
    profile = Profile(uid, gid, conf.uname, conf.gname, mtime)
    recipes = [_recipe(conf_file, conf, paths, profile, store_root) for paths in conf.store_layers]
    jobs = jobs or available_cores()
    expected = _registered_nar_hashes(recipes, store_root) if verify_store else {}
    tar = OuterTar(fd, mtime)
    out = _Output(tar, mtime, log)
    config = dict(conf.config)
    if conf.from_image is None:
        log("No 'fromImage' provided")
    else:
        _write_base(store_root + conf.from_image, out, config)

    _write_layers(recipes, out, conf.store_layers, expected, jobs, cache, verify)
    _write_customisation(conf.customisation_layer, store_root, out)
    _write_documents(conf, config, created, repo_tag or conf.repo_tag, out)
    tar.end()
    log("Done.")


def _write_layers(
    recipes: Sequence[LayerRecipe],
    out: _Output,
    names: Sequence[list[str]],
    expected: Mapping[str, str],
    jobs: int,
    cache: DigestCache | None,
    verify: bool,
) -> None:
    """Write the layers of store paths, in order; what is remembered as soon as it and all before it are measured."""

    def member(index: int, layer: LayerDescriptor) -> str:
        out.log(f"Creating layer {len(out.layers) + 1} from paths: {names[index]}")
        diff_id = layer.diff_id.removeprefix("sha256:")
        out.layers.append((diff_id, f"{diff_id}/layer.tar", names[index]))
        return f"{diff_id}/layer.tar"

    memory = Memory(cache, Codec())
    measured: list[MeasuredLayer] = []
    tasks: dict[int, LayerTask] = {}
    in_order = LayersInOrder(out.tar, measured, member)
    with closing(measure_each(recipes, jobs)) as looks:
        for index, layer in enumerate(looks):
            measured.append(layer)
            known = memory.look_up_measured(index, layer, trust=not expected)
            if known is not None and not verify:
                in_order.add(index, known)
                continue
            tasks[index] = LayerTask(
                layer.recipe,
                table=layer.table,
                nar_hashes=tuple((tree.owner, expected[tree.owner]) for tree in layer.recipe.contents if expected),
                known=known,
                verify=verify,
            )
    numbers = list(tasks)
    try:
        with closing(make_layers(list(tasks.values()), [measured[i].size for i in numbers], jobs=jobs)) as work:
            for number, made in work:
                in_order.add(numbers[number], made)
                memory.remember(numbers[number], made)
    except Contradiction as error:
        memory.forget(error)
        raise


def _read_conf(file: str) -> _Conf:
    try:
        with open(file, "rb") as document:
            conf = msgspec.json.decode(document.read(), type=_Conf)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not a conf.json: {error}") from None
    for key in ("uname", "gname", "customisation_layer", "from_image"):
        if "\0" in (getattr(conf, key) or ""):
            raise ConfigError(f"{file}: {key}: {getattr(conf, key)!r}: a zero byte in a name")
    if conf.from_image is not None:  # its variables and ours become one list
        check_config(conf.config, f"{file}: config")
    return conf


def _date(file: str, key: str, text: str, now: datetime.datetime) -> datetime.datetime:
    if text == "now":
        return now
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{file}: {key}: {text}: neither an ISO 8601 date nor now") from None


def _number(file: str, key: str, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ConfigError(f"{file}: {key}: {text}: not a number") from None
    if not -(1 << 63) <= value < 1 << 63:
        raise ConfigError(f"{file}: {key}: {text}: not within 64 bits")
    return value


def _recipe(file: str, conf: _Conf, paths: list[str], profile: Profile, store_root: str) -> LayerRecipe:
    for path in paths:
        root, *parts = pathlib.PurePosixPath(path).parts or ("",)
        if not path.startswith(conf.store_dir) or root != "/" or not parts or ".." in parts or "\0" in path:
            raise ConfigError(f"{file}: store_layers: {path}: not below {conf.store_dir}")
    trees = tuple(Tree(str(pathlib.PurePosixPath(path))) for path in paths)
    # The original has these two directories whatever the store directory is.
    return LayerRecipe(trees, profile, store_root, ("/nix", "/nix/store"), whiteouts=True)


def _registered_nar_hashes(recipes: Sequence[LayerRecipe], store_root: str) -> dict[str, str]:
    """Of each store path of the layers, the NAR hash that it must have."""
    from .sources import nix_store

    paths = [tree.owner for recipe in recipes for tree in recipe.contents]
    return dict(zip(paths, nix_store.nar_hashes(paths, store_root=store_root), strict=True))


def _of_output(error: OSError) -> bool:
    """Whether writing failed: what opens files names them, and what decompresses them has no number."""
    return error.errno is not None and error.filename is None


def _write_base(path: str, out: _Output, config: dict[str, Any]) -> None:
    """Copy the base image's layers, each with the tar header that it had, and take over its variables."""
    try:
        with tarfile.open(path) as archive:

            def load(member: str) -> Any:
                file = archive.extractfile(member)
                if file is None:
                    raise ImageError(f"{path}: {member}: not a file")
                return json.load(file)

            manifest = load("manifest.json")[0]
            image = load(manifest["Config"])
            diff_ids = image["rootfs"]["diff_ids"]
            for diff_id, member in zip(diff_ids, manifest["Layers"], strict=False):
                out.log(f"Adding base layer {len(out.layers) + 1} from {path}")
                info = archive.getmember(member)
                out.tar.write(info.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape"))
                source = archive.extractfile(info) if info.isreg() else None
                left = info.size if source else 0
                while source and left:
                    data = source.read(min(left, BLOCK))
                    if not data:
                        raise ImageError(f"{path}: {member}: ends early")
                    left -= len(data)
                    out.tar.write(data)
                out.tar.pad(info.size if source else 0)
                out.layers.append((diff_id.removeprefix("sha256:"), member, [member]))
            env = merge_env((image.get("config") or {}).get("Env") or (), config.get("Env") or ())
            if env:
                config["Env"] = env
    except OSError as error:
        if _of_output(error):
            raise
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except (*NO_ARCHIVE, LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ImageError(f"{path}: not a docker archive: {type(error).__name__}: {error}") from None


def _write_customisation(path: str, store_root: str, out: _Output) -> None:
    """Copy the customisation layer; its header has the file's own mode and owner, as the original's has."""
    out.log(f"Creating layer {len(out.layers) + 1} with customisation...")
    folder = store_root + path
    try:
        with open(os.path.join(folder, "checksum"), encoding="ascii") as file:
            checksum = file.read().strip()
        if len(checksum) != 64:
            raise ImageError(f"{folder}/checksum: {len(checksum)} characters, not 64")
        name = os.path.join(folder, "layer.tar")
        member = f"{checksum}/layer.tar"
        with open(name, "rb") as file_:
            with tarfile.TarFile(os.devnull, "w") as archive:
                info = archive.gettarinfo(name, member)
            info.mtime = out.mtime
            out.tar.write(info.tobuf(tarfile.PAX_FORMAT, errors="surrogateescape"))
            digest, size = hashlib.sha256(), 0
            while data := file_.read(BLOCK):
                digest.update(data)
                size += len(data)
                out.tar.write(data)
        if size != info.size or digest.hexdigest() != checksum:
            raise ImageError(f"{name}: its bytes are not those of {folder}/checksum")
        out.tar.pad(size)
    except OSError as error:
        if _of_output(error):
            raise
        raise ImageError(f"{error.filename or folder}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ImageError(f"{folder}/checksum: not text") from None
    out.layers.append((checksum, member, [path]))


def _write_documents(
    conf: _Conf, config: Mapping[str, Any], created: datetime.datetime, repo_tag: str, out: _Output
) -> None:
    """Write the image's config and the manifest, in the original's order of keys and with its white space."""
    out.log("Adding manifests...")
    date = created.isoformat()
    image_config = {
        "created": date,
        "architecture": conf.architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"diff_ids": [f"sha256:{diff_id}" for diff_id, _, _ in out.layers], "type": "layers"},
        "history": [{"created": date, "comment": f"store paths: {paths}"} for _, _, paths in out.layers],
    }
    data = json.dumps(image_config, indent=4).encode()
    name = f"{hashlib.sha256(data).hexdigest()}.json"
    members = [member for _, member, _ in out.layers]
    manifest = [{"Config": name, "RepoTags": [repo_tag], "Layers": members}]
    out.tar.member(name, data)
    out.tar.member("manifest.json", json.dumps(manifest, indent=4).encode())
