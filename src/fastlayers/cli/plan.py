"""``fastlayers plan``: which paths go into which layer."""

from __future__ import annotations

import argparse

from .options import add_max_layers, add_sources, add_strategy, read_sources
from .parser import Parser

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] [SOURCE]..."
    parser.description = "Show how a closure's paths are distributed over layers, the bottom layer first."
    parser.epilog = """\
Examples:
  fastlayers plan nix:./result
  fastlayers plan graph.json --max-layers 20 --format json > plan.json
  fastlayers build graph.json --plan plan.json --to oci:image
"""
    add_sources(parser)
    add_max_layers(parser, 99, "Layers of the plan.")
    add_strategy(parser)
    parser.add_argument(
        "--format",
        choices=["table", "layers", "json"],
        default="table",
        help="A table, a JSON list of lists of paths, or everything as JSON. [default: %(default)s]",
    )


def run(options: argparse.Namespace) -> None:
    """Print the plan."""
    from ..layering.plan import plan_layers
    from ..report import print_lines, print_plan

    made = plan_layers(read_sources(options), options.max_layers, options.strategy)
    if options.format == "table":
        print_plan(made)
    else:
        print_lines([made.to_layers() if options.format == "layers" else made.to_json()])
