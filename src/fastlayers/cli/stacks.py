"""Arguments of commands that look at layers, wherever they are: images, plans and closures."""

from __future__ import annotations

import argparse

from .options import add_max_layers, add_store_root, check_sources
from .parser import Parser, UsageError, checked, complete, complete_file
from .planning import add_strategy
from .registry import add_access, read_access

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..closure import Closure
    from ..reuse.reading import StackReader

__all__ = ["KINDS", "add_closures", "add_planning_of_closures", "add_reading", "read_closures", "read_reader"]

KINDS = """\
Images, plans and closures:
  docker-archive:FILE[:NAME:TAG], oci-archive:FILE[:TAG], oci:DIR[:TAG],
  docker://HOST[:PORT]/REPO[:TAG]   an image
  FILE                              a plan of plan --format json, or a closure
                                    that Nix wrote
  nix:PATH, venv:DIR                a closure, which is planned
"""


def add_planning_of_closures(parser: Parser) -> None:
    """Add ``--strategy`` and ``--max-layers``, for sources that are closures."""
    add_strategy(parser, "How closures are planned")
    add_max_layers(parser, 99, "Layers of their plans. [default: %(default)s]")


def add_closures(parser: Parser) -> None:
    """Add ``--closure``; :func:`read_closures` reads them."""
    closure = parser.add_argument(
        "--closure",
        dest="closures",
        action="append",
        default=[],
        metavar="SOURCE",
        help="The closure of an image or a plan, which says the sizes and references of its paths; may be repeated.",
    )
    complete(closure, complete_file)


def add_reading(parser: Parser) -> None:
    """Add what else says how images and closures are read."""
    add_closures(parser)
    parser.add_argument(
        "--key", metavar="KEY", help="Which list of nodes to take from an exportReferencesGraph document."
    )
    add_store_root(parser)
    add_access(parser, "that images are in")


def read_closures(options: argparse.Namespace) -> list[Closure]:
    """The closures of ``--closure``.

    Raises:
        ClosureError: one cannot be read, or is no closure.
    """
    from ..sources import read_closure

    return [read_closure(source, key=options.key, store_root=options.store_root) for source in options.closures]


def read_reader(options: argparse.Namespace, sources: Sequence[str]) -> StackReader:
    """What reads these sources as the options say; without :func:`add_planning_of_closures`, closures are not planned.

    Raises:
        UsageError: standard input is named twice, or ``--creds`` would go to several registries.
        ClosureError: a closure of ``--closure`` cannot be read.
    """
    from functools import partial

    from ..base import parse_reference
    from ..layering.strategies import plan_layers
    from ..reuse.reading import IMAGES, StackReader

    check_sources([*sources, *options.closures])
    if [*sources, *options.closures].count("-") > 1:
        raise UsageError("standard input can be read once")
    for source in sources:
        if source.startswith(IMAGES):
            checked("IMAGE", parse_reference, source)
    hosts = {_host(source) for source in sources if source.startswith("docker://")}
    if options.creds is not None and len(hosts) != 1:
        raise UsageError(
            f"--creds is for one registry, not for {' and '.join(sorted(hosts)) or 'none'}: use --authfile"
        )
    access = read_access(options)
    plan = None
    if "strategy" in options:
        plan = partial(plan_layers, max_layers=options.max_layers, strategy=options.strategy)
    return StackReader(access, plan, read_closures(options), options.key, options.store_root)


def _host(source: str) -> str:
    from ..registry.reference import Reference

    return Reference.parse(source).host
