"""The table's throughputs and the growth of cost as one SVG file, for light and dark pages, without dependencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from .growth import Growth
from .timing import Row

__all__ = ["picture", "style"]

_WIDTH = 960
_LABELS = 330  # of bars
_BAR = 12
_GROUP = 7  # between a bar of ours and the last peer's above it
_PANEL, _PANEL_HEIGHT, _GAP = 290, 300, 45
_LEFT, _TOP, _BOTTOM = 50, 72, 32  # of a panel, around its axes

# Colours by kind, as (light, dark): the page, text, faint text, the grid, and the lines.
_COLOURS = {
    ".page { fill: %s; }": ("#ffffff", "#0d1117"),
    "text { fill: %s; }": ("#1f2328", "#f0f6fc"),
    ".faint { fill: %s; }": ("#59636e", "#9198a1"),
    ".grid { stroke: %s; }": ("#d1d9e0", "#3d444d"),
    ".linear { stroke: %s; }": ("#59636e", "#9198a1"),
    ".a { fill: %s; stroke: %s; }": ("#0969da", "#58a6ff"),
    ".b { fill: %s; stroke: %s; }": ("#8c959f", "#768390"),
    ".c { fill: %s; stroke: %s; }": ("#bc4c00", "#f0883e"),
    ".d { fill: %s; stroke: %s; }": ("#1a7f37", "#3fb950"),
}
_SHAPES = """
text { font-family: system-ui, sans-serif; font-size: 12px; }
.name { font-weight: 600; }
.title { font-size: 15px; font-weight: 600; }
.faint { font-size: 11px; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
rect, circle { stroke-width: 0; }
.grid { stroke-width: 1; }
.linear { stroke-width: 1; stroke-dasharray: 4 4; }
polyline.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
"""


def style() -> str:
    """Rules for all pictures, light and dark."""
    light = "\n".join(rule.replace("%s", colours[0]) for rule, colours in _COLOURS.items())
    dark = "\n".join(rule.replace("%s", colours[1]) for rule, colours in _COLOURS.items())
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}{_SHAPES}"


def picture(rows: Sequence[Row], growth: Sequence[Growth], machine: Mapping[str, str]) -> str:
    """The SVG document; it shows of the rows those that have a throughput."""
    fast = [row for row in rows if row.bytes and row.ours_seconds and row.peer_seconds]
    parts: list[str] = []
    y = 24
    if fast:
        y = _bars(parts, fast, y)
    if growth:
        parts.append(_text(0, y, "How cost grows: seconds, on logarithmic axes; less is better", "title"))
        y += 30
        for number, each in enumerate(growth):
            _panel(parts, each, number * (_PANEL + _GAP), y)
        y += _PANEL_HEIGHT + 24
    parts.append(_text(0, y, "; ".join(machine[key] for key in ("processor", "fastlayers") if key in machine), "faint"))
    height = y + 12
    page = f'<rect x="-12" y="0" width="{_WIDTH + 24}" height="{height}" class="page"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 24}" height="{height}"'
    head += f' viewBox="-12 0 {_WIDTH + 24} {height}" role="img" aria-label="Throughput, and how cost grows">'
    return "\n".join([head, f"<style>\n{style()}</style>", page, *parts, "</svg>\n"])


def _text(x: float, y: float, text: str, css: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{css}">{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, css: str = "grid") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{css}"/>'


# --- throughput -------------------------------------------------------------------------------------------------------


def _bars(parts: list[str], rows: Sequence[Row], y: int) -> int:
    """A bar for each piece of work, and below it one for each of its peers; where the next thing begins."""
    bars: list[tuple[str, str, float]] = []  # label, colour, bytes a second
    for work, group in groupby(rows, key=lambda row: row.work):
        for number, row in enumerate(group):
            assert row.bytes and row.ours_seconds and row.peer_seconds
            if number == 0:
                bars.append((work, "a", row.bytes / row.ours_seconds))
            bars.append((row.against, "b", row.bytes / row.peer_seconds))
    fastest = max(rate for _, _, rate in bars)
    step = _nice(fastest / 6)
    ticks = math.ceil(fastest / step)
    scale = (_WIDTH - _LABELS - 60) / (ticks * step)
    parts.append(_text(0, y, "Throughput: bytes of files a second, more is better", "title"))
    parts.append(f'<rect x="0" y="{y + 13}" width="10" height="10" class="a"/>' + _text(16, y + 22, "fastlayers"))
    parts.append(f'<rect x="96" y="{y + 13}" width="10" height="10" class="b"/>' + _text(112, y + 22, "its peers"))
    top, at = y + 48, y + 48
    labels: list[str] = []
    for label, colour, rate in bars:
        at += _GROUP if colour == "a" else 0
        labels.append(_text(_LABELS - 8, at + 10, label, "end" if colour == "a" else "faint end"))
        labels.append(f'<rect x="{_LABELS}" y="{at}" width="{rate * scale:.1f}" height="{_BAR}" class="{colour}"/>')
        labels.append(_text(_LABELS + rate * scale + 4, at + 10, _amount(rate, "bytes") + "/s", "faint"))
        at += _BAR + 2
    for tick in range(ticks + 1):
        x = _LABELS + tick * step * scale
        parts.append(_rule(x, top - 4, x, at + 4))
        parts.append(_text(x, top - 10, _amount(tick * step, "bytes") + "/s" if tick else "0", "faint middle"))
    parts += labels
    return at + 44


def _nice(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ..."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value)


# --- growth -----------------------------------------------------------------------------------------------------------


def _panel(parts: list[str], growth: Growth, x: float, y: float) -> None:
    """Seconds over the amount, both axes logarithmic; what grows linearly is parallel to the dashed line."""
    points = [point for line in growth.lines.values() for point in line]
    amounts, seconds = [point[0] for point in points], [point[1] for point in points]
    left, right = x + _LEFT, x + _PANEL
    top, bottom = y + _TOP, y + _PANEL_HEIGHT - _BOTTOM
    across = _Axis(min(amounts), max(amounts), left, right)
    up = _Axis(min(seconds), max(seconds), bottom, top)
    parts.append(_text(x, y, growth.title, "name"))
    for value in across.ticks():
        parts.append(_rule(across(value), top, across(value), bottom))
        parts.append(_text(across(value), bottom + 16, _amount(value, growth.unit), "faint middle"))
    for value in up.ticks():
        parts.append(_rule(left, up(value), right, up(value)))
        parts.append(_text(left - 6, up(value) + 4, _seconds(value), "faint end"))
    parts.append(_text((left + right) / 2, bottom + 30, growth.unit, "faint middle"))
    start, first = next(iter(growth.lines.values()))[0]
    end = min(across.high, start * up.high / first)
    parts.append(_rule(across(start), up(first), across(end), up(first * end / start), "linear"))
    legend = x
    for (name, line), colour in zip(growth.lines.items(), "abcd" if len(growth.lines) < 3 else "acd", strict=False):
        where = " ".join(f"{across(amount):.1f},{up(second):.1f}" for amount, second in line)
        parts.append(f'<polyline points="{where}" class="line {colour}"/>')
        for amount, second in line:
            parts.append(f'<circle cx="{across(amount):.1f}" cy="{up(second):.1f}" r="3" class="{colour}"/>')
        parts.append(f'<rect x="{legend:.1f}" y="{y + 13:.1f}" width="10" height="10" class="{colour}"/>')
        parts.append(_text(legend + 15, y + 22, name))
        legend += 30 + 6.4 * len(name)
    parts.append(_rule(x, y + 40, x + 22, y + 40, "linear"))
    parts.append(_text(x + 28, y + 44, "linear", "faint"))


class _Axis:
    """A logarithmic scale from low to high, drawn from ``start`` to ``end``."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        margin = (high / low) ** 0.04
        self.low, self.high = low / margin, high * margin
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self._start + share * (self._end - self._start)

    def ticks(self) -> list[float]:
        """Powers of ten, with 2 and 5 of each where these alone are few."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1,) if self.high / self.low > 300 else (1, 2, 5)
        values = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in values if self.low <= value <= self.high]


def _amount(value: float, unit: str) -> str:
    suffixes = ("B", "KB", "MB", "GB", "TB") if unit == "bytes" else ("", "k", "M", "G", "T")
    power = min(int(math.log10(max(value, 1)) / 3 + 1e-9), 4)
    number = f"{value / 1000**power:.3g}"
    return f"{number} {suffixes[power]}" if unit == "bytes" else number + suffixes[power]


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"
