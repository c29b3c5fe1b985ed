"""The command line and registries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fake_registry import FakeRegistry, Reply, Seen, basic
from stores import make_store

SECRET = "hunter2-in-secret"
BUILD = ("build", "graph.json", "--store-root", "root")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small store, and a home without credentials."""
    make_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("VIRTUAL_ENV", "SOURCE_DATE_EPOCH", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path


def fastlayers(*arguments: str, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastlayers", *arguments]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == status, done.stderr
    assert SECRET not in done.stdout + done.stderr
    if status:
        assert done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
    return done


def closed(registry: FakeRegistry) -> None:
    registry.challenge = 'Basic realm="a"'
    registry.authorize = lambda seen: seen.headers.get("authorization") == basic("user", SECRET)


def media_types(registry: FakeRegistry, *image: str) -> set[str]:
    manifest, _ = registry.image(*image)
    return {layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]}


def test_push(folder: Path, registry: FakeRegistry) -> None:
    place = f"docker://{registry.host}/lab/app"
    printed = fastlayers(*BUILD, "--to", place, "--tag", "1", "--cmd", "/bin/a").stdout
    assert media_types(registry, "lab/app", "1") == {"tar+gzip"}
    assert " sent, " in printed
    first = json.loads(fastlayers(*BUILD, "--to", f"{place}:2", "--compress", "none", "--json").stdout)
    assert media_types(registry, "lab/app", "2") == {"tar"}
    assert [layer["sent"] for layer in first["layers"]] == [layer["size"] for layer in first["layers"]]
    again = json.loads(fastlayers(*BUILD, "--to", f"{place}:2", "--compress", "none", "--json").stdout)
    assert [layer["sent"] for layer in again["layers"]] == [0, 0, 0]


def test_only_registries_are_compressed_for(folder: Path, registry: FakeRegistry) -> None:
    fastlayers(*BUILD, "--to", "oci:image")
    fastlayers(*BUILD, "--to", "oci:both", "--to", f"docker://{registry.host}/a:1")
    manifests = {}
    for layout in ("image", "both"):
        entry = json.loads((folder / layout / "index.json").read_text())["manifests"][0]
        manifests[layout] = json.loads((folder / layout / "blobs" / entry["digest"].replace(":", "/")).read_text())
    assert {layer["mediaType"].partition("+")[2] for layer in manifests["image"]["layers"]} == {""}
    assert manifests["both"] == registry.image("a", "1")[0]


def test_credentials(folder: Path, registry: FakeRegistry) -> None:
    closed(registry)
    place = ("--to", f"docker://{registry.host}/lab/app:1")
    failed = fastlayers(*BUILD, *place, status=9)
    image, refusal = f"fastlayers: {place[1]}", "401 Unauthorized: UNAUTHORIZED"
    assert failed.stderr == f"{image}: the registry asks for credentials, and none were found\n"
    failed = fastlayers(*BUILD, *place, "--creds", f"wrong:{SECRET}", status=9)
    assert failed.stderr == f"{image}: access with the credentials from --creds is refused: {refusal}\n"
    fastlayers(*BUILD, *place, "--creds", f"user:{SECRET}")
    entry = {"username": "user", "password": SECRET}
    Path("auth.json").write_text(json.dumps({"auths": {f"{registry.host}/lab": entry}}))
    fastlayers(*BUILD, *place, "--authfile", "auth.json")
    fastlayers(*BUILD, *place, REGISTRY_AUTH_FILE="auth.json")
    assert registry.image("lab/app", "1")


def test_credentials_are_for_one_registry(folder: Path, registry: FakeRegistry, other: FakeRegistry) -> None:
    """--creds do not go to where the base image is."""
    closed(registry)
    fastlayers(*BUILD, "--to", f"docker://{other.host}/os/base:1")
    closed(other)
    arguments = ("--to", f"docker://{registry.host}/lab/app:1", "--from", f"docker://{other.host}/os/base:1")
    failed = fastlayers(*BUILD, *arguments, "--creds", f"user:{SECRET}", status=9)
    assert other.host in failed.stderr
    assert not any("authorization" in seen.headers for seen in other.seen)
    entry = {"username": "user", "password": SECRET}
    Path("auth.json").write_text(json.dumps({"auths": {other.host: entry}}))
    fastlayers(*BUILD, *arguments, "--creds", f"user:{SECRET}", "--authfile", "auth.json")
    assert len(registry.image("lab/app", "1")[0]["layers"]) == 6


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--to", "docker://example.org/App"], "--to docker://example.org/App: not an image reference"),
        (["--to", "docker:example.org/app"], "expected docker-archive:FILE"),
        (["--to", "docker://localhost/app@sha256:1"], "not a digest that is understood"),
        (["--to", "docker://localhost/app", "--creds", SECRET], "--creds: expected USER:PASSWORD"),
        (["--to", "oci:image", "--creds", f"user:{SECRET}"], "--creds is for a destination docker://"),
        (["--to", "oci:image", "--push-base", "localhost/a:1"], "--push-base is for a destination docker://"),
        (["--to", "oci:image", "--mount-from", "a"], "--mount-from is for a destination docker://"),
        (["--to", "docker://localhost/app", "--mount-from", "A"], "fastlayers: --mount-from A: expected REPOSITORY, "),
        (["--to", "docker://localhost/app", "--mount-from", "a:1"], "--mount-from a:1: expected REPOSITORY, "),
        (["--to", "docker://localhost/app", "--push-base", "localhost/A"], "--push-base localhost/A: not an image"),
        (["--to", "docker://localhost/app", "--push-base", "oci:a"], "--push-base oci:a: expected docker://HOST"),
        (["--to", "docker://localhost/app", "--tls-verify=maybe"], "--tls-verify"),
        (
            ["--to", "docker://a.example.org/a", "--to", "docker://b.example.org/a", "--creds", f"user:{SECRET}"],
            "--creds is for one registry, not for a.example.org and b.example.org: use --authfile",
        ),
    ],
)
def test_command_lines_that_are_wrong(arguments: list[str], reason: str, folder: Path) -> None:
    assert reason in fastlayers(*BUILD, *arguments, status=2).stderr


