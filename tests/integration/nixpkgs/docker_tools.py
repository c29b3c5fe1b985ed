"""What nixpkgs' dockerTools does for a layered image, by the oracles: the programs of dockertools.nix.

docker_tools.py layers ATTRS-JSON LIMIT EXCLUDED...   which paths go into which layer
docker_tools.py stream CONF                           the docker archive
"""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

from oracles.auto import layers
from oracles.tar import Owner, layer


def split(file: str, limit: str, *excluded: str) -> None:
    nodes = json.loads(Path(file).read_text())["graph"]
    references = {node["path"]: [path for path in node["references"] if path != node["path"]] for node in nodes}
    sizes = {node["path"]: node["narSize"] for node in nodes}
    print(json.dumps(layers(references, sizes, int(limit), set(excluded))))


def stream(file: str) -> None:
    conf = json.loads(Path(file).read_text())
    made: list[tuple[str, list[str]]] = []
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as archive:

        def add(name: str, data: bytes, mode: int = 0o644, owner: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime, info.uname, info.gname = len(data), mode, 1, owner, owner
            archive.addfile(info, io.BytesIO(data))

        print("No 'fromImage' provided", file=sys.stderr)
        for paths in conf["store_layers"]:
            data = layer(Path("/"), paths, Owner(), ("/nix", "/nix/store"))
            made.append((hashlib.sha256(data).hexdigest(), paths))
            add(f"{made[-1][0]}/layer.tar", data)
        own = Path(conf["customisation_layer"])
        made.append(((own / "checksum").read_text().strip(), [str(own)]))
        add(f"{made[-1][0]}/layer.tar", (own / "layer.tar").read_bytes(), 0o444, "root")
        created = {"created": conf["created"]}
        config: dict[str, Any] = {
            **created,
            "architecture": conf["architecture"],
            "os": "linux",
            "config": conf["config"],
            "rootfs": {"diff_ids": [f"sha256:{digest}" for digest, _ in made], "type": "layers"},
            "history": [{**created, "comment": f"store paths: {paths}"} for _, paths in made],
        }
        data = json.dumps(config, indent=4).encode()
        name = f"{hashlib.sha256(data).hexdigest()}.json"
        members = [f"{digest}/layer.tar" for digest, _ in made]
        add(name, data)
        manifest = [{"Config": name, "RepoTags": [conf["repo_tag"]], "Layers": members}]
        add("manifest.json", json.dumps(manifest, indent=4).encode())


if __name__ == "__main__":
    {"layers": split, "stream": stream}[sys.argv[1]](*sys.argv[2:])
