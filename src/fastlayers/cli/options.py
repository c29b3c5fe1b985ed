"""Options and arguments that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import os
import re

from .parser import Parser, UsageError, complete, complete_file, complete_words

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..cache import DigestCache
    from ..closure import Closure

__all__ = [
    "add_cache",
    "add_cache_folder",
    "add_client",
    "add_jobs",
    "add_max_layers",
    "add_quiet",
    "add_sources",
    "add_store_root",
    "add_verify_store",
    "check_sources",
    "positive",
    "read_cache",
    "read_sources",
    "size",
]


def add_sources(parser: Parser) -> None:
    """Add ``SOURCE``... and the options that say how sources are read; :func:`read_sources` reads them."""
    sources = parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="*",
        help="nix:PATH, a file that Nix wrote, - or venv:DIR. [default: the active virtual environment]",
    )
    complete(sources, complete_file)
    parser.add_argument(
        "--key", metavar="KEY", help="Which list of nodes to take from an exportReferencesGraph document."
    )
    parser.add_argument(
        "--no-interpreter",
        dest="interpreter",
        action="store_false",
        help="Of a virtual environment, leave out the interpreter and the shared libraries: the base image has them.",
    )
    add_store_root(parser)


def read_sources(options: argparse.Namespace) -> Closure:
    """Read the sources that were named, or the virtual environment that is active, as one closure.

    Raises:
        UsageError: none is named and none is active, or standard input is named twice.
        ClosureError: one cannot be read, or is no closure.
    """
    from ..closure import unite
    from ..sources import read_closure

    sources = options.sources
    check_sources(sources)
    if sources.count("-") > 1:
        raise UsageError("standard input can be read once")
    if not sources:
        active = os.environ.get("VIRTUAL_ENV")
        if not active:
            raise UsageError(
                "name a SOURCE: nix:PATH, a file that Nix made, - or venv:DIR (no virtual environment is active)"
            )
        sources = [f"venv:{active}"]
    return unite(
        [
            read_closure(source, key=options.key, interpreter=options.interpreter, store_root=options.store_root)
            for source in sources
        ]
    )


def check_sources(sources: Sequence[str]) -> None:
    """Check that no source lacks what its kind is followed by.

    Raises:
        UsageError: one does.
    """
    for kind, what in (("nix:", "nix:PATH"), ("venv:", "venv:DIR")):
        if kind in sources:
            raise UsageError(f"SOURCE {kind} expected {what}")


def add_max_layers(parser: Parser, default: int | None, text: str) -> None:
    """Add ``--max-layers``."""
    parser.add_argument("--max-layers", type=positive, default=default, metavar="N", help=text)


def add_client(parser: Parser, text: str) -> None:
    """Add ``--client``: one of :data:`fastlayers.clients.CLIENTS`."""
    client = parser.add_argument("--client", choices=["docker", "podman", "containerd"], metavar="NAME", help=text)
    complete(client, complete_words("docker", "podman", "containerd"))


def add_store_root(parser: Parser) -> None:
    """Add ``--store-root``: an absolute path that does not end in a slash, or "" for none."""
    root = parser.add_argument(
        "--store-root",
        type=_root,
        default="",
        metavar="DIR",
        help="Read /nix/... from DIR/nix/...: store paths, and Nix's database.",
    )
    complete(root, complete_file)


def _root(text: str) -> str:
    return os.path.abspath(text).rstrip("/") if text else ""


def add_verify_store(parser: Parser) -> None:
    """Add ``--verify-store``."""
    parser.add_argument(
        "--verify-store",
        action="store_true",
        help="Check every store path against its NAR hash before it goes into a layer.",
    )


def add_cache(parser: Parser) -> None:
    """Add ``--cache``, ``--no-cache`` and ``--verify``; :func:`read_cache` reads the first two."""
    add_cache_folder(parser)
    parser.add_argument(
        "--no-cache", action="store_true", help="Remember nothing, and make use of nothing that is remembered."
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="Hash again what is remembered, and ask registries for every layer; what differs is an error, and "
        "forgotten.",
    )


def add_cache_folder(parser: Parser) -> None:
    """Add ``--cache``."""
    folder = parser.add_argument(
        "--cache",
        metavar="DIR",
        help="Where digests of layers are remembered. [default: $XDG_CACHE_HOME/fastlayers or ~/.cache/fastlayers]",
    )
    complete(folder, complete_file)


def read_cache(options: argparse.Namespace) -> DigestCache | None:
    """The cache that the options name; of the usual one, if it cannot be used, nothing is said.

    Raises:
        UsageError: there is one, and there shall be none.
        DestinationError: the one that is named cannot be used.
    """
    from ..cache import DigestCache, default_folder
    from ..errors import DestinationError

    if options.no_cache:
        if options.cache is not None:
            raise UsageError("--cache and --no-cache exclude each other")
        return None
    if options.cache is not None:
        return DigestCache.open(options.cache)
    folder = default_folder()
    try:
        return None if folder is None else DigestCache.open(folder)
    except DestinationError:
        return None


def add_jobs(parser: Parser) -> None:
    """Add ``--jobs``; None is all cores."""
    parser.add_argument("--jobs", type=positive, metavar="N", help="Worker processes. [default: all cores]")


def add_quiet(parser: Parser, text: str) -> None:
    """Add ``--quiet``."""
    parser.add_argument("--quiet", action="store_true", help=text)


def positive(text: str) -> int:
    """A whole number of at least 1, for an option's ``type``."""
    return _at_least(1, text)


def not_negative(text: str) -> int:
    """A whole number of at least 0, for an option's ``type``."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number < 1 << 63:  # what C takes
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number of at least {least}")
    return number


_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def size(text: str) -> int:
    """Bytes, or with a unit k, M or G and perhaps a B behind it, all powers of 1000; for an option's ``type``."""
    found = re.fullmatch("([0-9]{1,15})([kMG]?)B?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of bytes, or of kB, MB or GB, such as 10MB")
    return int(found[1]) * _UNITS[found[2]]
