"""What a registry has already is not sent again: manifests, blobs, mounts, base layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fake_registry import FakeRegistry, Reply, digest_of
from fastlayers import (
    Codec,
    DigestCache,
    ImageError,
    LayerError,
    PushOptions,
    Reference,
    RegistryAccess,
    RegistryError,
    Settings,
    build_image,
    parse_destination,
    read_base,
    read_closure,
)
from fastlayers.registry import sink
from pushes import LAYERS, WHO, TokenServer, happened, push
from stores import write_json

pytestmark = pytest.mark.usefixtures("quick")


# What is there already


def test_the_second_push_asks_once(store: Path, registry: FakeRegistry) -> None:
    push(store, registry)
    before = len(registry.seen)
    push(store, registry)
    assert [(seen.method, seen.path) for seen in registry.seen[before:]] == [("GET", "/v2/lab/app/manifests/1")]


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_layers_that_are_remembered_are_not_looked_at(
    codec: Any, store: Path, registry: FakeRegistry, cache: DigestCache
) -> None:
    made = push(store, registry, cache=cache, codec=Codec(codec))
    shutil.rmtree(store / "root")
    before = len(registry.seen)
    again = push(store, registry, codec=Codec(codec), cache=cache, settings=Settings({"Cmd": ["/bin/new"]}))
    assert again.image.manifest_digest != made.image.manifest_digest
    assert sum(layer.descriptor.sent for layer in again.layers) == 0
    assert [(seen.method, seen.path.rpartition("/")[0]) for seen in registry.seen[before:]] == [
        ("GET", "/v2/lab/app/manifests"),
        ("POST", "/v2/lab/app/blobs/uploads"),
        ("PUT", "/v2/lab/app/blobs/uploads"),
        ("PUT", "/v2/lab/app/manifests"),
    ]
    assert registry.image("lab/app", "1")[1]["config"] == {"Cmd": ["/bin/new"]}


@pytest.mark.usefixtures("streaming")
def test_only_new_layers_are_sent(store: Path, registry: FakeRegistry, cache: DigestCache) -> None:
    """A layer that is remembered and not there goes to its digest in one request; one is asked for at most once."""
    made = push(store, registry, cache=cache, codec=Codec("gzip"))
    changed = made.layers[1].descriptor.digest
    del registry.blobs["lab/app", changed]
    document = json.loads(registry.manifests["lab/app", "1"][0])
    document["layers"] = [layer for layer in document["layers"] if layer["digest"] != changed]
    registry.add_manifest("lab/app", "1", document)
    before = len(registry.seen)
    again = push(store, registry, codec=Codec("gzip"), cache=cache)
    seen = registry.seen[before:]
    assert [layer.descriptor.sent > 0 for layer in again.layers] == [False, True, False]
    assert [each.method for each in seen] == ["GET", "HEAD", "POST", "PUT", "PUT"]
    assert seen[3].query["digest"] == changed
    assert seen[3].headers["content-length"] == str(made.layers[1].descriptor.size)
    assert registry.image("lab/app", "1")


@pytest.mark.usefixtures("streaming")
def test_a_plain_layer_as_large_as_one_that_is_there_is_hashed_first(store: Path, registry: FakeRegistry) -> None:
    push(store, registry)
    before = len(registry.seen)
    again = push(store, registry, settings=Settings({"Cmd": ["/bin/new"]}))
    assert sum(layer.descriptor.sent for layer in again.layers) == 0
    assert "PATCH" not in {seen.method for seen in registry.seen[before:]}


@pytest.mark.parametrize("bad_day", [False, True])
def test_what_was_remembered_wrongly_is_an_error(
    bad_day: bool, store: Path, registry: FakeRegistry, cache: DigestCache
) -> None:
    made = push(store, registry, cache=cache)
    (base,) = store.glob("root/nix/store/*-base-1.0/etc/base")
    base.chmod(0o644)
    base.write_text("EVIL\n")
    if bad_day:
        registry.interfere = lambda seen: Reply(cut=10) if seen.method == "PUT" and seen.number == 10 else None
    with pytest.raises(LayerError, match="as it was remembered"):
        push(store, registry, to="lab/new:1", cache=cache)
    assert ("lab/new", "1") not in registry.manifests
    assert push(store, registry, to="lab/new:1", cache=cache).image.manifest_digest != made.image.manifest_digest


def test_blobs_that_the_registry_has_lost_are_sent_again(
    store: Path, registry: FakeRegistry, cache: DigestCache, other: FakeRegistry
) -> None:
    base_layer = b"base layer" * 1000
    diff_ids = {"rootfs": {"diff_ids": [digest_of(base_layer)]}, "architecture": "amd64"}
    other.add_image("os/base", "1", [base_layer], diff_ids)
    base = read_base(f"docker://{other.host}/os/base:1")
    made = push(store, registry, cache=cache, base=base)
    lost = [made.layers[0].descriptor.digest, made.image.config_digest, digest_of(base_layer)]
    for digest in lost:
        del registry.blobs["lab/app", digest]
    again = push(store, registry, base=base, cache=cache, settings=Settings({"User": "new"}))
    assert again.sent is not None and again.sent >= made.layers[0].descriptor.size
    assert again.notes == (f"docker://{registry.host}/lab/app:1: it had lost 1 layer of the image before: sent again",)
    for digest in (lost[0], lost[2]):
        assert ("lab/app", digest) in registry.blobs
    assert registry.image("lab/app", "1")[1]["config"] == {"User": "new"}


def test_a_manifest_that_is_refused_for_other_blobs(store: Path, registry: FakeRegistry) -> None:
    registry.interfere = lambda seen: (
        Reply(404, {}, b'{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown to registry"}]}')
        if seen.method == "PUT" and "manifests" in seen.path
        else None
    )
    with pytest.raises(RegistryError, match="404 Not Found: blob unknown to registry"):
        push(store, registry)


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("to", ["lab/app:1", "lab/new:2"])
def test_nothing_that_is_there_is_sent_again(codec: Any, to: str, store: Path, registry: FakeRegistry) -> None:
    """Without a cache and without NAR hashes: the tar sizes in the manifest before say which layers to make first."""
    push(store, registry, codec=Codec(codec))
    before = len(registry.seen)
    start = Reference.parse(f"{registry.host}/lab/app:1")
    again = push(store, registry, to=to, codec=Codec(codec), options=PushOptions(start))
    how = "skipped" if to == "lab/app:1" else "mounted"
    assert happened(again) == {("built", how)} and again.sent == 0
    assert not any(seen.method == "PATCH" for seen in registry.seen[before:])
    assert registry.image(*to.split(":")) == registry.image("lab/app", "1")


@pytest.mark.usefixtures("streaming")
def test_layers_of_another_codec_are_sent_while_they_are_made(store: Path, registry: FakeRegistry) -> None:
    push(store, registry, codec=Codec("gzip"))
    push(store, registry, codec=Codec("zstd"))
    assert registry.count("PATCH") == 2 * LAYERS


@pytest.mark.usefixtures("cache")
def test_what_changed_is_told_by_the_manifest_before(store: Path, registry: FakeRegistry) -> None:
    """Without a cache: three requests, and one question for each layer that is not there."""
    push(store, registry, cache=None, codec=Codec("gzip"))
    document = json.loads((store / "named.json").read_text())
    (app,) = (node for node in document["graph"] if node["path"].endswith("-app-3.0"))
    Path(app["path"]).rename(app["path"][:-1] + "1")
    app["path"] = app["path"][:-1] + "1"
    write_json(store / "named.json", document)
    for node in document["graph"]:
        if node is not app:
            shutil.rmtree(node["path"])
    before = len(registry.seen)
    again = push(store, registry, cache=None, codec=Codec("gzip"))
    assert [layer.events[0].event for layer in again.layers] == ["reused", "reused", "built"]
    assert [each.method for each in registry.seen[before:]].count("HEAD") == 1
    assert [each.method for each in registry.seen[before:]].count("GET") == 1
    assert registry.image("lab/app", "1")


# Mounts


@pytest.mark.parametrize("held", [0, 4 << 20], ids=["large", "small"])
def test_mounts(held: int, store: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "_HELD", held)
    push(store, registry, to="lab/source:1")
    before = len(registry.seen)
    made = push(store, registry, options=PushOptions(mount_from="lab/source"))
    assert registry.image("lab/app", "1")
    seen = registry.seen[before:]
    assert sum(layer.descriptor.sent for layer in made.layers) == 0
    # The manifest is the only thing that was sent; the config was there too.
    assert [each.path for each in seen if each.method in ("PUT", "PATCH")] == ["/v2/lab/app/manifests/1"]
    assert all(each.query["from"] == "lab/source" for each in seen if each.method == "POST")


def test_a_missed_mount_is_an_upload_that_has_begun(store: Path, registry: FakeRegistry) -> None:
    registry.mounts = False
    push(store, registry, options=PushOptions(mount_from="lab/source"))
    assert registry.image("lab/app", "1")
    assert registry.count("POST") == LAYERS + 1
    assert not registry.uploads


def test_a_mount_that_is_refused(store: Path, registry: FakeRegistry) -> None:
    registry.interfere = lambda seen: Reply(403) if "mount" in seen.query else None
    push(store, registry, options=PushOptions(mount_from="lab/source"))
    assert registry.image("lab/app", "1")


def test_a_mount_needs_a_token_for_both(store: Path, registry: FakeRegistry) -> None:
    """And where the token server gives none for the other repository, the layer is sent."""
    server = TokenServer(registry, 1000)
    answer = server.answer

    def refuse(headers: dict[str, str], form: dict[str, list[str]]) -> Reply:
        return Reply(403) if "repository:secret/source:pull" in form["scope"] else answer(headers, form)

    push(store, registry, options=PushOptions(mount_from="lab/source"))
    assert ["repository:lab/app:pull,push", "repository:lab/source:pull"] in [form["scope"] for _, form in server.asked]
    registry.tokens = refuse
    push(store, registry, to="lab/app:2", options=PushOptions(mount_from="secret/source"))
    assert registry.image("lab/app", "2")


def test_starting_from_another_tag(store: Path, registry: FakeRegistry, cache: DigestCache) -> None:
    push(store, registry, cache=cache)
    before = len(registry.seen)
    start = Reference.parse(f"{registry.host}/lab/app:1")
    push(store, registry, to="lab/app:2", options=PushOptions(start), cache=cache)
    assert [each.method for each in registry.seen[before:]] == ["GET", "PUT"]
    assert registry.image("lab/app", "2")


def test_starting_from_another_repository(store: Path, registry: FakeRegistry, cache: DigestCache) -> None:
    push(store, registry, cache=cache)
    start = Reference.parse(f"{registry.host}/lab/app:1")
    again = push(store, registry, to="lab/new:2", options=PushOptions(start), cache=cache)
    assert registry.image("lab/new", "2")
    assert sum(layer.descriptor.sent for layer in again.layers) == 0


def test_starting_from_another_registry(store: Path, registry: FakeRegistry, other: FakeRegistry) -> None:
    """Its layers have names; they are nowhere where we push to, and it gets no credentials of ours."""
    push(store, other)
    registry.challenge = other.challenge = 'Basic realm="a"'
    registry.authorize = lambda seen: "authorization" in seen.headers
    start = Reference.parse(f"{other.host}/lab/app:1")
    destination = parse_destination(
        f"docker://{registry.host}/lab/app:1", access=RegistryAccess(WHO), push=PushOptions(start)
    )
    closure = read_closure(str(store / "graph.json"))
    build_image(closure, [destination], store_root=str(store / "root"), jobs=1)
    assert registry.image("lab/app", "1")
    assert not any("authorization" in seen.headers for seen in other.seen)


def test_starting_from_nothing(store: Path, registry: FakeRegistry) -> None:
    start = Reference.parse(f"{registry.host}/lab/absent:1")
    with pytest.raises(ImageError, match=r"lab/absent:1: there is no such image$"):
        push(store, registry, options=PushOptions(start))


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_a_tag_that_names_an_index(architecture: str, store: Path, registry: FakeRegistry, cache: DigestCache) -> None:
    """Its image for this platform is what is there before; the tag names the new image alone."""
    made = push(store, registry, cache=cache, settings=Settings({}, "amd64"))
    entry = {"digest": made.image.manifest_digest, "platform": {"os": "linux", "architecture": "amd64"}}
    index = {"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    registry.add_manifest("lab/app", "1", index)
    before = len(registry.seen)
    settings, options = Settings({}, architecture), PushOptions(architecture=architecture)
    again = push(store, registry, options=options, settings=settings, cache=cache)
    methods = [each.method for each in registry.seen[before:]]
    assert methods.count("GET") == (2 if architecture == "amd64" else 1)
    assert methods.count("HEAD") == (0 if architecture == "amd64" else LAYERS)
    assert registry.manifests["lab/app", "1"][0] == again.image.manifest


# Base images


def test_base_layers_are_mounted_sent_or_left_where_they_are(
    store: Path, registry: FakeRegistry, cache: DigestCache, other: FakeRegistry
) -> None:
    layers = [b"first" * 1000, b"second" * 100_000]
    config = {
        "architecture": "amd64",
        "config": {"Env": ["A=1"], "User": "nobody", "Labels": {"a": "b"}, "Entrypoint": ["/init"]},
        "rootfs": {"diff_ids": [digest_of(layer) for layer in layers]},
    }
    for server in (registry, other):
        server.add_image("os/base", "1", layers, config)
    for server, sent in ((registry, 0), (other, 2)):  # of the same registry; of another one
        before, before_other = len(registry.seen), len(other.seen)
        base = read_base(f"docker://{server.host}/os/base:1")
        push(store, registry, cache=cache, base=base, to=f"lab/{sent}:1", settings=Settings({"Env": ["B=2"]}))
        manifest, image = registry.image(f"lab/{sent}", "1")
        assert [layer["digest"] for layer in manifest["layers"]][:2] == [digest_of(layer) for layer in layers]
        assert image["config"] == {**config["config"], "Env": ["A=1", "B=2"]}  # type: ignore[dict-item]
        puts = [seen.query.get("digest") for seen in registry.seen[before:] if seen.method == "PUT" and seen.is_upload]
        assert sum(digest_of(layer) in puts for layer in layers) == sent
        downloads = [seen for seen in other.seen[before_other:] if seen.method == "GET" and "/blobs/" in seen.path]
        assert len(downloads) == (0 if server is registry else 1 + sent)  # the config is always read
        # And once more, into the repository that has all.
        before, before_other = len(registry.seen), len(other.seen)
        push(store, registry, base=base, to=f"lab/{sent}:1", cache=cache)
        assert {seen.method for seen in registry.seen[before:]} <= {"GET", "POST", "PUT"}
        assert len(other.seen) == before_other


def test_a_base_in_the_repository_itself(store: Path, registry: FakeRegistry) -> None:
    layer = b"first" * 1000
    config = {"architecture": "amd64", "rootfs": {"diff_ids": [digest_of(layer)]}}
    registry.add_image("lab/app", "base", [layer], config)
    push(store, registry, base=read_base(f"docker://{registry.host}/lab/app:base"))
    assert registry.image("lab/app", "1")
    assert not any(digest_of(layer) in seen.path or "mount" in seen.query for seen in registry.seen)


def test_a_base_that_is_not_what_it_says(store: Path, registry: FakeRegistry, other: FakeRegistry) -> None:
    layer = b"first" * 1000
    config = {"architecture": "amd64", "rootfs": {"diff_ids": [digest_of(layer)]}}
    other.add_image("os/base", "1", [layer], config)
    base = read_base(f"docker://{other.host}/os/base:1")
    other.blobs["os/base", digest_of(layer)] = b"worse" * 1000
    with pytest.raises(Exception, match=f"its bytes are not those of {digest_of(layer)}"):
        push(store, registry, base=base)
    assert not registry.manifests
