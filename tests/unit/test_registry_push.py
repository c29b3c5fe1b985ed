"""Pushing to a registry that does what the specification allows, and what it does not."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fake_registry import FakeRegistry, Reply, Seen, basic, digest_of
from fastlayers import (
    Codec,
    DestinationError,
    DigestCache,
    LayerDescriptor,
    LayerError,
    PushOptions,
    Reference,
    RegistryAccess,
    RegistryError,
    build_image,
    parse_destination,
    read_base,
    read_closure,
)
from fastlayers.registry import sink, transport
from fastlayers.registry.connection import Session
from fastlayers.registry.sink import RegistrySink
from fastlayers.registry.upload import Holdings
from pushes import LAYERS, SECRET, WHO, happened, one_line, push

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("jobs", [1, 3])
def test_an_image_arrives_whole(codec: Any, jobs: int, store: Path, registry: FakeRegistry) -> None:
    made = push(store, registry, codec=Codec(codec), jobs=jobs)
    manifest, config = registry.image("lab/app", "1")
    assert [layer["digest"] for layer in manifest["layers"]] == made.image.layer_digests
    assert config["rootfs"]["diff_ids"] == [layer.descriptor.diff_id for layer in made.layers]
    assert registry.manifests["lab/app", "1"][0] == made.image.manifest
    last = registry.seen[-1]
    assert (last.method, last.path) == ("PUT", "/v2/lab/app/manifests/1")
    assert [layer.descriptor.sent for layer in made.layers] == [layer.descriptor.size for layer in made.layers]
    # Small layers have a digest before they are sent: one question and two requests each.
    assert registry.count("HEAD") == LAYERS and registry.count("POST") == LAYERS + 1
    assert registry.count("PUT") == LAYERS + 2 and registry.count("PATCH") == 0
    assert not registry.uploads


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_large_layers_are_sent_while_they_are_made(codec: Any, store: Path, registry: FakeRegistry) -> None:
    made = push(store, registry, codec=Codec(codec))
    assert registry.image("lab/app", "1")
    assert registry.count("HEAD") == 0 and registry.count("PATCH") == LAYERS
    framing = {seen.headers.get("content-length") for seen in registry.seen if seen.method == "PATCH"}
    sizes = {str(layer.descriptor.size) for layer in made.layers}
    assert framing == (sizes if codec == "none" else {None})


def test_the_tag_is_latest_where_none_is_given(store: Path, registry: FakeRegistry) -> None:
    push(store, registry, to="lab/app")
    assert registry.image("lab/app", "latest")


def test_nobody_pushes_to_a_digest(store: Path, registry: FakeRegistry) -> None:
    with pytest.raises(DestinationError, match="to a tag, not to a digest"):
        push(store, registry, to=f"lab/app@{digest_of(b'')}")


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("locate", ["absolute", "no-query", "double-slash"])
def test_locations(locate: str, store: Path, registry: FakeRegistry) -> None:
    registry.locate = {
        "absolute": lambda path: registry.url + path,
        "no-query": lambda path: "../uploads/" + path.rpartition("/")[2],
        "double-slash": lambda path: f"//{registry.host}{path}",
    }[locate]
    push(store, registry)
    assert registry.image("lab/app", "1")


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("status", [405, 501, 400, 404, 500])
@pytest.mark.parametrize("read", [True, False])
def test_a_registry_that_refuses_patch(status: int, read: bool, store: Path, registry: FakeRegistry) -> None:
    registry.interfere = lambda seen: Reply(status, read=read) if seen.method == "PATCH" else None
    push(store, registry, codec=Codec("gzip"))
    assert registry.image("lab/app", "1")
    asked = registry.count("PATCH")
    # Where it says that it never takes it, it is not asked again; but one that does not read may not be heard.
    if read:
        assert asked == (1 if status in (405, 501, 400) else LAYERS)
    else:
        assert 1 <= asked <= LAYERS


def failing(share: float, seed: int, kinds: list[str]) -> Callable[[Seen], Reply | None]:
    """Some requests fail, in one of these ways."""
    chance = random.Random(seed)

    def interfere(seen: Seen) -> Reply | None:
        if chance.random() >= share:
            return None
        kind = chance.choice(kinds)
        if kind == "cut":
            return Reply(cut=chance.choice([0, 1, 100, 10_000]))
        return Reply(int(kind), {"Retry-After": "0"} if kind == "429" else {}, read=chance.random() < 0.5)

    return interfere


@pytest.mark.parametrize("held", [0, 4 << 20], ids=["large", "small"])
@pytest.mark.parametrize("kind", ["500", "429", "503", "cut", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_bad_days(
    kind: str, seed: int, held: int, store: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_HELD", held)
    monkeypatch.setattr(transport, "ATTEMPTS", 20)
    registry.interfere = failing(0.3, seed, ["500", "429", "502", "cut"] if kind == "all" else [kind])
    made = push(store, registry, codec=Codec("gzip"), jobs=2)
    assert registry.manifests["lab/app", "1"][0] == made.image.manifest
    assert registry.image("lab/app", "1")


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize(
    ("method", "kind"),
    [
        *(("GET", kind) for kind in ("500", "429", "cut")),  # what is not there, or may not be seen, is no failure
        *product(["POST", "PATCH+PUT", "PUT", "manifest"], ["500", "429", "cut", "404", "403"]),
    ],
)
def test_days_that_do_not_get_better(kind: str, method: str, store: Path, registry: FakeRegistry) -> None:
    """One line that names the place, and no tag."""

    def interfere(seen: Seen) -> Reply | None:
        hit = seen.method in method.split("+") if method != "manifest" else "manifests" in seen.path
        if not hit or (method == "manifest" and seen.method != "PUT"):
            return None
        return Reply(cut=50) if kind == "cut" else Reply(int(kind), {"Retry-After": "0"}, b'{"errors":[{"code":"X"}]}')

    registry.interfere = interfere
    with pytest.raises(RegistryError) as caught:
        push(store, registry)
    text = one_line(caught)
    assert text.startswith(f"{registry.host}/lab/app: ")
    assert (kind if kind != "cut" else "closed") in text
    assert not registry.manifests


def test_a_registry_that_asks_to_wait(store: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", waits.append)
    registry.interfere = lambda seen: (
        Reply(429, {"Retry-After": "7"}) if seen.method == "GET" and seen.number <= 2 else None
    )
    push(store, registry)
    assert [wait for wait in waits if wait >= 1] == [7.0, 7.0]


def test_a_registry_that_asks_to_wait_too_long(store: Path, registry: FakeRegistry) -> None:
    registry.interfere = lambda seen: Reply(429, {"Retry-After": "86400"})
    with pytest.raises(RegistryError, match="429 Too Many Requests"):
        push(store, registry)
    assert registry.count("GET") == 1


@pytest.mark.parametrize("held", [0, 4 << 20], ids=["large", "small"])
def test_bytes_that_arrive_damaged(
    held: int, store: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once is an accident; always is an error."""
    monkeypatch.setattr(sink, "_HELD", held)
    invalid = Reply(400, {}, b'{"errors":[{"code":"DIGEST_INVALID","message":"provided digest did not match"}]}')
    registry.interfere = lambda seen: invalid if seen.method == "PUT" and seen.number == 1 else None
    push(store, registry)
    assert registry.image("lab/app", "1")
    registry.interfere = lambda seen: invalid if seen.method == "PUT" and seen.is_upload else None
    with pytest.raises(RegistryError, match="400 Bad Request: provided digest did not match") as caught:
        push(store, registry, to="lab/new:1")
    assert "blob sha256:" in one_line(caught)
    assert ("lab/new", "1") not in registry.manifests


