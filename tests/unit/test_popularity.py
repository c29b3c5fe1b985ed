import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from fastlayers import _core
from fastlayers.closure import Closure, find_cycle
from fastlayers.errors import ClosureError
from fastlayers.popularity import order_by_popularity, sort_key
from fastlayers.sources import nix_json
from oracles import popularity as oracle


def closure_of(graph: Mapping[str, Iterable[str]]) -> Closure:
    return Closure(list(graph), [list(names) for names in graph.values()])


def names_in_order(closure: Closure) -> list[str]:
    return [closure.paths[i] for i in order_by_popularity(closure).order]


def counts_by_name(closure: Closure) -> dict[str, int]:
    return dict(zip(closure.paths, order_by_popularity(closure).counts(), strict=True))


def ladder(levels: int) -> dict[str, list[str]]:
    """Two nodes a level, each referring to both of the next: the number of paths doubles at each level."""
    return {
        f"{level:04}{side}": [f"{level + 1:04}{other}" for other in "ab"] if level + 1 < levels else []
        for level in range(levels)
        for side in "ab"
    }


def test_example_of_2018() -> None:
    closure = closure_of({"A": "BG", "B": "CE", "C": "DE", "D": "F", "E": "F", "F": "", "G": ""})
    found = order_by_popularity(closure)
    assert [closure.paths[i] for i in found.order] == list("FEDCBGA")
    assert [found.counts()[i] for i in found.order] == [9, 5, 4, 3, 2, 2, 1]
    assert found.order.dtype == np.int32
    assert found.limbs.dtype == np.uint64 and found.limbs.shape == (7, 1)


def test_empty_closure() -> None:
    found = order_by_popularity(closure_of({}))
    assert found.order.shape == (0,)
    assert found.limbs.shape == (0, 1)
    assert found.counts() == []


def test_single_node_that_refers_to_itself() -> None:
    closure = closure_of({"/nix/store/a-x": ["/nix/store/a-x"]})
    assert counts_by_name(closure) == {"/nix/store/a-x": 1}


def test_several_roots() -> None:
    graph = {"r1": ["a"], "r2": ["a", "b"], "r3": ["b"], "a": ["c"], "b": ["c"], "c": [], "alone": []}
    assert counts_by_name(closure_of(graph)) == {"r1": 1, "r2": 1, "r3": 1, "a": 4, "b": 4, "c": 11, "alone": 1}


def test_duplicate_references_count_once() -> None:
    assert counts_by_name(closure_of({"a": ["b", "b", "a"], "b": ["b"]})) == {"a": 1, "b": 2}


def test_ties_by_name_then_by_what_stands_before_it() -> None:
    paths = ["/s/b-aa", "/s/a-b", "/s/c-aa", "/s/z-Z-1", "/s/nohyphen", "/s/d-é", "/s/e-\U0001f600", "/s/f-\ufb01"]
    order = names_in_order(closure_of(dict.fromkeys(paths, ())))
    expected = ["/s/nohyphen", "/s/z-Z-1", "/s/b-aa", "/s/c-aa", "/s/a-b", "/s/d-é", "/s/f-\ufb01", "/s/e-\U0001f600"]
    assert order == expected


@pytest.mark.parametrize(
    ("path", "key"),
    [("/nix/store/h-a-1", "a-1-/nix/store/h"), ("plain", "plain"), ("-", "-"), ("a-", "-a"), ("-a", "a-"), ("", "")],
)
def test_sort_key(path: str, key: str) -> None:
    assert sort_key(path) == key
    parts = path.split("-")
    assert key == "-".join([*parts[1:], parts[0]])


@pytest.mark.parametrize("levels", [30, 61, 62, 63, 64, 65, 66, 126, 127, 128, 129, 130, 200])
def test_counts_of_any_width(levels: int) -> None:
    # Level k has 2^k paths to each node; its count adds those of both nodes of each level above.
    # The sum of all path counts, which chooses the limbs, is 2^(levels + 1) - 2.
    closure = closure_of(ladder(levels))
    found = order_by_popularity(closure)
    expected = [2 * (2**level - 1) + 2**level for level in range(levels) for _ in range(2)]
    assert found.counts() == expected
    assert found.limbs.shape[1] == (1 if levels <= 63 else 2 if levels <= 127 else 4)
    by_count = sorted(range(len(closure)), key=lambda i: (-expected[i], closure.paths[i]))
    assert found.order.tolist() == by_count


