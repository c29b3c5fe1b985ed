"""Stacks compared: what is downloaded, why, and the bound; stacks read from everything that has layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fastlayers import Closure, plan_layers
from fastlayers.errors import ClosureError, ImageError, PlanError
from fastlayers.layering.guidance import Guidance, Rule, Rules
from fastlayers.layering.plan import LayerPlan
from fastlayers.layering.strategies import STRATEGIES
from fastlayers.reuse.explain import explain_path, find_path, recognise, summarise
from fastlayers.reuse.reading import StackReader, closure_of
from fastlayers.reuse.stack import LayerStack, StackLayer, stack_of_plan
from fastlayers.reuse.update import PathChange, Update, compare
from layouts import Layer, digest, write_layout
from stores import APP, BASE, LIB, NODES, make_store, write_json


def store_path(name: str, build: int = 0) -> str:
    return f"/nix/store/{build:032d}-{name}"


A, B, C, D = (store_path(f"{letter}-1.0") for letter in "abcd")
A2, B2 = store_path("a-1.0", 2), store_path("b-2.0", 2)
SIZES = {A: 1, B: 20, C: 300, D: 4000, A2: 5, B2: 60}


def plan(*layers: tuple[str, ...], sizes: dict[str, int] | None = SIZES) -> LayerStack:
    return stack_of_plan("plan", LayerPlan(layers), sizes=sizes)


def image(*layers: StackLayer, carries_plan: bool = True, sizes: dict[str, int] | None = None) -> LayerStack:
    return LayerStack("image", layers, "stored", carries_plan, sizes or {})


def figures(update: Update) -> tuple[int | None, int | None, int | None]:
    return update.by_digest, update.by_chain, update.bound


def changes(update: Update) -> list[list[tuple[Any, ...]]]:
    return [[(r.change, r.path, r.old, r.layer) for r in layer.reasons] for layer in update.layers]


def test_nothing_changed() -> None:
    update = compare(plan((A,), (B, C)), plan((A,), (B, C)))
    assert figures(update) == (0, 0, 0)
    assert [(c.by_digest, c.by_chain, c.reasons) for c in update.layers] == [(False, False, ())] * 2


def test_a_path_is_rebuilt() -> None:
    """The layer above stays for one kind of client, and goes for the other."""
    update = compare(plan((A, C), (D,)), plan((A2, C), (D,)))
    assert figures(update) == (305, 4305, 5)
    assert changes(update) == [[("replaced", A2, A, None)], []]
    assert [(c.by_digest, c.by_chain) for c in update.layers] == [(True, True), (False, True)]


def test_every_reason() -> None:
    new = store_path("new-1")
    old = plan((A, B), (C, D, APP), sizes=None)
    update = compare(old, plan((B2,), (D, A2, A, APP), (new,), sizes=None))
    assert changes(update) == [
        [("replaced", B2, B, None), ("moved out", A, None, 2)],
        [("added", A2, None, None), ("moved in", A, None, 1), ("removed", C, None, None)],
        [("added", new, None, None)],
    ]
    assert changes(compare(plan((A, B)), plan((B, A)))) == [[("reordered", "", None, None)]]


def test_layers_that_change_places() -> None:
    update = compare(plan((A,), (B,), (C,)), plan((A,), (C,), (B,)))
    assert figures(update) == (0, 320, 0)
    assert figures(compare(plan((A,), (B,)), plan((A,)))) == (0, 0, 0)
    assert figures(compare(plan((A,)), plan((A,), (B,)))) == (20, 20, 20)


def test_a_bound_without_all_sizes() -> None:
    update = compare(plan((A,), (B, C)), plan((A2,), (B2, C), sizes={A2: 5}))
    assert (update.bound, update.bound_is_exact, update.by_digest) == (5, False, None)


def test_paths_that_weigh_nothing() -> None:
    """A size of 0 is known."""
    sizes = dict.fromkeys(SIZES, 0)
    update = compare(plan((A, B), (C,), sizes=sizes), plan((A2, B), (C,), sizes=sizes))
    assert (*figures(update), update.bound_is_exact) == (0, 0, 0, True)
    stored = [image(StackLayer(text, text, 7, paths), sizes=sizes) for text, paths in [("1", (A, B)), ("2", (A2, B))]]
    update = compare(*stored)
    assert (*figures(update), update.bound_is_exact) == (7, 7, 0, True)


def test_stored_sizes() -> None:
    """What is stored of a layer is shared out by NAR sizes; a layer of nobody's paths counts as a whole."""

    def layers(second: tuple[str, ...], top: str) -> list[StackLayer]:
        number = digest(repr(second).encode())
        return [StackLayer("a", "da", 7, (A,)), StackLayer(number, number, 100, second), StackLayer(top, top, 9)]

    old, new = layers((B, C), "x"), layers((B2, C), "y")
    update = compare(image(*old), image(*new, sizes={B2: 60, C: 540}))
    assert figures(update) == (109, 109, 10 + 9)
    assert update.bound_is_exact
    assert changes(update)[2] == [("other bytes", "", None, None)]
    unknown = compare(image(*old), image(*new))
    assert (unknown.bound, unknown.bound_is_exact) == (9, False)
    nobody = compare(image(*old, carries_plan=False), image(*new))
    assert (nobody.bound, nobody.bound_is_exact) == (None, False)


