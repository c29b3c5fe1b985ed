"""Options of commands that speak to registries, named as skopeo names them."""

from __future__ import annotations

import argparse

from .parser import Parser, UsageError, checked, complete, complete_file, complete_words

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from ..registry.access import PushOptions, RegistryAccess

__all__ = ["add_access", "add_push", "read_access", "read_push"]


def add_access(parser: Parser, registry: str = "that is pushed to") -> None:
    """Add the options that :func:`read_access` reads; ``registry`` says which one ``--creds`` are for."""
    parser.add_argument(
        "--creds",
        metavar="USER:PASSWORD",
        help=f"For the registry {registry}. Others see it in the list of processes: better is --authfile.",
    )
    authfile = parser.add_argument(
        "--authfile",
        metavar="FILE",
        help="Credentials. [default: REGISTRY_AUTH_FILE, or where podman and docker keep them]",
    )
    complete(authfile, complete_file)
    folder = parser.add_argument(
        "--cert-dir", metavar="DIR", help="Certificates of a registry: *.crt, and *.cert with *.key."
    )
    complete(folder, complete_file)
    verify = parser.add_argument(
        "--tls-verify",
        choices=["true", "false"],
        default="true",
        metavar="BOOL",
        help="false: take any certificate, and plain HTTP. [default: true; plain HTTP from this machine alone]",
    )
    complete(verify, complete_words("true", "false"))


def read_access(options: argparse.Namespace) -> RegistryAccess:
    """What the options say.

    Raises:
        UsageError: ``--creds`` is not of its form.
        RegistryError: the file or folder that another option names is not there.
    """
    from ..registry.access import Credentials, RegistryAccess

    credentials = None
    if options.creds is not None:
        user, colon, password = options.creds.partition(":")
        if not user or not colon:
            raise UsageError("--creds: expected USER:PASSWORD")
        credentials = Credentials(user, password, place="--creds")
    access = RegistryAccess(credentials, options.authfile, options.cert_dir, options.tls_verify == "true")
    access.check()
    return access


def add_push(parser: Parser) -> None:
    """Add the options that :func:`read_push` reads."""
    parser.add_argument(
        "--push-base",
        metavar="IMAGE",
        help="An image in a registry whose layers are not sent again. [default: --previous, else what the tag has]",
    )
    parser.add_argument(
        "--mount-from", metavar="REPOSITORY", help="A repository of the same registry that may have layers."
    )


def read_push(options: argparse.Namespace) -> PushOptions:
    """What the options say; ``--arch`` and ``--variant`` count too.

    Without ``--push-base`` and ``--arch`` a push starts from ``--previous``, where that is an image in a registry.

    Raises:
        UsageError: a reference is none.
    """
    from ..destinations import TRANSPORTS
    from ..registry.access import PushOptions
    from ..registry.reference import NAME, Reference

    if options.push_base and options.push_base.partition(":")[0] in {*TRANSPORTS} - {"docker"}:
        raise UsageError(f"--push-base {options.push_base}: expected docker://HOST[:PORT]/REPOSITORY[:TAG]")
    base = checked("--push-base", Reference.parse, options.push_base) if options.push_base else None
    if base is None and not options.arch and (options.previous or "").startswith("docker://"):
        base = checked("--previous", Reference.parse, options.previous)  # whose layers the plan keeps
    if options.mount_from and not all(map(NAME.fullmatch, options.mount_from.split("/"))):
        raise UsageError(f"--mount-from {options.mount_from}: expected REPOSITORY, without a host and a tag")
    return PushOptions(base, options.mount_from, options.arch or "", options.variant)
