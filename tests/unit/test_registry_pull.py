"""Images out of registries: as bases, and joined under one tag."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fake_registry import FakeRegistry, Reply, Seen, basic, digest_of
from fastlayers import (
    Codec,
    ConfigError,
    Credentials,
    DestinationError,
    ImageError,
    Reference,
    RegistryAccess,
    RegistryError,
    Settings,
    build_image,
    parse_destination,
    push_index,
    read_base,
    read_closure,
)
from fastlayers.base import BaseImage
from fastlayers.registry import transport
from stores import make_store

pytestmark = pytest.mark.usefixtures("quick")

LAYERS = [random.Random(number).randbytes(300_000) for number in range(3)]
CONFIG: dict[str, Any] = {
    "architecture": "arm64",
    "os": "linux",
    "variant": "v8",
    "config": {"Env": ["A=1"], "Cmd": ["/bin/sh"]},
    "history": [{"comment": "first"}, {"empty_layer": True}, {"comment": "second"}, {"comment": "third"}],
    "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in LAYERS]},
}
INDEX = "application/vnd.oci.image.index.v1+json"


def content(base: BaseImage) -> list[bytes]:
    found = []
    for layer in base.layers:
        blocks: list[bytes] = []
        layer.copy(lambda block, blocks=blocks: blocks.append(bytes(block)))
        found.append(b"".join(blocks))
    return found


def test_a_base_is_read_when_it_is_needed(registry: FakeRegistry) -> None:
    registry.add_image("os/base", "1", LAYERS, CONFIG)
    base = read_base(f"docker://{registry.host}/os/base:1")
    assert [seen.method for seen in registry.seen] == ["GET", "GET"]
    assert (base.config, base.architecture, base.variant) == (CONFIG["config"], "arm64", "v8")
    assert [entry.get("comment") for entry in base.history] == ["first", None, "second", "third"]
    assert {layer.repository for layer in base.layers} == {f"{registry.host}/os/base"}
    assert content(base) == LAYERS == content(base)


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("oci.image.layer.v1.tar", ""),
        ("oci.image.layer.v1.tar+gzip", "+gzip"),
        ("oci.image.layer.v1.tar+zstd", "+zstd"),
        ("docker.image.rootfs.diff.tar.gzip", "+gzip"),
    ],
)
def test_media_types(kind: str, suffix: str, registry: FakeRegistry) -> None:
    registry.add_image("os/base", "latest", LAYERS, CONFIG, layer_type=f"application/vnd.{kind}")
    base = read_base(f"docker://{registry.host}/os/base")
    assert {layer.media_type_suffix for layer in base.layers} == {suffix}


def test_a_base_by_its_digest(registry: FakeRegistry) -> None:
    digest = registry.add_image("os/base", "1", LAYERS, CONFIG)
    assert content(read_base(f"docker://{registry.host}/os/base@{digest}")) == LAYERS
    data, kind = registry.manifests["os/base", digest]
    registry.manifests["os/base", digest] = data + b" ", kind
    with pytest.raises(RegistryError, match=f"its bytes are not those of {digest}"):
        read_base(f"docker://{registry.host}/os/base@{digest}")


def joined(registry: FakeRegistry, *platforms: dict[str, str]) -> None:
    """An index of images whose only layer names their platform."""
    entries = []
    for platform in platforms:
        layer = json.dumps(platform).encode()
        config = {**platform, "rootfs": {"diff_ids": [digest_of(layer)]}}
        digest = registry.add_image("os/base", f"single-{len(entries)}", [layer], config)
        entries.append({"mediaType": "x", "digest": digest, "size": 1, "platform": platform})
    registry.add_manifest("os/base", "all", {"mediaType": INDEX, "manifests": entries})


def test_a_base_for_several_platforms(registry: FakeRegistry) -> None:
    amd64, arm64 = {"os": "linux", "architecture": "amd64"}, {"os": "linux", "architecture": "arm64"}
    joined(registry, amd64, arm64)
    for platform in (amd64, arm64):
        base = read_base(f"docker://{registry.host}/os/base:all", architecture=platform["architecture"])
        assert json.loads(content(base)[0]) == platform
    with pytest.raises(ImageError, match="nothing for linux/riscv64; it has linux/amd64, linux/arm64"):
        read_base(f"docker://{registry.host}/os/base:all", architecture="riscv64")


@pytest.mark.parametrize("seed", range(3))
def test_blobs_come_through_broken_connections(
    seed: int, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time it goes on where it was, or from the start where the registry gives everything again."""
    monkeypatch.setattr(transport, "ATTEMPTS", 30)
    chance = random.Random(seed)
    whole = seed == 2

    def interfere(seen: Seen) -> Reply | None:
        if seen.method == "GET" and "/blobs/" in seen.path and whole:
            seen.headers.pop("range", None)
        data = registry.blobs.get(("os/base", seen.path.rpartition("/")[2]), b"")
        if not data or chance.random() < 0.3:
            return None
        start = int(seen.headers.get("range", "bytes=0-")[6:-1])
        part = data[start:][: chance.randrange(len(data) - start + 1) if not whole else 200_000]
        headers = {"Content-Length": str(len(data) - start), "Connection": "close"}
        return Reply(206 if start else 200, headers, part, read=False)

    registry.add_image("os/base", "1", LAYERS, CONFIG)
    registry.interfere = interfere
    assert content(read_base(f"docker://{registry.host}/os/base:1")) == LAYERS
    asked = [seen for seen in registry.seen if "/blobs/" in seen.path]
    assert len(asked) > 4