def test_wide_ladder_over_several_blocks() -> None:
    graph = ladder(700)
    expected = [3 * 2**level - 2 for level in range(700) for _ in range(2)]
    assert order_by_popularity(closure_of(graph)).counts() == expected


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 511, 512, 513, 1023, 1024, 1025])
def test_chains_around_the_size_of_a_block(n: int) -> None:
    closure = closure_of({f"{i:05}": [f"{i + 1:05}"] if i + 1 < n else [] for i in range(n)})
    assert order_by_popularity(closure).counts() == list(range(1, n + 1))


def test_a_long_chain() -> None:
    n = 70_000  # more than 16 bits, and than a hundred blocks
    closure = closure_of({f"{i:06}": [f"{i + 1:06}"] if i + 1 < n else [] for i in range(n)})
    found = order_by_popularity(closure)
    assert found.counts() == list(range(1, n + 1))
    assert found.order.tolist() == list(range(n))[::-1]


def test_star() -> None:
    n = 3000
    graph = {f"leaf{i}": ["hub"] for i in range(n)} | {"hub": ["below"], "below": []}
    counts = counts_by_name(closure_of(graph))
    assert (counts["hub"], counts["below"]) == (2 * n, 3 * n)


@pytest.mark.parametrize(
    ("graph", "cycle"),
    [
        ({"a": "b", "b": "a"}, "a -> b -> a"),
        ({"r": "a", "a": "b", "b": "c", "c": "ad", "d": ""}, "a -> b -> c -> a"),
        ({"a": "dx", "d": "b", "x": "", "b": "cy", "c": "b", "y": ""}, "b -> c -> b"),
    ],
)
def test_cycles_are_found(graph: dict[str, str], cycle: str) -> None:
    with pytest.raises(ClosureError) as caught:
        closure_of(graph)
    assert str(caught.value) == f"references form a cycle: {cycle}"


def test_order_before_a_cycle() -> None:
    """Of 0 -> 1 <-> 2 -> 3 -> 4 only 3 and 4 reach no cycle."""
    indptr = np.array([0, 1, 2, 4, 5, 5], dtype=np.int64)
    indices = np.array([1, 2, 1, 3, 4], dtype=np.int32)
    order = np.full(5, -1, dtype=np.int32)
    assert _core.topological_order(indptr, indices, order) == 2
    assert order[:2].tolist() == [3, 4]
    assert find_cycle(indptr, indices) == [1, 2]


INDPTR = np.array([0, 1, 2, 2], dtype=np.int64)
INDICES = np.array([1, 2], dtype=np.int32)
ORDER = np.arange(3, dtype=np.int32)
ONES = np.ones((3, 1), dtype=np.uint64)


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([0, 1, 2], [1, 2], "one item more"),
        ([0, 1, 2, 2, 2], [1, 2], "one item more"),
        ([1, 1, 2, 2], [1, 2], "start at 0"),
        ([0, 2, 1, 2], [1, 2], "never fall"),
        ([0, 1, 2, 3], [1, 2], "end at"),
        ([0, 1, 1, 1], [1, 2], "end at"),
        ([0, 1, 2, 2], [1, 3], "not in"),
        ([0, 1, 2, 2], [1, -1], "not in"),
        ([0, 1, 2, 2], [1, 2**31 - 1], "not in"),
        ([0, 1, 2, 2], [1, -(2**31)], "not in"),
    ],
)
def test_malformed_graphs_are_refused(indptr: list[int], indices: list[int], message: str) -> None:
    graph = np.array(indptr, dtype=np.int64), np.array(indices, dtype=np.int32)
    with pytest.raises(ValueError, match=message):
        _core.topological_order(*graph, np.empty(3, dtype=np.int32))
    with pytest.raises(ValueError, match=message):
        _core.spread(*graph, ORDER, ONES.copy())
    with pytest.raises(ValueError, match=message):
        _core.path_counts(*graph, ORDER, ONES.copy())
    with pytest.raises(ValueError, match=message):
        _core.popularity(*graph, ORDER, ONES, ONES.copy())


