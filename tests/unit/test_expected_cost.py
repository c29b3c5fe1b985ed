"""The strategy expected-cost, and what guides it."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from fastlayers import Closure, plan_layers
from fastlayers.errors import PlanError
from fastlayers.layering import expected_cost
from fastlayers.layering.guidance import Guidance, Rule, Rules, read_closures, read_rules
from fastlayers.layering.history import learn
from fastlayers.layering.strategies import read_plan
from fastlayers.sources import nix_json

Names = dict[str, list[str]]


def store_path(name: str, epoch: int = 0) -> str:
    digest = hashlib.sha256(f"{name} {epoch}".encode()).hexdigest()[:32].translate(str.maketrans("e", "x"))
    return f"/nix/store/{digest}-{name}"


def closure_of(graph: Names, sizes: dict[str, int], epochs: dict[str, int] | None = None) -> Closure:
    """A name is a package; a package whose epoch rises gets another path, and with it all that refer to it."""
    own = epochs or {}

    def epoch(name: str) -> int:
        return own.get(name, 0) + sum(epoch(other) for other in graph[name])

    paths = {name: store_path(name, epoch(name)) for name in graph}
    references = [[paths[other] for other in graph[name]] for name in graph]
    return Closure(list(paths.values()), references, nar_sizes=[sizes[name] for name in graph])


def names(layers: tuple[tuple[str, ...], ...]) -> list[list[str]]:
    return [[path.partition("-")[2] for path in layer] for layer in layers]


GRAPH: Names = {
    "libc-1": [],
    "small-2": ["libc-1"],
    "tiny-3": ["libc-1"],
    "lib-4": ["libc-1"],
    "big-5": ["lib-4"],
    "app-6": ["big-5", "small-2", "tiny-3"],
}
SIZES = {"libc-1": 100, "small-2": 2, "tiny-3": 1, "lib-4": 30, "big-5": 500, "app-6": 3}


def test_what_is_large_is_alone() -> None:
    made = plan_layers(closure_of(GRAPH, SIZES), 4)
    assert made.strategy == "expected-cost/1"
    layers = names(made.layers)
    assert ["big-5"] in layers and ["libc-1"] in layers
    assert sorted(map(sorted, layers)) == [["app-6", "small-2", "tiny-3"], ["big-5"], ["lib-4"], ["libc-1"]]


def test_one_layer_and_more_than_there_are_paths() -> None:
    closure = closure_of(GRAPH, SIZES)
    assert names(plan_layers(closure, 1).layers) == [sorted(GRAPH)]
    assert all(len(layer) == 1 for layer in plan_layers(closure, 6).layers)


def test_packages_of_one_version_are_not_all_in_a_layer() -> None:
    """Many are at 1.0, and have nothing to do with each other."""
    sizes = {f"p{k}-1.0": 1000 * (k + 1) for k in range(40)}
    layers = names(plan_layers(closure_of({name: [] for name in sizes}, sizes), 10).layers)
    assert max(sum(sizes[name] for name in layer) for layer in layers) < sum(sizes.values()) // 2


def test_outputs_of_one_package_are_released_together() -> None:
    graph: Names = {"foo-1.0": [], "foo-1.0-dev": [], "bar-1.0": [], "baz-2.0": []}
    layers = names(plan_layers(closure_of(graph, dict.fromkeys(graph, 50)), 3).layers)
    assert ["foo-1.0", "foo-1.0-dev"] in layers


def test_of_pairs_that_cost_the_same_the_smallest_is_merged() -> None:
    paths = [store_path("lib-1.0", epoch) for epoch in range(30)]
    sizes = [10 * (k + 1) for k in range(30)]
    made = plan_layers(Closure(paths, [[] for _ in paths], nar_sizes=sizes), 10)
    largest = sorted(made.sizes)[-1]
    assert largest is not None and largest < sum(sizes) // 3


def test_hash_parts_decide_nothing() -> None:
    """The same packages at other paths, in another order: the same layers."""
    rng = random.Random(6)
    graph: Names = {}
    for i in range(120):
        graph[f"p{i}-{rng.randrange(30)}"] = rng.sample(list(graph), min(len(graph), rng.randrange(4)))
    sizes = {name: rng.randrange(40) for name in graph}  # many of one size
    expected = names(plan_layers(closure_of(graph, sizes), 20).layers)
    for epoch in range(1, 4):
        items = list(graph.items())
        rng.shuffle(items)
        again = closure_of(dict(items), sizes, dict.fromkeys(graph, epoch))
        assert names(plan_layers(again, 20).layers) == expected


def test_sizes_that_are_not_known() -> None:
    """All count alike then."""
    closure = closure_of(GRAPH, SIZES)
    unsized = Closure(closure.paths, [closure.references(i) for i in range(len(closure))])
    alike = closure_of(GRAPH, dict.fromkeys(SIZES, 1))
    assert plan_layers(unsized, 3).layers == plan_layers(alike, 3).layers


def test_layers_without_a_change_stay() -> None:
    before = plan_layers(closure_of(GRAPH, SIZES), 3)
    changed = closure_of(GRAPH, SIZES, {"app-6": 1})
    after = plan_layers(changed, 3, guidance=Guidance(previous=before.layers))
    after.check(changed)
    assert after.guided and not before.guided
    same = set(before.layers) & set(after.layers)
    assert len(same) == 2
    broken = next(layer for layer in before.layers if layer not in same)
    assert any("app-6" in path for path in broken)


def test_the_order_in_a_layer_that_stays_is_kept() -> None:
    closure = closure_of(GRAPH, SIZES)
    backwards = [list(reversed(layer)) for layer in plan_layers(closure, 2).layers]
    made = plan_layers(closure, 2, guidance=Guidance(previous=backwards))
    assert sorted(map(list, made.layers)) == sorted(backwards)


def test_a_plan_with_more_layers_than_there_may_be() -> None:
    closure = closure_of(GRAPH, SIZES)
    made = plan_layers(closure, 3, guidance=Guidance(previous=[[path] for path in closure.paths]))
    made.check(closure)
    assert len(made.layers) <= 3
    assert sum(len(layer) == 1 for layer in made.layers) >= 2  # the largest stay


def test_a_new_plan_where_it_pays() -> None:
    """Everything in one layer, and then room for all: to send it once is cheaper than again and again."""
    graph: Names = {f"p{i}-{i}": [] for i in range(20)}
    sizes = dict.fromkeys(graph, 10)
    closure = closure_of(graph, sizes)
    made = plan_layers(closure, 20, guidance=Guidance(previous=[closure.paths]))
    assert len(made.layers) == 20


def test_paths_that_changed_together_share_a_layer() -> None:
    graph: Names = {f"p{i}-{i}": [] for i in range(8)}
    sizes = dict.fromkeys(graph, 10)
    seen = [closure_of(graph, sizes)]
    epochs = dict.fromkeys(graph, 0)
    for update in range(6):
        for name in ("p0-0", "p7-7") if update % 2 else ("p3-3", "p5-5"):
            epochs[name] += 1
        seen.append(closure_of(graph, sizes, epochs))
    history = learn(closure.paths for closure in seen)
    layers = names(plan_layers(seen[-1], 3, guidance=Guidance(history=history)).layers)
    assert sorted(map(sorted, layers)) == [["p0-0", "p7-7"], ["p1-1", "p2-2", "p4-4", "p6-6"], ["p3-3", "p5-5"]]


def test_layers_of_a_size() -> None:
    closure = closure_of(GRAPH, SIZES)
    small = plan_layers(closure, 6, guidance=Guidance(min_size=20))
    assert min(size or 0 for size in small.sizes) >= 20 and len(small.layers) > 1
    large = plan_layers(closure, 5, guidance=Guidance(max_size=110))
    assert [size for size in large.sizes if size and size > 110] == [500]
    with pytest.raises(PlanError, match=r"^layers of at most 10 bytes would be 4, more than the 2 allowed$"):
        plan_layers(closure, 2, guidance=Guidance(max_size=10))


def test_a_largest_size_that_merging_alone_does_not_reach() -> None:
    """Each of the three largest with one of the others fills a layer; what is cheapest to merge are the small ones."""
    made = plan_layers(_flat([60, 60, 60, 40, 40, 40]), 3, guidance=Guidance(max_size=100))
    assert made.sizes == (100, 100, 100)


def test_what_is_left_of_a_layer_is_no_smaller_than_layers_may_be() -> None:
    closure = _flat([100, 100, 100, 1])
    gone = store_path("gone")
    previous = [[path] for path in closure.paths[:3]] + [[closure.paths[3], gone]]
    made = plan_layers(closure, 4, guidance=Guidance(previous, min_size=50))
    assert sorted(size or 0 for size in made.sizes) == [100, 100, 101]
    assert sum(list(layer) in previous for layer in made.layers) == 2


def test_paths_move_for_the_order() -> None:
    """Alone, a layer costs least with a small path in a large one that never changed; below others it costs more."""
    graph: Names = {name: [] for name in ("large-1", "other-2", "small-3", "often-4")}
    sizes = {"large-1": 1000, "other-2": 5000, "small-3": 20, "often-4": 10}
    changes = [{"often-4": update, "other-2": min(update, 4)} for update in range(13)]
    seen = [closure_of(graph, sizes, each) for each in changes]
    history = learn(closure.paths for closure in seen)
    layers = names(plan_layers(seen[-1], 3, guidance=Guidance(history=history)).layers)
    assert layers == [["large-1"], ["other-2"], ["often-4", "small-3"]]


def test_a_first_history_sends_nothing_else_again() -> None:
    """One update tells little about what layers cost: those that were planned without it stay."""
    rng = random.Random(1)
    graph: Names = {}
    for i in range(200):
        graph[f"p{i}-{i}"] = rng.sample(list(graph)[-60:], min(len(graph), rng.randrange(4)))
    sizes = {name: rng.randrange(1, 1000) for name in graph}
    one, two = closure_of(graph, sizes), closure_of(graph, sizes, {"p3-3": 1})
    before = plan_layers(one, 20)
    after = plan_layers(two, 20, guidance=Guidance(before.layers, learn([one.paths, two.paths])))
    stay = {layer for layer in before.layers if set(layer) <= set(two.paths)}
    assert len(stay) == 9 and stay <= set(after.layers)


def test_rules() -> None:
    closure = closure_of(GRAPH, SIZES)
    rules = Rules((Rule("libc-*", "bottom"), Rule("*-3", "own"), Rule("*[25]", "together"), Rule("app-*", "volatile")))
    made = plan_layers(closure, 9, guidance=Guidance(rules=rules))
    made.check(closure)
    layers = names(made.layers)
    assert layers[0] == ["libc-1"]
    assert ["tiny-3"] in layers
    assert any(sorted(layer) == ["big-5", "small-2"] for layer in layers)
    assert names(plan_layers(closure, 9, guidance=Guidance(rules=rules), exclude=[closure.paths[0]]).layers) != layers
    whole = Rules((Rule(closure.paths[0], "own"),))
    assert (closure.paths[0],) in plan_layers(closure, 2, guidance=Guidance(rules=whole)).layers
    with pytest.raises(PlanError, match="the rules' own layers are 6: a limit of 3 leaves none for what remains"):
        plan_layers(closure, 3, guidance=Guidance(rules=Rules((Rule("*", "own"),))))


def test_a_volatile_path_is_kept_apart() -> None:
    graph: Names = {f"p{i}-{i}": [] for i in range(12)}
    closure = closure_of(graph, dict.fromkeys(graph, 10))
    made = plan_layers(closure, 4, guidance=Guidance(rules=Rules((Rule("p4-*", "volatile"),))))
    assert ["p4-4"] in names(made.layers)


def test_strategies_that_go_by_the_closure_alone() -> None:
    with pytest.raises(PlanError, match=r"^auto goes by the closure alone"):
        plan_layers(closure_of(GRAPH, SIZES), 3, "auto", guidance=Guidance(min_size=1))


def test_a_guided_plan_there_and_back(tmp_path: Path) -> None:
    closure = closure_of(GRAPH, SIZES)
    made = plan_layers(closure, 3, guidance=Guidance(previous=[closure.paths[:2], closure.paths[2:]]))
    file = tmp_path / "plan.json"
    file.write_text(made.to_json())
    assert read_plan(str(file), closure) == made


def test_many_paths() -> None:
    """More than are compared one by one: near ones are one item from the start."""
    rng = random.Random(4097)
    paths = [store_path(f"p{i}-{i % 900}") for i in range(6000)]
    references = [rng.sample(paths[max(i - 50, 0) : i], min(i, rng.randrange(4))) for i in range(6000)]
    closure = Closure(paths, references, nar_sizes=[rng.randrange(10_000) for _ in paths])
    made = plan_layers(closure, 40)
    made.check(closure)
    assert len(made.layers) == 40
    largest = sorted(zip(closure.nar_sizes.tolist(), closure.paths, strict=True))[-1]
    assert largest[1] in {path for layer in made.layers for path in layer}


def test_many_paths_in_layers_of_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are one item from the start are not larger than a layer may be."""
    monkeypatch.setattr(expected_cost, "_ITEMS", 32)
    closure = _flat([10] * 60)
    made = plan_layers(closure, 30, guidance=Guidance(max_size=20))
    made.check(closure)
    assert made.sizes == (20,) * 30
    with pytest.raises(PlanError, match=r"^layers of at most 19 bytes would be 32, more than the 30 allowed$"):
        plan_layers(closure, 30, guidance=Guidance(max_size=19))


