"""What users say of registries: credentials, TLS, and what a push may start from."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from ..errors import RegistryError
from .reference import Reference

__all__ = ["Credentials", "PushOptions", "RegistryAccess", "is_local"]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are. One of password and tokens is there; none of them is ever printed.

    Attributes:
        username, password: for Basic, and for token servers.
        identity_token: a refresh token of OAuth 2.
        registry_token: sent as it is.
        place: where they were found, for errors.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    place: str = ""


@dataclass(frozen=True, slots=True)
class RegistryAccess:
    """What the user says of registries.

    Attributes:
        credentials: instead of those that are found in files; for the one registry that this is used with.
        authfile: the file of credentials, instead of the usual ones.
        cert_dir: a folder of certificates (``*.crt``, and ``*.cert`` with ``*.key``), instead of the usual ones.
        tls_verify: False takes any certificate, and plain HTTP where there is no TLS.
    """

    credentials: Credentials | None = None
    authfile: str | None = None
    cert_dir: str | None = None
    tls_verify: bool = True

    def check(self) -> None:
        """Check that the file and the folder that are named are there.

        Raises:
            RegistryError: one is not.
        """
        if self.authfile is not None and not os.path.exists(self.authfile):
            raise RegistryError(f"{self.authfile}: no such file of credentials")
        if self.cert_dir is not None and not os.path.isdir(self.cert_dir):
            raise RegistryError(f"{self.cert_dir}: not a folder of certificates")


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What a push may start from.

    Attributes:
        base: an image whose layers are remembered, instead of the one that the tag names.
        mount_from: a repository of the same registry that may have layers.
        architecture, variant: which image of several the tag's or the base's is; by default this machine's.
    """

    base: Reference | None = None
    mount_from: str | None = None
    architecture: str = ""
    variant: str | None = None


def is_local(host: str) -> bool:
    """Whether HOST[:PORT] is this machine, which is spoken to without TLS if it has none."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return name in ("localhost", "[::1]") or (name.startswith("127.") and name.replace(".", "").isdigit())
