"""``fastlayers explain``: why a path is in its layer."""

from __future__ import annotations

import argparse

from .parser import Parser, complete, complete_file
from .stacks import KINDS, add_planning_of_closures, add_reading, read_reader

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] IMAGE|PLAN|CLOSURE [PATH]"
    parser.description = (
        "Say why a path is in its layer, or without PATH, a line for each layer. Which strategy made a plan that does "
        "not say is found out by trying; that takes the closure."
    )
    parser.epilog = f"""\
{KINDS}
PATH is a path, its name, or its package: /nix/store/...-openssl-3.0.15,
openssl-3.0.15, openssl.

Examples:
  fastlayers explain closure.json openssl --strategy auto
  fastlayers explain oci:image:1 openssl --closure nix:./result
  fastlayers explain plan.json --closure closure.json
"""
    complete(parser.add_argument("source", metavar="IMAGE|PLAN|CLOSURE", help="What has layers."), complete_file)
    parser.add_argument("path", metavar="PATH", nargs="?", help="Which path. [default: all layers]")
    add_planning_of_closures(parser)
    add_reading(parser)


def run(options: argparse.Namespace) -> None:
    """Print why."""
    from ..report import print_explained, print_lines
    from ..reuse.explain import explain_path, find_path, summarise
    from ..reuse.reading import closure_of

    reader = read_reader(options, [options.source])
    stack = reader.one(options.source)
    path = None if options.path is None else find_path(stack, options.path)
    known = stack.closure is not None or bool(reader.closures)
    closure = closure_of(stack, reader.closures) if known and stack.carries_plan else None
    if path is None:
        print_explained(stack, *summarise(stack, closure))
    else:
        print_lines(explain_path(stack, path, closure))
