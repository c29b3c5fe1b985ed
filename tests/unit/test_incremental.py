"""Builds that cost what changed: what is remembered is neither read nor hashed, nor written where it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlayers import (
    Codec,
    DigestCache,
    Settings,
    layer,
)
from rebuilds import blobs, build, events, stream, write_conf
from stores import BASE, LIB

GZIP = Codec("gzip")


@pytest.fixture
def nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def forbid() -> None:
        def measure(recipe: object) -> None:
            raise AssertionError(recipe)

        monkeypatch.setattr(layer, "measure", measure)
        monkeypatch.setattr("fastlayers.parallel.measure", measure)

    return forbid


@pytest.mark.parametrize("codec", [Codec(), GZIP], ids=["none", "gzip"])
def test_nothing_changed(
    codec: Codec, named_store: Path, cache: DigestCache, nothing_is_opened: Callable[[], None]
) -> None:
    first = build("named.json", "oci:image:1", codec=codec, cache=cache)
    assert events(first) == [["built", "written"]] * 3
    assert first.read == 40_032 and first.written == sum(one.descriptor.size for one in first.layers)
    before = blobs()
    shutil.rmtree(named_store)
    nothing_is_opened()
    again = build("named.json", "oci:image:1", codec=codec, cache=cache)
    assert again.image == first.image
    assert events(again) == [["reused", "skipped"]] * 3
    assert (again.read, again.written, again.sent) == (0, 0, None)
    assert blobs() == before


def test_without_a_cache_the_layout_is_what_remembers(named_store: Path, nothing_is_opened: Callable[[], None]) -> None:
    first = build("named.json", "oci:image:1")
    nothing_is_opened()
    again = build("named.json", "oci:image:1", settings=Settings({"User": "new"}))
    assert events(again) == [["reused", "skipped"]] * 3
    assert again.image.layers == first.image.layers
    with pytest.raises(AssertionError):  # the user named another image
        build("named.json", "oci:image:2")
    with pytest.raises(AssertionError):
        build("named.json", "oci:image:1", codec=GZIP)
    with pytest.raises(AssertionError):
        build("named.json", "oci:image:1", trust_previous=False)


@pytest.mark.parametrize("remembers", ["cache", "layout"])
def test_one_path_changed(remembers: str, named_store: Path, cache: DigestCache) -> None:
    own = cache if remembers == "cache" else None
    build("named.json", "oci:image:1", cache=own)
    kept = blobs()
    for path in (LIB, BASE):  # unchanged, and never looked at
        shutil.rmtree(f"{named_store}{path}")
    made = build("changed.json", "oci:image:1", cache=own)
    assert events(made) == [["reused", "skipped"], ["reused", "skipped"], ["built", "written"]]
    assert made.read == len("#!/bin/sh\necho new app\n") and made.written == made.layers[2].descriptor.size
    assert {name: stamp for name, stamp in blobs().items() if name in kept} == kept


@pytest.mark.usefixtures("settled")
def test_files_below_a_root_are_remembered_by_what_they_look_like(folder: Path) -> None:
    root, cache = str(folder / "root"), DigestCache.open("cache")
    first = build("graph.json", "oci:image", cache=cache, store_root=root)
    assert events(build("graph.json", "oci:image", cache=cache, store_root=root)) == [["reused", "skipped"]] * 3
    file = folder / "root" / BASE[1:] / "etc/base"
    before = file.stat()
    file.chmod(0o644)
    file.write_text("evil\n")  # as long as before, and with the same mtime
    file.chmod(0o444)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = build("graph.json", "oci:image", cache=cache, store_root=root)
    assert events(again) == [["built", "written"], ["reused", "skipped"], ["reused", "skipped"]]
    assert again.image.layers[0].diff_id != first.image.layers[0].diff_id
    manifest = json.loads(again.image.manifest)
    assert not any("dev.fastlayers.recipe" in each["annotations"] for each in manifest["layers"])


def test_a_file_that_was_just_written_is_not_remembered(folder: Path) -> None:
    """One more change of it need not show in its ctime, which has the clock's resolution."""
    root, cache = str(folder / "root"), DigestCache.open("cache")
    build("graph.json", "oci:image", cache=cache, store_root=root)
    assert list(cache.entries()) == []
    assert events(build("graph.json", "oci:image", cache=cache, store_root=root))[0][0] == "built"


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_meanwhile_is_not_remembered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen before is not what the layer was made of, where its table is not kept."""
    cache = DigestCache.open("cache")
    monkeypatch.setattr("fastlayers.parallel._TABLES", 0)
    file = folder / "root" / BASE[1:] / "etc/base"
    file.chmod(0o644)
    measure = layer.measure

    def change_and_measure(recipe: layer.LayerRecipe) -> Any:
        file.write_text("evil\n")
        return measure(recipe)

    monkeypatch.setattr(layer, "measure", change_and_measure)
    build("graph.json", "oci:image", cache=cache, store_root=str(folder / "root"))
    assert len(list(cache.entries())) == 2  # the two other layers


def test_modes_that_nix_would_not_give_are_not_remembered_by_nar_hash(named_store: Path, cache: DigestCache) -> None:
    Path(f"{named_store}{BASE}/etc").chmod(0o755)
    made = build("named.json", "oci:image", cache=cache)
    manifest = json.loads(made.image.manifest)
    assert ["dev.fastlayers.recipe" in each["annotations"] for each in manifest["layers"]] == [False, True, True]
    assert len(list(cache.entries())) == 2


def test_the_manifest_does_not_depend_on_what_is_remembered(named_store: Path, cache: DigestCache) -> None:
    first = build("named.json", "oci:image", cache=cache)
    assert build("named.json", "oci:image", cache=cache).image == first.image
    assert build("named.json", "oci:image", trust_previous=False).image == first.image
    assert build("named.json", "oci:other").image == first.image


def test_a_plan_can_be_read_from_a_manifest(named_store: Path) -> None:
    made = build("named.json", "oci:image")
    manifest = json.loads(made.image.manifest)
    assert manifest["annotations"]["dev.fastlayers.plan"] == "1"
    told = [tuple(json.loads(each["annotations"]["dev.fastlayers.paths"])) for each in manifest["layers"]]
    assert told == list(made.plan.layers)


# Archives and streams


@pytest.mark.parametrize("codec", [Codec(), GZIP], ids=["none", "gzip"])
@pytest.mark.parametrize("place", ["file", "pipe"])
def test_an_archive_of_what_is_remembered_is_not_hashed(
    place: str, codec: Codec, named_store: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    build("named.json", "docker-archive:first.tar:app:1", codec=codec, cache=cache)

    def pump(*arguments: object) -> str:
        raise AssertionError(arguments)

    monkeypatch.setattr(layer, "pump", pump)
    if place == "file":
        build("named.json", "docker-archive:again.tar:app:1", codec=codec, cache=cache)
    else:
        os.mkfifo("fifo")
        with open("again.tar", "wb") as out, subprocess.Popen(["cat", "fifo"], stdout=out):
            made = build("named.json", "docker-archive:fifo:app:1", codec=codec, cache=cache)
        assert made.written == sum(one.descriptor.size for one in made.layers)
    assert Path("first.tar").read_bytes() == Path("again.tar").read_bytes()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("changed", [0, 1, 2, 3])
def test_a_stream_of_what_is_remembered(
    changed: int, named_store: Path, cache: DigestCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not comes between the rest."""
    conf = write_conf(named_store)
    before = stream(conf, jobs=1)
    assert stream(conf, jobs=1, cache=cache) == before
    for entry in list(cache.entries())[:changed]:
        cache.drop(entry.key)
    hashed = []
    make = layer.make_layer
    monkeypatch.setattr("fastlayers.parallel.make_layer", lambda *task: hashed.append(task) or make(*task))
    assert stream(conf, jobs=1, cache=cache) == before
    assert len(hashed) == changed
    assert len(list(cache.entries())) == 4
    hashed.clear()
    assert stream(conf, jobs=1, cache=cache, verify=True) == before
    assert len(hashed) == 4
