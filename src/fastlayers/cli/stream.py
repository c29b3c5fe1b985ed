"""``fastlayers stream``: what nixpkgs' streamLayeredImage does."""

from __future__ import annotations

import argparse
import sys

from ..errors import DestinationError
from .options import add_cache, add_jobs, add_quiet, add_store_root, add_verify_store, read_cache
from .parser import Parser, UsageError, complete, complete_file

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] CONF"
    parser.description = (
        "Write a docker archive to standard output: the bytes that nixpkgs' streamLayeredImage writes. "
        "--store-root also maps CONF's from_image and customisation_layer."
    )
    parser.epilog = """\
Examples:
  fastlayers stream conf.json | docker load
  fastlayers stream $(nix-build -A image.conf) | podman load
"""
    conf = parser.add_argument("conf", metavar="CONF", help="The conf.json of nixpkgs' image.")
    complete(conf, complete_file)
    parser.add_argument(
        "-t", "--repo_tag", "--repo-tag", metavar="TAG", help="The image's NAME:TAG, other than in CONF."
    )
    add_jobs(parser)
    add_store_root(parser)
    add_verify_store(parser)
    add_cache(parser)
    add_quiet(parser, "Say nothing on standard error.")


def run(options: argparse.Namespace) -> None:
    """Write the archive."""
    from ..report import print_log
    from ..stream import stream_image

    if sys.stdout.isatty():
        raise UsageError("an archive is not written to a terminal: redirect it")
    try:
        stream_image(
            options.conf,
            1,
            repo_tag=options.repo_tag,
            store_root=options.store_root,
            verify_store=options.verify_store,
            jobs=options.jobs,
            cache=read_cache(options),
            verify=options.verify,
            log=(lambda line: None) if options.quiet else print_log,
        )
    except OSError as error:
        raise DestinationError(f"standard output: {error.strerror}") from None
