"""Image references: HOST[:PORT]/REPOSITORY[:TAG][@DIGEST], as docker, podman and skopeo read them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import ConfigError

__all__ = ["DIGEST", "HOST", "NAME", "TAG", "Reference"]

# What the distribution specification and Docker's reference package take.
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")  # a component of a repository
HOST = re.compile(r"(?:[A-Za-z0-9-]+\.)*[A-Za-z0-9-]+(?::[0-9]+)?|\[[0-9A-Fa-f:]+\](?::[0-9]+)?")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_HUB = "docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """An image, or a repository, in a registry.

    Attributes:
        host: HOST[:PORT].
        repository: the path behind it.
        tag: None where none is given.
        digest: of the manifest, likewise.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"docker://{self.name}{tag}{f'@{self.digest}' if self.digest else ''}"

    @property
    def name(self) -> str:
        """HOST/REPOSITORY."""
        return f"{self.host}/{self.repository}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference, with ``docker://`` before it or without.

        What has no host is Docker's own registry, and one name alone in it is below ``library/``.

        Raises:
            ConfigError: it is none.
        """
        rest, at, digest = text.removeprefix("docker://").partition("@")
        name, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:  # the colon of a port
            name, tag, colon = rest, "", ""
        first, slash, path = name.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            host, repository = first, path
        else:
            host, repository = _HUB, name if slash else f"library/{name}"
        if not HOST.fullmatch(host) or not all(map(NAME.fullmatch, repository.split("/"))):
            raise ConfigError(f"{text}: not an image reference: expected docker://HOST[:PORT]/REPOSITORY[:TAG]")
        if colon and not TAG.fullmatch(tag):
            raise ConfigError(f"{text}: not a tag: letters, digits, . _ -, at most 128")
        if at and not DIGEST.fullmatch(digest):
            raise ConfigError(f"{text}: not a digest that is understood: {digest}")
        return cls(host, repository, tag or None, digest or None)
