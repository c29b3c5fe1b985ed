"""The CSR matrix of a graph whose nodes and references come in any order, beside sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastlayers import _core


def matrix(rows: list[int], lists: list[list[int]]) -> tuple[list[list[int]], list[bool]]:
    n = len(rows)
    lengths = np.array([len(targets) for targets in lists], dtype=np.int64)
    targets = np.array([j for targets in lists for j in targets], dtype=np.int32)
    indptr = np.full(n + 1, -7, dtype=np.int64)
    indices = np.full(len(targets), -7, dtype=np.int32)
    own = np.full(n, 7, dtype=np.uint8)
    _core.matrix(np.array(rows, dtype=np.int32), lengths, targets, indptr, indices, own)
    assert indptr[0] == 0 and set(own.tolist()) <= {0, 1}
    return [indices[indptr[i] : indptr[i + 1]].tolist() for i in range(n)], own.astype(bool).tolist()


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    n = draw(st.integers(0, 12))
    rows = draw(st.permutations(range(n)))
    node = st.integers(0, n - 1) if n else st.nothing()
    return list(rows), [draw(st.lists(node, max_size=8)) for _ in range(n)]


@given(graphs())
def test_rows_are_sorted_sets_without_their_own(graph: tuple[list[int], list[list[int]]]) -> None:
    rows, lists = graph
    found, own = matrix(rows, lists)
    for i, targets in enumerate(lists):
        row = rows[i]
        named = {rows[j] for j in targets}
        assert own[row] == (row in named)
        assert found[row] == sorted(named - {row})


@pytest.mark.parametrize(
    ("rows", "lengths", "targets", "what"),
    [
        ([0, 0], [0, 0], [], "no permutation"),
        ([0, 2], [0, 0], [], "no permutation"),
        ([0, -1], [0, 0], [], "no permutation"),
        ([0, 1], [1, 0], [2], "not in"),
        ([0, 1], [1, 0], [-1], "not in"),
        ([0, 1], [1, 1], [1], "lengths"),
        ([0, 1], [1, 0], [1, 0], "lengths"),
        ([0, 1], [-1, 2], [1], "lengths"),
        ([0, 1], [0], [], "shapes"),
        ([], [], [0], "no node"),
    ],
)
def test_what_is_no_graph_is_refused(rows: list[int], lengths: list[int], targets: list[int], what: str) -> None:
    n = len(rows)
    with pytest.raises(ValueError, match=what):
        _core.matrix(
            np.array(rows, dtype=np.int32),
            np.array(lengths, dtype=np.int64),
            np.array(targets, dtype=np.int32),
            np.empty(n + 1, dtype=np.int64),
            np.empty(len(targets), dtype=np.int32),
            np.empty(n, dtype=np.uint8),
        )
