"""Credentials where docker, podman and skopeo keep them."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest

from fastlayers import RegistryError
from fastlayers.registry.access import Credentials, RegistryAccess
from fastlayers.registry.credentials import find_credentials
from fastlayers.registry.reference import Reference
from stores import write_file, write_json

APP = Reference("example.org:5000", "team/app")


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any credentials."""
    for name in ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path


def find(reference: Reference = APP, **access: Any) -> tuple[str, str] | None:
    found = find_credentials(reference, RegistryAccess(**access))
    return (found.username, found.password) if found else None


def helper(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(folder / "bin" / f"docker-credential-{name}", f"#!/bin/sh\n{script}\n", 0o755)
    monkeypatch.setenv("PATH", f"{folder}/bin:{os.environ['PATH']}")


def test_nothing_is_found_where_nothing_is() -> None:
    assert find() is None


def test_the_files_in_their_order(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        home / ".dockercfg",
        home / ".docker/config.json",
        home / ".config/containers/auth.json",
        home / "run/containers/auth.json",
        home / "named.json",
    ]
    for number, place in enumerate(places):  # each goes before the ones that are there already
        entries = {"example.org:5000": auth("user", str(number))}
        write_json(place, entries if place.name == ".dockercfg" else {"auths": entries})
        if place.name == "named.json":
            monkeypatch.setenv("REGISTRY_AUTH_FILE", str(place))
        assert find() == ("user", str(number))
    write_json(home / "other.json", {"auths": {"example.org:5000": auth("user", "other")}})
    assert find(authfile=str(home / "other.json")) == ("user", "other")
    assert find(authfile=str(home / "other.json"), credentials=Credentials("a", "b")) == ("a", "b")


def test_other_places_of_the_folders(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    write_json(home / "docker/config.json", {"auths": {"example.org:5000": auth("a", "docker")}})
    assert find() == ("a", "docker")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    write_json(home / "config/containers/auth.json", {"auths": {"example.org:5000": auth("a", "xdg")}})
    assert find() == ("a", "xdg")


def test_a_named_file_has_to_be_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(home / "not-yet.json"))
    assert find() is None
    with pytest.raises(RegistryError, match=r"absent\.json: no such file of credentials"):
        find(authfile=str(home / "absent.json"))


def test_the_most_specific_entry_wins(home: Path) -> None:
    keys = ["example.org:5000", "example.org:5000/team", "example.org:5000/team/app"]
    entries: dict[str, Any] = {"example.org": auth("wrong", "port"), "example.org:5000/tea": auth("wrong", "folder")}
    for key in keys:
        entries[key] = auth("user", key)
        write_json(home / ".docker/config.json", {"auths": entries})
        assert find() == ("user", key)
    assert find(Reference("example.org:5000", "team")) == ("user", keys[1])
    assert find(Reference("example.org:5000", "other/app")) == ("user", keys[0])
    assert find(Reference("example.net", "team/app")) is None


@pytest.mark.parametrize(
    "key", ["https://example.org:5000", "https://example.org:5000/v1/", "http://example.org:5000/"]
)
def test_keys_that_are_urls(key: str, home: Path) -> None:
    write_json(home / ".docker/config.json", {"auths": {key: auth("user", "password")}})
    assert find() == ("user", "password")


def test_the_usual_registry_has_a_key_of_its_own(home: Path) -> None:
    reference = Reference.parse("app")
    write_json(home / ".docker/config.json", {"auths": {f"https://index.{reference.host}/v1/": auth("user", "hub")}})
    assert find(reference) == ("user", "hub")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (auth("user", "pass:word"), Credentials("user", "pass:word")),
        ({"username": "user", "password": "word"}, Credentials("user", "word")),
        ({**auth("user", ""), "identitytoken": "token"}, Credentials("user", "", "token")),
        ({"identitytoken": "token"}, Credentials("", "", "token")),
        ({"registrytoken": "bearer"}, Credentials("", "", "", "bearer")),
    ],
)
def test_entries(entry: dict[str, str], expected: Credentials, home: Path) -> None:
    file = write_json(home / ".docker/config.json", {"auths": {"example.org:5000": entry}})
    found = find_credentials(APP, RegistryAccess())
    assert found == Credentials(
        expected.username, expected.password, expected.identity_token, expected.registry_token, str(file)
    )
    for secret in (found.password, found.identity_token, found.registry_token):
        assert not secret or secret not in repr(found)


