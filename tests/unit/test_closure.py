"""Closures out of everything that Nix writes."""

import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastlayers import ClosureError, plan_layers, read_closure, unite
from fastlayers.closure import Closure, normalise_nar_hash
from fastlayers.contents import Generated, GeneratedEntry, Merged, Tree
from stores import APP, BASE, LIB, NODES, write_json

DATA = Path(__file__).parents[1] / "data"
REFERENCES = {APP: [LIB, BASE], LIB: [BASE], BASE: []}
SIZES = {APP: 816, LIB: 520, BASE: 456}


def check(closure: Closure) -> None:
    """That this is the closure of three paths that every sample in tests/data holds."""
    assert closure.paths == [APP, LIB, BASE] == sorted(closure.paths)
    assert {path: closure.references(closure.index(path)) for path in closure.paths} == REFERENCES
    assert closure.indptr.dtype == np.int64 and closure.indptr.tolist() == [0, 2, 3, 3]
    assert closure.indices.dtype == np.int32 and closure.indices.tolist() == [1, 2, 2]
    assert [closure.contents(i) for i in range(3)] == [Tree(path) for path in closure.paths]
    assert APP in closure and "/nix/store/x" not in closure and len(closure) == 3


def nar_hashes(closure: Closure) -> list[str | None]:
    return [None if text is None else normalise_nar_hash(text) for text in closure.nar_hashes]


@pytest.mark.parametrize(
    ("sample", "key"),
    [
        ("path-info.json", None),
        ("path-info-keyed.json", None),
        ("path-info-2.33.json", None),
        ("attrs.json.raw", "graph"),
        ("exportReferencesGraph-old.txt", None),
    ],
)
def test_formats(sample: str, key: str | None) -> None:
    closure = read_closure(str(DATA / sample), key=key)
    check(closure)
    if sample.endswith(".txt"):  # which tells neither
        assert closure.nar_sizes.tolist() == [-1, -1, -1]
        assert closure.nar_hashes == [None] * 3
    else:
        assert dict(zip(closure.paths, closure.nar_sizes.tolist(), strict=True)) == SIZES
        assert nar_hashes(closure) == nar_hashes(read_closure(str(DATA / "path-info.json")))
        assert None not in closure.nar_hashes


@pytest.mark.parametrize("sample", ["path-info.json", "path-info-closuresize.json", "exportReferencesGraph-old.txt"])
def test_samples_of_nix_itself(shared: Path, sample: str) -> None:
    check(read_closure(str(shared / "formats" / sample)))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((DATA / "path-info.json").read_bytes())))
    check(read_closure("-"))


@pytest.mark.parametrize("space", ["", " ", "\n\t ", " " * 100])
def test_bare_list(tmp_path: Path, space: str) -> None:
    file = tmp_path / "graph.json"
    file.write_text(space + json.dumps(NODES, indent=2))
    check(read_closure(str(file)))


def test_one_list_needs_no_key(tmp_path: Path) -> None:
    document = {"name": "x", "outputs": {"out": "/nix/store/y"}, "mine": NODES, "others": [1, "x"], "empty": []}
    check(read_closure(str(write_json(tmp_path / "graph.json", document))))


def test_a_plan_is_no_closure(tmp_path: Path) -> None:
    """Its empty list of what is excluded is no closure without nodes."""
    plan = plan_layers(Closure(["/nix/store/a"], [[]]), 10).to_json()
    (tmp_path / "plan.json").write_text(plan)
    with pytest.raises(ClosureError, match=r"plan.json: a plan, not a closure: build takes it with --plan"):
        read_closure(str(tmp_path / "plan.json"))


def test_key_chooses_among_lists(tmp_path: Path) -> None:
    file = str(write_json(tmp_path / "graph.json", {"one": NODES, "two": NODES[2:], "none": []}))
    with pytest.raises(ClosureError, match=r"2 lists of nodes \(one, two\): choose one with --key"):
        read_closure(file)
    check(read_closure(file, key="one"))
    assert read_closure(file, key="two").paths == [BASE]
    assert read_closure(file, key="none").paths == []
    with pytest.raises(ClosureError, match="no key three; lists of nodes: one, two"):
        read_closure(file, key="three")


def test_the_only_list_is_empty(tmp_path: Path) -> None:
    assert len(read_closure(str(write_json(tmp_path / "graph.json", {"graph": [], "name": "x"})))) == 0


def test_document_order_is_kept_as_positions(tmp_path: Path) -> None:
    closure = read_closure(str(write_json(tmp_path / "graph.json", [NODES[1], NODES[2], NODES[0]])))
    assert closure.paths == [APP, LIB, BASE]
    assert closure.positions.tolist() == [2, 0, 1]
    assert closure.nar_sizes.tolist() == [816, 520, 456]


def test_self_references_and_duplicates_are_dropped(tmp_path: Path) -> None:
    nodes = [{"path": LIB, "references": [LIB, BASE, LIB, BASE]}, {"path": BASE, "references": [BASE]}]
    closure = read_closure(str(write_json(tmp_path / "graph.json", nodes)))
    assert closure.references(0) == [BASE] and closure.references(1) == []


def test_any_names_are_for_popularity_alone(tmp_path: Path) -> None:
    file = str(
        write_json(tmp_path / "graph.json", [{"path": "B", "references": ["A"]}, {"path": "A", "references": []}])
    )
    assert read_closure(file, any_names=True).paths == ["A", "B"]
    with pytest.raises(ClosureError, match="not a store path"):
        read_closure(file)


