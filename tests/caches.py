"""Store paths as a cache knows them: where they are, with the modes that Nix gives and their NAR hashes."""

import stat
from pathlib import Path
from typing import Any

from oracles.nar import nar_hash
from stores import NODES

__all__ = ["make_canonical", "named_nodes"]


def make_canonical(folder: Path) -> None:
    """Give everything at and below a path the modes that Nix gives: 0555 and 0444."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o444)


def named_nodes(root: Path) -> list[dict[str, Any]]:
    """The nodes of the small store below a root as store paths that are there, modes made canonical."""
    for node in NODES:
        make_canonical(Path(f"{root}{node['path']}"))
    return [
        {
            "path": f"{root}{node['path']}",
            "references": [f"{root}{path}" for path in node["references"]],
            "narHash": nar_hash(f"{root}{node['path']}"),
            "narSize": node["narSize"],
        }
        for node in NODES
    ]
