"""The figures of docs/layering.md: update histories replayed for every strategy, and images that share packages.

python -m bench.reuse [--images web,kde] [--max-layers 42,100] [--held-out] [--markdown FILE] [--svg FILE]

What is counted, and how, is the business of ../shared/replay; its planner is called here in this process instead of as
a command, which gives the same plans sooner. It takes about ten minutes.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import io
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import fastlayers
from fastlayers.layering.guidance import Guidance
from fastlayers.layering.history import ChangeHistory

from .inputs import SHARED
from .picture import style

_STRATEGIES = ("popularity", "auto", "expected-cost")
_HISTORIES = {
    "history_staging": "updates of a package set as it is developed",
    "history_stable": "updates of a stable release",
}
_OUTPUT = Path("build", "bench")

Layers = list[list[str]]


@dataclass
class Planner:
    """A strategy as the replay calls it, with what it remembers."""

    strategy: str
    history: ChangeHistory = field(default_factory=ChangeHistory)
    previous: Sequence[Sequence[str]] | None = None

    def __call__(self, nodes: list[dict[str, Any]], limit: int, extra: Sequence[str]) -> Layers:
        """The layers of a closure; ``extra`` are the words that a command would be given."""
        paths = [node["path"] for node in nodes]
        closure = fastlayers.Closure(
            paths, [node["references"] for node in nodes], nar_sizes=[node["narSize"] for node in nodes]
        )
        guidance = Guidance()
        if extra:
            if self.previous is None:  # the past, a document a line; later it is the closures that come here
                file = extra[extra.index("--history") + 1]
                with open(file, encoding="utf-8") as lines:
                    for line in lines:
                        self.history = self.history.followed_by([node["path"] for node in json.loads(line)["graph"]])
            guidance = Guidance(self.previous, self.history)
        made = fastlayers.plan_layers(closure, limit, self.strategy, guidance=guidance)
        self.history = self.history.followed_by(closure.paths)
        self.previous = made.layers
        return [list(layer) for layer in made.layers]


@dataclass(frozen=True)
class Figures:
    """D, C and leaf of an image whose updates were replayed."""

    history: str
    work: str
    limit: int
    image: str
    d: float
    c: float
    leaf: float


def plan_afresh(command: Sequence[str], nodes: list[dict[str, Any]], limit: int, extra: Sequence[str]) -> Layers:
    """The layers of a closure, by a strategy that remembers nothing; its name is the command."""
    return Planner(command[0])(nodes, limit, extra)


def _module(name: str, plan_with: Callable[..., Layers]) -> Any:
    """A module of the replay's that plans with this instead of a command."""
    folder = str(SHARED / "replay")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module: Any = importlib.import_module(name)
    module.plan_with = plan_with
    return module


def replays(images: Sequence[str], limits: Sequence[int], *, held_out: bool = False) -> list[Figures]:
    """Replay all histories with every strategy; the one that remembers also with memory.

    ``held_out``: judge the second half of each past, with the first half as the past, instead of the judged updates.
    """
    replay = _module("replay", Planner.__call__)
    found = []
    for history in _HISTORIES:
        with gzip.open(SHARED / "replay" / f"{history}.json.gz") as file:
            data = json.load(file)
        for each in data.values() if held_out else ():
            half = len(each["train"]) // 2
            each["train"], each["test"] = each["train"][:half], each["train"][half:]
        for strategy, stateful in [*((name, False) for name in _STRATEGIES), ("expected-cost", True)]:
            work = f"{strategy}, with memory" if stateful else strategy
            for limit in limits:
                for image in images:
                    rows = replay.replay(data[image], limit, Planner(strategy), stateful)
                    leaf = [row for row in rows if 0 < row[2] < row[3] / 10]
                    d, c, few = (replay.ratio(*of) for of in ((rows, 0), (rows, 1), (leaf, 0)))
                    found.append(Figures(history, work, limit, image, d, c, few))
                    print(f"{history} {work} {limit} {image}: D {d:.2f} C {c:.2f} leaf {few:.2f}", flush=True)
    return found


def shares(limits: Sequence[int]) -> dict[tuple[str, int], float]:
    """What pulling another image of the same packages costs, over what it has to; by strategy and limit."""
    share = _module("share", plan_afresh)
    found = {}
    for strategy in _STRATEGIES:
        out = io.StringIO()
        arguments = sys.argv
        sys.argv = ["share.py", str(SHARED / "replay" / "images.json.gz"), "--max-layers", ",".join(map(str, limits))]
        sys.argv += ["--", strategy]
        try:
            with redirect_stdout(out):
                share.main()
        finally:
            sys.argv = arguments
        for limit, pull in re.findall(r"layers +(\d+) +pull +([\d.]+)", out.getvalue()):
            found[strategy, int(limit)] = float(pull)
            print(f"share {strategy} {limit}: {pull}", flush=True)
    return found