def test_a_blob_that_never_comes(registry: FakeRegistry) -> None:
    registry.add_image("os/base", "1", LAYERS, CONFIG)
    base = read_base(f"docker://{registry.host}/os/base:1")
    registry.interfere = lambda seen: Reply(200, {"Content-Length": "100"}, b"", read=False)
    with pytest.raises(RegistryError, match=f"os/base: blob {digest_of(LAYERS[0])}: ") as caught:
        content(base)
    assert "http" not in str(caught.value)


def test_redirects_take_no_credentials_along(registry: FakeRegistry, other: FakeRegistry) -> None:
    registry.add_image("os/base", "1", LAYERS, CONFIG)
    other.blobs = {("elsewhere", digest): data for (_, digest), data in registry.blobs.items()}
    registry.challenge = 'Basic realm="a"'
    registry.authorize = lambda seen: seen.headers.get("authorization") == basic("user", "secret")
    registry.interfere = lambda seen: (
        Reply(307, {"Location": f"{other.url}/v2/elsewhere/blobs/{seen.path.rpartition('/')[2]}?signature=s"})
        if "/blobs/" in seen.path
        else None
    )
    base = read_base(f"docker://{registry.host}/os/base:1", RegistryAccess(Credentials("user", "secret")))
    assert content(base) == LAYERS
    assert len(other.seen) == 4 and not any("authorization" in seen.headers for seen in other.seen)
    other.interfere = lambda seen: Reply(403, {}, b"signature=s has expired")
    with pytest.raises(RegistryError, match="403 Forbidden") as caught:
        content(base)
    assert "signature" not in str(caught.value)
    other.interfere = lambda seen: Reply(500)
    with pytest.raises(RegistryError, match="500 Internal") as caught:
        content(base)
    assert "signature" not in str(caught.value)


