"""``fastlayers index``: images of several platforms under one tag."""

from __future__ import annotations

import argparse

from .parser import Parser, UsageError, checked, complete, complete_words
from .registry import add_access, read_access

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] --to docker://HOST/REPOSITORY[:TAG] IMAGE..."
    parser.description = (
        "Join images of several platforms under one tag of a registry. What its repository lacks of them is mounted "
        "from another one or sent."
    )
    parser.epilog = """\
Images:
  docker://HOST/REPOSITORY[:TAG][@DIGEST]   an image in a registry, or an index
  oci:DIR[:TAG]                             an image in an OCI layout

Examples:
  fastlayers index --to docker://registry.example.org/app:1 \\
    docker://registry.example.org/app:1-amd64 oci:arm64:1
"""
    images = parser.add_argument("images", metavar="IMAGE", nargs="+", help="An image for one platform, or an index.")
    complete(images, complete_words("docker://", "oci:"))
    to = parser.add_argument("--to", dest="destination", required=True, metavar="DESTINATION", help="The tag.")
    complete(to, complete_words("docker://"))
    add_access(parser)


def run(options: argparse.Namespace) -> None:
    """Push the index, and print its digest and what is in it."""
    from ..index import push_index
    from ..registry.platforms import platform_name
    from ..registry.reference import Reference
    from ..report import print_lines

    if not options.destination.startswith("docker://"):
        raise UsageError(f"--to {options.destination}: expected docker://HOST/REPOSITORY[:TAG]")
    to = checked("--to", Reference.parse, options.destination)
    pushed = push_index(to, options.images, read_access(options))
    entries = [f"{entry['digest']} {platform_name(entry['platform'])}" for entry in pushed.entries]
    print_lines([f"index {pushed.digest}", *entries])