@pytest.mark.parametrize("order", [[0, 2, 1], [2, 1, 0], [0, 0, 1], [0, 1, 3], [0, 1, -1]])
def test_orders_that_are_none_are_refused(order: list[int]) -> None:
    wrong = np.array(order, dtype=np.int32)
    for up in (False, True):
        sets = ONES.copy()
        with pytest.raises(ValueError, match="not a topological order"):
            _core.spread(INDPTR, INDICES, wrong, sets, up)
        assert (sets == ONES).all()
    with pytest.raises(ValueError, match="not a topological order"):
        _core.path_counts(INDPTR, INDICES, wrong, ONES.copy())
    with pytest.raises(ValueError, match="not a topological order"):
        _core.popularity(INDPTR, INDICES, wrong, ONES, ONES.copy())


@pytest.mark.parametrize("shape", [(2, 1), (4, 1), (3, 0)])
def test_counts_of_other_shapes_are_refused(shape: tuple[int, int]) -> None:
    wrong = np.ones(shape, dtype=np.uint64)
    with pytest.raises(ValueError, match="a row for each node"):
        _core.spread(INDPTR, INDICES, ORDER, wrong)
    with pytest.raises(ValueError, match="a row for each node"):
        _core.path_counts(INDPTR, INDICES, ORDER, wrong)
    with pytest.raises(ValueError, match="a row for each node"):
        _core.popularity(INDPTR, INDICES, ORDER, ONES, wrong)
    with pytest.raises(ValueError, match="the same number of limbs"):
        _core.popularity(INDPTR, INDICES, ORDER, ONES, np.ones((3, 2), dtype=np.uint64))


def test_too_few_limbs() -> None:
    closure = closure_of(ladder(64))
    order = np.empty(len(closure), dtype=np.int32)
    _core.topological_order(closure.indptr, closure.indices, order)
    assert not _core.path_counts(closure.indptr, closure.indices, order, np.empty((len(closure), 1), dtype=np.uint64))
    assert _core.path_counts(closure.indptr, closure.indices, order, np.empty((len(closure), 2), dtype=np.uint64))


@pytest.mark.parametrize(("seed", "paths"), [(1, 40), (2, 40), (3, 60)])
def test_golden_orders_of_nixpkgs(shared: Path, tmp_path: Path, seed: int, paths: int) -> None:
    """What nixpkgs' own program recorded for the graph of the awkward store."""
    golden = json.loads((shared / "golden" / f"golden-{seed}-{paths}.json").read_bytes())
    make_store = [sys.executable, str(shared / "golden" / "make_store.py"), str(tmp_path / "root")]
    subprocess.run([*make_store, "--seed", str(seed), "--paths", str(paths)], check=True, capture_output=True)
    closure = nix_json.read(str(tmp_path / "root" / "graph.json"))
    assert names_in_order(closure) == golden["popularity"]
    graph = {path: closure.references(i) for i, path in enumerate(closure.paths)}
    assert oracle.order(graph) == golden["popularity"]


@pytest.mark.parametrize(
    ("arguments", "digest"),
    [
        (["nixos-minimal-23.11.json.gz"], "445b02dd0abaf68972c87881ffbfac7e4ab21270af35c8cbc8ced916f14545be"),
        (["nixpkgs-2025-09.npz", "--sample", "3"], "9e5bcfd660de4cb0c36e697f6284ffe0fb1d9fbc77028937a55aa261e9b557b4"),
        (["nixpkgs-2025-09.npz", "--sample", "60"], "b59e1fa803a6ac371eb4897804feeec5d0a98147a47557dc69d27d0cea9e6928"),
    ],
)
def test_orders_of_real_graphs(shared: Path, tmp_path: Path, arguments: list[str], digest: str) -> None:
    closures = shared / "closures"
    document = tmp_path / "graph.json"
    with document.open("wb") as out:
        command = [sys.executable, str(closures / "to_graph.py"), str(closures / arguments[0]), *arguments[1:]]
        subprocess.run(command, check=True, stdout=out)
    closure = nix_json.read(str(document), any_names=True)
    lines = "".join(f"{path}\n" for path in names_in_order(closure))
    assert hashlib.sha256(lines.encode()).hexdigest() == digest
