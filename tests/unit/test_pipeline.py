"""Layering pipelines: their document, the meanings that the original lacks, and what is wrong with a pipeline."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastlayers import Closure, Pipeline, PlanError, plan_pipeline, read_pipeline

A, B, C, D, E, F = NAMES = [f"/s/{letter * 4}-{letter}" for letter in "abcdef"]
REFERENCES = [[B, C], [D, E], [D], [], [], [E]]
SIZES = [5, 3, 3, 9, 1, 2]
SORTED = [E, F, B, C, A, D]


@pytest.fixture
def closure() -> Closure:
    return Closure(NAMES, REFERENCES, nar_sizes=SIZES)


def layers(closure: Closure, *operations: list[Any], exclude: tuple[str, ...] = ()) -> list[list[str]]:
    return [list(layer) for layer in plan_pipeline(closure, Pipeline(operations), exclude=exclude).layers]


def test_the_parts_of_split_paths(closure: Closure) -> None:
    assert layers(closure, ["split_paths", [A]]) == [[B, C, A, D], [E], [F]]
    assert layers(closure, ["split_paths", [{"children_of": A}]]) == [[B, C, D], [E], [F, A]]
    assert layers(closure, ["split_paths", [{"children_of": [A, F]}]]) == [[E, B, C, D], [F, A]]
    assert layers(closure, ["split_paths", [A, F]]) == [SORTED]


def test_split_paths_of_the_only_root_takes_all(closure: Closure) -> None:
    operations = [["split_paths", [A, D]], ["over", "main", ["popularity_contest"]]]
    assert layers(closure, ["remove_paths", F], *operations) == [[D], [E], [B], [C], [A]]


def test_split_paths_cuts_the_references_to_what_it_splits_off(closure: Closure) -> None:
    """Then D is as popular as B: no more than a path without referrers."""
    operations = [["over", "main", ["popularity_contest"]]]
    assert layers(closure, ["split_paths", [B, C, D]], *operations) == [[B], [C], [D], [E], [F, A]]


def test_split_paths_of_nothing_leaves_the_rest(closure: Closure) -> None:
    rest: list[Any] = ["over", "rest", ["split_every", 4]]
    for specs in ([], ["/s/none-x"], [{"children_of": "/s/none-x"}], [{"children_of": D}]):
        assert layers(closure, ["split_paths", specs], rest) == [SORTED[:4], SORTED[4:]]


def test_a_pipeline_that_leaves_a_graph_gives_one_layer(closure: Closure) -> None:
    assert layers(closure) == [SORTED]
    assert layers(closure, ["pipe", []]) == [SORTED]
    assert layers(closure, ["remove_paths", [A, "/s/none-x"]]) == [[E, F, B, C, D]]


def test_split_every_takes_what_popularity_contest_gives(closure: Closure) -> None:
    assert layers(closure, ["popularity_contest"], ["split_every", 4]) == [[D, E, B, C], [A, F]]
    assert layers(closure, ["popularity_contest"], ["reverse"], ["split_every", 5]) == [[F, A, C, B, E], [D]]


def test_united_graphs_have_no_references_between_them(closure: Closure) -> None:
    """In the graph that limit_layers makes of single paths each is as popular as any other."""
    operations = [["popularity_contest"], ["reverse"], ["limit_layers", 1], ["map", ["popularity_contest"]]]
    assert layers(closure, *operations) == [[A], [B], [C], [D], [E], [F]]


def test_limit_layers_leaves_alone_what_is_within_the_limit(closure: Closure) -> None:
    """A list in it, too, as the original does."""
    operations = [["split_every", 2], ["map", ["split_every", 1]]]
    assert layers(closure, *operations, ["limit_layers", 4]) == [[name] for name in SORTED]
    with pytest.raises(PlanError, match=r"^pipeline\[2\]: limit_layers cannot unite what is still divided: flatten"):
        layers(closure, *operations, ["limit_layers", 3])


def test_empty_graphs_give_no_layers(closure: Closure) -> None:
    assert layers(closure, ["subcomponent_out", ["/s/none-x"]]) == [SORTED]
    assert layers(closure, ["remove_paths", NAMES]) == []
    assert layers(closure, ["remove_paths", NAMES], ["popularity_contest"], ["limit_layers", 3]) == []
    assert layers(Closure([], []), ["popularity_contest"], ["limit_layers", 3]) == []


def test_what_is_excluded_is_not_in_the_graph(closure: Closure) -> None:
    """Without A, B is a root; the pipeline's own exclusions, those of the caller, and removed paths are not planned."""
    pipeline = Pipeline([["remove_paths", [D]], ["split_paths", [B]]], {F, "/s/none-x"})
    made = plan_pipeline(closure, pipeline, exclude=[A])
    assert made.layers == ((E, B), (C,))
    assert made.excluded == (A, D, F)
    assert made.sizes == (4, 3)
    assert made.strategy is None
    made.check(closure)


