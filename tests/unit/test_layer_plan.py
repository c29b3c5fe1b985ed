"""Plans: the rule of 2018, JSON there and back, and what is no plan of a closure."""

import json
from pathlib import Path

import pytest

from fastlayers import (
    LayerPlan,
    Pipeline,
    PlanError,
    order_by_popularity,
    plan_layers,
    plan_pipeline,
    read_plan,
)
from fastlayers.closure import Closure
from fastlayers.layering.strategies import DEFAULT_STRATEGY, STRATEGIES
from stores import APP, BASE, LIB


def chain(n: int) -> Closure:
    """Each node refers to the next, so that the last one is the most popular."""
    names = [f"/nix/store/{i:032}-n{i}" for i in range(n)]
    return Closure(names, [*([name] for name in names[1:]), []], nar_sizes=[10 + i for i in range(n)])


@pytest.mark.parametrize(
    ("limit", "n"), [(limit, limit + more) for limit in (1, 2, 3, 10, 99) for more in (-1, 0, 1, 5) if limit + more > 0]
)
def test_rule_of_2018(limit: int, n: int) -> None:
    """As many layers as paths, until there are too many paths: then the last layer takes all that remain."""
    closure = chain(n)
    order = [closure.paths[i] for i in order_by_popularity(closure).order]
    layers = plan_layers(closure, limit, "popularity").layers
    assert len(layers) == min(n, limit)
    assert [path for layer in layers for path in layer] == order == closure.paths[::-1]
    assert all(len(layer) == 1 for layer in layers[:-1])
    assert len(layers[-1]) == max(1, n - limit + 1)


def test_example_of_2018_in_four_layers() -> None:
    graph = {"A": "BG", "B": "CE", "C": "DE", "D": "F", "E": "F", "F": "", "G": ""}
    made = plan_layers(Closure(list(graph), list(graph.values())), 4, "popularity")
    assert made.layers == (("F",), ("E",), ("D",), ("C", "B", "G", "A"))


def test_what_is_excluded_counts_for_nothing() -> None:
    """Without A and G, B is the root: then F 4, E 3, D 3, C 2, B 1, as nixpkgs' pipeline with exclude_paths has it."""
    graph = {"A": "BG", "B": "CE", "C": "DE", "D": "F", "E": "F", "F": "", "G": ""}
    closure = Closure(list(graph), list(graph.values()), nar_sizes=[1] * 7)
    made = plan_layers(closure, 3, "popularity", exclude=["G", "A", "none"])
    assert made.excluded == ("A", "G")
    assert made.layers == (("F",), ("E",), ("D", "C", "B"))
    operations = [["popularity_contest"], ["limit_layers", 3]]
    assert plan_pipeline(closure, Pipeline(operations), exclude=["A", "G"]).layers == made.layers
    assert plan_layers(closure, 3, "popularity", exclude=closure.paths).layers == ()


def test_empty_closure_has_no_layers() -> None:
    assert plan_layers(Closure([], []), 5).layers == ()


def test_sizes_and_strategy() -> None:
    made = plan_layers(chain(4), 2, "popularity")
    assert made.sizes == (13, 10 + 11 + 12)
    assert made.strategy == "popularity/1"
    assert DEFAULT_STRATEGY in STRATEGIES


def test_size_is_unknown_where_one_node_has_none() -> None:
    closure = Closure([APP, LIB, BASE], [[LIB], [BASE], []], nar_sizes=[1, None, 3])
    assert plan_layers(closure, 2, "popularity").sizes == (3, None)


@pytest.mark.parametrize("limit", [0, -1])
def test_no_layers(limit: int) -> None:
    with pytest.raises(PlanError, match=f"a plan needs at least one layer, not {limit}"):
        plan_layers(chain(2), limit)


def test_no_such_strategy() -> None:
    with pytest.raises(PlanError, match="no strategy size; there are: popularity, auto, expected-cost"):
        plan_layers(chain(2), 2, "size")


def test_json_there_and_back(tmp_path: Path) -> None:
    closure = chain(5)
    made = plan_layers(closure, 3, "popularity")
    whole, layers = tmp_path / "plan.json", tmp_path / "layers.json"
    whole.write_text(made.to_json())
    layers.write_text(made.to_layers())
    assert read_plan(str(whole), closure) == made
    assert read_plan(str(layers), closure) == LayerPlan(made.layers, None, made.sizes)
    document = json.loads(made.to_json())
    assert document["version"] == 1 and document["strategy"] == "popularity/1"
    assert [(layer["size"], tuple(layer["paths"])) for layer in document["layers"]] == list(
        zip(made.sizes, made.layers, strict=True)
    )
    assert json.loads(made.to_layers()) == [list(layer) for layer in made.layers]


def test_a_strategy_is_named_only_where_the_plan_is_still_its_own(tmp_path: Path) -> None:
    """The strategy auto may make fewer layers than it was allowed, so its plan says how many these were."""
    shared = [f"/s/{i}-n" for i in range(4)]
    closure = Closure(shared, [shared[2:], shared[2:], [], []], nar_sizes=[9, 8, 1, 1])
    made = plan_layers(closure, 3, "auto", exclude=shared[:1])
    file = tmp_path / "plan.json"
    file.write_text(made.to_json())
    assert made.max_layers == 3 and len(made.layers) == 2 and made.excluded == (shared[0],)
    assert read_plan(str(file), closure) == made
    for key, value in {"max_layers": 1, "excluded": []}.items():
        document = {**json.loads(made.to_json()), key: value}
        if key == "excluded":
            document["layers"].insert(0, {"size": 9, "paths": shared[:1]})
        file.write_text(json.dumps(document))
        assert read_plan(str(file), closure).strategy is None


def test_a_plan_may_leave_out_what_is_excluded(tmp_path: Path) -> None:
    closure = chain(3)
    first, *rest = closure.paths
    file = tmp_path / "layers.json"
    file.write_text(json.dumps([rest]))
    with pytest.raises(PlanError, match=f"{first}: in the closure, but in no layer of the plan"):
        read_plan(str(file), closure)
    made = read_plan(str(file), closure, exclude=[first, "none"])
    assert made == LayerPlan((tuple(rest),), None, (23,), excluded=(first,))
    file.write_text(made.to_json())
    assert read_plan(str(file), closure) == made
    with pytest.raises(PlanError, match=f"{rest[1]}: in layer 1, but excluded"):
        read_plan(str(file), closure, exclude=rest[1:])


def test_plan_made_by_hand_prints_without_sizes() -> None:
    document = json.loads(LayerPlan(((APP,), (BASE,))).to_json())
    assert [layer["size"] for layer in document["layers"]] == [None, None]
    assert document["strategy"] is None


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (((APP,), ()), "layer 2 is empty"),
        (((APP, BASE), (BASE, LIB)), f"{BASE}: in layer 1 and again in layer 2"),
        (((APP, APP), (BASE, LIB)), f"{APP}: in layer 1 and again in layer 1"),
        (((APP,), (BASE, LIB, "x")), "x: in layer 2, but not in the closure"),
        (((BASE,),), f"{APP} and 1 more: in the closure, but in no layer"),
    ],
)
def test_check(layers: tuple[tuple[str, ...], ...], says: str) -> None:
    with pytest.raises(PlanError) as refused:
        LayerPlan(layers).check(Closure([APP, LIB, BASE], [[], [], []]))
    assert says in str(refused.value)