@pytest.mark.parametrize("where", ["blobs", "manifests"])
def test_a_registry_that_has_something_else(where: str, store: Path, registry: FakeRegistry) -> None:
    wrong = "sha256:" + "0" * 64
    registry.interfere = lambda seen: (
        Reply(201, {"Docker-Content-Digest": wrong}) if seen.method == "PUT" and f"/{where}/" in seen.path else None
    )
    with pytest.raises(RegistryError, match=f"the registry has {wrong} for sha256:"):
        push(store, registry)


def test_what_a_build_began_is_given_up(store: Path, registry: FakeRegistry) -> None:
    """A file that becomes shorter while its layer is sent: the upload is ended, there is no tag."""
    (lib,) = store.glob("root/nix/store/*-lib-2.0/lib")
    (lib / "large").touch()
    os.truncate(lib / "large", 64 << 20)
    ended = threading.Event()

    def interfere(seen: Seen) -> None:
        if seen.method == "PATCH":  # nothing of it has been read; less than that fits into buffers
            os.truncate(lib / "large", 63 << 20)
        if seen.method == "DELETE":
            ended.set()

    registry.interfere = interfere
    with pytest.raises(LayerError, match="large"):
        push(store, registry)
    assert ended.wait(10) and not registry.manifests


# Redirects


