"""Tables and progress for the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from .build import BuildResult
    from .inspection.inspect import ImageFacts
    from .inspection.verify import Verdict
    from .layering.plan import LayerPlan

__all__ = [
    "Progress",
    "print_build",
    "print_image",
    "print_lines",
    "print_plan",
    "print_verdict",
    "start_progress",
]

_EVERY = 5  # seconds between lines of progress


class Progress(Protocol):
    """Tells how far some work is, on standard error."""

    def __call__(self, done: int, total: int) -> None:
        """So many bytes of so many are done."""

    def close(self) -> None:
        """No more is to come."""


def start_progress(what: str, *, quiet: bool) -> Progress:
    """A bar on a terminal, lines elsewhere, or nothing."""
    if quiet:
        return _Nothing()
    return _Bar(what) if sys.stderr.isatty() else _Lines(what)


class _Nothing:
    def __call__(self, done: int, total: int) -> None: ...

    def close(self) -> None: ...


class _Lines:
    """A line every few seconds, and nothing for short work."""

    def __init__(self, what: str) -> None:
        self._what, self._next = what, time.monotonic() + _EVERY

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            print(f"{self._what}: {_megabytes(done)} of {_megabytes(total)}", file=sys.stderr)

    def close(self) -> None: ...


class _Bar:
    """A bar with throughput and the time that is left."""

    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(what, total=None)
        self._progress.start()

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)

    def close(self) -> None:
        self._progress.stop()


def _megabytes(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def _table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], file: TextIO) -> None:
    """Print a table; a column is its heading and "left" or "right"."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, width=None if file.isatty() else 120)
    widths = [max(map(len, [heading, *(row[i] for row in rows)])) for i, (heading, _) in enumerate(columns)]
    # Names give way where the window is narrow; numbers never do.
    what = [heading for heading, _ in columns].index("what")
    widths[what] = max(8, min(widths[what], console.width - sum(widths) - 2 * len(columns) + widths[what]))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for (heading, justify), width in zip(columns, widths, strict=True):
        table.add_column(
            heading, justify="right" if justify == "right" else "left", no_wrap=True, overflow="ellipsis", width=width
        )
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(Text(title, style="italic"), soft_wrap=True)  # of the table, it would be broken at its width
    console.print(table)


def _short(paths: Sequence[str]) -> str:
    """What a layer holds, in a few words: store paths without directory and hash part."""

    def name(path: str) -> str:
        base = path.rpartition("/")[2] if path.startswith("/") else path
        return base[33:] if path.startswith("/") and len(base) > 33 and base[32] == "-" else base

    first = ", ".join(map(name, paths[:3]))
    return first + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def print_lines(lines: Sequence[str]) -> None:
    """Print lines as UTF-8, whatever the locale is; bytes that are not UTF-8 come out as they went in."""
    if lines:
        sys.stdout.buffer.write(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


def print_plan(made: LayerPlan) -> None:
    """Print a plan: each layer's paths, size and share."""
    known = [size for size in made.sizes if size is not None]
    total = sum(known)
    rows = []
    for number, (layer, size) in enumerate(zip(made.layers, made.sizes, strict=True), 1):
        share = f"{100 * size / total:.1f} %" if size is not None and total else "?"
        rows.append((str(number), str(len(layer)), _megabytes(size), share, _short(layer)))
    whole = _megabytes(total if len(known) == len(made.layers) else None)
    title = f"{made.strategy or 'plan'}: {len(made.layers)} layers, {sum(map(len, made.layers))} paths, {whole}"
    columns = [("layer", "right"), ("paths", "right"), ("size", "right"), ("share", "right"), ("what", "left")]
    _table(title, columns, rows, sys.stdout)


def print_build(result: BuildResult, file: TextIO) -> None:
    """Print a finished build: each layer's sizes, digest and time."""
    rows = [
        (str(number), "base image", "", _megabytes(blob.size), blob.digest[7:19], "")
        for number, blob in enumerate(result.image.base, 1)
    ]
    for number, layer in enumerate(result.layers, len(rows) + 1):
        made = layer.descriptor
        what = _short(layer.paths) if layer.paths else layer.kind
        row = (
            str(number),
            what,
            _megabytes(made.tar_size),
            _megabytes(made.size),
            made.digest[7:19],
            f"{made.seconds:.2f} s",
        )
        rows.append(row)
    stored = sum(blob.size for blob in result.image.base) + sum(layer.descriptor.size for layer in result.layers)
    columns = [
        ("layer", "right"),
        ("what", "left"),
        ("tar", "right"),
        ("stored", "right"),
        ("digest", "left"),
        ("time", "right"),
    ]
    digests = f"image ID {result.image.config_digest}\nmanifest {result.image.manifest_digest}"
    sent = "" if result.sent is None else f"{_megabytes(result.sent)} sent, "
    title = f"{digests}\n{len(rows)} layers, {_megabytes(stored)}, {sent}{result.seconds:.2f} s"
    _table(title, columns, rows, file)


def _printable(text: str) -> str:
    """Text of somebody else's in one line, with nothing in it that a terminal would obey."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def print_image(facts: ImageFacts) -> None:
    """Print what an image says of itself: digests, platform, configuration, and a table of its layers."""
    lines = [f"image {facts.name}"]
    if facts.index is not None:
        lines.append(f"index {facts.index} for {', '.join(facts.platforms)}")
    if facts.manifest is not None:
        lines.append(f"manifest {facts.manifest.digest}, {facts.manifest.media_type}")
    lines += [f"image ID {facts.image_id}"] if facts.image_id else []
    lines.append(f"platform {facts.platform}")
    lines += [f"created {facts.created}"] if facts.created else []
    lines += [f"annotation {key}: {value}" for key, value in sorted(facts.annotations.items())]
    lines += [f"config {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in facts.config.items() if value]
    print_lines(list(map(_printable, lines)))
    rows, notes = [], []
    for number, layer in enumerate(facts.layers, 1):
        what = _short(layer.paths) if layer.paths else layer.history
        row = (number, _printable(what), _megabytes(layer.size), layer.codec, (layer.digest or "")[7:19])
        rows.append((*map(str, row), layer.diff_id[7:19]))
        notes += [
            _printable(f"layer {number}, annotation {key}: {value}")
            for key, value in sorted(layer.annotations.items())
            if key != "dev.fastlayers.paths"  # the table has them
        ]
    columns = [
        ("layer", "right"),
        ("what", "left"),
        ("stored", "right"),
        ("codec", "left"),
        ("digest", "left"),
        ("diff ID", "left"),
    ]
    size = _megabytes(sum(layer.size for layer in facts.layers))
    _table(f"{len(rows)} layers, {size}", columns, rows, sys.stdout)
    print_lines(notes)


def print_verdict(verdict: Verdict, *, quiet: bool) -> None:
    """Print each fault and each note as a line, and of a good image what was looked at; ``quiet``: faults alone."""
    lines = list(map(str, verdict.faults))
    if not quiet:
        lines += [f"note: {note}" for note in verdict.notes]
    if not verdict.faults and not quiet:
        images = f"{verdict.images} image{'' if verdict.images == 1 else 's'}"
        lines.append(
            f"{verdict.name}: good: {images}, {verdict.layers} layers, {verdict.entries:,} entries, "
            f"{_megabytes(verdict.size)}"
        )
    print_lines(list(map(_printable, lines)))
