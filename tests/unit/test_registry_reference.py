"""References, platforms, and which hosts are this machine."""

import pytest

from fastlayers import ConfigError
from fastlayers.registry.access import is_local
from fastlayers.registry.platforms import choose_platform, platform_name
from fastlayers.registry.reference import Reference

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("docker://example.org/app", ("example.org", "app", None, None)),
        ("docker://example.org/a/b-c/d_e:v1.0", ("example.org", "a/b-c/d_e", "v1.0", None)),
        ("example.org:5000/app", ("example.org:5000", "app", None, None)),
        ("localhost/app:1", ("localhost", "app", "1", None)),
        ("localhost:5000/app:1", ("localhost:5000", "app", "1", None)),
        ("[::1]:5000/app:1", ("[::1]:5000", "app", "1", None)),
        (f"example.org/app@{DIGEST}", ("example.org", "app", None, DIGEST)),
        (f"example.org/app:1@{DIGEST}", ("example.org", "app", "1", DIGEST)),
    ],
)
def test_references(text: str, parts: tuple[str, str, str | None, str | None]) -> None:
    reference = Reference.parse(text)
    assert (reference.host, reference.repository, reference.tag, reference.digest) == parts
    assert Reference.parse(str(reference)) == reference
    assert str(reference) == "docker://" + text.removeprefix("docker://")


def test_a_name_without_a_host_is_in_the_usual_place() -> None:
    alone, below = Reference.parse("docker://app:1"), Reference.parse("team/app")
    assert alone.host == below.host != "app"
    assert (alone.repository, below.repository) == ("library/app", "team/app")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "docker://",
        "docker://example.org/",
        "docker://example.org/App",
        "docker://example.org//app",
        "docker://example.org/app:",
        "docker://example.org/app:a b",
        "docker://example.org/app:" + "x" * 129,
        "docker://example.org/app@sha256:123",
        "docker://example.org/app@",
        "docker://example.org:port/app",
        "docker://user:password@example.org/app",
        "docker://example.org/../app",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ConfigError, match="not a"):
        Reference.parse(text)


@pytest.mark.parametrize("host", ["localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:5000"])
def test_this_machine(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host", ["example.org", "example.org:5000", "127.example.org", "127.0.0.1.example.org:80", "localhost.example.org"]
)
def test_other_machines(host: str) -> None:
    assert not is_local(host)


def entry(architecture: str, variant: str | None = None, system: str = "linux") -> dict[str, object]:
    fields = {"os": system, "architecture": architecture, "variant": variant}
    return {"platform": {key: value for key, value in fields.items() if value}}


ENTRIES = [
    entry("amd64", system="windows"),
    entry("amd64"),
    entry("arm", "v6"),
    entry("arm", "v7"),
    entry("arm64", "v8"),
    entry("riscv64", "strange"),
    {"platform": {"os": "unknown", "architecture": "unknown"}},
]


@pytest.mark.parametrize(
    ("architecture", "variant", "chosen"),
    [
        ("amd64", None, 1),
        ("arm", None, 3),
        ("arm", "v6", 2),
        ("arm", "v5", None),
        ("arm64", None, 4),
        ("arm64", "v8", 4),
        ("arm64", "v9", None),
        ("riscv64", None, 5),
        ("s390x", None, None),
    ],
)
def test_platforms(architecture: str, variant: str | None, chosen: int | None) -> None:
    expected = None if chosen is None else ENTRIES[chosen]
    assert choose_platform(ENTRIES, architecture, variant) is expected


def test_platforms_have_names() -> None:
    assert platform_name({"os": "linux", "architecture": "arm", "variant": "v7"}) == "linux/arm/v7"
    assert platform_name({}) == "linux/unknown"
