"""TLS with certificates where docker, podman and skopeo keep them."""

from __future__ import annotations

import glob
import os
import ssl

from ..errors import RegistryError
from .access import RegistryAccess

__all__ = ["tls_context"]


def tls_context(host: str, access: RegistryAccess) -> ssl.SSLContext:
    """Certificates of the system (SSL_CERT_FILE and SSL_CERT_DIR name others), and of the registry's folder.

    Raises:
        RegistryError: a certificate or key cannot be read, or the folder that is named is not there.
    """
    access.check()
    context = ssl.create_default_context()
    # From 3.13 on Python refuses authorities whose certificates lack some extensions, as home-made ones do. Other
    # clients take them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not access.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for folder in _folders(host, access):
        for file in sorted(glob.glob(os.path.join(glob.escape(folder), "*"))):
            try:
                if file.endswith(".crt"):
                    context.load_verify_locations(file)
                elif file.endswith(".cert"):
                    context.load_cert_chain(file, file.removesuffix(".cert") + ".key", password=_no_password)
            except OSError as error:  # of ssl too
                raise RegistryError(f"{file}: not a certificate that can be used: {error.strerror or error}") from None
    return context


def _folders(host: str, access: RegistryAccess) -> list[str]:
    """Where the certificates of a registry are: the first of the usual folders that there is."""
    if access.cert_dir is not None:
        return [access.cert_dir]
    usual = [
        os.path.expanduser("~/.config/containers/certs.d"),
        "/etc/containers/certs.d",
        "/etc/docker/certs.d",
    ]
    return [os.path.join(folder, host) for folder in usual if os.path.isdir(os.path.join(folder, host))][:1]


def _no_password() -> str:
    """Instead of asking on the terminal."""
    raise OSError("the key has a password")
