"""The way of working to beat, with what makes its layers an image: two_pass.py, then a config and a manifest.

two_pass_image.py TWO_PASS.py LAYERS.json > image.tar
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import tarfile
import threading
from typing import BinaryIO


def main() -> None:
    """Write a docker archive of the layers that the file lists."""
    program, layers_file = sys.argv[1:]
    spec = importlib.util.spec_from_file_location("two_pass", program)
    assert spec is not None and spec.loader is not None
    two_pass = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(two_pass)
    with open(layers_file) as file:
        layers = json.load(file)
    digests = []
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as image:

        def add(name: str, size: int, data: BinaryIO) -> None:
            info = tarfile.TarInfo(name)
            info.size = size
            image.addfile(info, data)

        for paths in layers:
            measure = two_pass.Measure()
            two_pass.write_layer(measure, paths)
            digests.append(measure.digest.hexdigest())
            source_fd, sink_fd = os.pipe()
            with open(source_fd, "rb") as source, open(sink_fd, "wb") as sink:

                def produce(paths: list[str] = paths, sink: BinaryIO = sink) -> None:
                    two_pass.write_layer(sink, paths)
                    sink.close()

                threading.Thread(target=produce).start()
                add(f"{digests[-1]}/layer.tar", measure.size, source)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
            "history": [{"created": "1970-01-01T00:00:01Z"} for _ in digests],
        }
        manifest = {
            "Config": "config.json",
            "RepoTags": ["bench:1"],
            "Layers": [f"{digest}/layer.tar" for digest in digests],
        }
        for name, value in (("config.json", config), ("manifest.json", [manifest])):
            data = json.dumps(value).encode()
            add(name, len(data), io.BytesIO(data))


if __name__ == "__main__":
    main()
