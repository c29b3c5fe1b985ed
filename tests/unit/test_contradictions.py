"""Memory that is wrong: who notices, what is forgotten, and whom nobody has to believe."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlayers import (
    Codec,
    Contradiction,
    DigestCache,
    LayerError,
    layer,
)
from rebuilds import blob_of, blobs, build, events, stream, write_conf
from stores import BASE

GZIP = Codec("gzip")


@contextmanager
def readable(fifo: str) -> Iterator[None]:
    """A new fifo that somebody has opened, and does not read."""
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield
    finally:
        os.close(reader)


def spoil(root: Path) -> None:
    """Another file in the store path of the same NAR hash, as long as before."""
    file = Path(f"{root}{BASE}/etc/base")
    file.chmod(0o644)
    file.write_text("evil\n")
    file.chmod(0o444)


@pytest.mark.parametrize("codec", [Codec(), GZIP], ids=["none", "gzip"])
def test_verify_finds_a_contradiction_and_forgets(codec: Codec, named_store: Path, cache: DigestCache) -> None:
    first = build("named.json", "oci:image", cache=cache, codec=codec)
    verified = build("named.json", "oci:image", cache=cache, codec=codec, verify=True)
    assert events(verified) == [["built", "skipped"]] * 3 and verified.image == first.image
    assert verified.read == first.read and verified.written == 0
    spoil(named_store)
    assert build("named.json", "oci:image", cache=cache, codec=codec).image == first.image  # it is trusted
    with pytest.raises(Contradiction, match=rf"{BASE}: is sha256:\w+, not {first.image.layers[0].diff_id} as it was"):
        build("named.json", "oci:image", cache=cache, codec=codec, verify=True)
    assert list(cache.entries()) == []
    again = build("named.json", "oci:image", cache=cache, codec=codec, trust_previous=False)
    assert again.image.layers[0].diff_id != first.image.layers[0].diff_id


def test_a_cache_that_is_wrong_often_is_forgotten_at_once(named_store: Path, cache: DigestCache) -> None:
    """One build fails, not one for each entry that is wrong. What other images alone have stays."""
    made = build("named.json", "oci:image", cache=cache)
    entries = {cache.get(entry.key, Codec()): entry.key for entry in cache.entries()}
    build("changed.json", "oci:other", cache=cache)
    for number, right in enumerate(made.image.layers):
        wrong = f"sha256:{number:064}"
        cache.put(entries[right], replace(right, digest=wrong, diff_id=wrong))
    with pytest.raises(Contradiction):
        build("named.json", "oci:new", cache=cache, verify=True)
    assert len(list(cache.entries())) == 1
    assert build("named.json", "oci:new", cache=cache).image == made.image


def test_a_manifest_that_is_wrong_costs_the_cache_nothing(named_store: Path, cache: DigestCache) -> None:
    made = build("named.json", "oci:image", cache=cache)
    (key,) = [entry.key for entry in cache.entries() if cache.get(entry.key, Codec()) == made.image.layers[0]]
    cache.drop(key)  # so that the manifest alone tells this layer
    spoil(named_store)
    with pytest.raises(Contradiction):
        build("named.json", "oci:image", cache=cache, verify=True)
    assert len(list(cache.entries())) == 2


def test_a_contradiction_of_a_worker_process_travels() -> None:
    error = pickle.loads(pickle.dumps(Contradiction("one line", "sha256:1")))
    assert isinstance(error, LayerError) and (str(error), error.digest) == ("one line", "sha256:1")


def test_a_compressed_layer_that_comes_out_otherwise(named_store: Path, cache: DigestCache) -> None:
    """As where an encoder of the same profile gives other bytes on another machine."""
    made = build("named.json", "oci:image", cache=cache, codec=GZIP)
    (key,) = [entry.key for entry in cache.entries() if cache.get(entry.key, GZIP) == made.image.layers[0]]
    cache.put(key, replace(made.image.layers[0], digest="sha256:" + "1" * 64))
    with pytest.raises(Contradiction, match="when compressed"):
        build("named.json", "oci:other", cache=cache, codec=GZIP)
    assert cache.get(key, GZIP) is None
    assert build("named.json", "oci:other", cache=cache, codec=GZIP).image == made.image


# Files, manifests and streams


def test_a_manifest_that_lies_reaches_no_cache_and_no_other_destination(named_store: Path, cache: DigestCache) -> None:
    """It is believed for what is there, under the name that was given, and for nothing else."""
    made = build("named.json", "oci:image:1")
    lie = "sha256:" + "0" * 64
    true = made.layers[0].descriptor.digest
    manifest = blob_of("image", made.image.manifest_digest).read_text().replace(true, lie)
    forged = "sha256:" + hashlib.sha256(manifest.encode()).hexdigest()
    blob_of("image", forged).write_text(manifest)
    index = Path("image/index.json")
    index.write_text(
        index.read_text()
        .replace(made.image.manifest_digest, forged)
        .replace(f'"size":{len(made.image.manifest)}', f'"size":{len(manifest)}')
    )
    with pytest.raises(Contradiction):
        build("named.json", "oci:image:1", cache=cache)
    again = build("named.json", "oci:other:1", cache=cache)
    assert [layer.descriptor.digest for layer in again.layers] == [layer.descriptor.digest for layer in made.layers]
    assert not blob_of("image", lie).exists()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("to", ["oci:again", "docker-archive:again.tar", "docker-archive:fifo"])
def test_what_is_remembered_of_files_that_change_meanwhile_is_not_trusted(
    to: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are looked at twice, where their table is not kept; they are as long as before."""
    root, cache = str(folder / "root"), DigestCache.open("cache")
    build("graph.json", "oci:image", cache=cache, store_root=root)
    monkeypatch.setattr("fastlayers.parallel._TABLES", 0)
    file = folder / "root" / BASE[1:] / "etc/base"
    file.chmod(0o644)
    os.utime(file, (7, 7))
    build("graph.json", "oci:image", cache=cache, store_root=root)
    measure = layer.measure

    def change_and_measure(recipe: layer.LayerRecipe) -> Any:
        file.write_text("evil\n")
        return measure(recipe)

    monkeypatch.setattr(layer, "measure", change_and_measure)
    with readable("fifo"), pytest.raises(LayerError, match="its files changed while the image was built"):
        build("graph.json", to, cache=cache, store_root=root)
    assert len(list(cache.entries())) == 4  # of what was there before, and is not contradicted


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("to", ["oci:other:1", "docker-archive:file.tar", "docker-archive:fifo"])
def test_modes_that_have_changed_since_are_a_contradiction(
    to: str, jobs: int, named_store: Path, cache: DigestCache
) -> None:
    """The NAR hash and the size of the tar are the same, the bytes are not."""
    build("named.json", "oci:image", cache=cache)
    Path(f"{named_store}{BASE}/etc").chmod(0o755)
    with readable("fifo"), pytest.raises(Contradiction, match="as it was remembered"):
        build("named.json", to, cache=cache, jobs=jobs)
    assert list(cache.entries()) == []
    again = build("named.json", "oci:other:1", cache=cache)
    assert [one.descriptor.made for one in again.layers] == [True] * 3
    blobs("other")


@pytest.mark.usefixtures("settled")
def test_a_stream_whose_memory_is_wrong(named_store: Path, cache: DigestCache) -> None:
    conf = write_conf(named_store)
    right = stream(conf, jobs=1, cache=cache)
    entry = next(cache.entries())
    found = cache.get(entry.key, Codec())
    assert found is not None
    cache.put(entry.key, replace(found, diff_id="sha256:" + "1" * 64, digest="sha256:" + "1" * 64))
    with pytest.raises(Contradiction):
        stream(conf, jobs=1, cache=cache, verify=True)
    assert cache.get(entry.key, Codec()) is None
    assert stream(conf, jobs=1, cache=cache) == right