def test_what_is_asked_for_reading(registry: FakeRegistry) -> None:
    """A token to pull; and none for what the registry gives to everybody."""
    asked: list[list[str]] = []

    def tokens(headers: dict[str, str], form: dict[str, list[str]]) -> Reply:
        asked.append(form["scope"])
        return Reply(200, {}, b'{"access_token": "good", "expires_in": 300}')

    registry.add_image("os/base", "1", LAYERS, CONFIG)
    registry.challenge, registry.tokens = f'Bearer realm="{registry.url}/token",service="s"', tokens
    registry.authorize = lambda seen: seen.headers.get("authorization") == "Bearer good"
    content(read_base(f"docker://{registry.host}/os/base:1"))
    assert asked == [["repository:os/base:pull"]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["layers"].pop(), "the number of its layers is 2, that of its diff IDs 3"),
        (lambda m: m.pop("config"), "not a whole image: KeyError"),
        (lambda m: m["layers"][0].update(mediaType="application/x"), "a layer of the type application/x"),
        (lambda m: m["layers"][0].update(digest="sha256:12"), "not a digest that is understood"),
        (lambda m: m["config"].update(size=1 << 40), "bytes of config"),
        (lambda m: m["config"].update(digest=digest_of(LAYERS[0])), "not JSON|its bytes are not those"),
    ],
)
def test_images_that_are_not_whole(change: Any, reason: str, registry: FakeRegistry) -> None:
    digest = registry.add_image("os/base", "1", LAYERS, CONFIG)
    manifest = json.loads(registry.manifests["os/base", digest][0])
    change(manifest)
    registry.add_manifest("os/base", "1", manifest)
    with pytest.raises(ImageError, match=reason) as caught:
        read_base(f"docker://{registry.host}/os/base:1")
    assert str(caught.value).startswith(f"docker://{registry.host}/os/base")


@pytest.mark.parametrize("data", [b"{", b"[]", b"\xff"])
def test_a_manifest_that_is_none(data: bytes, registry: FakeRegistry) -> None:
    registry.manifests["os/base", "1"] = data, "application/vnd.oci.image.manifest.v1+json"
    with pytest.raises(RegistryError, match="manifest 1: not a manifest"):
        read_base(f"docker://{registry.host}/os/base:1")


def test_an_image_that_is_not_there(registry: FakeRegistry) -> None:
    with pytest.raises(ImageError, match=r"os/base:1: there is no such image"):
        read_base(f"docker://{registry.host}/os/base:1")
    with pytest.raises(ConfigError, match="not an image reference"):
        read_base("docker://Example.org/UPPER")


# Indexes


def build(store: Path, place: str, architecture: str) -> str:
    closure = read_closure(str(store / "graph.json"))
    made = build_image(
        closure,
        [parse_destination(place)],
        store_root=str(store / "root"),
        jobs=1,
        codec=Codec("gzip"),
        settings=Settings({}, architecture),
    )
    return made.image.manifest_digest


def test_an_index_of_images_from_everywhere(tmp_path: Path, registry: FakeRegistry, other: FakeRegistry) -> None:
    """The repository itself, another one there, another registry, a layout, and an index."""
    make_store(tmp_path)
    joined(other, {"os": "linux", "architecture": "arm", "variant": "v6"}, {"os": "unknown", "architecture": "unknown"})
    other.add_manifest("os/base", "7", json.loads(other.manifests["os/base", "all"][0]))
    digests = [
        build(tmp_path, f"docker://{registry.host}/lab/app:amd64", "amd64"),
        build(tmp_path, f"docker://{registry.host}/lab/other:arm64", "arm64"),
        build(tmp_path, f"docker://{other.host}/lab/app:riscv64", "riscv64"),
        build(tmp_path, f"oci:{tmp_path}/layout:s390x", "s390x"),
    ]
    build(tmp_path, f"oci:{tmp_path}/layout:other", "mips")
    before = len(registry.seen)
    pushed = push_index(
        Reference.parse(f"{registry.host}/lab/app:1"),
        [
            f"docker://{registry.host}/lab/app:amd64",
            f"docker://{registry.host}/lab/other:arm64",
            f"docker://{other.host}/lab/app:riscv64",
            f"oci:{tmp_path}/layout:s390x",
            f"docker://{other.host}/os/base:7",
        ],
    )
    data, kind = registry.manifests["lab/app", "1"]
    index = json.loads(data)
    assert kind == index["mediaType"] == INDEX and digest_of(data) == pushed.digest
    assert index["manifests"] == list(pushed.entries)
    assert [entry["digest"] for entry in index["manifests"]][:4] == digests
    assert [entry["platform"]["architecture"] for entry in index["manifests"]] == [
        *("amd64", "arm64", "riscv64", "s390x", "arm", "unknown")
    ]
    assert index["manifests"][4]["platform"] == {"os": "linux", "architecture": "arm", "variant": "v6"}
    assert not any("annotations" in entry for entry in index["manifests"])
    for entry in index["manifests"]:
        assert registry.image("lab/app", entry["digest"])
        assert entry["size"] == len(registry.manifests["lab/app", entry["digest"]][0])
    mounted = [seen for seen in registry.seen[before:] if seen.query.get("from") == "lab/other"]
    assert len(mounted) == 1  # the config; the layers are those of the first image
    # And once more: nothing is sent but the index.
    before = len(registry.seen)
    again = push_index(Reference.parse(f"{registry.host}/lab/app:2"), [f"docker://{registry.host}/lab/app:1"])
    assert again.digest == pushed.digest
    assert [seen.path for seen in registry.seen[before:] if seen.method != "GET"] == ["/v2/lab/app/manifests/2"]


