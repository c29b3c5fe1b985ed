"""``fastlayers simulate``: strategies compared on a history of updates."""

from __future__ import annotations

import argparse

from .options import positive
from .parser import Parser, complete, complete_file, complete_words
from .planning import STRATEGY_NAMES
from .stacks import KINDS, add_reading, read_reader

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..closure import Closure
    from ..layering.plan import LayerPlan
    from ..reuse.replay import Planner

__all__ = ["define", "run"]


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] HISTORY..."
    parser.description = (
        "Replay updates, from each image, plan or closure to the next, as if a strategy had planned them all, and "
        "print what clients would have downloaded, over the bytes of the paths that were new: 1.00 is perfect."
    )
    parser.epilog = f"""\
{KINDS}
The oldest comes first. A FILE may hold several closures or plans, a JSON
document a line. Images and plans say which paths they had; sizes and
references are those of --closure. What has layers already is replayed as it
is, too.

  D     bytes of layers that a client does not have, by digest
  C     bytes from the first new layer upward, by chain ID
  leaf  D of updates that change something, but under a tenth of the bytes

Examples:
  fastlayers simulate week1.json week2.json week3.json
  fastlayers simulate history.jsonl --strategy auto --max-layers 42 \\
    --max-layers 100
  fastlayers simulate docker://registry.example.org/app:1 \\
    docker://registry.example.org/app:2 --closure 1.json --closure 2.json
"""
    history = parser.add_argument("history", metavar="HISTORY", nargs="+", help="What there was, the oldest first.")
    complete(history, complete_file)
    strategy = parser.add_argument(
        "--strategy",
        dest="strategies",
        action="append",
        choices=STRATEGY_NAMES,
        metavar="NAME",
        help="A strategy to compare; may be repeated. [default: all]",
    )
    complete(strategy, complete_words(*STRATEGY_NAMES))
    parser.add_argument(
        "--max-layers",
        dest="limits",
        type=positive,
        action="append",
        metavar="N",
        help="Layers of a plan; may be repeated. [default: 99]",
    )
    add_reading(parser)
    parser.add_argument("--json", action="store_true", help="Print every update as JSON.")


def run(options: argparse.Namespace) -> None:
    """Print the comparison."""
    from ..errors import PlanError
    from ..layering.strategies import STRATEGIES
    from ..report import print_data, print_replays
    from ..reuse.reading import closure_of
    from ..reuse.replay import planned, replay

    reader = read_reader(options, options.history)
    stacks = [stack for source in options.history for stack in reader.read(source)]
    if len(stacks) < 2:
        raise PlanError(
            f"{options.history[0]}: one image, plan or closure is no history: name several, the oldest first"
        )
    rows = []
    if all(stack.closure is None and stack.carries_plan for stack in stacks):
        rows.append(("as it is", None, replay(stacks)))
    closures = [closure_of(stack, reader.closures) for stack in stacks]
    for limit in options.limits or [99]:
        for name in options.strategies or STRATEGIES:
            found = replay(planned(closures, _planner(name, limit)))
            if found is None:
                raise PlanError(f"{options.history[0]}: a NAR size is not known: use what nix path-info --json writes")
            rows.append((name, limit, found))
    if options.json:
        import json

        printed = [
            {"strategy": name, "max_layers": limit, **(found.to_dict() if found else {"steps": None})}
            for name, limit, found in rows
        ]
        print_data([json.dumps({"images": [stack.name for stack in stacks], "replays": printed}, indent=2)])
    else:
        print_replays([stack.name for stack in stacks], rows)


def _planner(name: str, limit: int) -> Planner:
    from ..layering.guidance import Guidance
    from ..layering.history import ChangeHistory
    from ..layering.strategies import STRATEGIES, plan_layers

    learnt = ChangeHistory()  # from all but the newest, so that a step costs the same however long the history is

    def plan(closure: Closure, previous: LayerPlan | None, history: Sequence[Closure]) -> LayerPlan:
        nonlocal learnt
        guidance = Guidance()
        if STRATEGIES[name].guided:
            learnt = learnt.followed_by(history[-1].paths) if history else learnt
            guidance = Guidance(None if previous is None else previous.layers, learnt)
        return plan_layers(closure, limit, name, guidance=guidance)

    return plan
