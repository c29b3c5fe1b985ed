"""Programs whose exit status does not come, or does not tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastlayers import DestinationError
from fastlayers.engines import program
from loads import load

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


def test_an_import_whose_engine_is_gone_is_ended(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(store / "bin", "ctr", _CTR, monkeypatch)
    monkeypatch.setattr(program, "_WATCH", 0.05)
    with pytest.raises(DestinationError, match=r"^ctr version: ctr: failed to dial: connection refused$"):
        load(store, "containerd:app:1")


def test_a_podman_that_is_terminated_has_loaded_nothing(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(store / "bin", "podman", _PODMAN, monkeypatch)
    with pytest.raises(DestinationError, match=r"^podman load --quiet: ended before it had loaded the image$"):
        load(store, "podman:app:1")


def test_a_full_disk_is_told_and_not_answered_by_sending_all(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(store / "bin", "podman", _FULL, monkeypatch)
    (store / "held").write_text("")
    monkeypatch.setenv("HELD", str(store / "held"))
    monkeypatch.setenv("LOADS", str(store / "loads"))
    made = load(store, f"oci:{store}/oci:1")
    (store / "held").write_text(json.dumps([layer.descriptor.diff_id for layer in made.layers]) + "\n")
    with pytest.raises(DestinationError, match=r"^podman load --quiet: .*no space left on device$"):
        load(store, "podman:app:1")
    assert (store / "loads").read_text() == "\n"
