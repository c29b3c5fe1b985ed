"""Where Docker's engine is: hosts, contexts, certificates, and what is said of those that cannot be reached."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from certificates import Certificates, make_certificates
from fake_engine import FakeEngine
from fastlayers import DestinationError
from fastlayers.engines import NoEngine
from fastlayers.engines.docker_host import DockerHost, open_pool
from loads import command_line, load, one_line
from stores import make_store, write_file


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.mark.parametrize(
    ("host", "status", "message"),
    [
        ("unix:///nowhere/docker.sock", 8, "/nowhere/docker.sock: No such file or directory"),
        ("tcp://127.0.0.1:1", 8, "docker at tcp://127.0.0.1:1: Connection refused"),
        ("ssh://me@there", 8, "ssh is not supported"),
        ("npipe:////./pipe/docker", 8, "expected unix://PATH or tcp://HOST[:PORT]"),
        ("tcp://127.0.0.1:99999", 8, "expected unix://PATH or tcp://HOST[:PORT]"),
        ("tcp://me:hunter2@127.0.0.1:1", 8, "docker at tcp://127.0.0.1:1: Connection refused"),
        ("tcp://me:hun/hunter2@there", 8, "DOCKER_HOST: tcp://there: expected unix://PATH"),
        ("tcp://me:hunter2@there:x", 8, "DOCKER_HOST: tcp://there:x: expected unix://PATH"),
        ("me:hunter2@there", 8, "DOCKER_HOST: there: expected unix://PATH"),
        ("ssh://me:hunter2@there", 8, "DOCKER_HOST: ssh://there: ssh is not supported"),
    ],
)
def test_engines_that_cannot_be_reached(
    host: str,
    status: int,
    message: str,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    assert command_line(store, "--to", "docker-daemon:app:1") == status
    err = capfd.readouterr().err
    assert message in err and err.count("\n") == 1 and "hunter2" not in err


@pytest.mark.parametrize("text", ["docker-daemon:", "docker-daemon:App", "podman:a:b:c", "containerd:app:"])
def test_names_that_no_engine_takes(text: str, store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert command_line(store, "--to", text) == 2
    assert capfd.readouterr().err.startswith("fastlayers: --to ")


@pytest.mark.parametrize(
    ("host", "verify", "expected"),
    [
        ("", "", DockerHost("unix:///var/run/docker.sock", "/var/run/docker.sock")),
        ("tcp://there", "", DockerHost("tcp://there", "", "there", 2375)),
        ("tcp://there", "1", DockerHost("tcp://there", "", "there", 2376, "/home/me/.docker")),
        ("https://there", "", DockerHost("https://there", "", "there", 2376, "/home/me/.docker")),
        ("tcp://there:99", "1", DockerHost("tcp://there:99", "", "there", 99, "/home/me/.docker")),
    ],
)
def test_where_docker_is(host: str, verify: str, expected: DockerHost, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DOCKER_CONFIG", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DOCKER_HOST", host)
    monkeypatch.setenv("DOCKER_TLS_VERIFY", verify)
    assert DockerHost.from_environment() == expected


@pytest.mark.parametrize("certificates", [None, "certificates"])
@pytest.mark.parametrize("host", ["%zz", "exa mple", "a\x01"])
def test_a_host_that_is_none(host: str, certificates: str | None) -> None:
    with pytest.raises(NoEngine, match="not the name of a host"):
        open_pool(DockerHost("tcp://x", "", host, 1, certificates))


CONTEXT = hashlib.sha256(b"there").hexdigest()
TLS = f"contexts/tls/{CONTEXT}/docker"


@pytest.mark.parametrize(
    ("environment", "current", "endpoint", "expected"),
    [
        ({}, "there", {"Host": "unix:///run/s"}, DockerHost("unix:///run/s", "/run/s")),
        ({}, "default", {"Host": "unix:///run/s"}, None),
        ({}, None, {"Host": "unix:///run/s"}, None),
        ({"DOCKER_CONTEXT": "there"}, "absent", {"Host": "tcp://e"}, DockerHost("tcp://e", "", "e", 2375)),
        ({"DOCKER_CONTEXT": "default"}, "there", {"Host": "tcp://e"}, None),
        ({"DOCKER_CONTEXT": "there", "DOCKER_HOST": "tcp://x"}, "there", {}, DockerHost("tcp://x", "", "x", 2375)),
        ({"DOCKER_TLS_VERIFY": "1"}, "there", {"Host": "tcp://e"}, DockerHost("tcp://e", "", "e", 2375)),
        ({}, "there", {"Host": "tcp://e", "tls": ["ca.pem"]}, DockerHost("tcp://e", "", "e", 2376, TLS)),
        ({}, "there", {"Host": "tcp://e", "SkipTLSVerify": True}, DockerHost("tcp://e", "", "e", 2376, TLS, True)),
        ({}, "there", {"Host": "ssh://me:hunter2@e"}, "docker context there: ssh://e: ssh is not supported"),
        ({}, "there", {"Host": "tcp://e:x"}, "docker context there: tcp://e:x: expected unix://PATH"),
        ({}, "there", {"Host": ""}, "docker context there: FOLDER/meta.json names no engine"),
        ({}, "there", [], "docker context there: FOLDER/meta.json names no engine"),
        ({}, "there", None, "docker context there: there is none of this name: no FOLDER/meta.json"),
        ({}, 7, {}, "config.json: currentContext: not a name"),
        ({}, "\ud800", {}, "docker context '\\ud800': not a name"),
    ],
)
def test_the_context_that_docker_uses(
    environment: dict[str, str],
    current: object,
    endpoint: Any,
    expected: DockerHost | str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As ``docker context create`` and ``use`` write it; DOCKER_HOST wins."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    write_file(tmp_path / "config.json", json.dumps({} if current is None else {"currentContext": current}))
    folder = tmp_path / "contexts/meta" / CONTEXT
    if endpoint is not None:
        for file in endpoint.pop("tls", ()) if isinstance(endpoint, dict) else ():
            write_file(tmp_path / TLS / file)
        document = {"Name": "there", "Metadata": {}, "Endpoints": {"docker": endpoint}}
        write_file(folder / "meta.json", json.dumps(document))
    if isinstance(expected, str):
        with pytest.raises(NoEngine, match=re.escape(expected.replace("FOLDER", str(folder)))) as caught:
            DockerHost.from_environment()
        assert "hunter2" not in one_line(caught)
        return
    if expected is None:
        expected = DockerHost("unix:///var/run/docker.sock", "/var/run/docker.sock")
    if expected.certificates:
        expected = replace(expected, certificates=str(tmp_path / TLS))
    assert DockerHost.from_environment() == expected


def test_contexts_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    write_file(tmp_path / "config.json", "[")
    with pytest.raises(NoEngine, match=rf"^{tmp_path}/config\.json: not a JSON object$"):
        DockerHost.from_environment()
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(NoEngine, match=rf"^{tmp_path}/config\.json: Is a directory$"):
        DockerHost.from_environment()


def test_a_context_with_certificates(
    certificates: Certificates, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own count, not those of the environment; and any, where it says so."""
    engine = FakeEngine(None, context=certificates.server(clients=True))
    folder = tmp_path / TLS
    try:
        for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        monkeypatch.setenv("DOCKER_CONTEXT", "there")

        def write_context(**more: Any) -> None:
            document = {"Endpoints": {"docker": {"Host": engine.host, **more}}}
            write_file(tmp_path / "contexts/meta" / CONTEXT / "meta.json", json.dumps(document), 0o644)

        write_context()
        folder.mkdir(parents=True)
        for source, name in ((certificates.certificate, "cert.pem"), (certificates.key, "key.pem")):
            shutil.copy(source, folder / name)
        with pytest.raises(DestinationError, match="its certificate is not trusted"):
            load(store)
        write_context(SkipTLSVerify=True)
        load(store)
        write_context()
        shutil.copy(certificates.authority, folder / "ca.pem")
        load(store)
        assert engine.whole("app:1")
    finally:
        engine.close()


def test_tls_with_certificates_on_both_sides(
    certificates: Certificates, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    engine = FakeEngine(None, context=certificates.server(clients=True))
    try:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(folder))
        with pytest.raises(DestinationError, match="its certificate is not trusted") as caught:
            load(store)
        one_line(caught)
        shutil.copy(certificates.authority, folder / "ca.pem")
        with pytest.raises(DestinationError) as caught:  # a client without a certificate
            load(store)
        one_line(caught)
        shutil.copy(certificates.certificate, folder / "cert.pem")
        shutil.copy(certificates.key, folder / "key.pem")
        load(store)
        assert engine.whole("app:1")
        (folder / "key.pem").write_text("no key")
        with pytest.raises(DestinationError, match="certificates cannot be used"):
            load(store)
    finally:
        engine.close()
