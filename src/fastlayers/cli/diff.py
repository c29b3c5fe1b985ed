"""``fastlayers diff``: what clients download for an update."""

from __future__ import annotations

import argparse

from .parser import Parser, complete, complete_file
from .stacks import KINDS, add_planning_of_closures, add_reading, read_reader

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] OLD NEW"
    parser.description = (
        "Show what a client that has OLD downloads for NEW: one that knows layers by digest (podman, containerd, "
        "skopeo), and one that knows them by chain ID (Docker's graph drivers), which downloads everything from the "
        "first new layer upward. Beside it the bound, the bytes of the paths that are new, and why layers are new."
    )
    parser.epilog = f"""\
{KINDS}
Sizes of images are those that are stored (compressed, as they are sent),
those of plans and closures are NAR sizes.

Examples:
  fastlayers diff docker://registry.example.org/app:1 \\
    docker://registry.example.org/app:2
  fastlayers diff oci:old:1 oci:new:1 --closure nix:./result
  fastlayers diff old.json nix:./result --strategy auto --json
"""
    for name, text in (("OLD", "What a client has."), ("NEW", "What it wants.")):
        complete(parser.add_argument(name.lower(), metavar=name, help=text), complete_file)
    add_planning_of_closures(parser)
    add_reading(parser)
    parser.add_argument("--json", action="store_true", help="Print everything as JSON.")


def run(options: argparse.Namespace) -> None:
    """Print the difference."""
    from ..report import print_data, print_update
    from ..reuse.update import compare

    reader = read_reader(options, [options.old, options.new])
    update = compare(reader.one(options.old), reader.one(options.new))
    if options.json:
        import json

        print_data([json.dumps(update.to_dict(), indent=2, ensure_ascii=False)])
    else:
        print_update(update)
