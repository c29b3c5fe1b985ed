"""Credentials, and tokens for them, when an image is pushed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from fake_registry import FakeRegistry, Reply, basic
from fastlayers import (
    Credentials,
    Reference,
    RegistryAccess,
    RegistryError,
)
from fastlayers.registry import sink
from fastlayers.registry.connection import Session
from fastlayers.registry.sink import RegistrySink
from fastlayers.registry.upload import Holdings
from pushes import SECRET, WHO, TokenServer, one_line, push

pytestmark = pytest.mark.usefixtures("quick")


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
    assert text.startswith(f"docker://{registry.host}/lab/app:1: ") and "blob" not in text
    if scheme in ("Basic", "Bearer"):
        assert ("credentials from auth.json" in text) == (credentials is not None)
    else:
        assert ("in a way that is understood" in text) == (credentials is not None)


def test_no_secret_is_in_what_is_printed(registry: FakeRegistry) -> None:
    session = Session(Reference.parse(f"{registry.host}/a"), RegistryAccess(WHO), credentials=WHO)
    value = RegistrySink(session, Holdings())
    assert SECRET not in repr(value)
    assert pickle.loads(pickle.dumps(value)) == value
