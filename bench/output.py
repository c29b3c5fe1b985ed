"""The rows as text."""

from __future__ import annotations

from collections.abc import Sequence

from .timing import Row

__all__ = ["line", "markdown"]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def line(row: Row) -> str:
    """A row for the terminal."""
    parts = [f"{row.work} | {row.against} | {row.goal}:"]
    if row.ratio is not None:
        parts.append(f"{_shown(row.ours_seconds)} s, peer {_shown(row.peer_seconds)} s, ratio {_shown(row.ratio)},")
    parts.append({True: "met", False: "NOT MET", None: "-"}[row.met])
    return " ".join([*parts, f"({row.note})" if row.note else ""]).rstrip()


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table of a page."""
    lines = [
        "| work | against | goal | ours, s | peer, s | runs | ratio | met | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        met = {True: "yes", False: "**no**", None: "-"}[row.met]
        figures = [_shown(row.ours_seconds), _shown(row.peer_seconds), str(row.runs or "-"), _shown(row.ratio)]
        cells = [row.work, row.against, row.goal, *figures, met, row.note]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