@pytest.mark.parametrize("entry", [{}, {"email": "a@example.org"}, None, "text"])
def test_an_entry_without_credentials_is_none(entry: object, home: Path) -> None:
    write_json(home / ".docker/config.json", {"auths": {"example.org:5000": entry}})
    assert find() is None


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ("{secret", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"auths": {"example.org:5000": {"auth": "secret!"}}}', "auth is not USER:PASSWORD in base64"),
        ('{"auths": {"example.org:5000": {"auth": "c2VjcmV0"}}}', "auth is not USER:PASSWORD in base64"),
        ('{"auths": {"example.org:5000": {"username": ["secret"]}}}', "username is no text"),
    ],
    ids=["json", "list", "base64", "colon", "type"],
)
def test_damaged_files(document: str, reason: str, home: Path) -> None:
    file = write_file(home / ".docker/config.json", document)
    with pytest.raises(RegistryError) as caught:
        find()
    assert str(caught.value).startswith(f"{file}: ") and reason in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_nobody_may_read(ordinary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ordinary / "auth.json"
    file.touch(mode=0)
    with pytest.raises(RegistryError, match=r"auth\.json: Permission denied"):
        find(authfile=str(file))


def test_helpers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, "one", """read host; echo "{\\"Username\\": \\"$1\\", \\"Secret\\": \\"one-$host\\"}" """, monkeypatch)
    helper(home, "all", """read host; echo "{\\"Username\\": \\"$1\\", \\"Secret\\": \\"all-$host\\"}" """, monkeypatch)
    config = {"credHelpers": {"example.org:5000": "one"}, "credsStore": "all"}
    write_json(home / ".docker/config.json", config)
    assert find() == ("get", "one-example.org:5000")
    assert find(Reference("example.net", "app")) == ("get", "all-example.net")
    assert find(Reference.parse("app")) == ("get", f"all-https://index.{Reference.parse('app').host}/v1/")


def test_a_helper_with_an_identity_token(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, "all", """echo '{"Username": "<token>", "Secret": "refresh"}'""", monkeypatch)
    write_json(home / ".docker/config.json", {"credsStore": "all"})
    assert find_credentials(APP, RegistryAccess()) == Credentials(
        identity_token="refresh", place="docker-credential-all"
    )


def test_a_helper_that_knows_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, "none", "echo credentials not found in native keychain; exit 1", monkeypatch)
    config: dict[str, Any] = {"credHelpers": {"example.org:5000": "none"}}
    write_json(home / ".docker/config.json", config)
    assert find() is None
    write_json(home / ".docker/config.json", {**config, "auths": {"example.org:5000": auth("user", "entry")}})
    assert find() == ("user", "entry")


def test_entries_go_before_the_helper_for_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(
        home / ".docker/config.json", {"credsStore": "absent", "auths": {"example.org:5000": auth("user", "entry")}}
    )
    assert find() == ("user", "entry")


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo secret >&2; exit 3", "status 3 for example.org:5000"),
        ("echo secret", "not what the protocol of helpers says"),
        ("""echo '{"Username": 1, "Secret": "secret"}'""", "not what the protocol of helpers says"),
        (r"printf '\377secret'", "not text"),
    ],
)
def test_helpers_that_fail(script: str, reason: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(home, "bad", script, monkeypatch)
    write_json(home / ".docker/config.json", {"credHelpers": {"example.org:5000": "bad"}})
    with pytest.raises(RegistryError) as caught:
        find()
    assert reason in str(caught.value) and "docker-credential-bad" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_helper_that_is_not_installed(home: Path) -> None:
    file = write_json(home / ".docker/config.json", {"credHelpers": {"example.org:5000": "absent"}})
    with pytest.raises(RegistryError, match="docker-credential-absent: No such file") as caught:
        find()
    assert str(file) in str(caught.value)