def test_another_store_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"path": path.replace("/nix/store", "/gnu/store"), "references": []} for path in (APP, BASE)]
    file = str(write_json(tmp_path / "graph.json", nodes))
    with pytest.raises(ClosureError, match="expected one component below /nix/store"):
        read_closure(file)
    monkeypatch.setenv("NIX_STORE", "/gnu/store")  # in a Nix build
    assert read_closure(file).paths == [node["path"] for node in nodes]
    monkeypatch.setenv("NIX_STORE", "/another/store")
    monkeypatch.setenv("NIX_STORE_DIR", "/gnu/store")
    assert read_closure(file).paths == [node["path"] for node in nodes]


def test_matrix() -> None:
    from scipy.sparse import csr_array

    closure = read_closure(str(DATA / "path-info.json"))
    matrix = closure.matrix()
    assert isinstance(matrix, csr_array)
    assert matrix.toarray().tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert matrix.dtype == np.int8
    assert np.shares_memory(matrix.indices, closure.indices)


def test_matrix_of_nothing() -> None:
    assert Closure([], []).matrix().shape == (0, 0)


HEX = "e4dc84a25b7b5d1d5b0c1f6dee032ca18ce409df5625819e01ab9a8757a9f4c5"


def base32(digest: bytes) -> str:
    """Nix's base 32: five bits at a time, from the last byte on."""
    bits = int.from_bytes(digest, "little")
    return "".join("0123456789abcdfghijklmnpqrsvwxyz"[bits >> 5 * i & 31] for i in reversed(range(52)))


def test_nar_hash_spellings() -> None:
    digest = bytes.fromhex(HEX)
    sri = base64.b64encode(digest).decode()
    for text in (
        f"sha256:{HEX}",
        f"sha256:{HEX.upper()}",
        f"sha256-{sri}",
        f"sha256:{sri}",
        f"sha256:{base32(digest)}",
    ):
        assert normalise_nar_hash(text) == f"sha256:{HEX}", text


def test_nar_hash_as_nix_writes_it() -> None:
    """The same path, by two of Nix's commands."""
    lists = [read_closure(str(DATA / "path-info.json")), read_closure(str(DATA / "attrs.json.raw"), key="graph")]
    assert lists[0].nar_hashes != lists[1].nar_hashes
    assert nar_hashes(lists[0]) == nar_hashes(lists[1])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256:",
        f"sha512:{HEX}",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX[:-1]}g",
        "sha256:" + "e" * 52,  # no letter of Nix's
        "sha256:" + "z" * 52,  # more than 256 bits
        "sha256-" + "*" * 44,
        "sha256-" + "A" * 44,  # 33 bytes
        "sha256-" + "A" * 42 + "==",  # 31 bytes
        "sha256:é" + "0" * 63,
    ],
)
def test_no_nar_hash(text: str) -> None:
    with pytest.raises(ClosureError, match="not a NAR hash"):
        normalise_nar_hash(text)


def closure_of(*nodes: tuple[str, list[str]], **more: Any) -> Closure:
    return Closure([path for path, _ in nodes], [names for _, names in nodes], **more)


def test_union() -> None:
    one = closure_of((LIB, [BASE]), (BASE, []), nar_sizes=[5, None], nar_hashes=[None, f"sha256:{HEX}"])
    sri = "sha256-" + base64.b64encode(bytes.fromhex(HEX)).decode()
    two = closure_of((APP, [BASE]), (BASE, []), nar_sizes=[7, 3], nar_hashes=[None, sri])
    both = unite([one, two])
    assert both.paths == [APP, LIB, BASE]
    assert [both.references(i) for i in range(3)] == [[BASE], [BASE], []]
    assert both.nar_sizes.tolist() == [7, 5, 3]
    assert both.nar_hashes == [None, None, f"sha256:{HEX}"]
    assert both.positions.tolist() == [2, 0, 1]  # the first source's nodes come first
    assert [both.contents(i) for i in range(3)] == [Tree(path) for path in both.paths]
    assert unite([one]) is one


def test_union_of_environments_and_extras() -> None:
    extra = Generated("image", (GeneratedEntry("/tmp", 0o1777),))
    one = closure_of((BASE, []), environment={"PATH": "/one", "A": "1"}, extra=[extra])
    two = closure_of((BASE, []), environment={"PATH": "/two", "B": "2"}, extra=[extra])
    both = unite([one, two])
    assert both.environment == {"PATH": "/one", "A": "1", "B": "2"}
    assert both.extra == (extra,)


def test_union_of_other_trees() -> None:
    with pytest.raises(ClosureError, match="x: two sources give it other contents"):
        unite([closure_of(("x", []), contents=[Tree("/a")]), closure_of(("x", []), contents=[Tree("/b")])])


def test_union_with_other_references() -> None:
    with pytest.raises(ClosureError, match=f"{LIB}: two sources give it other references"):
        unite([closure_of((LIB, [BASE]), (BASE, [])), closure_of((LIB, []))])


def test_a_long_chain() -> None:
    """Nothing here calls itself."""
    n = 200_000
    names = [f"/nix/store/{i:032}-x" for i in range(n)]
    closure = Closure(names, [*([name] for name in names[1:]), []])
    assert closure.indptr[-1] == n - 1
    with pytest.raises(ClosureError, match="cycle"):
        Closure(names, [*([name] for name in names[1:]), [names[0]]])


def test_merged_gives_the_paths_of_its_parts() -> None:
    class Part:
        owner = "x"

        def __init__(self, *paths: str) -> None:
            self._paths = paths

        def paths(self) -> tuple[str, ...]:
            return self._paths

    assert list(Merged("x", (Part("/a", "/b"), Part("/c"))).paths()) == ["/a", "/b", "/c"]
    united = unite([closure_of(("x", []), contents=[Part("/a")]), closure_of(("x", []), contents=[Part("/b")])])
    contents = united.contents(0)
    assert isinstance(contents, Merged) and list(contents.paths()) == ["/a", "/b"]
