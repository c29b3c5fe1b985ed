"""Small images that can be spoilt: an OCI layout in memory, and what is made of it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OCI = "application/vnd.oci.image."
LAYER_TYPE = f"{OCI}layer.v1.tar"


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tar_of(*entries: tuple[str, bytes | str | None]) -> bytes:
    """A tar of files (bytes), symlinks (text) and directories (None)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def squeeze(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@dataclass
class StoredImage:
    """An image whose documents are changed before it is written; digests above a change follow it.

    Attributes:
        tars: its layers.
        compress: what is done with them.
        stored: stored bytes by layer, instead of compressed tars; their digests follow.
        spoil: changes blobs by digest when all is named, so that digests do not follow.
        config, manifest, entry, index: change these documents.
    """

    tars: Sequence[bytes]
    compress: Callable[[bytes], bytes] = squeeze
    tag: str = "1"
    stored: dict[int, bytes] = field(default_factory=dict)
    config: Callable[[dict[str, Any]], object] = lambda document: None
    manifest: Callable[[dict[str, Any]], object] = lambda document: None
    entry: Callable[[dict[str, Any]], object] = lambda document: None
    index: Callable[[dict[str, Any]], object] = lambda document: None
    spoil: Callable[[dict[str, bytes], list[str]], object] = lambda blobs, layers: None

    def files(self) -> dict[str, bytes]:
        """The OCI layout, by name."""
        blobs: dict[str, bytes] = {}

        def blob(data: bytes, media_type: str) -> dict[str, Any]:
            blobs[digest_of(data)] = data
            return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

        kind = LAYER_TYPE + ("" if self.compress is bytes else "+gzip")
        layers = [blob(self.stored.get(i, self.compress(tar)), kind) for i, tar in enumerate(self.tars)]
        names = [layer["digest"] for layer in layers]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/app"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in self.tars]},
        }
        self.config(config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}manifest.v1+json",
            "config": blob(json.dumps(config).encode(), f"{OCI}config.v1+json"),
            "layers": layers,
        }
        self.manifest(manifest)
        entry = blob(json.dumps(manifest).encode(), f"{OCI}manifest.v1+json")
        entry["annotations"] = {"org.opencontainers.image.ref.name": self.tag}
        entry["platform"] = {"architecture": "amd64", "os": "linux"}
        self.entry(entry)
        index = {"schemaVersion": 2, "manifests": [entry]}
        self.index(index)
        self.spoil(blobs, names)
        files = {f"blobs/sha256/{name[7:]}": data for name, data in blobs.items()}
        files["index.json"] = json.dumps(index).encode()
        files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
        docker = {
            "Config": f"blobs/sha256/{manifest['config']['digest'][7:]}",
            "RepoTags": ["app:1"],
            "Layers": [f"blobs/sha256/{layer['digest'][7:]}" for layer in manifest.get("layers", ())],
        }
        files["manifest.json"] = json.dumps([docker]).encode()
        return files

    def write(self, folder: Path) -> Path:
        """Write the layout."""
        for name, data in self.files().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder


def archive_of(files: dict[str, bytes]) -> bytes:
    """The archive of a layout."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
