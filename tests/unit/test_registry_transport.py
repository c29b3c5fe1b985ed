"""Below the requests: TLS, proxies, plain HTTP, challenges, and how long to wait."""

from __future__ import annotations

import datetime
import email.utils
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from certificates import Certificates, make_certificates
from fake_registry import FakeRegistry, Reply, basic
from fastlayers import Reference, RegistryAccess, RegistryError
from fastlayers.registry import connection, transport
from fastlayers.registry.authorization import Challenge
from fastlayers.registry.pull import open_repository
from fastlayers.registry.transport import NoConnection, Patience, Trouble

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without certificates, and no proxy."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def secure(certificates: Certificates) -> Iterator[FakeRegistry]:
    server = FakeRegistry(certificates.server())
    yield server
    server.close()


def ask(host: str, access: RegistryAccess = RegistryAccess()) -> None:  # noqa: B008
    """One request; there is no such manifest."""
    assert open_repository(Reference.parse(f"{host}/app"), access, push=False).manifest("1") is None


# TLS


def test_an_unknown_authority_is_refused_at_once(secure: FakeRegistry) -> None:
    with pytest.raises(RegistryError, match="its certificate is not trusted: unable to get local issuer") as caught:
        ask(secure.host)
    assert not isinstance(caught.value, Trouble)
    assert not secure.seen