def test_what_is_compressed_anew_is_downloaded_by_both() -> None:
    """Docker learns a diff ID from the digest; a digest that it has not seen is a layer that it has not."""
    old = image(StackLayer("1", "d1", 10, (A,)), StackLayer("2", "d2", 20, (B,)))
    new = image(StackLayer("1z", "d1", 8, (A,)), StackLayer("2", "d2", 20, (B,)))
    update = compare(old, new)
    assert (update.by_digest, update.by_chain, update.bound) == (8, 28, 0)
    assert changes(update) == [[("recompressed", "", None, None)], []]


def test_a_digest_twice_is_downloaded_once() -> None:
    twice = [StackLayer("1", "d", 10), StackLayer("1", "d", 10)]
    assert figures(compare(image(), image(*twice)))[:2] == (10, 10)
    assert image(*twice).size == 10


def test_an_image_and_a_plan() -> None:
    built = image(StackLayer("1", "d1", 10, (A,)), StackLayer("2", "d2", 20, (B,)), StackLayer("3", "d3", 5))
    assert figures(compare(built, plan((A,), (B, C)))) == (320, 320, 300)
    assert figures(compare(plan((A,), (B,)), built)) == (5, 5, 5)
    silent = image(StackLayer("1", "d1", 10), carries_plan=False)
    with pytest.raises(PlanError, match="image: this image does not say which paths are in its layers"):
        compare(silent, plan((A,)))


def test_json_has_it_all() -> None:
    document = compare(plan((A,), (D,)), plan((A2,), (D,))).to_dict()
    assert document["sizes"] == "NAR"
    assert (document["by_digest"], document["by_chain"], document["bound"], document["total"]) == (5, 4005, 5, 4005)
    assert document["layers"][0] == {
        "layer": 1, "digest": None, "size": 5, "by_digest": True, "by_chain": True, "paths": [A2],
        "reasons": [{"change": "replaced", "path": A2, "old": A}]}  # fmt: skip
    assert PathChange("moved in", A, layer=3).to_dict() == {"change": "moved in", "path": A, "layer": 3}


# Reading


def test_everything_that_has_layers_is_read(tmp_path: Path) -> None:
    document = make_store(tmp_path)
    closure = StackReader().one(str(document))
    assert closure.plan is not None and closure.closure is not None
    made = closure.plan
    files = {"json": made.to_json(), "layers": made.to_layers()}
    for form, text in files.items():
        (tmp_path / form).write_text(text)
    table, bare = (StackReader().one(str(tmp_path / form)) for form in files)
    assert [layer.paths for layer in table.layers] == [layer.paths for layer in bare.layers] == list(made.layers)
    assert table.size == closure.size == 816 + 520 + 456
    assert bare.size is None
    assert StackReader(closures=[closure.closure]).one(str(tmp_path / "layers")).size == closure.size
    layers = [Layer(b"base", comment="a base"), Layer(b"1", [BASE]), Layer(b"23", [LIB, APP]), Layer(b"x", [])]
    name = write_layout(tmp_path / "oci", layers)
    found = StackReader().one(name)
    assert [layer.paths for layer in found.layers] == [(), (BASE,), (LIB, APP), ()]
    assert found.layers[0].label == "a base"
    assert (found.unit, found.size, found.carries_plan) == ("stored", 8, True)
    silent = StackReader().one(write_layout(tmp_path / "oci", layers, "2", plan=False))
    assert not silent.carries_plan and silent.plan is None


