"""A small store with a closure of three paths: app refers to lib and base, lib to base and itself."""

import json
import os
from pathlib import Path
from typing import Any

BASE = "/nix/store/k48ggc1dsfshqaf8sg999a9qvfw6w7vn-base-1.0"
LIB = "/nix/store/7z8xw1hq3sj929nd42amzfprnamgmbkz-lib-2.0"
APP = "/nix/store/0fw1lhcxmzh69x6za6w343riia8nicgf-app-3.0"
ABSENT = "/nix/store/1fxf4fycw8n4f0sj8j2wg936kkv1ajcz-absent-4.0"

NODES: list[dict[str, Any]] = [
    {"path": APP, "references": [LIB, BASE], "narSize": 816},
    {"path": LIB, "references": [BASE, LIB], "narSize": 520},
    {"path": BASE, "references": [], "narSize": 456},
]

# All keys that a conf.json of nixpkgs' streamed image has to have.
CONF: dict[str, Any] = {
    "architecture": "amd64",
    "config": {},
    "store_dir": "/nix/store",
    "from_image": None,
    "store_layers": [[APP], [LIB, BASE]],
    "customisation_layer": "/nix/store/custom",
    "repo_tag": "a:b",
    "created": "1970-01-01T00:00:01+00:00",
    "mtime": "1970-01-01T00:00:01+00:00",
    "uid": "0",
    "gid": "0",
    "uname": "root",
    "gname": "root",
}


def write_file(path: Path, data: bytes | str = b"", mode: int = 0o444) -> Path:
    """A file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(mode)
    return path


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def make_store(folder: Path) -> Path:
    """Write root/nix/store and graph.json into a folder; returns graph.json."""
    root = folder / "root"
    write_file(root / APP[1:] / "bin" / "app", "#!/bin/sh\necho app\n", 0o555)
    (root / APP[1:] / "lib").symlink_to(LIB)
    write_file(root / LIB[1:] / "lib" / "lib.so", b"\x7fELF" + bytes(20_000))
    os.link(root / LIB[1:] / "lib" / "lib.so", root / LIB[1:] / "lib" / "lib.so.1")
    write_file(root / BASE[1:] / "etc" / "base", "base\n")
    (root / BASE[1:] / "empty").mkdir()
    return write_json(folder / "graph.json", {"graph": NODES})