@pytest.mark.parametrize("option", ["--authfile", "--cert-dir"])
@pytest.mark.parametrize("command", [[*BUILD, "--to", "oci:image"], ["inspect", "oci:image"]], ids=["build", "inspect"])
def test_what_an_option_names_has_to_be_there(command: list[str], option: str, folder: Path) -> None:
    """Also where nobody asks for credentials."""
    assert fastlayers(*command, option, "absent", status=9).stderr.startswith("fastlayers: absent: no")
    assert not Path("image").exists()


def test_push_base_and_mount_from(folder: Path, registry: FakeRegistry) -> None:
    host = f"docker://{registry.host}"
    fastlayers(*BUILD, "--to", f"{host}/lab/first:1")
    fastlayers(*BUILD, "--to", f"{host}/lab/second:1", "--mount-from", "lab/first")
    assert registry.image("lab/second", "1")
    assert sum(seen.query.get("from") == "lab/first" for seen in registry.seen) == 4
    for option in ("--push-base", "--previous"):
        absent = fastlayers(*BUILD, "--to", f"{host}/lab/third:1", option, f"{host}/lab/absent:1", status=7)
        assert absent.stderr == f"fastlayers: {host}/lab/absent:1: there is no such image\n"
    fastlayers(*BUILD, "--to", f"{host}/lab/third:1", "--push-base", f"{registry.host}/lab/first:1")
    assert registry.image("lab/third", "1")


