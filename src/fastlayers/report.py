"""Tables and progress for the terminal."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TextIO

from .store_path import package_version, store_name

if TYPE_CHECKING:
    from .build import BuildResult, LayerEvent
    from .inspection.inspect import ImageFacts
    from .inspection.verify import Verdict
    from .layering.plan import LayerPlan
    from .reuse.replay import Replay
    from .reuse.stack import LayerStack, StackLayer
    from .reuse.update import LayerChange, Update

__all__ = [
    "Progress",
    "counted",
    "print_build",
    "print_data",
    "print_event",
    "print_explained",
    "print_history",
    "print_image",
    "print_lines",
    "print_log",
    "print_notes",
    "print_plan",
    "print_replays",
    "print_update",
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


def counted(number: int, what: str) -> str:
    """A number of things, of whose name more than one end in an s."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _megabytes(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"


def _printable(text: str) -> str:
    """Text of somebody else's in one line, with nothing in it that a terminal would obey."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _table(
    titles: Sequence[str], columns: Sequence[tuple[str, str]], cells: Sequence[Sequence[str]], file: TextIO
) -> None:
    """Print a table; a column is its heading and "left" or "right". The one that says "what" or "why" gives way."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(map(_printable, row)) for row in cells]
    widths = [max(map(len, [heading, *(row[i] for row in rows)])) for i, (heading, _) in enumerate(columns)]
    what = next(i for i, (heading, _) in enumerate(columns) if heading in ("what", "why"))
    widths[what] = max(8, widths[what])
    whole = sum(widths) + 2 * len(columns)
    console = Console(file=file, width=None if file.isatty() else whole)  # a file or a pipe has no width
    # Names give way where the window is narrow; numbers never do.
    widths[what] = max(8, min(widths[what], console.width - whole + widths[what]))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for (heading, justify), width in zip(columns, widths, strict=True):
        table.add_column(
            heading, justify="right" if justify == "right" else "left", no_wrap=True, overflow="ellipsis", width=width
        )
    for row in rows:
        table.add_row(*map(Text, row))
    with console.capture() as captured:
        for title in titles:  # as the table's own it would be broken at its width
            console.print(Text(_printable(title), style="italic"), soft_wrap=True)
        console.print(table)
    text = "".join(f"{line.rstrip(' ')}\n" for line in captured.get().splitlines())
    file.write(text)  # rich itself would end the program where nobody reads


def _short(paths: Sequence[str]) -> str:
    """What a layer holds, in a few words: store paths without directory and hash part."""
    return _few(list(map(store_name, paths)))


