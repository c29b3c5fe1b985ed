"""The order stable, what it goes by, and how plans tell of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastlayers import Closure, Pipeline, PlanError, _core, plan_layers, plan_pipeline, read_plan
from fastlayers.layering.guidance import Guidance, Rule, Rules
from fastlayers.layering.history import ChangeHistory, learn
from fastlayers.layering.order import order_layers


def path(name: str, version: str) -> str:
    return f"/nix/store/{hash_of(version)}-{name}"


def hash_of(version: str) -> str:
    return version.rjust(32, "0")


LIBC, TOOL, FONTS, APP = (path(name, "1") for name in ("libc-2.40", "tool-1.0", "fonts-7", "app-0.1"))
SIZES = {LIBC: 40, TOOL: 4, FONTS: 900, APP: 3}
REFERENCES = {LIBC: [], TOOL: [LIBC], FONTS: [], APP: [TOOL, FONTS]}
CLOSURE = Closure(list(SIZES), list(REFERENCES.values()), nar_sizes=list(SIZES.values()))


def test_large_at_the_bottom_and_referrers_at_the_top() -> None:
    assert order_layers(CLOSURE, [[APP], [TOOL], [LIBC], [FONTS]]) == [[FONTS], [LIBC], [TOOL], [APP]]


def test_what_changed_in_the_past_goes_to_the_top() -> None:
    """The fonts in every second update, the tool never: but it is below the application."""
    history = ChangeHistory({LIBC: 0, TOOL: 0, FONTS: 0b0101, APP: 0b1111}, 4)
    small = Closure(list(SIZES), list(REFERENCES.values()), nar_sizes=[40, 4, 30, 3])
    assert order_layers(small, [[APP], [TOOL], [LIBC], [FONTS]], history=history)[-2:] == [[FONTS], [APP]]


def test_a_layer_is_not_taken_apart() -> None:
    assert order_layers(CLOSURE, [[APP, LIBC], [TOOL, FONTS]]) == [[TOOL, FONTS], [APP, LIBC]]


def test_a_chain_that_holds_stays() -> None:
    """The layers up to the first that is gone stay where they are, in whichever order; above, all is sent anyway."""
    less, more, old, new = (path(name, "1") for name in ("less-1", "more-2", "app-3", "app-4"))
    closure = Closure([less, more, new], [[], [], [less, more]], nar_sizes=[10, 11, 3])
    layers = [[new], [less], [more]]
    assert order_layers(closure, layers) == [[more], [less], [new]]
    assert order_layers(closure, layers, previous=[[less], [more], [old]]) == [[less], [more], [new]]
    assert order_layers(closure, layers, previous=[[old], [less], [more]]) == [[more], [less], [new]]


def test_a_bad_chain_is_given_up() -> None:
    """The layer at the bottom changes every time: to move it once costs less than eight updates of all."""
    before = [[TOOL], [FONTS], [LIBC], [APP]]
    new = path("app-0.2", "2")
    closure = Closure([LIBC, TOOL, FONTS, new], [[], [LIBC], [], [TOOL, FONTS]], nar_sizes=[40, 4, 900, 3])
    history = ChangeHistory({LIBC: 0, TOOL: (1 << 20) - 1, FONTS: 0, new: (1 << 20) - 1}, 20)
    layers = [[TOOL], [FONTS], [LIBC], [new]]
    assert order_layers(closure, layers, previous=before, history=history)[:2] == [[FONTS], [LIBC]]


def test_no_layers() -> None:
    assert order_layers(Closure([], []), []) == []


def test_sizes_that_are_not_told_count_alike() -> None:
    closure = Closure([LIBC, TOOL], [[], [LIBC]])
    assert order_layers(closure, [[TOOL], [LIBC]]) == [[LIBC], [TOOL]]


def test_more_layers_than_a_block() -> None:
    paths = [path(f"p-{i}", "1") for i in range(1100)]
    closure = Closure(paths, [[], *([below] for below in paths[:-1])], nar_sizes=[1] * len(paths))
    made = order_layers(closure, [[name] for name in reversed(paths)])
    assert made == [[name] for name in paths]


def test_sums_that_are_too_large_are_scaled() -> None:
    closure = Closure([LIBC, TOOL], [[], [LIBC]], nar_sizes=[1 << 61, 1 << 60])
    assert order_layers(closure, [[TOOL], [LIBC]]) == [[LIBC], [TOOL]]


@pytest.mark.parametrize("strategy", ["popularity", "auto", "expected-cost"])
def test_every_strategy_takes_the_order(strategy: str, tmp_path: Path) -> None:
    own = plan_layers(CLOSURE, 4, strategy)
    made = plan_layers(CLOSURE, 4, strategy, order="stable")
    assert made.layers == ((FONTS,), (LIBC,), (TOOL,), (APP,))
    assert made.order == (None if strategy == "expected-cost" else "stable/1")
    assert own.order is None and sorted(own.layers) == sorted(made.layers)
    file = tmp_path / "plan.json"
    file.write_text(made.to_json())
    assert read_plan(str(file), CLOSURE) == made
    document = json.loads(made.to_json())
    document["layers"].reverse()
    file.write_text(json.dumps(document))
    edited = read_plan(str(file), CLOSURE)
    assert (edited.strategy, edited.order) == (None, None)
    document["order"] = "stable/999"
    file.write_text(json.dumps(document))
    assert read_plan(str(file), CLOSURE).order is None


def test_pipelines_take_the_order_and_orders_take_guidance(tmp_path: Path) -> None:
    steps = Pipeline([["popularity_contest"]])
    assert plan_pipeline(CLOSURE, steps, order="stable").layers == ((FONTS,), (LIBC,), (TOOL,), (APP,))
    less, more = path("less-1", "1"), path("more-2", "2")
    closure = Closure([less, more], [[], []], nar_sizes=[10, 11])
    guidance = Guidance(previous=[[less], [more], [APP]])
    assert plan_pipeline(closure, steps, order="stable").layers == ((more,), (less,))
    assert plan_pipeline(closure, steps, order="stable", guidance=guidance).layers == ((less,), (more,))
    made = plan_layers(closure, 4, "auto", order="stable", guidance=guidance)
    assert made.guided and made.layers == ((less,), (more,))
    file = tmp_path / "plan.json"
    file.write_text(made.to_json())
    assert read_plan(str(file), closure) == made
    with pytest.raises(PlanError, match="goes by the closure alone"):
        plan_layers(CLOSURE, 4, "auto", guidance=guidance)
    with pytest.raises(PlanError, match="goes by the closure alone"):
        plan_layers(CLOSURE, 4, "auto", order="stable", guidance=Guidance(min_size=1))
    with pytest.raises(PlanError, match="no order other; there are: stable"):
        plan_layers(CLOSURE, 4, "auto", order="other")


def test_what_is_pinned_stays_below_the_chain() -> None:
    rules = Rules((Rule("app-*", "bottom"),))
    before = [[APP], [LIBC], [TOOL], [FONTS]]
    made = plan_layers(CLOSURE, 4, guidance=Guidance(previous=before, rules=rules))
    assert [list(layer) for layer in made.layers] == before


def test_history_follows_names() -> None:
    one, two = path("a-1", "1"), path("a-2", "2")
    other = path("b-1", "1")
    history = learn([[one, other], [two, other], [two, other]])
    assert (history.updates, history.changed) == (1, {two: 1, other: 0})
    assert history.bits([path("a-2", "3"), other]) == [0b11, 0]


def test_a_package_that_is_gone_for_a_while_has_its_past_again() -> None:
    one, two, three = (path(f"a-{k}", str(k)) for k in (1, 2, 3))
    other, second = path("b-1", "1"), path("b-2", "2")
    history = learn([[one, other], [two, other], [other], [second], [second, three]])
    assert (history.updates, history.changed, history.gone) == (4, {second: 0b100, three: 0b1001}, {})
    gone = learn([[one, other], [other]])
    assert gone.gone == {one: 0}
    assert gone.followed_by([other, one]).changed == {other: 0, one: 0b10}  # the very path
    assert gone.followed_by([two]).changed == {two: 0b10}


def test_a_closure_without_a_path_tells_nothing() -> None:
    one, two = path("a-1", "1"), path("a-2", "2")
    assert learn([[], [one], [], [two], []]) == learn([[one], [two]])


def kernel(sizes: list[int], sets: list[list[int]], weights: list[int]) -> list[int]:
    order = np.empty(len(sizes), dtype=np.int32)
    _core.order_layers(
        np.array(sizes, dtype=np.int64),
        np.array(sets, dtype=np.uint64).reshape(len(sizes), len(weights)),
        np.array(weights, dtype=np.int64),
        order,
        1000,
    )
    return order.tolist()


def test_kernel_checks_what_it_gets() -> None:
    assert kernel([1, 2, 2], [[0], [0], [0]], [1]) == [1, 2, 0]
    assert kernel([1, 2], [], []) == [1, 0]
    with pytest.raises(ValueError, match="must not be negative"):
        kernel([-1], [[0]], [1])
    with pytest.raises(ValueError, match="must not be negative"):
        kernel([1], [[0]], [-1])
    with pytest.raises(ValueError, match="below 2\\^62"):
        kernel([1 << 55], [[0]], [2])
    with pytest.raises(ValueError, match="same length"):
        _core.order_layers(
            np.zeros(1, np.int64), np.zeros((2, 1), np.uint64), np.ones(1, np.int64), np.zeros(1, np.int32), 1
        )