@pytest.mark.parametrize(
    ("arguments", "digest"),
    [
        (["nixos-minimal-23.11.json.gz"], "9ca8241adcc96d0527a2b257474bf96c93e464ef065c0818e5c875c6d01c436e"),
        (["nixpkgs-2025-09.npz", "--sample", "3"], "d4c917b22c979c5abb365eb8a3e8c7184ba3b6537522bb470ccb5717312284fd"),
    ],
)
def test_plans_of_real_graphs(arguments: list[str], digest: str, shared: Path, tmp_path: Path) -> None:
    """A strategy's name stands for its layers: what changes these digests gets another version."""
    closures = shared / "closures"
    document = tmp_path / "graph.json"
    with document.open("wb") as out:
        command = [sys.executable, str(closures / "to_graph.py"), str(closures / arguments[0]), *arguments[1:]]
        subprocess.run(command, check=True, stdout=out)
    made = plan_layers(nix_json.read(str(document), any_names=True), 42)
    assert hashlib.sha256(json.dumps(made.layers).encode()).hexdigest() == digest


def test_read_closures(tmp_path: Path) -> None:
    one, two = closure_of(GRAPH, SIZES), closure_of(GRAPH, SIZES, {"lib-4": 1})

    def document(closure: Closure) -> list[dict[str, object]]:
        return [{"path": path, "references": closure.references(i)} for i, path in enumerate(closure.paths)]

    lines = tmp_path / "lines"
    lines.write_text(
        "\n".join(json.dumps(each) for each in [{"graph": document(one)}, {"graph": document(one)}, document(two)])
    )
    history = learn(read_closures(str(lines)))
    assert history.updates == 1 and sum(history.changed.values()) == 3  # lib, big, app
    (tmp_path / "one").write_text(json.dumps({"graph": document(one)}, indent=1))
    (tmp_path / "two").write_text(json.dumps({node["path"]: node for node in document(two)}))
    assert learn(paths for name in ("one", "two") for paths in read_closures(str(tmp_path / name))) == history
    # As they are where `nix path-info --json` was appended twice, which ends with no newline.
    joined = [{node["path"]: node for node in document(each)} for each in (one, one, two)]
    for between in ("", " "):
        (tmp_path / "joined").write_text(between.join(map(json.dumps, joined)))
        assert learn(read_closures(str(tmp_path / "joined"))) == history
    # As a person would look at them, one or several.
    (tmp_path / "pretty").write_text("\n".join(json.dumps(each, indent=2) for each in joined))
    assert learn(read_closures(str(tmp_path / "pretty"))) == history
    # Of Nix 2.33; and a closure that names a path twice.
    newest = {"version": 2, "storeDir": "/nix/store", "info": {path.rpartition("/")[2]: {} for path in one.paths}}
    (tmp_path / "newest").write_text(f"{json.dumps(newest)}\n{json.dumps(document(two) * 2)}")
    assert learn(read_closures(str(tmp_path / "newest"))) == history


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ""),
        ('{"a": 1}', "line 1: not a closure: expected one list of nodes"),
        ('{"a": [], "b": []}', "line 1: not a closure: expected one list of nodes"),
        ('[{"path": "/nix/store/x"}]\n[{"path": 1}]', "line 2: not a closure: Expected `str`"),
        ("[" * 100_000, "line 1: not a closure"),
        ('[\n {"path": "/nix/store/x"},\n', "not a closure: Input data was truncated"),
        ('{\n "version": 1,\n "layers": []\n}', "not a closure: a plan: --previous takes one"),
        ('{\n "a": 1\n}\n', "not a closure: expected one list of nodes"),
        ('{\n "a": []\n}\n{\n "b": 1}', "not a closure: expected one list of nodes"),
        ('{"/nix/store/x": {}}{"/nix/store/y": {}', "line 1: not a closure: Expecting ',' delimiter"),
        ('[]\n{"/nix/store/x": {}}{"a": 1}', "line 2: not a closure: expected one list of nodes"),
    ],
)
def test_a_history_that_is_none(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text(text)
    if not message:
        assert learn(read_closures(str(file))).updates == 0
        return
    with pytest.raises(PlanError) as caught:
        list(read_closures(str(file)))
    assert str(caught.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule = 1", "Expected `array`, got `int` - at `$.rule`; a rule has match and place: one of own, "),
        ('[[rule]]\nmatch = "a"', "Object missing required field `place`"),
        ('[[rule]]\nmatch = "a"\nplace = "top"', "Invalid enum value 'top'"),
        ('[[rule]]\nmatch = "a"\nplace = "own"\nx = 1', "Object contains unknown field `x`"),
        ("[[rule", "not TOML: "),
        ("\0", "not TOML: "),
    ],
)
def test_rules_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(text)
    with pytest.raises(PlanError) as caught:
        read_rules(str(file))
    assert str(caught.value).startswith(f"{file}: {message}")
    with pytest.raises(PlanError, match=r"none\.toml: No such file or directory"):
        read_rules(str(tmp_path / "none.toml"))


