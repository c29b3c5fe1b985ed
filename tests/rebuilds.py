"""Builds in the working directory, one after the other: what each did, and what is there then."""

from __future__ import annotations

import hashlib
import os
import tarfile
from pathlib import Path
from typing import Any

from fastlayers import (
    build_image,
    parse_destination,
    read_closure,
    stream_image,
)
from fastlayers.build import BuildResult
from stores import CONF, write_json


def build(document: str, *targets: str, prune: bool = False, **options: Any) -> BuildResult:
    places = [parse_destination(target, prune=prune, verify=options.get("verify", False)) for target in targets]
    return build_image(read_closure(document), places, **{"jobs": 1, **options})


def events(made: BuildResult) -> list[list[str]]:
    return [[event.event for event in built.events] for built in made.layers]


def blobs(folder: str = "image") -> dict[str, tuple[int, int]]:
    """Every blob's inode and mtime, after its digest was checked."""
    found = {}
    for path in Path(folder, "blobs/sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def blob_of(layout: str, digest: str) -> Path:
    return Path(layout, "blobs", *digest.split(":"))


def write_conf(store: Path) -> Path:
    layers = [[str(path)] for path in sorted((store / "nix/store").iterdir())]
    Path("customisation").mkdir(exist_ok=True)
    with tarfile.open("customisation/layer.tar", "w"):
        pass
    digest = hashlib.sha256(Path("customisation/layer.tar").read_bytes()).hexdigest()
    Path("customisation/checksum").write_text(digest)
    conf = {**CONF, "store_dir": str(store / "nix/store"), "store_layers": layers}
    conf["customisation_layer"] = os.path.abspath("customisation")
    return write_json(Path("conf.json"), conf)


def stream(conf: Path, **options: Any) -> bytes:
    with open("stream.tar", "wb") as out:
        stream_image(str(conf), out.fileno(), **options)
    return Path("stream.tar").read_bytes()
