"""The quick way from a document's names to a closure gives what the slow way gives."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastlayers import _core
from fastlayers.errors import ClosureError
from fastlayers.sources import nix_json


def resolve(names: list[str], lists: list[bytes], capacity: int = 20) -> list[list[int]] | None:
    lengths = np.full(len(names), -1, dtype=np.int64)
    positions = np.full(capacity, -1, dtype=np.int32)
    text = "".join(name + '"' for name in names).encode()
    if not _core.resolve_names(text, lists, lengths, positions):
        return None
    ends = np.cumsum(lengths)
    return [positions[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]


def test_plain_lists() -> None:
    names = ["a", "bb", "", "é", "12345678", "123456789"]
    lists = [b"[]", b'["a"]', b' [ "bb" , "a" ]\n', '["é",""]'.encode(), b'["12345678","123456789"]', b"[\t]"]
    assert resolve(names, lists) == [[], [0], [1, 0], [3, 2], [4, 5], []]


def test_capacity() -> None:
    assert resolve(["a", "b"], [b'["a","b"]', b'["b"]'], capacity=3) == [[0, 1], [1]]
    assert resolve(["a", "b"], [b'["a","b"]', b'["b"]'], capacity=2) is None


@pytest.mark.parametrize(
    "text",
    [b"", b"null", b"[", b"[1]", b'["a"', b'["a', b'["a",]', b"[,]", b'["a" "a"]', b'["c"]', b'["\\u0061"]', b'["a"]]',
     b'{"a":1}', b'"a"', b'["a"],["a"]', b'[["a"]]', b'["a\\"]'],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_the_slow_way(text: bytes) -> None:
    assert resolve(["a", "b"], [b"[]", text]) is None
    assert resolve(["b", "a"], [text, b"[]"]) is None


def test_names_that_are_not_plain() -> None:
    assert resolve(["a", "a"], [b"[]", b"[]"]) is None
    assert resolve(['a"b'], [b"[]"]) is None


def test_refusals() -> None:
    lengths, positions = np.empty(1, dtype=np.int64), np.empty(1, dtype=np.int32)
    with pytest.raises(ValueError, match="same length"):
        _core.resolve_names(b'a"', [], lengths, positions)
    with pytest.raises(ValueError, match="written to"):
        _core.resolve_names(b'a"', [bytearray(b"[]")], lengths, positions)
    with pytest.raises(TypeError):
        _core.resolve_names(b'a"', [None], lengths, positions)


def test_many_names_of_one_prefix() -> None:
    names = [f"/nix/store/{i:032}-x" for i in range(5000)]
    lists = [json.dumps([names[(i * 7 + k) % 5000] for k in range(i % 4)]).encode() for i in range(5000)]
    found = resolve(names, lists, capacity=10_000)
    assert found == [[(i * 7 + k) % 5000 for k in range(i % 4)] for i in range(5000)]


NODES = [
    {"path": "/s/c", "references": ["/s/a", "/s/b", "/s/c", "/s/a"], "narSize": 3},
    {"path": "/s/a", "references": [], "narHash": "sha256:x"},
    {"path": "/s/b", "references": ["/s/a"], "narSize": 2},
]


@pytest.mark.parametrize(
    "document",
    [
        json.dumps({"graph": NODES}),
        json.dumps(NODES),
        json.dumps(NODES, indent=4),
        json.dumps({"builder": "sh", "graph": NODES, "list": ["x"], "empty": []}, indent=2),
        json.dumps({"graph": NODES}).replace("/s/a", "\\/s\\/a"),
        json.dumps({"graph": NODES}).replace('"/s/b"', '"\\u002fs/b"', 1),
        "/s/c\n\n4\n/s/a\n/s/b\n/s/c\n/s/a\n/s/a\n\n0\n/s/b\n\n1\n/s/a\n",
    ],
)
def test_each_spelling_gives_the_same_closure(tmp_path: Path, document: str) -> None:
    (tmp_path / "x").write_text(document)
    closure = nix_json.read(str(tmp_path / "x"), any_names=True)
    assert closure.paths == ["/s/a", "/s/b", "/s/c"]
    assert closure.positions.tolist() == [1, 2, 0]
    assert closure.indptr.tolist() == [0, 0, 1, 3]
    assert closure.indices.tolist() == [0, 0, 1]
    assert (closure.indptr.dtype, closure.indices.dtype) == (np.int64, np.int32)
    assert [closure.index(path) for path in closure.paths] == [0, 1, 2]
    if not document.startswith("/"):
        assert closure.nar_sizes.tolist() == [-1, 2, 3]
        assert closure.nar_hashes == ["sha256:x", None, None]


@pytest.mark.parametrize("path", ['a"b', "a\\b", "a\\u0062", "é\U0001f600", "new\nline", "nul\0", ""])
def test_awkward_names(tmp_path: Path, path: str) -> None:
    nodes = [{"path": "r", "references": [path]}, {"path": path, "references": []}]
    (tmp_path / "x").write_text(json.dumps({"graph": nodes}))
    closure = nix_json.read(str(tmp_path / "x"), any_names=True)
    assert closure.references(closure.index("r")) == [path]
    assert len(closure.indices) == 1


def test_an_escape_in_a_name_is_not_its_spelling(tmp_path: Path) -> None:
    r"""The name whose letters are a\u0062 and the reference that is spelt a\u0062, which is ab."""
    (tmp_path / "x").write_text(
        r'{"graph":[{"path":"a\\u0062","references":["a\u0062"]},{"path":"ab","references":[]}]}'
    )
    closure = nix_json.read(str(tmp_path / "x"), any_names=True)
    assert closure.paths == ["a\\u0062", "ab"]
    assert closure.references(0) == ["ab"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ('{"g":[{"path":"a","references":["b"]}]}', "a: its reference b is not in the closure"),
        ('{"g":[{"path":"z","references":["y"]},{"path":"b","references":["b","x","w"]}]}', "b: its reference x"),
        ('{"g":[{"path":"a","references":[]},{"path":"a","references":[]}]}', "a: given twice"),
        ('{"g":[{"path":"a","references":[1]}]}', "Expected `str`, got `int` - at `$.g[0].references[0]`"),
        ('{"g":[{"path":"a","references":"a"}]}', "Expected `array`, got `str` - at `$.g[0].references`"),
        ('{"g":[{"path":1,"references":[]}]}', "Expected `str`, got `int` - at `$.g[0].path`"),
        ('{"g":[{"path":"a"}]}', "no list of nodes"),
        ('[{"path":"a"}]', "missing required field `references` - at `$[0]`"),
        ('{"g":[{"path":"a","references":[]}],"h":[{"path":"a","references":[]}]}', "2 lists of nodes (g, h)"),
        ('{"g":[{"path":"a","references":["a"', "not JSON"),
        ('{"g":[{"path":"a","references":["b"]},{"path":"b","references":["a"]}]}', "form a cycle: a -> b -> a"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, document: str, message: str) -> None:
    (tmp_path / "x").write_text(document)
    with pytest.raises(ClosureError) as caught:
        nix_json.read(str(tmp_path / "x"), any_names=True)
    assert message in str(caught.value)


def test_key(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(json.dumps({"g": NODES, "h": NODES[1:2], "i": "x"}))
    assert len(nix_json.read(str(tmp_path / "x"), key="h", any_names=True)) == 1
    with pytest.raises(ClosureError, match="no key j; lists of nodes: g, h"):
        nix_json.read(str(tmp_path / "x"), key="j", any_names=True)
    (tmp_path / "x").write_text(json.dumps({"g": NODES}))
    assert len(nix_json.read(str(tmp_path / "x"), key="g", any_names=True)) == 3
    with pytest.raises(ClosureError, match="no key j; lists of nodes: g"):
        nix_json.read(str(tmp_path / "x"), key="j", any_names=True)
