"""The strategy auto: what belongs together, in which order, and what it needs."""

import pytest

from fastlayers import Closure, PlanError, plan_layers

# App and tool share lib; app alone needs font and its data.
GRAPH = {
    "/s/a-app": ["/s/l-lib", "/s/f-font"],
    "/s/t-tool": ["/s/l-lib"],
    "/s/f-font": ["/s/d-data"],
    "/s/d-data": [],
    "/s/l-lib": [],
}
SIZES = {"/s/a-app": 500, "/s/t-tool": 400, "/s/f-font": 2, "/s/d-data": 3, "/s/l-lib": 10}


def split(limit: int, exclude: tuple[str, ...] = ()) -> list[list[str]]:
    closure = Closure(list(GRAPH), list(GRAPH.values()), nar_sizes=list(SIZES.values()))
    return [list(layer) for layer in plan_layers(closure, limit, "auto", exclude=exclude).layers]


def test_what_one_primary_node_needs_is_with_it_and_what_two_need_is_apart() -> None:
    assert split(3) == [["/s/l-lib"], ["/s/t-tool"], ["/s/a-app", "/s/d-data", "/s/f-font"]]


def test_the_number_of_layers_stops_short_of_too_many() -> None:
    """With app primary there are two: what it needs and the rest. With tool there would be three."""
    assert split(2) == [["/s/t-tool"], ["/s/a-app", "/s/d-data", "/s/f-font", "/s/l-lib"]]
    assert split(1) == [["/s/a-app", "/s/d-data", "/s/f-font", "/s/l-lib", "/s/t-tool"]]


def test_each_alone_where_there_is_room() -> None:
    assert split(5) == [["/s/d-data"], ["/s/f-font"], ["/s/l-lib"], ["/s/t-tool"], ["/s/a-app"]]


def test_paths_are_sorted_by_name_then_hash_part() -> None:
    names = ["/s/z-a", "/s/a-b", "/s/b-b", "plain"]
    made = plan_layers(Closure(names, [[]] * 4, nar_sizes=[1] * 4), 1, "auto")
    assert made.layers == (("/s/z-a", "/s/a-b", "/s/b-b", "plain"),)


def test_of_nodes_of_one_size_the_last_in_the_document_is_primary_first() -> None:
    names = ["/s/3-x", "/s/1-x", "/s/2-x"]
    assert plan_layers(Closure(names, [[]] * 3, nar_sizes=[1] * 3), 2, "auto").layers == (
        ("/s/2-x",),
        ("/s/1-x", "/s/3-x"),
    )


def test_layers_of_one_closure_size_come_by_their_first_paths() -> None:
    names = ["/s/3-a", "/s/1-c", "/s/2-b"]
    made = plan_layers(Closure(names, [[]] * 3, nar_sizes=[7] * 3), 3, "auto")
    assert made.layers == (("/s/3-a",), ("/s/2-b",), ("/s/1-c",))


def test_what_is_excluded_counts_until_the_end() -> None:
    assert split(3, exclude=("/s/a-app",)) == [["/s/l-lib"], ["/s/t-tool"], ["/s/d-data", "/s/f-font"]]
    assert split(3, exclude=("/s/t-tool",)) == [["/s/l-lib"], ["/s/a-app", "/s/d-data", "/s/f-font"]]


def test_closure_sizes_do_not_overflow() -> None:
    """The largest sizes that a document may have: their sum needs more than 64 bits."""
    names = ["/s/1-all", "/s/2-x", "/s/3-y", "/s/4-small"]
    references = [names[1:], [], [], []]
    made = plan_layers(Closure(names, references, nar_sizes=[(1 << 63) - 1] * 3 + [5]), 4, "auto")
    assert made.layers == (("/s/4-small",), ("/s/2-x",), ("/s/3-y",), ("/s/1-all",))
    assert made.sizes[3] == (1 << 63) - 1


def test_empty_closure() -> None:
    assert plan_layers(Closure([], []), 3, "auto").layers == ()


def test_a_size_that_is_not_known() -> None:
    closure = Closure(["/s/b-b", "/s/a-a"], [[], []], nar_sizes=[None, 1])
    with pytest.raises(PlanError, match=r"^/s/b-b: its NAR size is not known, and the strategy auto goes by it$"):
        plan_layers(closure, 3, "auto")
