"""A page about stacks of layers and the updates between them: one file, with its style, its program and its data."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Any

from ..disk import flush
from ..errors import DestinationError
from ..store_path import store_name
from .stack import LayerStack, StackLayer
from .update import Update, change_counts

__all__ = ["page_data", "render_page", "write_page"]

_CHANGES = ("added", "replaced", "removed", "moved in", "moved out", "reordered", "recompressed", "other bytes")


def page_data(stacks: Sequence[LayerStack], updates: Sequence[Update]) -> dict[str, Any]:
    """What the page's program draws, as a value that prints as JSON; what is the same is told once.

    Returns:
        An object with ``before`` (what all paths begin with), ``names`` (distinct names of paths, sorted: of each how
        many letters it shares with the one before, and the rest), ``paths`` (each [what stands between ``before`` and
        its name, index of the name, NAR size or -1, how many updates changed it]), ``changes`` (the kinds) and
        ``images``. An image has ``name``, ``unit``, ``size``, ``layers`` and, but for the first, ``update``.
        A layer is [size or -1, indices of its paths, label, the start of its digest or ""], or the index of the same
        layer in the image before. An update has ``digest``, ``chain``, ``bound`` (bytes or None), ``exact``, and
        ``layers``, each [0 kept, 1 above the first new one, 2 new; and the reasons, a list for each kind: the kind, and
        for each reason index of the path or -1, index of the old path or number of the other layer or -1].
    """
    changes = change_counts(stacks)
    sizes: dict[str, int] = {}  # in the order in which the page has the paths
    for stack in stacks:
        for path in sorted(stack.layer_of()):
            sizes[path] = max(sizes.get(path, -1), stack.sizes.get(path, -1))
    index = {path: number for number, path in enumerate(sizes)}
    names = sorted(set(map(store_name, sizes)))
    name_of = {name: number for number, name in enumerate(names)}
    begins = [path.removesuffix(store_name(path)) for path in sizes]
    first, last = min(begins, default=""), max(begins, default="")
    before = first[: _shared(first, last)]
    rows = [
        [begin.removeprefix(before), name_of[store_name(path)], size, changes[path]]
        for begin, (path, size) in zip(begins, sizes.items(), strict=True)
    ]
    images: list[dict[str, Any]] = []
    held: dict[tuple[Any, ...], int] = {}
    for number, stack in enumerate(stacks):
        layers = [_layer(layer, stack, index) for layer in stack.layers]
        image: dict[str, Any] = {"name": stack.name, "unit": stack.unit, "size": stack.size}
        image["layers"] = [held.get(layer, layer) for layer in layers]
        held = {layer: place for place, layer in enumerate(layers)}
        if number:
            image["update"] = _update(updates[number - 1], index)
        images.append(image)
    return {
        "before": before,
        "names": _folded(names),
        "paths": rows,
        "changes": list(_CHANGES),
        "images": images,
    }


def _layer(layer: StackLayer, stack: LayerStack, index: Mapping[str, int]) -> tuple[Any, ...]:
    return (
        -1 if layer.size is None else layer.size,
        tuple(index[path] for path in layer.paths),
        layer.label if not layer.paths else "",
        layer.digest[7:19] if stack.unit == "stored" else "",
    )


def _folded(names: Sequence[str]) -> list[int | str]:
    """For each name how many letters it shares with the one before, and the rest."""
    found: list[int | str] = []
    for last, name in pairwise(["", *names]):
        shared = _shared(last, name)
        found += [shared, name[shared:]]
    return found


def _shared(one: str, other: str) -> int:
    """How many letters two texts begin with in common."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _update(update: Update, index: Mapping[str, int]) -> dict[str, Any]:
    layers = []
    for change in update.layers:
        kinds: dict[int, list[int]] = {}
        for reason in change.reasons:
            other = index[reason.old] if reason.old is not None else -1 if reason.layer is None else reason.layer
            kind = _CHANGES.index(reason.change)
            kinds.setdefault(kind, [kind]).extend((index.get(reason.path, -1), other))
        layers.append([2 if change.by_digest else 1 if change.by_chain else 0, *kinds.values()])
    return {
        "digest": update.by_digest,
        "chain": update.by_chain,
        "bound": update.bound,
        "exact": update.bound_is_exact,
        "layers": layers,
    }


def render_page(stacks: Sequence[LayerStack], updates: Sequence[Update]) -> str:
    """The page, in HTML."""
    folder = files(__package__)
    style, program, page = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    data = json.dumps(page_data(stacks, updates), separators=(",", ":"), ensure_ascii=False)
    data = data.encode("utf-8", "backslashreplace").decode().replace("<", "\\u003c")
    for key, text in {"STYLE_DIGEST": _digest(style), "PROGRAM_DIGEST": _digest(program)}.items():
        page = page.replace(f"@{key}@", text)
    parts = {"STYLE": style, "PROGRAM": program, "DATA": data}
    for key, text in parts.items():
        before, _, after = page.partition(f"@{key}@")
        page = before + text + after
    return page


def _digest(text: str) -> str:
    """What a content security policy calls an inline element by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def write_page(file: str, page: str) -> None:
    """Write a page to a file, which is there whole or not at all; what a symlink leads to, never the symlink itself.

    Raises:
        DestinationError: it cannot be written.
    """
    data = page.encode()
    partial = None
    try:
        try:
            mode = os.stat(file).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        target = os.path.realpath(file)
        # What is no file, such as a pipe, is written to; so is one that has no name of its own, behind /dev/stdout.
        if not stat.S_ISREG(mode) or (os.path.lexists(file) and not _same(file, target)):
            with open(file, "wb") as output:
                output.write(data)
            return
        folder, name = os.path.split(target)
        partial = os.path.join(folder, f".{name}.{secrets.token_hex(4)}.partial")
        with open(partial, "xb") as output:
            output.write(data)
            output.flush()
            flush(output.fileno())
        os.replace(partial, target)
        partial = None
    except OSError as error:
        raise DestinationError(f"{file}: {error.strerror}") from None
    finally:
        if partial is not None and os.path.exists(partial):
            os.unlink(partial)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:
        return False