def test_names_need_no_hyphen() -> None:
    closure = Closure(["b==1", "a==2"], [["a==2"], []], nar_sizes=[1, 2])
    assert layers(closure, ["popularity_contest"]) == [["a==2"], ["b==1"]]


def test_a_size_that_is_not_known() -> None:
    closure = Closure([B, A], [[], []], nar_sizes=[None, 1])
    with pytest.raises(PlanError, match=f"^{B}: its NAR size is not known, and a pipeline sorts paths by it$"):
        layers(closure, ["popularity_contest"])


PARTS: list[Any] = ["subcomponent_out", [B]]


@pytest.mark.parametrize(
    ("operations", "says"),
    [
        (["popularity_contest"], "pipeline[0]: expected an operation: a list of its name and its arguments"),
        ([[]], "pipeline[0]: expected an operation: a list of its name and its arguments"),
        ([[["flatten"]]], "pipeline[0]: expected an operation: a list of its name and its arguments"),
        (["reverse", 1], "pipeline[0]: expected an operation: a list of its name and its arguments"),
        ([["reorder", ["main"]]], "pipeline[0]: no operation reorder; there are: popularity_contest, limit_layers, "),
        ([["reverse", 1]], "pipeline[0]: reverse takes no arguments, not 1 arguments"),
        ([["over", "main"]], "pipeline[0]: over takes the name of a part and an operation, not 1 arguments"),
        ([["split_every"]], "pipeline[0]: split_every takes a number of paths, not 0 arguments"),
        ([["split_every", 0]], "pipeline[0]: split_every takes a whole number from 1 on, not 0"),
        ([["limit_layers", 2.5]], "pipeline[0]: limit_layers takes a whole number from 1 on, not 2.5"),
        ([["limit_layers", True]], "pipeline[0]: limit_layers takes a whole number from 1 on, not True"),
        ([["limit_layers", "2"]], "pipeline[0]: limit_layers takes a whole number from 1 on, not 2"),
        ([["subcomponent_in", A]], "pipeline[0]: subcomponent_in takes a list of paths"),
        ([["subcomponent_in", [1]]], "pipeline[0]: subcomponent_in: 1: a path is a string"),
        ([["remove_paths", {"a": 1}]], "pipeline[0]: remove_paths takes a list of paths"),
        ([["split_paths", A]], 'pipeline[0]: split_paths takes a list of paths and {"children_of": PATH}'),
        ([["split_paths", [{"of": A}]]], 'split_paths: expected {"children_of": PATH}, not the keys of'),
        ([["split_paths", [{}]]], 'split_paths: expected {"children_of": PATH}, not the keys none'),
        ([["split_paths", [{"children_of": 1}]]], "split_paths: children_of takes a list of paths"),
        ([["split_paths", [None]]], "pipeline[0]: split_paths: None: a path is a string"),
        ([["over", 1, ["flatten"]]], "pipeline[0]: over takes the name of a part first"),
        ([["pipe", "flatten"]], "pipeline[0]: pipe: expected a list of operations"),
        ([["map", ["pipe", [["flatten"], ["x"]]]]], "pipeline[0]: map: pipe[1]: no operation x; there are: "),
        ([["limit_layers", 2]], "pipeline[0]: limit_layers takes a list, not a graph"),
        ([["reverse"]], "pipeline[0]: reverse takes a list, not a graph"),
        ([["flatten"]], "pipeline[0]: flatten takes a list or parts, not a graph"),
        ([["over", "main", ["flatten"]]], "pipeline[0]: over takes parts, such as split_paths gives, not a graph"),
        ([PARTS, ["over", "common", ["flatten"]]], "pipeline[1]: over: no part common; there are: main, rest"),
        ([PARTS, ["limit_layers", 2]], "limit_layers takes a list, not parts (main, rest): flatten makes one of them"),
        ([PARTS, ["map", ["reverse"]]], "map takes a list, not parts (main, rest): flatten makes one of them"),
        ([PARTS, ["split_every", 2]], "takes a graph, not parts (main, rest): over applies it to a graph in it"),
        ([PARTS, ["over", "main", ["flatten"]]], "pipeline[1]: over: flatten takes a list or parts, not a graph"),
        ([["split_every", 2], ["split_every", 2]], "takes a graph, not a list: map applies it to a graph in it"),
        ([["split_every", 2], ["popularity_contest"]], "popularity_contest takes a graph, not a list: map"),
    ],
)
def test_what_is_wrong(closure: Closure, operations: list[Any], says: str) -> None:
    with pytest.raises(PlanError) as refused:
        layers(closure, *operations)
    assert says in str(refused.value)