def _flat(sizes: list[int]) -> Closure:
    paths = [f"/nix/store/{k:032d}-p{k}-{k}.0" for k in range(len(sizes))]
    return Closure(paths, [[] for _ in paths], nar_sizes=sizes)


def _chain(sizes: list[int | None]) -> Closure:
    paths = [f"/nix/store/{k:032d}-p{k}-{k}.0" for k in range(len(sizes))]
    return Closure(paths, [paths[max(k - 1, 0) : k] for k in range(len(sizes))], nar_sizes=sizes)


def test_more_layers_than_could_ever_be_needed_cost_no_memory() -> None:
    assert len(plan_layers(_chain([1, 2, 3]), 10**12).layers) == 3


def test_sizes_too_large_to_add_up_are_told() -> None:
    with pytest.raises(PlanError, match="NAR sizes of more than"):
        plan_layers(_chain([2**62] * 4), 2)


def test_a_previous_plan_with_a_path_twice_never_gives_one_twice() -> None:
    closure = _chain([1, 2, 3])
    a, b, c = closure.paths
    for previous in ([[a, a], [b], [c]], [[a], [a, b], [c]]):
        plan_layers(closure, 3, guidance=Guidance(previous)).check(closure)


def test_layers_of_the_plan_before_keep_to_the_sizes() -> None:
    closure = _chain([100, 100, 100])
    made = plan_layers(closure, 3, guidance=Guidance([list(closure.paths)], max_size=200))
    assert max(size or 0 for size in made.sizes) <= 200
    made = plan_layers(closure, 3, guidance=Guidance([[path] for path in closure.paths], min_size=150))
    assert min(size or 0 for size in made.sizes) >= 150


def test_layers_that_leave_too_little_room_for_the_largest_size_are_given_up() -> None:
    closure = _chain([100] * 6)
    previous = [[path] for path in closure.paths[:2]]
    made = plan_layers(closure, 3, guidance=Guidance(previous, max_size=200))
    assert made.sizes == (200, 200, 200)


def test_sizes_of_layers_need_sizes_of_paths() -> None:
    with pytest.raises(PlanError, match="a NAR size is not known"):
        plan_layers(_chain([None, None]), 2, guidance=Guidance(min_size=1000))


def test_layers_of_rules_are_sorted_by_name() -> None:
    paths = [f"/nix/store/{'0' * 32}-zlib-1", f"/nix/store/{'1' * 32}-attr-2"]
    closure = Closure(paths, [[], []], nar_sizes=[1, 1])
    made = plan_layers(closure, 2, guidance=Guidance(rules=Rules((Rule("*", "together"),))))
    assert made.layers == ((paths[1], paths[0]),)
