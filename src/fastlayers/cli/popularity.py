"""``fastlayers popularity``: what nixpkgs' closure-graph.py does."""

from __future__ import annotations

import argparse

from .options import add_store_root
from .parser import Parser, complete, complete_file

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] FILE [KEY]"
    parser.description = (
        "Print the paths of a closure, the most popular first, as nixpkgs' closure-graph.py does. "
        "Any names are taken, not store paths alone."
    )
    parser.epilog = """\
Examples:
  fastlayers popularity graph.json
  fastlayers popularity .attrs.json graph
"""
    file = parser.add_argument(
        "file", metavar="FILE", help="A closure that Nix wrote (- is standard input), or nix:PATH."
    )
    complete(file, complete_file)
    parser.add_argument("key", metavar="KEY", nargs="?", help="Which list of nodes to take from the document.")
    add_store_root(parser)
    parser.add_argument("--counts", action="store_true", help="Print each path's popularity before it.")


def run(options: argparse.Namespace) -> None:
    """Print the order."""
    from ..popularity import order_by_popularity
    from ..report import print_data
    from ..sources import read_closure

    closure = read_closure(options.file, key=options.key, any_names=True, store_root=options.store_root)
    result = order_by_popularity(closure)
    paths = [closure.paths[i] for i in result.order.tolist()]
    if options.counts:
        exact = result.counts()
        paths = [f"{exact[i]}\t{path}" for i, path in zip(result.order.tolist(), paths, strict=True)]
    print_data(paths)
