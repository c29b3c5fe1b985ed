"""Malformed closures and stores: one line, a status, and nothing left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from malformed import BUILD, CLOSURE, LAYER, TO, USAGE, Case, damaged, database, node, refuse, text
from stores import ABSENT, APP, BASE, LIB, NODES, write_json
from tables import each_of


def nodes(*changed: Any, **top: Any) -> Callable[[Path], object]:
    return lambda folder: write_json(folder / "bad.json", {"graph": list(changed), **top})


def closure_of(document: Any) -> Callable[[Path], object]:
    return lambda folder: write_json(folder / "bad.json", document)


READ = ("closure", "bad.json")
CLOSURES = [
    Case("no such file", ("closure", "absent.json"), CLOSURE, "absent.json: No such file or directory"),
    Case("a folder", ("closure", "root"), CLOSURE, "root: a folder: expected"),
    Case("empty file", READ, CLOSURE, "in none of the formats", text("bad.json", "")),
    Case("white space", READ, CLOSURE, "in none of the formats", text("bad.json", " \n\n")),
    Case("half a document", READ, CLOSURE, "not JSON", text("bad.json", '{"graph": [{"path":')),
    Case("nothing but an open brace", READ, CLOSURE, "not JSON", text("bad.json", "{")),
    Case("text that is neither", READ, CLOSURE, "in none of the formats", text("bad.json", "hello\n")),
    Case("binary", READ, CLOSURE, "not UTF-8", text("bad.json", b"/\xff\xfe\x00")),
    Case("JSON that is not UTF-8", READ, CLOSURE, "bad.json: ", text("bad.json", b'{"graph": [{"path": "\xff"}]}')),
    Case("half a surrogate pair", READ, CLOSURE, "bad.json: ",
         text("bad.json", '[{"path":"\\ud800","references":[]}]')),
    Case("deeply nested", READ, CLOSURE, "bad.json: ", text("bad.json", "[" * 100_000)),
    Case("deeply nested below a key", READ, CLOSURE, "bad.json: ", text("bad.json", '{"a":' * 100_000)),
    Case("an object without lists", READ, CLOSURE, "no list of nodes", closure_of({"a": 1})),
    Case("a plan", READ, CLOSURE, "bad.json: a plan, not a closure: build takes it with --plan",
         closure_of({"version": 1, "excluded": [], "layers": [{"size": 1, "paths": [BASE]}]})),
    Case("two lists", READ, CLOSURE, "a, b", closure_of({"a": NODES, "b": NODES})),
    Case("no such key", (*READ, "--key", "c"), CLOSURE, "no key c", closure_of({"a": NODES, "b": NODES})),
    Case("a key of a bare list", (*READ, "--key", "c"), CLOSURE, "no key c", closure_of(NODES)),
    Case("a key of the text form", (*READ, "--key", "c"), CLOSURE, "no key c", text("bad.json", f"{BASE}\n\n0\n")),
    Case("a key that is no list", (*READ, "--key", "x"), CLOSURE, "$.x", closure_of({"x": 1, "graph": NODES})),
    Case("path of a wrong type", READ, CLOSURE, "bad.json: ", nodes({"path": 5, "references": []})),
    Case("references of a wrong type", READ, CLOSURE, "references", nodes({"path": BASE, "references": "x"})),
    Case("a reference of a wrong type", READ, CLOSURE, "references", nodes({"path": BASE, "references": [7]})),
    Case("no references", READ, CLOSURE, "references", closure_of([{"path": BASE}])),
    Case("size of a wrong type", READ, CLOSURE, "narSize", nodes(node(BASE, narSize="big"))),
    Case("size beyond 64 bits", READ, CLOSURE, "narSize", nodes(node(BASE, narSize=2**64))),
    Case("negative size", READ, CLOSURE, "narSize", nodes(node(BASE, narSize=-2))),
    Case("digest of a wrong type", READ, CLOSURE, "narHash", nodes(node(BASE, narHash=[1]))),
    Case("a number in a list", READ, CLOSURE, "bad.json: ", closure_of([*NODES, 4])),
    Case("a dangling reference", READ, CLOSURE, f"{BASE}: its reference {ABSENT}", nodes(node(BASE, ABSENT))),
    Case("a cycle of two", READ, CLOSURE, "cycle", nodes(node(BASE, LIB), node(LIB, BASE))),
    Case("a path given twice", READ, CLOSURE, f"{BASE}: given twice", nodes(node(BASE), node(BASE))),
    Case("not in the store", READ, CLOSURE, "/usr/lib: not a store path", nodes(node("/usr/lib"))),
    Case("two components", READ, CLOSURE, "not a store path", nodes(node(f"{BASE}/bin"))),
    Case("dot dot", READ, CLOSURE, "not a store path", nodes(node("/nix/store/.."))),
    Case("a store path with a slash behind it", READ, CLOSURE, "not a store path", nodes(node(f"{BASE}/"))),
    Case("the store directory itself", READ, CLOSURE, "not a store path", nodes(node("/nix/store"))),
    Case("an empty path", READ, CLOSURE, "not a store path", nodes(node(""))),
    Case("a zero byte in a path", READ, CLOSURE, "not a store path", nodes(node("/nix/store/a\0b"))),
    Case("a new line in a path", READ, CLOSURE, "not a store path", nodes(node("/usr/a\nb"))),
    Case("no such path in the store", READ, CLOSURE, "not a valid path", closure_of({BASE: None})),
    Case("path-info of a wrong type", READ, CLOSURE, "bad.json: ", closure_of({BASE: 3})),
    Case("new path-info of a wrong type", READ, CLOSURE, "bad.json: ", closure_of({"info": 3, "version": 2})),
    Case("store directory of a wrong type", READ, CLOSURE, "storeDir",
         closure_of({"info": {}, "version": 2, "storeDir": 3})),
    Case("text form without its number", READ, CLOSURE, "number of references", text("bad.json", f"{BASE}\n\n")),
    Case("text form with a word as number", READ, CLOSURE, "number of references", text("bad.json", f"{BASE}\n\nx\n")),
    Case("text form that ends early", READ, CLOSURE, "ends within", text("bad.json", f"{BASE}\n\n2\n{LIB}\n")),
    Case("text form with a huge number", READ, CLOSURE, "bad.json: ", text("bad.json", f"{BASE}\n\n{'9' * 5000}\n")),
    Case("two sources disagree", ("closure", "graph.json", "bad.json"), CLOSURE, "other references",
         nodes(node(BASE), node(LIB), node(APP, LIB))),
    Case("NAR hashes disagree", ("closure", "bad.json", "worse.json"), CLOSURE, "NAR hashes", lambda folder: (
        write_json(folder / "bad.json", [node(BASE, narHash="sha256:" + "0" * 64)]),
        write_json(folder / "worse.json", [node(BASE, narHash="sha256:" + "1" * 64)]))),
    Case("no NAR hash at all", ("closure", "bad.json", "worse.json"), CLOSURE, "not a NAR hash", lambda folder: (
        write_json(folder / "bad.json", [node(BASE, narHash="sha256:" + "0" * 64)]),
        write_json(folder / "worse.json", [node(BASE, narHash="md5:1")]))),
    Case("no virtual environment", ("closure", "venv:absent"), CLOSURE, "absent"),
    Case("a folder that is no virtual environment", ("closure", "venv:root"), CLOSURE, "root"),
    Case("popularity of a cycle", ("popularity", "bad.json"), CLOSURE, "cycle", nodes(node("A", "B"), node("B", "A"))),
    Case("popularity of a dangling reference", ("popularity", "bad.json"), CLOSURE, "A: its reference B",
         nodes(node("A", "B"))),
    Case("nothing to build", ("build", "bad.json", *TO), CLOSURE, "empty", closure_of({"graph": []})),
]  # fmt: skip

OF_STORE = ("--store-root", "root")


STORES = [
    Case("nix: alone", ("closure", "nix:"), USAGE, "SOURCE nix: expected nix:PATH"),
    Case("a path that is not there", ("closure", "nix:absent"), CLOSURE, "absent: No such file or directory"),
    Case("nix: and a path outside the store", ("closure", "nix:root", *OF_STORE), CLOSURE, "root: not in the store"),
    Case("a key of a store path", ("closure", f"nix:{APP}", "--key", "k"), CLOSURE, f"nix:{APP}: no key k"),
    Case("a store without a database", ("closure", APP, *OF_STORE), CLOSURE, "db/schema: No such file or directory"),
    Case("a path that is not registered", ("closure", f"nix:{ABSENT}", *OF_STORE), CLOSURE,
         f"{ABSENT}: not a valid path of the store", database()),
    Case("a damaged store path", (*BUILD, *TO, "--verify-store"), LAYER, f"{BASE}: not what Nix registered",
         database(damaged)),
    Case("a damaged store path in one layer of all", (*BUILD, *TO, "--verify-store", "--max-layers", "2"), LAYER,
         f"{BASE}: not what Nix registered", database(damaged)),
    Case("NAR hashes that nobody tells", (*BUILD, *TO, "--verify-store"), CLOSURE, "db/schema: No such file"),
]  # fmt: skip


@each_of(CLOSURES, STORES)
def test_malformed_sources(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refuse(case, folder, capfd)
