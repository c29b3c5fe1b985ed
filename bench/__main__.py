"""The table of docs/benchmarks.md and its picture: every row is fastlayers beside a peer, in turn, on the same input.

python -m bench [--closure GRAPH.json] [--runs N] [--seconds N] [--rows NAME...]
                [--json FILE] [--markdown FILE] [--svg FILE]

Without a closure, one of 400 MB is made. Peers that are not installed, and rows that need ../shared or root, are left
out with their reason. Medians of alternating runs; a ratio is ours over the peer's, or the peer's over ours where the
goal says "times faster". It takes less than ten minutes with the seconds that a row has by default.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from fastlayers.errors import FastlayersError

from .growth import GROWTH, Growth
from .inputs import Bench
from .machine import machine
from .output import line, markdown
from .picture import picture
from .rows import ROWS
from .timing import Failed, Row

_FAILURES = (Failed, FastlayersError, OSError, subprocess.CalledProcessError)  # of one row; the others are measured
_OUTPUT = Path("build", "bench")
_NAMES = [maker.__name__ for maker in ROWS] + ["growth"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--closure", type=Path, help="an exportReferencesGraph document of store paths that are there")
    parser.add_argument("--runs", type=int, default=3, help="alternating runs, at most [default: %(default)s]")
    parser.add_argument(
        "--seconds", type=float, default=15, help="after which a row begins no more runs [default: %(default)s]"
    )
    parser.add_argument("--rows", nargs="+", choices=_NAMES, default=_NAMES, help="only these", metavar="NAME")
    parser.add_argument("--work", type=Path, help="a folder with room for twice the closure [default: a temporary one]")
    for form in ("json", "markdown", "svg"):
        name = _OUTPUT / f"table.{'md' if form == 'markdown' else form}"
        parser.add_argument(f"--{form}", type=Path, default=name, help="[default: %(default)s]")
    return parser.parse_args()


def main() -> int:
    """Measure, print and draw; 1 when a row failed."""
    options = _options()
    for file in (options.json, options.markdown, options.svg):
        file.parent.mkdir(parents=True, exist_ok=True)
    described = machine()  # before the files that are written here change the commit's state
    rows: list[Row] = []
    growth: list[Growth] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="fastlayers-bench-", dir=options.work) as folder:
        bench = Bench(Path(folder), options.closure, options.runs, options.seconds)
        for maker in ROWS:
            if maker.__name__ not in options.rows:
                continue
            try:
                for row in maker(bench):
                    rows.append(row)
                    print(line(row), flush=True)
            except _FAILURES as error:
                failed = True
                rows.append(Row(maker.__name__, "-", "-", met=False, note=f"failed: {error}"))
                print(line(rows[-1]), flush=True)
        for measure in GROWTH if "growth" in options.rows else ():
            try:
                growth.append(measure(bench))
            except _FAILURES as error:
                failed = True
                print(f"growth with {measure.__name__} failed: {error}", flush=True)
                continue
            for name, points in growth[-1].lines.items():
                figures = ", ".join(f"{amount:,}: {seconds:.3g} s" for amount, seconds in points)
                print(f"{growth[-1].title}: {name}: {growth[-1].unit}: {figures}", flush=True)
    report = {
        "command": shlex.join(["python", "-m", "bench", *sys.argv[1:]]),
        "machine": described,
        "closure": str(options.closure or "made"),
        "rows": [asdict(row) for row in rows],
        "growth": [asdict(each) for each in growth],
    }
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    options.markdown.write_text(
        "".join(f"- {key}: {value}\n" for key, value in described.items()) + "\n" + markdown(rows)
    )
    options.svg.write_text(picture(rows, growth, described))
    print(f"written: {options.json}, {options.markdown}, {options.svg}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