@pytest.mark.parametrize("place", ["cert_dir", "certs.d", "SSL_CERT_FILE"])
def test_an_authority_of_our_own(
    place: str, home: Path, certificates: Certificates, secure: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = {"cert_dir": home / "certs", "certs.d": home / ".config/containers/certs.d" / secure.host}.get(place)
    if folder is None:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    else:
        folder.mkdir(parents=True)
        shutil.copy(certificates.authority, folder / "ca.crt")
        (folder / "README").write_text("not a certificate")
    ask(secure.host, RegistryAccess(cert_dir=str(folder) if place == "cert_dir" else None))
    assert [seen.path for seen in secure.seen] == ["/v2/app/manifests/1"]


def test_the_name_in_the_certificate_counts(
    home: Path, certificates: Certificates, secure: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(certificates.authority, home / "ca.crt")
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **options: look_up("127.0.0.1", *more, **options))
    with pytest.raises(RegistryError, match=r"its certificate is not trusted: .*registry\.example\.org"):
        ask(f"registry.example.org:{secure.host.rpartition(':')[2]}", RegistryAccess(cert_dir=str(home)))


def test_no_verification(secure: FakeRegistry) -> None:
    ask(secure.host, RegistryAccess(tls_verify=False))
    assert len(secure.seen) == 1


def test_a_certificate_of_the_client(home: Path, certificates: Certificates) -> None:
    server = FakeRegistry(certificates.server(clients=True))
    try:
        shutil.copy(certificates.authority, home / "ca.crt")
        with pytest.raises(RegistryError):
            ask(server.host, RegistryAccess(cert_dir=str(home)))
        shutil.copy(certificates.certificate, home / "client.cert")
        shutil.copy(certificates.key, home / "client.key")
        ask(server.host, RegistryAccess(cert_dir=str(home)))
    finally:
        server.close()


@pytest.mark.parametrize("name", ["ca.crt", "client.cert"])
def test_files_that_are_no_certificates(name: str, home: Path, secure: FakeRegistry) -> None:
    (home / "certs").mkdir()
    (home / "certs" / name).write_text("nothing")
    with pytest.raises(RegistryError, match=f"{home}/certs/{name}: not a certificate that can be used"):
        ask(secure.host, RegistryAccess(cert_dir=str(home / "certs")))


def test_a_folder_of_certificates_has_to_be_there(home: Path, secure: FakeRegistry) -> None:
    with pytest.raises(RegistryError, match=f"{home}/absent: not a folder of certificates"):
        ask(secure.host, RegistryAccess(cert_dir=str(home / "absent")))


# Without TLS


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No host is this machine."""
    for module in (connection, transport):
        monkeypatch.setattr(module, "is_local", lambda host: False)


def test_another_machine_is_not_asked_without_tls(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(monkeypatch)
    with pytest.raises(RegistryError, match=r"WRONG_VERSION_NUMBER|wrong version number|record layer failure"):
        ask(registry.host)
    assert not registry.seen


def test_another_machine_is_asked_without_tls_where_that_is_allowed(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch)
    ask(registry.host, RegistryAccess(tls_verify=False))
    assert len(registry.seen) == 1


def test_a_token_server_without_tls_gets_no_credentials(
    registry: FakeRegistry, secure: FakeRegistry, monkeypatch: pytest.MonkeyPatch, certificates: Certificates
) -> None:
    elsewhere(monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    secure.challenge, secure.authorize = f'Bearer realm="{registry.url}/token"', lambda seen: False
    with pytest.raises(RegistryError, match=f"the registry's token server: {registry.host} is to be asked without TLS"):
        ask(secure.host)
    assert not registry.seen


def test_nobody_is_there(registry: FakeRegistry) -> None:
    with pytest.raises(NoConnection, match=r"127\.0\.0\.1:1/app: manifest 1: Connection refused"):
        ask("127.0.0.1:1")


def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(Trouble, match=r"org/app: manifest 1: absent\.example\.org: Name or service not known"):
        ask("absent.example.org")
    with pytest.raises(Trouble, match=r"docker\.io/.*: manifest 1: registry-1\.docker\.io: Name or service not known"):
        ask("docker.io")


# Proxies


@pytest.mark.parametrize("who", ["", "user:pass%40word@"])
def test_proxies(who: str, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain HTTP through a proxy: the fake registry stands for both."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://{who}{registry.host}")
    ask("registry.example.org", RegistryAccess(tls_verify=False))
    (seen,) = registry.seen  # CONNECT is refused, so it is taken for a registry without TLS
    assert seen.headers["host"] == "registry.example.org"
    assert seen.headers.get("proxy-authorization") == (basic("user", "pass@word") if who else None)


@pytest.mark.parametrize("exempt", ["registry.example.org", ".example.org", "*"])
def test_hosts_without_a_proxy(exempt: str, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://{registry.host}")
    monkeypatch.setenv("no_proxy", exempt)
    monkeypatch.setattr(transport.Transport, "_manager", lambda self, scheme, proxy: pytest.fail(f"proxy: {proxy}"))
    with pytest.raises(BaseException, match="proxy: None"):
        ask("registry.example.org")


def test_this_machine_needs_no_proxy(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    ask(registry.host)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "http://user:secret@127.0.0.1:1"])
def test_proxies_that_do_not_work(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:1: not a proxy|Connection refused") as caught:
        ask("registry.example.org")
    assert "secret" not in str(caught.value)


# Challenges


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Basic realm="a"', Challenge("basic", "a")),
        ("basic", Challenge("basic")),
        ('Bearer realm="https://a/t",service="s",scope="x:y:pull,push"', Challenge("bearer", "https://a/t", "s")),
        ('bearer  service=s , realm="https://a/t"', Challenge("bearer", "https://a/t", "s")),
        (r'Bearer realm="a\"b,c"', Challenge("bearer", 'a"b,c')),
        ('Basic realm="a", Bearer realm="b"', Challenge("bearer", "b")),
        ('Negotiate, Basic realm="a"', Challenge("basic", "a")),
        ('Digest realm="a", nonce="b"', None),
        ("Bearer", None),
        ("", None),
        ('="', None),
    ],
)
def test_challenges(header: str, expected: Challenge | None) -> None:
    assert Challenge.parse([header]) == expected


# Waiting


def waited(*troubles: float | None, attempts: int | None = None) -> list[float]:
    waits: list[float] = []
    patience = Patience(attempts, waits.append)
    for asked in troubles:
        trouble = Trouble("x")
        trouble.retry_after = asked
        patience.after(trouble)
    return waits


def test_waits_become_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.5)
    waits = waited(*[None] * 6)
    assert all(0.75 * 0.5 * 2**i <= wait <= 1.25 * 0.5 * 2**i for i, wait in enumerate(waits))
    assert waited(7, 0, 120) == [7, 0, 120]


@pytest.mark.parametrize("troubles", [[None] * 7, [121]])
def test_patience_ends(troubles: list[float | None]) -> None:
    with pytest.raises(Trouble):
        waited(*troubles)


def test_a_date_to_wait_for(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    date = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
    waits: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", waits.append)
    headers = {"Retry-After": email.utils.format_datetime(date, usegmt=True)}
    registry.interfere = lambda seen: Reply(503, headers) if seen.number == 1 else None
    ask(registry.host)
    (wait,) = waits
    assert 30 < wait <= 60


@pytest.mark.parametrize("text", ["soon", "", "1e9", "Thu, 99 Nov"])
def test_a_retry_after_that_says_nothing(text: str, registry: FakeRegistry) -> None:
    registry.interfere = lambda seen: Reply(503, {"Retry-After": text}) if seen.number == 1 else None
    ask(registry.host)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b'{"errors":[{"code":"DENIED","message":"no\\nand \\u001b[31mno"}]}', "403 Forbidden: no and [31mno"),
        (b'{"errors":[{"code":"DENIED"}]}', "403 Forbidden: DENIED"),
        (b'{"errors":[]}', "403 Forbidden"),
        (b'{"errors":5}', "403 Forbidden"),
        (b"<html>secret</html>", "403 Forbidden"),
    ],
)
def test_what_a_registry_says(body: bytes, line: str, registry: FakeRegistry) -> None:
    registry.interfere = lambda seen: Reply(403, {}, body)
    with pytest.raises(RegistryError) as caught:
        ask(registry.host)
    assert str(caught.value) == f"{registry.host}/app: manifest 1: {line}"


def test_an_answer_without_an_end_is_not_read(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_LARGEST", 1000)
    registry.interfere = lambda seen: Reply(200, {}, bytes(5000))
    with pytest.raises(RegistryError, match="more than 1000 bytes"):
        ask(registry.host)