@pytest.mark.parametrize("held", [0, 4 << 20], ids=["large", "small"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "PUT"])
def test_redirects(
    method: str, held: int, store: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_HELD", held)

    def interfere(seen: Seen) -> Reply | None:
        if seen.method != method or seen.path.startswith("/v2/moved/"):
            return None
        query = "&".join(f"{key}={value.replace('/', '%2F')}" for key, value in seen.query.items())
        return Reply(307, {"Location": f"{seen.path.replace('/v2/', '/v2/moved/')}?{query}"})

    def serve(seen: Seen) -> Reply | None:
        reply = interfere(seen)
        seen.path = seen.path.replace("/v2/moved/", "/v2/")
        return reply

    registry.interfere = serve
    push(store, registry)
    assert registry.image("lab/app", "1")


def test_what_may_not_be_seen_may_be_written(store: Path, registry: FakeRegistry) -> None:
    """Some registries say so of what is not there."""
    registry.interfere = lambda seen: Reply(403) if seen.method in ("GET", "HEAD") else None
    push(store, registry)
    registry.interfere = lambda seen: None
    assert registry.image("lab/app", "1")


def test_redirects_without_an_end(store: Path, registry: FakeRegistry) -> None:
    registry.interfere = lambda seen: Reply(302, {"Location": seen.path})
    with pytest.raises(RegistryError, match="too many redirects"):
        push(store, registry)
    assert len(registry.seen) < 10


def test_nobody_is_led_out_of_tls_to_another_machine(store: Path, registry: FakeRegistry) -> None:
    registry.interfere = lambda seen: Reply(302, {"Location": "http://example.org/manifest"})
    with pytest.raises(RegistryError, match=r"example\.org is to be asked without TLS"):
        push(store, registry)


# Workers


def test_processes_of_their_own(tmp_path: Path, registry: FakeRegistry) -> None:
    nodes = []
    for number in range(3):
        path = f"/nix/store/{number:032}-large"
        (tmp_path / "root" / path[1:]).mkdir(parents=True)
        (tmp_path / "root" / path[1:] / "file").write_bytes(os.urandom(10 << 20))
        nodes.append({"path": path, "references": []})
    (tmp_path / "graph.json").write_text(json.dumps({"graph": nodes}))
    registry.challenge = 'Basic realm="a"'
    registry.authorize = lambda seen: seen.headers.get("authorization") == basic("user", SECRET)
    made = push(tmp_path, registry, jobs=2, codec=Codec("gzip"), access=RegistryAccess(WHO))
    assert registry.image("lab/app", "1")
    assert registry.count("PATCH") == 3 and registry.count("GET") == 2
    assert sum(layer.descriptor.sent for layer in made.layers) > 30 << 20


def test_an_executor_of_somebody_else(store: Path, registry: FakeRegistry) -> None:
    with ThreadPoolExecutor(2) as executor:
        push(store, registry, executor=executor)
    assert registry.image("lab/app", "1")


def test_several_destinations(store: Path, registry: FakeRegistry, other: FakeRegistry, cache: DigestCache) -> None:
    places = [f"docker://{registry.host}/a:1", f"docker://{other.host}/b/c:2", f"oci:{store}/layout:1"]
    closure = read_closure(str(store / "named.json"))
    build_image(closure, [parse_destination(place) for place in places], cache=cache, jobs=1)
    assert registry.image("a", "1") == other.image("b/c", "2")
    # One that has lost its layers gets them.
    other.blobs.clear()
    other.manifests.clear()
    shutil.rmtree(store / "layout")
    again = build_image(closure, [parse_destination(place) for place in places], cache=cache, jobs=1)
    for layer in again.layers:
        assert [event.event for event in layer.events] == ["built", "skipped", "uploaded", "written"]
    assert registry.image("a", "1") == other.image("b/c", "2")
    assert (store / "layout/index.json").exists()


class Stop(BaseException):
    """What a signal's handler raises."""


@pytest.mark.usefixtures("streaming")
@pytest.mark.parametrize("method", ["POST", "PATCH", "HEAD"])
def test_a_registry_that_does_not_answer_holds_nobody(method: str, registry: FakeRegistry) -> None:
    """What is asked while waiting may end the work."""
    hang = threading.Event()

    def interfere(seen: Seen) -> None:
        if seen.method == method:
            hang.wait(30)

    registry.interfere = interfere
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == 3:
            raise Stop

    session = Session(Reference.parse(f"{registry.host}/a"), RegistryAccess(), scheme="http")
    known = LayerDescriptor(digest_of(b""), 0, digest_of(b""), 0) if method == "HEAD" else None
    try:
        with pytest.raises(Stop):
            output = RegistrySink(session, Holdings()).open(known, check)
            assert output is not None
            try:
                for _ in range(100):
                    output.write(memoryview(bytes(1 << 20)))
                output.finish(digest_of(b""), 0, lambda write: None)
            finally:
                hang.set()
                output.close()
    finally:
        hang.set()


@pytest.mark.parametrize("codec", ["none", "gzip"])
def test_events_tell_what_happened(codec: Any, store: Path, registry: FakeRegistry, cache: DigestCache) -> None:
    made = push(store, registry, cache=cache, codec=Codec(codec))
    assert happened(made) == {("built", "uploaded")}
    assert made.sent == sum(layer.descriptor.size for layer in made.layers) and made.written == 0
    mount = PushOptions(mount_from="lab/app")
    known = push(store, registry, cache=cache, codec=Codec(codec), to="lab/known:1", options=mount)
    assert happened(known) == {("reused", "mounted")} and (known.sent, known.read) == (0, 0)
    unknown = push(store, registry, cache=None, codec=Codec(codec), to="lab/unknown:1", options=mount)
    assert happened(unknown) == {("built", "mounted")} and (unknown.sent, unknown.read) == (0, made.read)
    again = push(store, registry, cache=None, codec=Codec(codec), to="lab/known:1")
    assert happened(again) == {("reused", "skipped")} and (again.sent, again.read) == (0, 0)
    verified = push(store, registry, cache=cache, codec=Codec(codec), to="lab/known:1", verify=True)
    assert happened(verified) == {("built", "skipped")} and verified.read == made.read


@pytest.mark.parametrize("lost", [0, 1, -1])
def test_verify_finds_what_the_registry_has_lost(
    lost: int, store: Path, registry: FakeRegistry, cache: DigestCache
) -> None:
    """The image is the one that the tag has, so that without it nobody asks; also the config, which comes last."""
    made = push(store, registry, cache=cache)
    digest = [*made.image.layer_digests, made.image.config_digest][lost]
    del registry.blobs["lab/app", digest]
    before = len(registry.seen)
    assert happened(push(store, registry, cache=cache)) == {("reused", "skipped")}
    assert [seen.method for seen in registry.seen[before:]] == ["GET"]
    before = len(registry.seen)
    verified = push(store, registry, cache=cache, verify=True)
    registry.image("lab/app", "1")
    uploaded = [layer.descriptor.digest for layer in verified.layers if layer.events[-1].event == "uploaded"]
    assert uploaded == ([] if lost == -1 else [digest])
    asked = {seen.path.rpartition("/")[2] for seen in registry.seen[before:] if seen.method == "HEAD"}
    assert asked == set(made.image.layer_digests)


@pytest.mark.usefixtures("streaming")
def test_what_is_verified_without_memory_is_asked_for_first(store: Path, registry: FakeRegistry) -> None:
    push(store, registry)
    before = len(registry.seen)
    verified = push(store, registry, verify=True)
    assert happened(verified) == {("built", "skipped")} and verified.sent == 0
    assert not any(seen.method == "PATCH" for seen in registry.seen[before:])


def test_verify_asks_for_a_base_image_that_is_in_the_same_repository(store: Path, registry: FakeRegistry) -> None:
    data = b"a layer" * 100
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest_of(data)]}}
    registry.add_image("lab/app", "base", [data], config)
    base = read_base(f"docker://{registry.host}/lab/app:base")
    for verify in (False, True):
        before = len(registry.seen)
        push(store, registry, base=base, verify=verify)
        asked = [seen.path.rpartition("/")[2] for seen in registry.seen[before:] if seen.method == "HEAD"]
        assert (digest_of(data) in asked) == verify
