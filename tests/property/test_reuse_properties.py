"""Whatever two plans look like: what is downloaded, and that it is always said why."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fastlayers.layering.plan import LayerPlan
from fastlayers.reuse.stack import LayerStack, stack_of_plan
from fastlayers.reuse.update import compare

PATHS = [f"/nix/store/{build:032d}-{name}-{build}" for name in ("a", "b", "b-lib", "c", "d") for build in (1, 2)]
SIZES = {path: 3**number for number, path in enumerate(PATHS)}


@st.composite
def stacks(draw: st.DrawFn) -> LayerStack:
    paths = draw(st.lists(st.sampled_from(PATHS), unique=True, max_size=8))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(paths) - 1)))) if len(paths) > 1 else [])
    ends = [0, *(cut for cut in cuts if cut < len(paths)), len(paths)]
    layers = tuple(tuple(paths[a:b]) for a, b in pairwise(ends) if a < b)
    return stack_of_plan("plan", LayerPlan(layers), sizes=SIZES)


@given(stacks(), stacks())
def test_downloads(old: LayerStack, new: LayerStack) -> None:
    """Against the definitions, path by path and layer by layer."""
    update = compare(old, new)
    held = [layer.paths for layer in old.layers]
    fresh = [layer for layer in new.layers if layer.paths not in held]
    assert update.by_digest == sum(SIZES[path] for layer in fresh for path in layer.paths)
    assert update.bound == sum(SIZES[path] for path in new.layer_of() if path not in old.layer_of())
    kept = 0
    while [layer.paths for layer in new.layers[: kept + 1]] == held[: kept + 1] and kept < len(new.layers):
        kept += 1
    assert update.by_chain == sum(SIZES[path] for layer in new.layers[kept:] for path in layer.paths)
    assert update.bound_is_exact and update.bound <= update.by_digest <= update.by_chain
    for change in update.layers:
        assert bool(change.reasons) == change.by_digest <= change.by_chain
    assert compare(new, new).by_chain == 0
    assert compare(old, new) == update


@given(stacks(), stacks())
def test_reasons_are_true(old: LayerStack, new: LayerStack) -> None:
    before, now = old.layer_of(), new.layer_of()
    for number, change in enumerate(compare(old, new).layers):
        told = [reason.path for reason in change.reasons]
        assert len(told) == len(set(told))
        # What is in the layer and was not in the image is told.
        assert {path for path in change.layer.paths if path not in before} <= set(told)
        for reason in change.reasons:
            if reason.change in ("added", "replaced", "moved in"):
                assert now[reason.path] == number
                assert (reason.path in before) == (reason.change == "moved in")
            if reason.change == "replaced":
                assert reason.old in before and reason.old not in now
            if reason.change == "moved in":
                assert before[reason.path] + 1 == reason.layer
            if reason.change == "removed":
                assert reason.path in before and reason.path not in now
            if reason.change == "moved out":
                assert reason.path in before and now.get(reason.path) != number
