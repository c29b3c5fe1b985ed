"""Pushing to a registry that does what the specification allows, and what it does not."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from caches import named_nodes
from fake_registry import FakeRegistry, Reply, Seen, basic, digest_of
from fastlayers import (
    Codec,
    Credentials,
    DestinationError,
    DigestCache,
    LayerDescriptor,
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
from fastlayers.build import BuildResult
from fastlayers.registry import sink, transport
from fastlayers.registry.connection import Session
from fastlayers.registry.sink import RegistrySink
from fastlayers.registry.upload import Holdings
from stores import NODES, make_store, write_json

SECRET = "hunter2-in-secret"
LAYERS = len(NODES)


pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def streaming(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer counts as large."""
    monkeypatch.setattr(sink, "_HELD", 0)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """The small store, with its graph.json; and with one, named.json, that knows its store paths where they are."""
    make_store(tmp_path)
    write_json(tmp_path / "named.json", {"graph": named_nodes(tmp_path / "root")})
    return tmp_path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DigestCache:
    """One that is empty; the store of named.json is Nix's."""
    monkeypatch.setenv("NIX_STORE_DIR", str(tmp_path / "root/nix/store"))
    return DigestCache.open(str(tmp_path / "cache"))


def push(
    store: Path,
    registry: FakeRegistry,
    *,
    to: str = "lab/app:1",
    access: RegistryAccess = RegistryAccess(),  # noqa: B008
    options: PushOptions = PushOptions(),  # noqa: B008
    **build: Any,
) -> BuildResult:
    """With a cache, an image of store paths whose NAR hashes are known, else of files below a root."""
    verify = build.get("verify", False)
    destination = parse_destination(f"docker://{registry.host}/{to}", access=access, push=options, verify=verify)
    closure = read_closure(str(store / ("named.json" if "cache" in build else "graph.json")))
    root = "" if "cache" in build else str(store / "root")
    return build_image(closure, [destination], **{"store_root": root, "jobs": 1, **build})


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(caught.value)
    assert text and "\n" not in text and SECRET not in text
    return text


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
    # Where it says that it never takes it, it is not asked again.
    assert asked == (1 if status in (405, 501, 400) and read else LAYERS) or not read


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
@pytest.mark.parametrize("kind", ["500", "429", "cut", "404", "403"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH+PUT", "PUT", "manifest"])
def test_days_that_do_not_get_better(kind: str, method: str, store: Path, registry: FakeRegistry) -> None:
    """One line that names the place, and no tag."""

    def interfere(seen: Seen) -> Reply | None:
        hit = seen.method in method.split("+") if method != "manifest" else "manifests" in seen.path
        if not hit or (method == "manifest" and seen.method != "PUT"):
            return None
        return Reply(cut=50) if kind == "cut" else Reply(int(kind), {"Retry-After": "0"}, b'{"errors":[{"code":"X"}]}')

    registry.interfere = interfere
    if method == "HEAD" or (method == "GET" and kind in ("404", "403")):  # nobody asks; nothing to see
        push(store, registry)
        return
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


# Tokens, and other credentials


class TokenServer:
    """Gives tokens that are good for some requests."""

    def __init__(self, registry: FakeRegistry, uses: int) -> None:
        self.good: dict[str, int] = {}
        self.asked: list[tuple[dict[str, str], dict[str, list[str]]]] = []
        self.uses = uses
        self.expires: dict[str, object] = {}
        registry.challenge = f'Bearer realm="{registry.url}/token",service="the, service",scope="x"'
        registry.authorize = self.authorize
        registry.tokens = self.answer

    def answer(self, headers: dict[str, str], form: dict[str, list[str]]) -> Reply:
        self.asked.append((headers, form))
        token = f"{SECRET}-{len(self.asked)}"
        self.good[token] = self.uses
        return Reply(200, {}, json.dumps({"token": token, **self.expires}).encode())

    def authorize(self, seen: Seen) -> bool:
        token = seen.headers.get("authorization", "").removeprefix("Bearer ")
        self.good[token] = self.good.get(token, 0) - 1
        return self.good[token] >= 0


@pytest.mark.parametrize("held", [0, 4 << 20], ids=["large", "small"])
@pytest.mark.parametrize("uses", [3, 4, 5, 1000])
def test_a_token_that_expires_half_way(
    uses: int, held: int, store: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_HELD", held)
    server = TokenServer(registry, uses)
    push(store, registry)
    assert registry.image("lab/app", "1")
    scopes = {"repository:lab/app:pull,push", "repository:lab/app:delete,pull,push"}
    for headers, form in server.asked:
        assert "authorization" not in headers
        assert form["service"] == ["the, service"] and set(form["scope"]) <= scopes
    if uses == 1000:  # this process's own, and that of those who make layers
        assert len(server.asked) == 2


def test_a_token_is_renewed_before_it_expires(
    store: Path, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = TokenServer(registry, 1000)
    server.expires = {"expires_in": 0.0001}
    push(store, registry)
    assert len(server.asked) > 5


def test_a_token_that_is_never_good(store: Path, registry: FakeRegistry) -> None:
    server = TokenServer(registry, 0)
    with pytest.raises(RegistryError, match="401 Unauthorized: UNAUTHORIZED") as caught:
        push(store, registry)
    one_line(caught)
    assert len(server.asked) < 20  # a few for each of the layers


WHO = Credentials("user", SECRET)


def test_credentials_go_to_the_token_server(store: Path, registry: FakeRegistry) -> None:
    server = TokenServer(registry, 1000)
    push(store, registry, access=RegistryAccess(WHO))
    assert {headers["authorization"] for headers, _ in server.asked} == {basic("user", SECRET)}
    assert {form["account"][0] for _, form in server.asked} == {"user"}


def test_an_identity_token_is_exchanged(store: Path, registry: FakeRegistry) -> None:
    server = TokenServer(registry, 1000)
    push(store, registry, access=RegistryAccess(Credentials(identity_token=SECRET)))
    for headers, form in server.asked:
        assert "authorization" not in headers
        assert form["grant_type"] == ["refresh_token"] and form["refresh_token"] == [SECRET]
        assert form["scope"] == ["repository:lab/app:pull,push"]


def test_a_registry_token_is_sent_as_it_is(store: Path, registry: FakeRegistry) -> None:
    registry.challenge = f'Bearer realm="{registry.url}/token"'
    registry.authorize = lambda seen: seen.headers.get("authorization") == f"Bearer {SECRET}"
    push(store, registry, access=RegistryAccess(Credentials(registry_token=SECRET)))
    assert registry.image("lab/app", "1")


def test_basic(store: Path, registry: FakeRegistry) -> None:
    registry.challenge = 'Basic realm="a"'
    registry.authorize = lambda seen: seen.headers.get("authorization") == basic("user", SECRET)
    push(store, registry, access=RegistryAccess(WHO))
    assert registry.image("lab/app", "1")
    assert sum("authorization" not in seen.headers for seen in registry.seen) == 1  # the first of all


@pytest.mark.parametrize("credentials", [None, Credentials("user", SECRET, place="auth.json")], ids=["none", "wrong"])
@pytest.mark.parametrize("scheme", ["Basic", "Bearer", "Negotiate", ""])
def test_credentials_that_are_not_taken(
    scheme: str,
    credentials: Credentials | None,
    store: Path,
    registry: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(store / "auth.json"))
    (store / "auth.json").write_text("{}")
    registry.challenge = f'{scheme} realm="{registry.url}/token"' if scheme else ""
    registry.authorize = lambda seen: False
    answer = json.dumps({"errors": [{"message": f"no {SECRET} please\nnor\x1b[31m this"}]})
    registry.tokens = lambda headers, form: Reply(401, {}, answer.encode())
    with pytest.raises(RegistryError) as caught:
        push(store, registry, access=RegistryAccess(credentials))
    text = one_line(caught) if credentials else str(caught.value)
    none_found = scheme == "Basic" and credentials is None
    assert ("asks for credentials, and none were found" if none_found else "401") in text and "\x1b" not in text
    if scheme == "Bearer":
        assert ("credentials from auth.json" in text) == (credentials is not None)


def test_no_secret_is_in_what_is_printed(registry: FakeRegistry) -> None:
    session = Session(Reference.parse(f"{registry.host}/a"), RegistryAccess(WHO), credentials=WHO)
    value = RegistrySink(session, Holdings())
    assert SECRET not in repr(value)
    assert pickle.loads(pickle.dumps(value)) == value


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
    push(store, registry, base=base, cache=cache, settings=Settings({"User": "new"}))
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
    with pytest.raises(DestinationError, match=r"lab/absent:1: there is no such image to start from"):
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


def happened(made: BuildResult) -> set[tuple[str, ...]]:
    return {tuple(event.event for event in layer.events) for layer in made.layers}


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
