"""Links to contents against a slow oracle, on small trees whose names clash all the time."""

import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fastlayers import LayerError, LinkedTree
from fastlayers.customisation import link_trees
from oracles.links import links

FILES = st.tuples(st.sampled_from([b"", b"one", b"two"]), st.booleans())
TREES = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(FILES, lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3), max_leaves=6),
    max_size=3,
)


def write(path: str, tree: dict) -> None:
    os.makedirs(path)
    for name, what in tree.items():
        if isinstance(what, dict):
            write(f"{path}/{name}", what)
        else:
            Path(f"{path}/{name}").write_bytes(what[0])
            os.chmod(f"{path}/{name}", 0o755 if what[1] else 0o644)


@given(st.lists(st.tuples(TREES, st.sampled_from([5, 5, 5, 4, 6])), min_size=1, max_size=4))
@settings(deadline=None, max_examples=300)
def test_links_are_those_of_the_oracle(trees: list[tuple[dict, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(os.path.realpath(folder))
        for number, (tree, _) in enumerate(trees):
            write(f"{root}/store/t{number}", tree)
        given_trees = [(f"/store/t{number}", priority) for number, (_, priority) in enumerate(trees)]
        expected = links(root, given_trees)
        try:
            made = link_trees([LinkedTree(path, priority) for path, priority in given_trees], str(root))
        except LayerError as error:
            assert expected is None, error
        else:
            assert {entry.path: entry.target for entry in made.entries} == expected
            assert len(made.entries) == len(expected or {})