def test_documents_in_lines(tmp_path: Path) -> None:
    lines = tmp_path / "history.jsonl"
    lines.write_text("\n".join([json.dumps({"graph": NODES}), "", json.dumps([[BASE]]), json.dumps(NODES[2:])]))
    found = StackReader().read(str(lines))
    assert [stack.name for stack in found] == [f"{lines}: line {number}" for number in (1, 3, 4)]
    assert [sum(len(layer.paths) for layer in stack.layers) for stack in found] == [3, 1, 1]
    with pytest.raises(PlanError, match="3 documents, where one is wanted"):
        StackReader().one(str(lines))
    lines.write_text(f"{json.dumps(NODES)}\n{{\n")
    with pytest.raises(ClosureError, match=r"history.jsonl: line 2: not JSON"):
        StackReader().read(str(lines))


def test_a_key_named_layers_is_no_plan(tmp_path: Path) -> None:
    document = write_json(tmp_path / "graph.json", {"layers": NODES})
    assert StackReader().one(str(document)).closure is not None
    assert not StackReader().one(str(write_json(tmp_path / "empty.json", []))).layers


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"twice.json: .*base-1.0: in layer 1 and again in layer 2"):
        StackReader().one(str(write_json(tmp_path / "twice.json", [[BASE], [BASE]])))
    with pytest.raises(PlanError, match="version 2; this release reads version 1"):
        StackReader().one(str(write_json(tmp_path / "v2.json", {"version": 2, "layers": [{"paths": [BASE]}]})))
    with pytest.raises(ClosureError, match="nothing: No such file"):
        StackReader().one(str(tmp_path / "nothing"))
    name = write_layout(tmp_path / "oci", [Layer(b"1", [BASE])])
    manifest = next(
        file for file in (tmp_path / "oci/blobs/sha256").iterdir() if b"dev.fastlayers.plan" in file.read_bytes()
    )
    text = manifest.read_text().replace('\\"', "")
    manifest.write_text(text)
    with pytest.raises(ImageError, match="its bytes are not those of the digest"):
        StackReader().one(name)


def test_a_closure_of_what_is_known(tmp_path: Path) -> None:
    document = make_store(tmp_path)
    closure = StackReader().one(str(document)).closure
    assert closure is not None
    stack = stack_of_plan("plan", LayerPlan(((BASE,), (LIB,))))
    found = closure_of(stack, [closure])
    assert found.paths == sorted([BASE, LIB])
    assert found.references(found.index(LIB)) == [BASE]
    parts = [Closure([BASE], [[]]), closure_of(stack, [closure])]
    assert closure_of(stack, parts).paths == found.paths
    with pytest.raises(PlanError, match=r"plan: .*lib-2.0: not in the closure that --closure names"):
        closure_of(stack, parts[:1])
    with pytest.raises(PlanError, match=r"plan: .*lib-2.0: not in any closure that --closure names"):
        closure_of(stack, parts[:1] * 2)
    with pytest.raises(PlanError, match=r"plan: .*its references are not known: name its closure with --closure"):
        closure_of(stack, [])


# Explaining


@pytest.fixture
def chain() -> Closure:
    """D needs c and b, which need a; e stands alone."""
    paths = [A, B, C, D, B2]
    return Closure(paths, [[], [A], [A], [B, C], []], nar_sizes=[1, 20, 300, 4000, 60])


def test_popularity_is_explained(chain: Closure) -> None:
    stack = stack_of_plan("plan", plan_layers(chain, 3, "popularity"), sizes=SIZES)
    own = explain_path(stack, A, chain)
    assert own[1:] == ["layer 1 of 3, path 1 of 1", "refers to 0 of 5 paths, referred to by 2",
                       "popularity 5, rank 1 of 5: a layer of its own"]  # fmt: skip
    assert explain_path(stack, D, chain)[-1].endswith(": the layer of all but the 2 most popular")