def test_nested_too_deeply(closure: Closure) -> None:
    operation: list[Any] = ["flatten"]
    for _ in range(5000):
        operation = ["map", operation]
    with pytest.raises(PlanError, match=r"^pipeline: nested too deeply$"):
        layers(closure, operation)


def test_everything_is_checked_before_anything_runs(closure: Closure) -> None:
    with pytest.raises(PlanError, match=r"^pipeline\[1\]: no operation nothing"):
        layers(closure, ["flatten"], ["nothing"])


# --- the document -----------------------------------------------------------------------------------------------------

OPERATIONS = [["popularity_contest"], ["limit_layers", 3]]


def test_inline_json() -> None:
    assert read_pipeline(" " + json.dumps(OPERATIONS)) == Pipeline(OPERATIONS)
    document = {"pipeline": OPERATIONS, "exclude_paths": [A], "graph": [{"path": A}]}
    assert read_pipeline(json.dumps(document)) == Pipeline(OPERATIONS, {A})
    assert read_pipeline("[]") == Pipeline([])


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.json").write_text(json.dumps(OPERATIONS))
    assert read_pipeline("list.json") == Pipeline(OPERATIONS, place="list.json: pipeline")
    Path("object.json").write_text(json.dumps({"pipeline": OPERATIONS, "exclude_paths": None}))
    assert read_pipeline("object.json") == Pipeline(OPERATIONS, place="object.json: pipeline")
    Path("attrs.json").write_text(json.dumps({"pipeline": "list.json", "exclude_paths": [A]}))
    assert read_pipeline("attrs.json") == Pipeline(OPERATIONS, {A}, "list.json: pipeline")


def test_errors_name_the_file(closure: Closure, tmp_path: Path) -> None:
    file = tmp_path / "list.json"
    file.write_text('[["flatten"], ["nothing"]]')
    with pytest.raises(PlanError) as refused:
        plan_pipeline(closure, read_pipeline(str(file)))
    assert str(refused.value).startswith(f"{file}: pipeline[1]: no operation nothing; ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "pipeline: not valid: Input data was truncated"),
        (" ", "pipeline: not valid: Input data was truncated"),
        ("{}", "pipeline: not valid: Object missing required field `pipeline`"),
        ('{"pipeline": 1}', "pipeline: not valid: Expected `str | array`, got `int` - at `$.pipeline`"),
        ('{"pipeline": [], "exclude_paths": [1]}', "pipeline: not valid: Expected `str`, got `int` - at `$.exclude"),
        ('{"pipeline": "absent.json"}', "absent.json: No such file or directory"),
        ("absent.json", "absent.json: No such file or directory"),
        ("[" * 100_000, "pipeline: not valid: "),
    ],
)
def test_no_pipeline(text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError) as refused:
        read_pipeline(text)
    assert str(refused.value).startswith(says)


def test_a_file_that_is_no_pipeline(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for data in (b'"flatten"', b"\xff", b""):
        file.write_bytes(data)
        with pytest.raises(PlanError) as refused:
            read_pipeline(str(file))
        assert str(refused.value).startswith(f"{file}: pipeline: not valid: ")