def _few(texts: Sequence[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def _holds(stack: LayerStack, layer: StackLayer) -> str:
    """The same for a column beside another one: the largest path, as far as sizes are known, and how many more."""
    if layer.paths:
        name = store_name(max(layer.paths, key=lambda path: stack.sizes.get(path, -1)))
        more = f" +{len(layer.paths) - 1}" if len(layer.paths) > 1 else ""
    else:
        name, more = layer.label or "?", ""
    return name[: _HOLDS - len(more) - 1] + "…" + more if len(name) + len(more) > _HOLDS else name + more


_HOLDS = 30


def print_lines(lines: Sequence[str]) -> None:
    """Print lines for people, as UTF-8, whatever the locale is."""
    _write(list(map(_printable, lines)))


def print_data(lines: Sequence[str]) -> None:
    """Print what programs read, as UTF-8, whatever the locale is; bytes that are not UTF-8 come out as they went in.

    But a terminal gets nothing that it would obey.
    """
    if sys.stdout.isatty():
        lines = [
            "".join(part if part in "\n\t" else _printable(part) for part in re.split("([\n\t])", line))
            for line in lines
        ]
    _write(lines)


def _write(lines: Sequence[str]) -> None:
    if lines:
        sys.stdout.buffer.write(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))
        sys.stdout.buffer.flush()


def print_notes(notes: Sequence[str]) -> None:
    """Print what the user should know, although all is well, on standard error."""
    for note in notes:
        print(f"fastlayers: {_printable(note)}", file=sys.stderr)


def print_log(line: str) -> None:
    """Print what is being done, on standard error."""
    print(_printable(line), file=sys.stderr)


def print_plan(made: LayerPlan) -> None:
    """Print a plan: each layer's paths, size and share."""
    known = [size for size in made.sizes if size is not None]
    total = sum(known)
    rows = []
    for number, (layer, size) in enumerate(zip(made.layers, made.sizes, strict=True), 1):
        share = f"{100 * size / total:.1f} %" if size is not None and total else "?"
        rows.append((str(number), str(len(layer)), _megabytes(size), share, _short(layer)))
    whole = _megabytes(total if len(known) == len(made.layers) else None)
    layers, paths = counted(len(made.layers), "layer"), counted(sum(map(len, made.layers)), "path")
    title = f"{made.strategy or 'plan'}: {layers}, {paths}, {whole}"
    columns = [("layer", "right"), ("paths", "right"), ("size", "right"), ("share", "right"), ("what", "left")]
    _table([title], columns, rows, sys.stdout)


def print_event(event: LayerEvent) -> None:
    """Print what happened to a layer, as a line of JSON on standard error."""
    import json

    print(json.dumps({"layer": event.layer, **event.to_dict()}), file=sys.stderr, flush=True)


def print_build(result: BuildResult, file: TextIO) -> None:
    """Print a finished build: each layer's sizes, digest and time."""
    rows = [
        (str(number), "base image", "", _megabytes(blob.size), blob.digest[7:19], "", "")
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
            ", ".join(dict.fromkeys(event.event for event in layer.events)),
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
        ("done", "left"),
    ]
    digests = [f"image ID {result.image.config_digest}", f"manifest {result.image.manifest_digest}"]
    moved = [f"{_megabytes(result.read)} read", f"{_megabytes(result.written)} written"]
    moved += [] if result.sent is None else [f"{_megabytes(result.sent)} sent"]
    layers = counted(len(rows), "layer")
    title = f"{layers}, {_megabytes(stored)}; {', '.join(moved)}, {result.seconds:.2f} s"
    _table([*digests, title], columns, rows, file)


def print_update(update: Update) -> None:
    """Print what clients download for an update, and why."""
    unit = "as they are stored" if update.new.unit == "stored" else "NAR sizes"
    print_lines([f"{update.old.name} -> {update.new.name}; sizes: {unit}"])
    counts = [sum(change.by_digest for change in update.layers), sum(change.by_chain for change in update.layers)]
    bound = "?" if update.bound is None else f"{'' if update.bound_is_exact else 'at least '}{_megabytes(update.bound)}"
    rows = [
        ("by digest", str(counts[0]), _megabytes(update.by_digest), _ratio(update.by_digest, update), _DIGEST),
        ("by chain", str(counts[1]), _megabytes(update.by_chain), _ratio(update.by_chain, update), _CHAIN),
        ("bound", "", bound, "", "the paths that are new"),
        ("all", str(len(update.layers)), _megabytes(update.new.size), _ratio(update.new.size, update), ""),
    ]
    columns = [("download", "left"), ("layers", "right"), ("size", "right"), ("/ bound", "right"), ("what", "left")]
    _table([], columns, rows, sys.stdout)
    changed = [(number, change) for number, change in enumerate(update.layers, 1) if change.by_chain]
    first = changed[0][0] if changed else 0
    rows = [
        (
            str(number),
            _megabytes(change.layer.size),
            "new" if change.by_digest else "kept",
            _holds(update.new, change.layer),
            _why(update, change, first),
        )
        for number, change in changed
    ]
    if rows:
        columns = [("layer", "right"), ("size", "right"), ("digest", "left"), ("holds", "left"), ("why", "left")]
        print_lines([""])
        _table([], columns, rows, sys.stdout)


_DIGEST = "podman, containerd, skopeo: layers whose digest is new"
_CHAIN = "Docker's graph drivers: all from the first new layer upward"


def _ratio(size: int | None, update: Update) -> str:
    if size is None or update.bound is None or not update.bound_is_exact:
        return "?"
    return f"{size / update.bound:.2f}" if update.bound else "-"


_KINDS = ("replaced", "rebuilt", "added", "removed", "moved in", "moved out")  # the order in which a table tells them


def _why(update: Update, change: LayerChange, first: int) -> str:
    """Why a layer is new, the largest paths first."""
    if not change.by_digest:
        return f"above layer {first}"
    kinds: dict[str, list[str]] = {}
    sizes = {**update.old.sizes, **update.new.sizes}
    for reason in sorted(change.reasons, key=lambda reason: -sizes.get(reason.path, 0)):
        if not reason.path:
            return reason.change
        name, old = store_name(reason.path), store_name(reason.old or "")
        if not old:
            kinds.setdefault(reason.change, []).append(name)
        elif old == name:
            kinds.setdefault("rebuilt", []).append(name)
        else:  # of one package: its old name and its new version say it
            kinds.setdefault("replaced", []).append(f"{old} -> {package_version(name)}")
    return "; ".join(f"{kind} {_few(kinds[kind])}" for kind in _KINDS if kind in kinds)


def print_explained(stack: LayerStack, lines: Sequence[str], note: str) -> None:
    """Print for each layer of a stack why it is one, and a note where nobody knows."""
    rows = []
    for number, (layer, line) in enumerate(zip(stack.layers, lines, strict=True), 1):
        count = str(len(layer.paths)) if layer.paths else ""
        rows.append((str(number), count, _megabytes(layer.size), _holds(stack, layer), line))
    strategy = f", {stack.plan.strategy}" if stack.plan and stack.plan.strategy else ""
    title = f"{stack.name}{strategy}: {counted(len(stack.layers), 'layer')}, {_megabytes(stack.size)}"
    columns = [("layer", "right"), ("paths", "right"), ("size", "right"), ("holds", "left"), ("why", "left")]
    _table([title, *([note] if note else [])], columns, rows, sys.stdout)


def print_replays(names: Sequence[str], replays: Sequence[tuple[str, int | None, Replay | None]]) -> None:
    """Print strategies beside each other: what clients download over the bound."""

    def ratio(part: int, whole: int) -> str:
        return f"{part / whole:.2f}" if whole else "-"

    bound = next((found.bound for _, _, found in reversed(replays) if found is not None), None)
    rows = []
    for name, limit, found in replays:
        row = [name, "" if limit is None else str(limit)]
        if found is None:
            row += ["?", "?", "?", "", "the sizes of its paths are not known"]
        else:
            leaf = found.leaf
            row += [
                ratio(found.by_digest, found.bound),
                ratio(found.by_chain, found.bound),
                ratio(leaf.by_digest, leaf.bound),
                _megabytes(found.by_digest),
                f"leaf: {len(leaf.steps)} of {len(found.steps)}"
                + ("" if found.bound == bound else f"; as stored, the bound is {_megabytes(found.bound)}"),
            ]
        rows.append(row)
    updates = counted(len(names) - 1, "update")
    title = f"{updates}, {names[0]} to {names[-1]}; the bound is {_megabytes(bound)}"
    columns = [
        ("strategy", "left"),
        ("layers", "right"),
        ("D", "right"),
        ("C", "right"),
        ("leaf", "right"),
        ("by digest", "right"),
        ("what", "left"),
    ]
    _table([title], columns, rows, sys.stdout)


def print_history(stacks: Sequence[LayerStack], updates: Sequence[Update], changes: Mapping[str, int]) -> None:
    """Print the layers of the last of some stacks, and what clients downloaded from each to the next.

    ``changes`` says in how many updates a path changed; of a layer the most are told.
    """
    stack = stacks[-1]
    rows = []
    for number, layer in enumerate(stack.layers, 1):
        share = f"{100 * layer.size / stack.size:.1f} %" if layer.size is not None and stack.size else "?"
        row = [str(number), str(len(layer.paths)) if layer.paths else "", _megabytes(layer.size), share]
        if updates:
            row.append(str(max((changes[path] for path in layer.paths), default="")))
        rows.append([*row, _short(layer.paths) if layer.paths else layer.label or "?"])
    unit = "stored sizes" if stack.unit == "stored" else "NAR sizes"
    title = f"{stack.name}: {counted(len(stack.layers), 'layer')}, {_megabytes(stack.size)} ({unit})"
    columns = [("layer", "right"), ("paths", "right"), ("size", "right"), ("share", "right")]
    columns += [("changed", "right")] if updates else []
    _table([title], [*columns, ("what", "left")], rows, sys.stdout)
    if not updates:
        return
    downloads = []
    for number, update in enumerate(updates, 1):
        bound = "?" if update.bound is None else ("" if update.bound_is_exact else ">= ") + _megabytes(update.bound)
        figures = (_megabytes(update.by_digest), _megabytes(update.by_chain), bound)
        downloads.append((str(number), *figures, f"{update.old.name} -> {update.new.name}"))
    columns = [("update", "right"), ("by digest", "right"), ("by chain", "right"), ("bound", "right"), ("what", "left")]
    _table(["downloads"], columns, downloads, sys.stdout)
    print_update(updates[-1])


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
    print_lines(lines)
    rows, notes = [], []
    for number, layer in enumerate(facts.layers, 1):
        what = _short(layer.paths) if layer.paths else layer.history
        row = (number, what, _megabytes(layer.size), layer.codec, (layer.digest or "")[7:19])
        rows.append((*map(str, row), layer.diff_id[7:19]))
        notes += [
            f"layer {number}, annotation {key}: {value}"
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
    _table([f"{counted(len(rows), 'layer')}, {size}"], columns, rows, sys.stdout)
    print_lines(notes)


def print_verdict(verdict: Verdict, *, quiet: bool) -> None:
    """Print each fault and each note as a line, and of a good image what was looked at; ``quiet``: faults alone."""
    lines = list(map(str, verdict.faults))
    if not quiet:
        lines += [f"note: {note}" for note in verdict.notes]
    if not verdict.faults and not quiet:
        images, layers = counted(verdict.images, "image"), counted(verdict.layers, "layer")
        entries = f"{verdict.entries:,} {'entry' if verdict.entries == 1 else 'entries'}"
        lines.append(f"{verdict.name}: good: {images}, {layers}, {entries}, {_megabytes(verdict.size)}")
    print_lines(lines)
