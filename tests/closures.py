"""Closures compared."""

from fastlayers import Closure
from fastlayers.closure import normalise_nar_hash

__all__ = ["same_closure"]


def same_closure(found: Closure, expected: Closure) -> None:
    """Everything that a build could depend on; NAR hashes may be spelled in different ways."""
    assert found.paths == expected.paths
    assert found.positions.tolist() == expected.positions.tolist()
    assert found.indptr.tolist() == expected.indptr.tolist()
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.nar_sizes.tolist() == expected.nar_sizes.tolist()
    assert list(map(normalised, found.nar_hashes)) == list(map(normalised, expected.nar_hashes))
    assert [found.contents(i) for i in range(len(found))] == [expected.contents(i) for i in range(len(expected))]


def normalised(nar_hash: str | None) -> str | None:
    return nar_hash and normalise_nar_hash(nar_hash)
