"""What a client of one image downloads for the next one, and why.

A client that knows layers by digest (podman, containerd, skopeo) downloads those whose digest it lacks. Docker's graph
drivers know a layer by its chain ID, the digest of all diff IDs up to it: they download everything from the first layer
upward whose chain they lack; a layer whose digest they have not seen counts as one, since its diff ID is not known yet.
A digest that occurs twice is downloaded once. The bound is the bytes of the paths that are new: no layers, however they
are cut, need less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from ..store_path import successions
from .stack import LayerStack, StackLayer, by_paths, total

__all__ = [
    "LayerChange",
    "PathChange",
    "Update",
    "change_counts",
    "compare",
    "first_changed",
    "replaced_paths",
    "updates_of",
]

Change = Literal["added", "replaced", "removed", "moved in", "moved out", "reordered", "recompressed", "other bytes"]


@dataclass(frozen=True, slots=True)
class PathChange:
    """Why a layer is another one.

    Attributes:
        change: "added" (its package is new), "replaced" (by this path, ``old`` before), "removed" (it is in no layer
            any more), "moved in" (from the layer ``layer`` of the old image), "moved out" (to the layer ``layer`` of
            the new one); and of the layer as a whole, without a path: "reordered" (the same paths), "recompressed" (the
            same tar) or "other bytes" (the files, or nobody knows which paths).
        path: the node; "" for the layer as a whole.
        old: the node before, of one that is replaced.
        layer: a layer's number, from 1.
    """

    change: Change
    path: str = ""
    old: str | None = None
    layer: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        found: dict[str, Any] = {"change": self.change}
        for key in ("path", "old", "layer"):
            if getattr(self, key):
                found[key] = getattr(self, key)
        return found


@dataclass(frozen=True, slots=True)
class LayerChange:
    """A layer of the new image.

    Attributes:
        layer: the layer.
        by_digest, by_chain: whether a client of that kind downloads it.
        reasons: why it is not the old one, if it is not.
    """

    layer: StackLayer
    by_digest: bool
    by_chain: bool
    reasons: tuple[PathChange, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """One image in place of another. Sizes are in the new one's unit, None where one is not known.

    Attributes:
        old, new: the two.
        layers: those of the new one, bottom first.
        by_digest, by_chain: bytes that a client of that kind downloads.
        bound: bytes of the paths that are new; None where nobody says which paths are where.
        bound_is_exact: False where some of these paths' sizes are not known and do not count.
    """

    old: LayerStack
    new: LayerStack
    layers: tuple[LayerChange, ...]
    by_digest: int | None
    by_chain: int | None
    bound: int | None
    bound_is_exact: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        layers = [
            {
                "layer": number,
                "digest": change.layer.digest if self.new.unit == "stored" else None,
                "size": change.layer.size,
                "by_digest": change.by_digest,
                "by_chain": change.by_chain,
                "paths": list(change.layer.paths),
                "reasons": [reason.to_dict() for reason in change.reasons],
            }
            for number, change in enumerate(self.layers, 1)
        ]
        return {
            "old": self.old.name,
            "new": self.new.name,
            "sizes": self.new.unit,
            "total": self.new.size,
            "by_digest": self.by_digest,
            "by_chain": self.by_chain,
            "bound": self.bound,
            "bound_is_exact": self.bound_is_exact,
            "layers": layers,
        }


def compare(old: LayerStack, new: LayerStack) -> Update:
    """What a client of ``old`` downloads for ``new``.

    Raises:
        PlanError: one is an image that carries no plan, the other no image.
    """
    one, other = (old, new) if old.unit == new.unit else (by_paths(old), by_paths(new))
    held = {layer.digest for layer in one.layers}
    first = first_changed(one.layers, other.layers)
    digest: dict[str, int | None] = {}
    chain: dict[str, int | None] = {}
    for number, layer in enumerate(other.layers):
        if layer.digest not in held:
            digest[layer.digest] = layer.size
        if number >= first:
            chain[layer.digest] = layer.size
    reasons = _reasons(one, other, held)
    layers = tuple(
        LayerChange(layer, known.digest not in held, number >= first, reasons[number])
        for number, (layer, known) in enumerate(zip(new.layers, other.layers, strict=True))
    )
    bound, exact = _bound(one, other)
    return Update(old, new, layers, total(digest.values()), total(chain.values()), bound, exact)


def updates_of(stacks: Sequence[LayerStack]) -> list[Update]:
    """What clients download from each stack to the next.

    Raises:
        PlanError: two neighbours cannot be compared.
    """
    return [compare(old, new) for old, new in pairwise(stacks)]


def change_counts(stacks: Sequence[LayerStack]) -> Counter[str]:
    """For each path, in how many updates it, or what it replaced or was replaced by, became another path."""
    line: dict[str, str] = {}  # the first of those that a path stands for
    count: Counter[str] = Counter()
    before: dict[str, int] = {}
    for stack in stacks:
        now = stack.layer_of()
        replaced = replaced_paths(before, now) if before else {}
        line.update((path, line[old]) for path, old in replaced.items())
        line.update((path, path) for path in now if path not in line)
        count.update({line[path] for path in replaced})
        before = now
    return Counter({path: count[first] for path, first in line.items()})


def first_changed(old: Sequence[StackLayer], new: Sequence[StackLayer]) -> int:
    """The first layer of ``new``, from 0, whose chain a client of ``old`` lacks; their number where there is none."""
    held = {layer.digest for layer in old}
    for number, layer in enumerate(new):
        if number >= len(old) or layer.diff_id != old[number].diff_id or layer.digest not in held:
            return number
    return len(new)


def replaced_paths(old: Iterable[str], new: Iterable[str]) -> dict[str, str]:
    """For each node of ``new`` that takes the place of one of ``old``, which one.

    Of several of one name or package, they are paired in their order: :func:`fastlayers.store_path.successions`.
    """
    return {path: before for before, path in _pairs(old, new)}


def _pairs(old: Iterable[str], new: Iterable[str]) -> list[tuple[str, str]]:
    """Nodes of ``old`` with those of ``new`` that take their places; each that is replaced or replaces is in a pair."""
    before, after = set(old), set(new)
    return [pair for each in successions(before - after, after - before) for pair in each.pairs()]


def _bound(old: LayerStack, new: LayerStack) -> tuple[int | None, bool]:
    if not (old.carries_plan and new.carries_plan):
        return None, False
    held = old.layer_of()
    opaque = {layer.digest for layer in old.layers if not layer.paths}
    bound, exact = 0, True
    for layer in new.layers:
        if not layer.paths:
            bound += 0 if layer.digest in opaque else layer.size or 0
            exact &= layer.digest in opaque or layer.size is not None
            continue
        fresh = [path for path in layer.paths if path not in held]
        if not fresh:
            continue
        # Of a layer that is stored, its paths have shares as their NARs have.
        part, whole = total(map(new.sizes.get, fresh)), total(map(new.sizes.get, layer.paths))
        if layer.size is not None and len(fresh) == len(layer.paths):
            bound += layer.size
        elif layer.size is not None and part is not None and whole is not None:
            bound += layer.size * part // whole if whole else 0
        else:
            exact = False
    return bound, exact


def _reasons(old: LayerStack, new: LayerStack, held: set[str]) -> list[tuple[PathChange, ...]]:
    where, now = old.layer_of(), new.layer_of()
    pairs = _pairs(where, now)
    replaced = {after: before for before, after in pairs}
    successor = dict(pairs)
    tars = {layer.diff_id for layer in old.layers}
    found: list[tuple[PathChange, ...]] = []
    for layer in new.layers:
        if layer.digest in held:
            found.append(())
        elif layer.diff_id in tars:
            found.append((PathChange("recompressed"),))
        elif not layer.paths:
            found.append((PathChange("other bytes"),))
        else:
            home = _counterpart(layer, where, replaced)
            before = old.layers[home] if home is not None else None
            found.append(tuple(_path_changes(layer, before, where, now, replaced, successor)))
    return found


def _counterpart(layer: StackLayer, where: Mapping[str, int], replaced: Mapping[str, str]) -> int | None:
    """The old layer that had most of a layer's paths, or of those that they replace."""
    homes = Counter(where[before] for path in layer.paths if (before := replaced.get(path, path)) in where)
    return min(homes, key=lambda number: (-homes[number], number)) if homes else None


def _path_changes(
    layer: StackLayer,
    before: StackLayer | None,
    where: Mapping[str, int],
    now: Mapping[str, int],
    replaced: Mapping[str, str],
    successor: Mapping[str, str],
) -> list[PathChange]:
    inside, own = set(layer.paths), set(before.paths if before else ())
    found = []
    for path in layer.paths:
        if path in replaced:
            found.append(PathChange("replaced", path, old=replaced[path]))
        elif path not in where:
            found.append(PathChange("added", path))
        elif path not in own:
            found.append(PathChange("moved in", path, layer=where[path] + 1))
    for path in before.paths if before else ():
        after = successor.get(path, path)
        if after not in now:
            found.append(PathChange("removed", path))
        elif after not in inside:
            found.append(PathChange("moved out", path, layer=now[after] + 1))
    if not found:
        found.append(PathChange("reordered" if before and before.paths != layer.paths else "other bytes"))
    return found
