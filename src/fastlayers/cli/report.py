"""``fastlayers report``: layers and updates, in the terminal or as a page."""

from __future__ import annotations

import argparse

from .parser import Parser, complete, complete_file
from .stacks import KINDS, add_planning_of_closures, add_reading, read_reader

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] IMAGE|PLAN|CLOSURE..."
    parser.description = (
        "Show the layers of the last image, plan or closure, and what clients downloaded from each to the next: as "
        "tables, or as one page of HTML that needs nothing else."
    )
    parser.epilog = f"""\
{KINDS}
The oldest comes first. What paths of an image weigh says --closure.

Examples:
  fastlayers report oci:image:1
  fastlayers report docker://registry.example.org/app:1 \\
    docker://registry.example.org/app:2 --html report.html
  fastlayers report oci:old:1 oci:new:1 --closure nix:./result \\
    --html report.html
"""
    sources = parser.add_argument(
        "sources", metavar="IMAGE|PLAN|CLOSURE", nargs="+", help="What has layers, the oldest first."
    )
    complete(sources, complete_file)
    add_planning_of_closures(parser)
    add_reading(parser)
    html = parser.add_argument(
        "--html", metavar="FILE", help="Write a page instead of printing tables; - is standard output."
    )
    complete(html, complete_file)


def run(options: argparse.Namespace) -> None:
    """Print the tables, or write the page."""
    from ..report import print_data, print_history
    from ..reuse.page import render_page, write_page
    from ..reuse.update import change_counts, updates_of

    reader = read_reader(options, options.sources)
    stacks = [stack for source in options.sources for stack in reader.read(source)]
    updates = updates_of(stacks)
    if options.html is None:
        print_history(stacks, updates, change_counts(stacks))
    elif options.html == "-":
        print_data([render_page(stacks, updates)])
    else:
        write_page(options.html, render_page(stacks, updates))