def markdown(found: Sequence[Figures], shared: dict[tuple[str, int], float]) -> str:
    """The figures as tables: D, C and leaf of each image."""
    lines = []
    for history, what in _HISTORIES.items():
        some = [each for each in found if each.history == history]
        images = list(dict.fromkeys(each.image for each in some))
        lines += [
            f"`{history}`, {what}: D / C (leaf)",
            "",
            f"| strategy | layers | {' | '.join(images)} |",
        ]
        lines.append("|---|---|" + "---|" * len(images))
        for work, limit in dict.fromkeys((each.work, each.limit) for each in some):
            cells = [
                f"{each.d:.2f} / {each.c:.2f}" + (f" ({each.leaf:.1f})" if each.leaf == each.leaf else "")
                for each in some
                if (each.work, each.limit) == (work, limit)
            ]
            lines.append(f"| {work} | {limit} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["Pulling another image of the same packages:", "", "| strategy | layers | bytes, over those needed |"]
    lines += ["|---|---|---|", *(f"| {name} | {limit} | {pull:.3f} |" for (name, limit), pull in shared.items())]
    return "\n".join(lines) + "\n"


def picture(found: Sequence[Figures]) -> str:
    """D and C of each image at the most layers, as an SVG document: for each history a row for each strategy."""
    limit = max(each.limit for each in found)
    parts = [
        f'<text x="16" y="28" class="title">Bytes downloaded, over those that changed; {limit} layers</text>',
        '<text x="16" y="46" class="faint">filled: by digest (D); ring: everything above the first change (C)</text>',
    ]
    y = 66
    for history, what in _HISTORIES.items():
        some = [each for each in found if each.history == history and each.limit == limit]
        y = _panel(parts, f"{history}: {what}", some, y)
    size = f'width="960" height="{y}" viewBox="0 0 960 {y}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"><style>{style()}</style>'
        f'<rect width="960" height="{y}" class="page"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(parts: list[str], title: str, some: Sequence[Figures], y: int) -> int:
    """Draw a history from ``y`` downward; where what comes next may begin."""
    works = list(dict.fromkeys(each.work for each in some))
    images = list(dict.fromkeys(each.image for each in some))
    left, width, row, between = 240, 620, 22, 14
    halves = max(math.ceil(2 * max(max(each.d, each.c) for each in some)), 3)  # the axis goes to so many halves

    def x(value: float) -> float:
        return left + (value - 1) / (halves / 2 - 1) * width

    parts.append(f'<text x="16" y="{y + 14}" class="name">{escape(title)}</text>')
    y += 50
    bottom = y + len(images) * (len(works) * row + between) - between
    for tick in range(2, halves + 1):
        at = x(tick / 2)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y - 8}" y2="{bottom}" class="grid"/>')
        parts.append(f'<text x="{at:.1f}" y="{y - 14}" class="faint middle">{tick / 2:g}</text>')
    parts.append(f'<text x="{left + width + 14}" y="{y - 14}" class="faint">D / C</text>')
    for image in images:
        parts.append(f'<text x="16" y="{y + 14}" class="name">{escape(image)}</text>')
        for work in works:
            (each,) = (e for e in some if (e.image, e.work) == (image, work))
            kind = "abcd"[works.index(work)]
            ends = f'x1="{x(each.d):.1f}" x2="{x(each.c):.1f}" y1="{y + 10}" y2="{y + 10}"'
            parts.append(f'<text x="{left - 12}" y="{y + 14}" class="end">{escape(work)}</text>')
            parts.append(f'<line {ends} class="{kind}" style="stroke-opacity: 0.4"/>')
            parts.append(f'<circle cx="{x(each.d):.1f}" cy="{y + 10}" r="5" class="{kind}"/>')
            ring = f'r="4.5" class="{kind}" style="fill: none; stroke-width: 2"'
            parts.append(f'<circle cx="{x(each.c):.1f}" cy="{y + 10}" {ring}/>')
            figures = f"{each.d:.2f} / {each.c:.2f}"
            parts.append(f'<text x="{left + width + 14}" y="{y + 14}" class="faint">{figures}</text>')
            y += row
        y += between
    return y + 20


def main() -> None:
    """Replay, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.reuse", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", default="web,browser,tex,ml,kde")
    parser.add_argument("--max-layers", default="42,100")
    parser.add_argument("--held-out", action="store_true", help="judge the second half of each past")
    parser.add_argument("--markdown", type=Path, default=_OUTPUT / "reuse.md")
    parser.add_argument("--svg", type=Path, default=_OUTPUT / "reuse.svg")
    options = parser.parse_args()
    limits = [int(limit) for limit in options.max_layers.split(",")]
    found = replays(options.images.split(","), limits, held_out=options.held_out)
    shared = shares(limits)
    for file, text in ((options.markdown, markdown(found, shared)), (options.svg, picture(found))):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    print(markdown(found, shared))


if __name__ == "__main__":
    main()
