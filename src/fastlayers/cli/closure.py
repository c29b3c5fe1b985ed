"""``fastlayers closure``: the paths of a closure."""

from __future__ import annotations

import argparse

from .options import add_sources, read_sources
from .parser import Parser

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] [SOURCE]..."
    parser.description = "Print the paths of a closure in plain ASCII order, as writeReferencesToFile does."
    parser.epilog = """\
Examples:
  fastlayers closure graph.json
  fastlayers closure nix:./result --sizes
"""
    add_sources(parser)
    parser.add_argument(
        "--sizes", action="store_true", help="Print each path's NAR size (in bytes; - where unknown) behind it."
    )
    parser.add_argument("--references", action="store_true", help="Print each path's references below it, indented.")


def run(options: argparse.Namespace) -> None:
    """Print the paths."""
    from ..report import print_data

    closure = read_sources(options)
    lines = []
    for i, path in enumerate(closure.paths):
        size = int(closure.nar_sizes[i])
        lines.append(f"{path}\t{size if size >= 0 else '-'}" if options.sizes else path)
        if options.references:
            lines += [f"  {reference}" for reference in closure.references(i)]
    print_data(lines)
