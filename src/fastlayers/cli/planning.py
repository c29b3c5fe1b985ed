"""Options that say how paths are distributed over layers."""

from __future__ import annotations

import argparse

from .options import size
from .parser import Parser, UsageError, checked, complete, complete_file, complete_words

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..layering.guidance import Guidance
    from ..layering.pipeline import Pipeline
    from ..registry.access import RegistryAccess

__all__ = [
    "STRATEGY_NAMES",
    "add_planning",
    "add_strategy",
    "check_planning",
    "read_guidance",
    "read_order",
    "read_pipeline_option",
]

STRATEGY_NAMES = (
    "expected-cost",
    "popularity",
    "auto",
)  # of layering.strategies.STRATEGIES, the default first
_GUIDED = STRATEGY_NAMES[:1]
_GUIDANCE = ("previous", "history", "rules", "min_layer_size", "max_layer_size")


def add_strategy(parser: Parser, text: str) -> None:
    """Add ``--strategy``."""
    strategy = parser.add_argument(
        "--strategy",
        choices=STRATEGY_NAMES,
        metavar="NAME",
        help=f"{text}: {', '.join(STRATEGY_NAMES[:-1])} or {STRATEGY_NAMES[-1]}. [default: {STRATEGY_NAMES[0]}]",
    )
    complete(strategy, complete_words(*STRATEGY_NAMES))


def add_planning(parser: Parser) -> None:
    """Add ``--strategy``, ``--pipeline``, ``--exclude`` and what :func:`read_guidance` reads; :func:`check_planning`
    checks them."""
    add_strategy(parser, "How to distribute paths over layers")
    pipeline = parser.add_argument(
        "--pipeline", metavar="FILE|JSON", help="Distribute them by a layering pipeline of nixpkgs' instead."
    )
    complete(pipeline, complete_file)
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATH", help="Put this path into no layer; may be repeated."
    )
    parser.add_argument(
        "--order",
        choices=["as-planned", "stable"],
        help="Of the layers: the strategy's own, or what is stable and large at the bottom, for clients that download "
        "again all above a new layer. [default: as-planned; expected-cost plans stable]",
    )
    previous = parser.add_argument(
        "--previous",
        metavar="PLAN|IMAGE",
        help="Keep the layers of this plan, or of this image, in which nothing has changed.",
    )
    complete(previous, complete_file)
    history = parser.add_argument(
        "--history",
        action="append",
        metavar="FILE|IMAGE",
        help="Learn which paths change together from earlier closures, a document a line, or images; oldest first. "
        "It belongs with --previous.",
    )
    complete(history, complete_file)
    rules = parser.add_argument(
        "--rules", metavar="FILE", help="Rules for single paths: [[rule]] with match and place, in TOML."
    )
    complete(rules, complete_file)
    parser.add_argument(
        "--min-layer-size",
        type=size,
        metavar="SIZE",
        help="Join layers that would be smaller with others: bytes, or such as 1MB.",
    )
    parser.add_argument(
        "--max-layer-size",
        type=size,
        metavar="SIZE",
        help="Let only a path that is larger by itself make a larger layer.",
    )


def check_planning(options: argparse.Namespace, *names: str) -> None:
    """Check that at most one of these options is there, and that what guides a strategy has one to guide.

    Raises:
        UsageError: it is not so.
    """
    given = [name for name in names if getattr(options, name) is not None]
    if len(given) > 1:
        raise UsageError(f"{_option(given[0])} and {_option(given[1])} exclude each other")
    ordered = read_order(options) is not None
    if ordered and given == ["plan"]:
        raise UsageError("--plan and --order exclude each other")
    guiding = [name for name in _GUIDANCE if getattr(options, name) is not None]
    if ordered:
        guiding = [name for name in guiding if name not in ("previous", "history")]  # orders go by them too
    if guiding and given and given[0] in ("plan", "pipeline"):
        raise UsageError(f"{_option(given[0])} and {_option(guiding[0])} exclude each other")
    if guiding and options.strategy not in (None, *_GUIDED):
        takers = _GUIDED[0] + (" and --order stable" if guiding[0] in ("previous", "history") else "")
        raise UsageError(
            f"--strategy {options.strategy} goes by the closure alone: {_option(guiding[0])} is for {takers}"
        )


def read_order(options: argparse.Namespace) -> str | None:
    """The order that is asked for; None for the strategy's own."""
    return None if options.order == "as-planned" else options.order


def read_pipeline_option(options: argparse.Namespace) -> Pipeline | None:
    """The pipeline that ``--pipeline`` gives, or None.

    Raises:
        UsageError: it is JSON on the command line, and no pipeline.
        PlanError: it is a file that cannot be read or holds none.
    """
    from ..layering.pipeline import read_pipeline

    if options.pipeline is None:
        return None
    if options.pipeline.lstrip()[:1] in ("[", "{", ""):
        return checked("--pipeline:", read_pipeline, options.pipeline)
    return read_pipeline(options.pipeline)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def read_guidance(options: argparse.Namespace, access: RegistryAccess) -> Guidance:
    """What the options say; an image's plan is read with ``access``.

    Raises:
        UsageError: the sizes contradict each other, or a reference is malformed.
        PlanError: a file or an image holds no plan, no closures or no rules.
    """
    from ..layering.guidance import Guidance, Rules, read_rules
    from ..layering.history import learn

    least, most = options.min_layer_size or 0, options.max_layer_size or 0
    if 0 < most < least:
        raise UsageError("--min-layer-size is more than --max-layer-size")
    return Guidance(
        previous=None if options.previous is None else _read_previous(options.previous, access),
        history=learn(paths for source in options.history or () for paths in _earlier(source, access)),
        rules=Rules() if options.rules is None else read_rules(options.rules),
        min_size=least,
        max_size=most,
    )


def _earlier(source: str, access: RegistryAccess) -> Iterator[list[str]]:
    """The paths of the closures in a file, or of an image that carries its plan."""
    from ..layering.guidance import read_closures
    from ..reuse.reading import IMAGES

    if source.startswith(IMAGES):
        yield [path for layer in _read_previous(source, access, "--history") for path in layer]
    else:
        yield from read_closures(source)


def _read_previous(source: str, access: RegistryAccess, option: str = "--previous") -> list[list[str]]:
    from ..base import parse_reference, read_manifest
    from ..errors import PlanError
    from ..layering.carried import plan_of_manifest
    from ..layering.plan import parse_plan
    from ..reuse.reading import IMAGES

    try:
        if source.startswith(IMAGES):
            checked(option, parse_reference, source)
            manifest, _ = read_manifest(source, access)
            layers = [layer for layer in plan_of_manifest(manifest) if layer]
            if not layers:
                raise PlanError("this image does not say which paths are in its layers")
            return layers
        with open(source, "rb") as document:
            return [list(layer) for layer in parse_plan(document.read()).layers]
    except OSError as error:
        raise PlanError(f"{source}: {error.strerror}") from None
    except PlanError as error:
        raise PlanError(f"{source}: {error}") from None