def test_the_image_that_a_plan_keeps_to_is_the_one_to_start_from(folder: Path, registry: FakeRegistry) -> None:
    """As CI does: a new tag for each build, and no cache."""
    host = f"docker://{registry.host}/lab/app"
    fastlayers(*BUILD, "--no-cache", "--to", f"{host}:1")
    before = len(registry.seen)
    fastlayers(*BUILD, "--no-cache", "--previous", f"{host}:1", "--to", f"{host}:2")
    assert registry.image("lab/app", "2") == registry.image("lab/app", "1")
    assert {seen.method for seen in registry.seen[before:]} <= {"GET", "HEAD", "PUT"}
    assert not any(seen.method == "PUT" and "/blobs/" in seen.path for seen in registry.seen[before:])


def test_index(folder: Path, registry: FakeRegistry) -> None:
    host = f"docker://{registry.host}"
    fastlayers(*BUILD, "--to", f"{host}/lab/app:amd64", "--arch", "amd64")
    fastlayers(*BUILD, "--to", "oci:layout:1", "--arch", "arm64", "--variant", "v8")
    done = fastlayers("index", f"{host}/lab/app:amd64", "oci:layout:1", "--to", f"{host}/lab/app:1")
    index = json.loads(registry.manifests["lab/app", "1"][0])
    first, *entries = done.stdout.splitlines()
    assert first.startswith("index sha256:") and registry.manifests["lab/app", first.split()[1]]
    names = ["linux/amd64", "linux/arm64/v8"]
    assert entries == [f"{entry['digest']} {name}" for entry, name in zip(index["manifests"], names, strict=True)]
    base = ("--from", f"{host}/lab/app:1", "--arch", "arm64", "--variant", "v8")
    fastlayers(*BUILD, *base, "--to", f"{host}/lab/app:2")
    assert registry.image("lab/app", "2")[1]["variant"] == "v8"
    assert "expected docker://" in fastlayers("index", "oci:layout", "--to", "oci:x", status=2).stderr
    assert "no such image" in fastlayers("index", f"{host}/a:1", "--to", f"{host}/a:2", status=7).stderr


def test_nothing_is_logged(folder: Path, registry: FakeRegistry) -> None:
    """Also by those who log everything, and whatever the registry says."""
    closed(registry)
    registry.tokens = lambda headers, form: Reply(500)
    program = "import logging, sys; logging.basicConfig(level=0)\nfrom fastlayers.__main__ import main\nmain()"
    arguments: list[Any] = [*BUILD, "--to", f"docker://{registry.host}/lab/app:1", "--creds", f"user:{SECRET}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert SECRET not in done.stdout + done.stderr and basic("user", SECRET) not in done.stderr
    assert "urllib3" in done.stderr  # it did log


@pytest.mark.parametrize("where", ["GET", "HEAD", "POST", "PUT", "manifest", "base"])
def test_a_registry_that_hangs_holds_nobody(
    where: str, folder: Path, registry: FakeRegistry, other: FakeRegistry
) -> None:
    """A signal ends the build at once, wherever it waits."""
    hang, reached = threading.Event(), threading.Event()

    def wait(seen: Seen) -> None:
        hit = (
            seen.path.endswith("/manifests/1") and seen.method == "PUT" if where == "manifest" else seen.method == where
        )
        if hit:
            reached.set()
            hang.wait(120)

    def wait_for_layer(seen: Seen) -> None:
        if layer in seen.path:
            reached.set()
            hang.wait(120)

    arguments = [*BUILD, "--to", f"docker://{registry.host}/lab/app:1"]
    if where == "base":
        fastlayers(*BUILD, "--to", f"docker://{other.host}/os/base:1")
        layer = other.image("os/base", "1")[0]["layers"][0]["digest"]
        other.interfere = wait_for_layer
        arguments += ["--from", f"docker://{other.host}/os/base:1"]
    else:
        registry.interfere = wait
    command = [sys.executable, "-m", "fastlayers", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as building:
        try:
            assert reached.wait(60)
            building.terminate()
            _, printed = building.communicate(timeout=60)
        finally:
            hang.set()
            building.kill()
    assert (building.returncode, printed) == (143, "fastlayers: terminated\n")
    assert ("lab/app", "1") not in registry.manifests or where == "manifest"
