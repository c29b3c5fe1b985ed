"""``fastlayers plan``: which paths go into which layer."""

from __future__ import annotations

import argparse

from .options import add_client, add_max_layers, add_sources, read_sources
from .parser import Parser, checked
from .planning import add_planning, check_planning, read_guidance, read_order, read_pipeline_option
from .registry import add_access, read_access

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
  fastlayers plan new.json --previous docker://registry.example.org/app:1 \\
    --history earlier.jsonl
  fastlayers plan graph.json --pipeline \\
    '[["popularity_contest"], ["reverse"], ["limit_layers", 20]]'
"""
    add_sources(parser)
    add_max_layers(parser, None, "Layers of the plan. [default: 99; a pipeline has its own limit_layers]")
    add_client(
        parser, "docker, podman or containerd: the plan of build --client, one layer kept for the customisation."
    )
    add_planning(parser)
    parser.add_argument(
        "--format",
        choices=["table", "layers", "json"],
        default="table",
        help="A table, a JSON list of lists of paths, or everything as JSON. [default: %(default)s]",
    )
    add_access(parser, "of --previous")


def run(options: argparse.Namespace) -> None:
    """Print the plan."""
    from ..clients import check_layer_count, layer_limit
    from ..layering.strategies import plan_layers, plan_pipeline
    from ..report import print_data, print_plan

    check_planning(options, "pipeline", "strategy")
    check_planning(options, "pipeline", "max_layers")
    limit = 99 if options.max_layers is None else options.max_layers
    if options.client is not None:  # the image has a layer more
        wanted = None if options.max_layers is None else limit + 1
        limit = checked("--max-layers, and one for the customisation:", layer_limit, options.client, wanted) - 1
    pipeline = read_pipeline_option(options)
    guidance, order = read_guidance(options, read_access(options)), read_order(options)
    closure = read_sources(options)
    if pipeline is not None:
        made = plan_pipeline(closure, pipeline, exclude=options.exclude, guidance=guidance, order=order)
        if options.client is not None:
            check_layer_count(options.client, len(made.layers) + 1)
    else:
        made = plan_layers(closure, limit, options.strategy, exclude=options.exclude, guidance=guidance, order=order)
    if options.format == "table":
        print_plan(made)
    else:
        print_data([made.to_layers() if options.format == "layers" else made.to_json()])
