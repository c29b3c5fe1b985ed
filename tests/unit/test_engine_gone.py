"""Programs whose exit status does not come, or does not tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastlayers import DestinationError, build_image, parse_destination, read_closure
from fastlayers.engines import program
from stores import make_store

_CTR = """#!/bin/sh
case "$*" in
*"content ls"*) ;;
"images import"*) exec sleep 600 ;;
*) echo "ctr: failed to dial: connection refused" >&2; exit 1 ;;
esac
"""


_PODMAN = """#!/bin/sh
case "$1" in
load) cat > /dev/null; echo Getting image source signatures ;;
esac
"""

_FULL = """#!/bin/sh
case "$1 $2" in
images*) echo sha256:0 ;;
"image inspect") cat "$HELD" ;;
load*)
    cat > /dev/null; echo >> "$LOADS"
    printf 'Error: payload does not match any of the supported image formats:\\n * oci: %0400d\\n' 0 >&2
    echo ' * oci-archive: writing blob: write /x: no space left on device' >&2
    exit 125 ;;
esac
"""


def install(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def load(folder: Path, destination: str) -> None:
    make_store(folder)
    closure = read_closure(str(folder / "graph.json"))
    build_image(closure, [parse_destination(destination)], store_root=str(folder / "root"), jobs=1)


def test_an_import_whose_engine_is_gone_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", "ctr", _CTR, monkeypatch)
    monkeypatch.setattr(program, "_WATCH", 0.05)
    with pytest.raises(DestinationError, match=r"^ctr version: ctr: failed to dial: connection refused$"):
        load(tmp_path, "containerd:app:1")


def test_a_podman_that_is_terminated_has_loaded_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", "podman", _PODMAN, monkeypatch)
    with pytest.raises(DestinationError, match=r"^podman load --quiet: ended before it had loaded the image$"):
        load(tmp_path, "podman:app:1")


def test_a_full_disk_is_told_and_not_answered_by_sending_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "bin", "podman", _FULL, monkeypatch)
    (tmp_path / "held").write_text("")
    monkeypatch.setenv("HELD", str(tmp_path / "held"))
    monkeypatch.setenv("LOADS", str(tmp_path / "loads"))
    make_store(tmp_path)
    closure = read_closure(str(tmp_path / "graph.json"))
    root = str(tmp_path / "root")
    made = build_image(closure, [parse_destination(f"oci:{tmp_path}/oci:1")], store_root=root, jobs=1)
    (tmp_path / "held").write_text(json.dumps([layer.descriptor.diff_id for layer in made.layers]) + "\n")
    with pytest.raises(DestinationError, match=r"^podman load --quiet: .*no space left on device$"):
        build_image(closure, [parse_destination("podman:app:1")], store_root=root, jobs=1)
    assert (tmp_path / "loads").read_text() == "\n"
