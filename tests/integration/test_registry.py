"""Docker's registry: what is pushed is what clients pull, on good days and on bad ones."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from certificates import Certificates, make_certificates
from integration.clients import Docker, NixClosure, Podman, call, fastlayers, place
from integration.registries import BadConnection, DockerRegistry

_PATIENCE = 120  # seconds until a process counts as stuck; nothing is measured by it


@pytest.fixture(scope="module")
def registry() -> Iterator[DockerRegistry]:
    with place() as folder, contextlib.closing(DockerRegistry(folder)) as server:
        yield server


@pytest.fixture
def own_registry() -> Iterator[DockerRegistry]:
    """One that a test may kill."""
    with place() as folder, contextlib.closing(DockerRegistry(folder)) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., list[str | Path]]:
    """Makes a store of a few paths of random bytes; the arguments that build from it."""

    def make(sizes: list[int], name: str = "store") -> list[str | Path]:
        root, nodes = tmp_path / name, []
        for number, size in enumerate(sizes):
            path = f"/nix/store/{number:032}-random"
            Path(f"{root}{path}").mkdir(parents=True)
            Path(f"{root}{path}/file").write_bytes(os.urandom(size))
            nodes.append({"path": path, "references": []})
        (tmp_path / f"{name}.json").write_text(json.dumps({"graph": nodes}))
        return [tmp_path / f"{name}.json", "--store-root", root]

    return make


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fastlayers", "build", "--quiet", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happens any more"
        time.sleep(0.005)


def check(skopeo: str, image: str, layers: int) -> dict[str, Any]:
    """A whole image, as the specification wants it; its manifest."""
    manifest: dict[str, Any] = json.loads(call(skopeo, "inspect", "--raw", "--tls-verify=false", f"docker://{image}"))
    assert manifest["schemaVersion"] == 2
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert len(manifest["layers"]) == layers
    with place() as folder:  # every blob is read and its digest checked
        options = ("--quiet", "--insecure-policy", "--src-tls-verify=false")
        call(skopeo, "copy", *options, f"docker://{image}", f"oci:{folder}/copy:1")
    return manifest


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
def test_skopeo_pulls(codec: str, registry: DockerRegistry, skopeo: str, store: Callable[..., Any]) -> None:
    image = f"{registry.host}/lab/{codec}:1"
    fastlayers("build", *store([10, 100_000, 6 << 20]), "--to", f"docker://{image}", "--compress", codec)
    manifest = check(skopeo, image, 3)
    suffix = "" if codec == "none" else f"+{codec}"
    assert {layer["mediaType"] for layer in manifest["layers"]} == {f"application/vnd.oci.image.layer.v1.tar{suffix}"}
    assert any(method == "PATCH" for method, path, _ in registry.requests() if f"/lab/{codec}/" in path)
    assert not registry.uploads(f"lab/{codec}")


def test_engines_pull_and_run(
    registry: DockerRegistry, git_closure: NixClosure, docker: Docker, podman: Podman
) -> None:
    image = f"{registry.host}/lab/git:1"
    options = ("--cmd", git_closure.command)
    fastlayers("build", git_closure.folder / "graph.json", "--to", f"docker://{image}", *options)
    try:
        podman.call("pull", "--tls-verify=false", image)
        assert podman.run(image).startswith("git version")
        docker.call("pull", image)
        assert docker.run(image).startswith("git version")
    finally:
        podman.forget()
        docker.forget()


def test_bases(registry: DockerRegistry, skopeo: str, store: Callable[..., Any], tmp_path: Path) -> None:
    """From another repository of the registry, and out of the registry into files."""
    base = f"docker://{registry.host}/os/base:1"
    fastlayers("build", *store([1 << 20, 1000], "base"), "--to", base, "--env", "A=1", "--compress", "none")
    before = len(registry.requests())
    image = f"{registry.host}/lab/onbase:1"
    fastlayers("build", *store([10, 20], "app"), "--from", base, "--to", f"docker://{image}")
    assert not any(
        method == "GET" and "/os/base/blobs/" in path for method, path, _ in registry.requests()[before + 2 :]
    )
    manifest = check(skopeo, image, 4)
    config = json.loads(call(skopeo, "inspect", "--config", "--tls-verify=false", f"docker://{image}"))
    assert config["config"]["Env"] == ["A=1"]
    app = (tmp_path / "app.json", "--store-root", tmp_path / "app", "--compress", "gzip")
    fastlayers("build", *app, "--from", base, "--to", f"oci:{tmp_path}/layout:1")
    copied = json.loads(call(skopeo, "inspect", "--raw", f"oci:{tmp_path}/layout:1"))
    assert copied["layers"] == manifest["layers"]


def test_few_requests(registry: DockerRegistry, store: Callable[..., Any], tmp_path: Path) -> None:
    """At most 3 GET and HEAD requests, and one for each layer that the image before did not have."""
    arguments = [*store([1000 * (number + 1) for number in range(40)]), "--to", f"docker://{registry.host}/lab/few:1"]

    def push() -> list[str]:
        before = len(registry.requests())
        fastlayers("build", *arguments)
        return [method for method, _, _ in registry.requests()[before:]]

    first = push()
    assert sum(method in ("GET", "HEAD") for method in first) <= 3 + 40
    assert push() == ["GET"]
    (tmp_path / "store/nix/store" / f"{7:032}-random/file").write_bytes(b"changed")
    third = push()
    assert sum(method in ("GET", "HEAD") for method in third) <= 3 + 1
    assert third.count("PUT") == 3  # layer, config, manifest


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def test_tls_and_credentials(
    certificates: Certificates, store: Callable[..., Any], tmp_path: Path, skopeo: str
) -> None:
    with place() as folder, contextlib.closing(DockerRegistry(folder, certificates)) as server:
        image = f"docker://{server.host}/lab/app:1"
        trust = tmp_path / "certificates"
        trust.mkdir()
        shutil.copy(certificates.authority, trust / "ca.crt")
        authfile = tmp_path / "auth.json"
        authfile.write_text(json.dumps({"auths": {server.host: {"auth": "dXNlcjpwYXNzd29yZA=="}}}))
        arguments = (*store([10, 5 << 20]), "--to", image)
        access = ("--cert-dir", trust, "--authfile", authfile)
        fastlayers("build", *arguments, *access)
        copy = ("copy", "--quiet", "--insecure-policy", "--src-cert-dir", trust, "--authfile", authfile)
        call(skopeo, *copy, image, f"oci:{tmp_path}/copy:1")
        answers = [status for _, _, status in server.requests()]
        fastlayers("build", *arguments, *access, "--from", image, "--to", f"oci:{tmp_path}/two:1", "--compress", "gzip")
        assert answers.count(401) <= 4  # ours: one; skopeo has its own way
        for wrong in ([], ["--cert-dir", trust, "--creds", "user:wrong"], ["--cert-dir", trust]):
            with start(*arguments, *wrong) as building:
                _, printed = building.communicate(timeout=_PATIENCE)
            assert (building.returncode, len(printed.splitlines())) == (9, 1), printed
            assert "wrong" not in printed


def test_two_builders_at_once(registry: DockerRegistry, skopeo: str, store: Callable[..., Any]) -> None:
    image = f"{registry.host}/lab/both:1"
    arguments = [*store([5 << 20] * 4), "--to", f"docker://{image}"]
    both = [start(*arguments, "--created", date) for date in ("2024-01-01", "2025-01-01")]
    for building in both:
        _, printed = building.communicate(timeout=_PATIENCE)
        assert (building.returncode, printed) == (0, "")
    check(skopeo, image, 4)


@pytest.mark.parametrize("seed", range(2))
def test_a_bad_connection(seed: int, own_registry: DockerRegistry, skopeo: str, store: Callable[..., Any]) -> None:
    arguments = store([6 << 20, *[50_000] * 10])
    with contextlib.closing(BadConnection(own_registry, 0.2, seed)) as proxy:
        with start(*arguments, "--to", f"docker://{proxy.host}/lab/app:1") as building:
            _, printed = building.communicate(timeout=_PATIENCE)
        assert (building.returncode, printed) == (0, "")
        assert len(proxy.failures) > 3
    check(skopeo, f"{own_registry.host}/lab/app:1", 11)


def test_a_connection_that_is_too_bad(own_registry: DockerRegistry, store: Callable[..., Any]) -> None:
    with contextlib.closing(BadConnection(own_registry, 1, 0)) as proxy:
        with start(*store([10, 20]), "--to", f"docker://{proxy.host}/lab/app:1") as building:
            _, printed = building.communicate(timeout=_PATIENCE)
        assert (building.returncode, len(printed.splitlines())) == (9, 1), printed
        assert printed.startswith(f"fastlayers: {proxy.host}/lab/app: manifest 1: ")
    assert own_registry.tags("lab/app") == []


def uploading(registry: DockerRegistry, building: subprocess.Popen[str]) -> None:
    """Wait until some megabytes of an upload have arrived."""

    def arrived() -> bool:
        sizes = [file.stat().st_size for file in registry.uploads("lab/app") if file.exists()]
        return building.poll() is not None or max(sizes, default=0) > 4 << 20

    wait_until(arrived)
    assert building.poll() is None


def test_a_registry_that_is_killed_and_comes_back(
    own_registry: DockerRegistry, skopeo: str, store: Callable[..., Any]
) -> None:
    image = f"{own_registry.host}/lab/app:1"
    with start(*store([64 << 20, 1000]), "--to", f"docker://{image}") as building:
        uploading(own_registry, building)
        own_registry.kill()
        assert own_registry.tags("lab/app") == []
        time.sleep(0.2)
        own_registry.start()
        _, printed = building.communicate(timeout=_PATIENCE)
    assert (building.returncode, printed) == (0, "")
    check(skopeo, image, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_build_leaves_no_tag(
    number: signal.Signals, own_registry: DockerRegistry, store: Callable[..., Any]
) -> None:
    arguments = store([64 << 20, 64 << 20])
    with start(*arguments, "--to", f"docker://{own_registry.host}/lab/app:1", "--jobs", "2") as building:
        uploading(own_registry, building)
        building.send_signal(number)
        _, printed = building.communicate(timeout=_PATIENCE)
    if number != signal.SIGKILL:
        assert (building.returncode, len(printed.splitlines())) == (128 + number, 1), printed
        # It was told so, though this registry keeps what came in the middle of a request until it cleans up.
        assert any(method == "DELETE" for method, _, _ in own_registry.requests())
    assert own_registry.tags("lab/app") == []


def test_platforms_under_one_tag(
    registry: DockerRegistry, skopeo: str, store: Callable[..., Any], tmp_path: Path
) -> None:
    """Its image for each platform is what skopeo finds, and what --from takes."""
    arguments, to = store([1000]), f"docker://{registry.host}/lab/many"
    fastlayers("build", *arguments, "--to", f"{to}:amd64", "--arch", "amd64")
    fastlayers("build", *arguments, "--to", f"oci:{tmp_path}/layout:1", "--arch", "arm64", "--variant", "v8")
    fastlayers("index", f"{to}:amd64", f"oci:{tmp_path}/layout:1", "--to", f"{to}:1")
    for architecture in ("amd64", "arm64"):
        options = ("--tls-verify=false", "--config")
        config = json.loads(call(skopeo, "--override-arch", architecture, "inspect", *options, f"{to}:1"))
        assert config["architecture"] == architecture
    layout = f"oci:{tmp_path}/all:1"
    call(skopeo, "copy", "--quiet", "--insecure-policy", "--all", "--src-tls-verify=false", f"{to}:1", layout)
    fastlayers("build", *arguments, "--from", f"{to}:1", "--arch", "arm64", "--to", f"oci:{tmp_path}/on:1")