def test_two_images_for_one_platform(tmp_path: Path, registry: FakeRegistry) -> None:
    make_store(tmp_path)
    for tag in ("a", "b"):
        build(tmp_path, f"docker://{registry.host}/lab/app:{tag}", "amd64")
    places = [f"docker://{registry.host}/lab/app:{tag}" for tag in ("a", "b")]
    with pytest.raises(ImageError, match=f"{places[1]}: is for linux/amd64, as is {places[0]}"):
        push_index(Reference.parse(f"{registry.host}/lab/app:1"), places)
    assert ("lab/app", "1") not in registry.manifests


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("docker://{host}/lab/absent:1", "there is no such image"),
        ("oci:{folder}/absent:1", r"index\.json: No such file"),
        ("oci:{folder}/layout:2", "0 images with the tag 2"),
        ("oci:{folder}/damaged:1", "its bytes are not those of the digest"),
        ("oci:", "expected docker://"),
        ("docker-archive:x.tar", "expected docker://"),
    ],
)
def test_images_that_cannot_be_joined(image: str, reason: str, tmp_path: Path, registry: FakeRegistry) -> None:
    make_store(tmp_path)
    build(tmp_path, f"oci:{tmp_path}/layout:1", "amd64")
    digest = build(tmp_path, f"oci:{tmp_path}/damaged:1", "amd64")
    (tmp_path / "damaged/blobs/sha256" / digest[7:]).write_bytes(b"{}")
    with pytest.raises(ImageError, match=reason):
        push_index(Reference.parse(f"{registry.host}/lab/app:1"), [image.format(host=registry.host, folder=tmp_path)])
    assert not registry.manifests


def test_layers_of_a_layout_that_are_damaged(tmp_path: Path, registry: FakeRegistry) -> None:
    make_store(tmp_path)
    build(tmp_path, f"oci:{tmp_path}/layout:1", "amd64")
    largest = max((tmp_path / "layout/blobs/sha256").iterdir(), key=lambda file: file.stat().st_size)
    largest.write_bytes(bytes(largest.stat().st_size))
    with pytest.raises(ImageError, match=f"{largest.name}: its bytes are not those of"):
        push_index(Reference.parse(f"{registry.host}/lab/app:1"), [f"oci:{tmp_path}/layout"])
    assert not registry.manifests


def test_an_index_goes_to_a_tag(registry: FakeRegistry) -> None:
    with pytest.raises(DestinationError, match="to a tag, not to a digest"):
        push_index(Reference.parse(f"{registry.host}/lab/app@{digest_of(b'')}"), [])
