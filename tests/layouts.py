"""OCI layouts written by hand, whose layers are any bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastlayers.layering.carried import PATHS, PLAN


@dataclass(frozen=True)
class Layer:
    """The stored bytes of a layer; ``tar``: what they are uncompressed, if something else."""

    stored: bytes
    paths: Sequence[str] | None = None
    tar: bytes = b""
    comment: str = ""


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def write_layout(
    folder: Path, layers: Sequence[Layer], tag: str = "1", *, plan: bool = True, labels: Mapping[str, str] | None = None
) -> str:
    """Add an image to a layout, with or without its plan; gives what names it."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)

    def add(data: bytes) -> dict[str, Any]:
        (blobs / digest(data)[7:]).write_bytes(data)
        return {"mediaType": "application/octet-stream", "digest": digest(data), "size": len(data)}

    described = []
    for layer in layers:
        descriptor = add(layer.stored)
        if plan and layer.paths is not None:
            descriptor["annotations"] = {PATHS: json.dumps(layer.paths)}
        described.append(descriptor)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": labels} if labels else {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer.tar or layer.stored) for layer in layers]},
        "history": [{"comment": layer.comment} for layer in layers],
    }
    manifest: dict[str, Any] = {"schemaVersion": 2, "config": add(json.dumps(config).encode()), "layers": described}
    if plan:
        manifest["annotations"] = {PLAN: "1"}
    entry = {**add(json.dumps(manifest).encode()), "annotations": {"org.opencontainers.image.ref.name": tag}}
    index = folder / "index.json"
    entries = json.loads(index.read_text())["manifests"] if index.exists() else []
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*entries, entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return f"oci:{folder}:{tag}"