def test_auto_is_explained(chain: Closure) -> None:
    made = plan_layers(chain, 2, "auto")
    stack = stack_of_plan("plan", made, sizes=SIZES)
    said = {path: explain_path(stack, path, chain)[-1] for path in chain.paths}
    assert said[D].startswith("a primary path: number 1 of ")
    assert said[B] == "only d-1.0 needs it, of the primary paths with none between"
    assert said[B2] == "no primary path needs it: it is in what is left over"
    assert explain_path(stack_of_plan("plan", plan_layers(chain, 9, "auto")), A, chain)[-1].startswith("there are as")


def test_a_strategy_is_recognised(chain: Closure) -> None:
    for name in ("popularity", "auto"):
        made = plan_layers(chain, 3, name)
        found = recognise(stack_of_plan("plan", LayerPlan(made.layers)), chain)
        assert found is not None and found.layers == made.layers
    by_hand = stack_of_plan("plan", LayerPlan(((A, D), (C, B), (B2,))))
    assert recognise(by_hand, chain) is None
    assert explain_path(by_hand, A, chain)[-1].startswith("no strategy gives this plan")
    assert explain_path(by_hand, A, None)[-1] == "its closure says more: name it with --closure"
    assert summarise(by_hand, None) == (["", "", ""], "its closure says more: name it with --closure")
    assert summarise(by_hand, chain) == (["", "", ""], explain_path(by_hand, A, chain)[-1])
    with pytest.raises(PlanError, match="in layer 1, but not in the closure"):
        recognise(stack_of_plan("plan", LayerPlan(((APP,),))), chain)


def test_of_several_strategies_the_default_is_recognised(chain: Closure) -> None:
    """Each path has its own layer, whichever strategy it is."""
    assert len({frozenset(plan_layers(chain, 9, name).layers) for name in STRATEGIES}) == 1
    found = recognise(stack_of_plan("plan", LayerPlan(plan_layers(chain, 9).layers)), chain)
    assert found is not None and found.strategy == plan_layers(chain, 9).strategy


def test_the_order_of_layers_does_not_matter(chain: Closure) -> None:
    for name in ("popularity", "auto"):
        stack = stack_of_plan("plan", plan_layers(chain, 3, name, order="stable"), sizes=SIZES)
        found = recognise(stack, chain)
        assert found is not None and found.strategy == f"{name}/1"
        assert list(found.layers) == [layer.paths for layer in stack.layers]


def test_a_guided_plan_is_not_explained_by_what_did_not_make_it(chain: Closure) -> None:
    """But where the closure alone gives the same layers, its reasons hold."""
    guidance = Guidance(rules=Rules((Rule("[abc]-*", "together"),)))
    made = plan_layers(chain, 3, guidance=guidance)
    stack = stack_of_plan("plan", made, sizes=SIZES)
    assert made.layers != plan_layers(chain, 3).layers
    lines, note = summarise(stack, chain)
    assert not any(lines)
    assert (
        note
        == explain_path(stack, A, chain)[-1]
        == (
            "expected-cost/1 went by more than the closure, and the plan does not tell by what: "
            "a plan before, of which layers were kept, earlier closures, rules or sizes"
        )
    )
    same = plan_layers(chain, 3, guidance=Guidance(previous=plan_layers(chain, 3).layers))
    assert same.guided
    assert "packages in the closure are its own or below it" in explain_path(stack_of_plan("p", same), A, chain)[-2]
    edited = stack_of_plan("plan", replace(made, guided=False))
    assert "makes another plan of this closure: it was edited, or" in explain_path(edited, A, chain)[-1]
    image = stack_of_plan("plan", LayerPlan(made.layers, made.strategy))
    assert explain_path(image, A, chain)[-1].endswith(", or had another limit")


def test_paths_are_found_by_name(chain: Closure) -> None:
    stack = stack_of_plan("plan", plan_layers(chain, 3, "popularity"))
    assert find_path(stack, A) == find_path(stack, "a-1.0") == find_path(stack, "a") == A
    assert find_path(stack, "b-2.0") == B2
    with pytest.raises(PlanError, match="b: 2 paths are meant"):
        find_path(stack, "b")
    with pytest.raises(PlanError, match="x: in no layer of plan"):
        find_path(stack, "x")
