"""Command lines, customisations, plans and comparisons that are refused: one line, a status, and nothing left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layouts import Layer, write_layout
from layouts import digest as layer_digest
from malformed import (
    BUILD,
    CLOSURE,
    CONFIG,
    DESTINATION,
    IMAGE,
    LAYER,
    PLAN,
    TO,
    USAGE,
    Case,
    database,
    node,
    refuse,
    text,
)
from stores import ABSENT, APP, BASE, LIB, write_file, write_json
from tables import each_of

OF_STORE = ("--store-root", "root")
OWN = (*BUILD, *TO)


def contents(*trees: str) -> Callable[[Path], object]:
    """A file of the name "x" in each tree, each with another text."""
    return lambda folder: [write_file(folder / "root" / tree[1:] / "x", tree) for tree in trees]


CUSTOM = [
    Case("contents that are not in the store", (*OWN, "--contents", "root"), USAGE, "--contents root: not in the Nix"),
    Case("contents that are a file", (*OWN, "--contents", f"{BASE}/etc/base"), CONFIG, f"{BASE}/etc/base: not a dir"),
    Case("contents that are not there", (*OWN, "--contents", f"{BASE}/absent"), CONFIG, f"{BASE}/absent: not a dir"),
    Case("contents that are not in the closure", (*OWN, "--contents", ABSENT), CONFIG, f"{ABSENT}: named in"),
    Case("contents that clash", (*OWN, "--contents", APP, "--contents", BASE), LAYER,
         f"/x: two of the contents have it, {APP}/x and {BASE}/x: give one a priority", contents(APP, BASE)),
    Case("a priority of nothing", (*OWN, "--contents", APP, "--contents-priority", f"{BASE}=1"), USAGE,
         f"--contents-priority {BASE}: no --contents is this path"),
    Case("a priority that is none", (*OWN, "--contents", APP, "--contents-priority", f"{APP}=high"), USAGE,
         f"--contents-priority {APP}=high: expected a whole number"),
    Case("a priority without a path", (*OWN, "--contents-priority", "5"), USAGE, "--contents-priority 5: expected"),
    Case("no such folder", (*OWN, "--extra-files", "absent"), CONFIG, "absent: No such file or directory"),
    Case("a folder that is a file", (*OWN, "--extra-files", "graph.json"), CONFIG, "graph.json: Not a directory"),
    Case("no such tar", (*OWN, "--extra-tar", "absent.tar"), CONFIG, "absent.tar: No such file or directory"),
    Case("a tar that is none", (*OWN, "--extra-tar", "graph.json"), CONFIG, "graph.json: not a plain tar archive"),
    Case("an owner without a path", (*OWN, "--owner", "0:0"), USAGE, "--owner 0:0: expected PATH=UID:GID"),
    Case("an owner by name", (*OWN, "--owner", "/x=me:me"), USAGE, "--owner /x=me:me: expected UID:GID, two numbers"),
    Case("an owner beyond 32 bits", (*OWN, "--owner", "/x=4294967295:0"), USAGE, "--owner /x: 4294967295:0 is no own"),
    Case("an owner of a relative path", (*OWN, "--owner", "x=0:0"), USAGE, "--owner x: not an absolute path"),
    Case("an owner of nothing", (*OWN, "--owner", "/x=0:0"), CONFIG, "an owner for /x: nothing in the"),
    Case("a mode that is none", (*OWN, "--mode", "/x=u+s"), USAGE, "--mode /x=u+s: expected octal digits"),
    Case("a mode beyond 7777", (*OWN, "--mode", "/x=10000"), USAGE, "--mode /x: 10000 is no mode: from 0 to 7777"),
    Case("a mode of nothing", (*OWN, "--mode", f"{BASE}=0755"), CONFIG, f"a mode for {BASE}: nothing in the"),
    Case("a Nix database without NAR hashes", (*OWN, "--include-nix-db"), CONFIG, "a Nix database needs its NAR hash"),
    Case("a path that is named, and not registered", ("build", f"nix:{APP}", "--cmd", ABSENT, *OF_STORE, *TO), CLOSURE,
         f"{ABSENT}: not a valid path of the store", database()),
]  # fmt: skip

PLANNED = (*BUILD, *TO, "--plan", "plan.json")


def plan(document: Any) -> Callable[[Path], object]:
    return lambda folder: write_json(folder / "plan.json", document)


def version_1(*layers: Any) -> dict[str, Any]:
    return {"version": 1, "layers": [{"paths": layer} for layer in layers]}


PLANS = [
    Case("no plan", PLANNED, PLAN, "plan.json: No such file"),
    Case("plan that is not JSON", PLANNED, PLAN, "not a plan", text("plan.json", "[[")),
    Case("empty plan file", PLANNED, PLAN, "not a plan", text("plan.json", "")),
    Case("plan of a wrong shape", PLANNED, PLAN, "not a plan", plan([APP, LIB])),
    Case("plan that is a number", PLANNED, PLAN, "not a plan", plan(5)),
    Case("deeply nested plan", PLANNED, PLAN, "not a plan", text("plan.json", "[" * 100_000)),
    Case("plan of a later version", PLANNED, PLAN, "version 2", plan({"version": 2, "layers": []})),
    Case("plan without layers", PLANNED, PLAN, "layers", plan({"version": 1})),
    Case("plan with an empty layer", PLANNED, PLAN, "layer 2 is empty", plan([[APP, LIB], [], [BASE]])),
    Case("plan without one path", PLANNED, PLAN, f"{LIB}: in the closure", plan([[APP], [BASE]])),
    Case("plan with a path twice", PLANNED, PLAN, f"{APP}: in layer 1 and again", plan([[APP], [LIB, BASE, APP]])),
    Case(
        "plan with a path too many", PLANNED, PLAN, f"{ABSENT}: in layer 2", plan(version_1([APP, LIB], [BASE, ABSENT]))
    ),
    Case("plan of no layers", PLANNED, PLAN, "in no layer", plan([])),
    Case("too many layers", (*PLANNED, "--max-layers", "3"), PLAN, "room for 2", plan([[APP], [LIB], [BASE]])),
    Case("plan and strategy", (*PLANNED, "--strategy", "popularity"), USAGE, "exclude", plan([[APP, LIB, BASE]])),
    Case("no such strategy", ("plan", "graph.json", "--strategy", "x"), USAGE, "--strategy: invalid choice: 'x'"),
    Case("no layers", ("plan", "graph.json", "--max-layers", "0"), USAGE, "--max-layers: 0: expected"),
    Case("fewer than no layers", ("plan", "graph.json", "--max-layers", "-4"), USAGE, "--max-layers: -4: expected"),
    Case(
        "one layer for the customisation alone", (*BUILD, *TO, "--max-layers", "1"), USAGE, "--max-layers 1 leaves none"
    ),
]


COMMAND_LINES = [
    Case("no such command", ("bild",), USAGE, "no such command: bild"),
    Case("no such option", ("plan", "--colour"), USAGE, "--colour"),
    Case("no command", (), USAGE, "name a command (see fastlayers --help)"),
    Case("no such option of the program", ("--colour", "plan"), USAGE, "no such option: --colour"),
    Case("an abbreviated command", ("clos", "graph.json"), USAGE, "no such command: clos"),
    Case("an abbreviated option", ("closure", "graph.json", "--size"), USAGE, "--size (see fastlayers closure --help)"),
    Case("an abbreviated option with a value", (*BUILD, *TO, "--max=3"), USAGE, "--max=3"),
    Case("an option without its value", (*BUILD, "--to"), USAGE, "--to: expected one argument"),
    Case("a value of a flag", ("closure", "graph.json", "--sizes=1"), USAGE, "--sizes: "),
    Case("a file too many", ("popularity", "graph.json", "graph", "more"), USAGE, "more"),
    Case("an option behind --", ("closure", "--", "graph.json", "--sizes"), CLOSURE, "--sizes: No such file"),
    Case("an argument that is not UTF-8, unknown", ("plan", "--\udcff"), USAGE, "--\\udcff"),
    Case("an argument of two lines", ("a\nb",), USAGE, "no such command: a b"),
    Case("no owner", (*BUILD, *TO, "--uid", "root"), USAGE, "--uid: root: expected a whole number of at least 0"),
    Case("an owner below 0", (*BUILD, *TO, "--uid", "-1"), USAGE, "--uid: -1: expected a whole number of at least 0"),
    Case("a group below 0", (*BUILD, *TO, "--gid=-1"), USAGE, "--gid: -1: expected a whole number of at least 0"),
    Case("no destination", BUILD, USAGE, "the following arguments are required: --to"),
    Case("another option for the destination", (*BUILD, "--too", "oci:x"), USAGE, "unrecognized arguments: --too"),
    Case("no option and no image", ("inspect", "--jsn"), USAGE, "unrecognized arguments: --jsn"),
    Case("no number of layers", ("plan", "graph.json", "--max-layers", "many"), USAGE, "--max-layers"),
    Case("no jobs", (*BUILD, *TO, "--jobs", "0"), USAGE, "--jobs"),
    Case("no such format", ("plan", "graph.json", "--format", "xml"), USAGE, "--format"),
    Case("no such codec", (*BUILD, *TO, "--compress", "lzma"), USAGE, "no codec lzma"),
    Case("no such level", (*BUILD, *TO, "--compress", "gzip:9"), USAGE, "levels 0 to 3"),
    Case("level that is a word", (*BUILD, *TO, "--compress", "zstd:fast"), USAGE, "--compress zstd:fast"),
    Case("variable without equals", (*BUILD, *TO, "--env", "PATH"), USAGE, "--env PATH: expected"),
    Case("label without a name", (*BUILD, *TO, "--label", "=x"), USAGE, "--label =x: expected"),
    Case("port out of range", (*BUILD, *TO, "--expose", "65536"), USAGE, "--expose 65536: expected"),
    Case("port of no protocol", (*BUILD, *TO, "--expose", "80/http"), USAGE, "--expose 80/http: expected"),
    Case("port in superscript", (*BUILD, *TO, "--expose", "²"), USAGE, "--expose ²: expected"),
    Case("command that is not JSON", (*BUILD, *TO, "--cmd", '["a'), USAGE, "not a JSON list"),
    Case("command with a number", (*BUILD, *TO, "--cmd", "[1]"), USAGE, "a word that is no text"),
    Case("deeply nested command", (*BUILD, *TO, "--cmd", "[" * 100_000), USAGE, "not a JSON list"),
    Case("command with half a quotation", (*BUILD, *TO, "--cmd", "sh -c 'x"), USAGE, "No closing quotation"),
    Case("standard output twice", (*BUILD, "--to", "oci-archive:-", "--to", "docker-archive:-"), USAGE, "wanted twice"),
    Case("standard output twice, for JSON", (*BUILD, "--to", "oci-archive:-", "--json"), USAGE, "wanted twice"),
    Case(
        "one archive twice", (*BUILD, "--to", "oci-archive:a.tar", "--to", "docker-archive:./a.tar"), USAGE, "one file"
    ),
    Case("a layout on standard output", (*BUILD, "--to", "oci:-"), USAGE, "an OCI layout is a folder"),
    Case("no interpreter and no base", (*BUILD, *TO, "--no-interpreter"), USAGE, "say --from which base"),
    Case("standard input twice", ("closure", "-", "-"), USAGE, "standard input"),
    Case("no source", ("closure",), USAGE, "name a SOURCE"),
    Case("no conf at all", ("stream",), USAGE, "CONF"),
]


def layout_with(manifest: dict[str, Any]) -> Callable[[Path], object]:
    """An OCI layout in which the plan of the only layer is spoilt."""

    def prepare(folder: Path) -> None:
        write_layout(folder / "image", [Layer(b"1", [BASE])])
        index = json.loads((folder / "image/index.json").read_text())
        old = folder / "image/blobs/sha256" / index["manifests"][0]["digest"][7:]
        data = json.dumps({**json.loads(old.read_text()), **manifest}).encode()
        index["manifests"][0]["digest"] = layer_digest(data)
        (old.parent / layer_digest(data)[7:]).write_bytes(data)
        (folder / "image/index.json").write_text(json.dumps(index))

    return prepare


NEXT = ("diff", "graph.json")
REUSE = [
    Case("a diff of one", NEXT, USAGE, "NEW"),
    Case("a diff with nothing", (*NEXT, "absent"), CLOSURE, "absent: No such file"),
    Case("a diff with a folder", (*NEXT, "root"), CLOSURE, "root: Is a directory"),
    Case("a diff of standard input twice", ("diff", "-", "-"), USAGE, "standard input can be read once"),
    Case("a diff with no transport", (*NEXT, "oci:"), USAGE, "oci:: expected docker-archive:"),
    Case("a diff with no image", (*NEXT, "oci:absent"), IMAGE, "absent"),
    Case("a diff with no name", (*NEXT, "docker://UPPER/x"), USAGE, "not an image reference"),
    Case("a diff with a broken plan", (*NEXT, "p"), PLAN, "p: layer 1 is empty", text("p", "[[]]")),
    Case("a diff with credentials for nobody", (*NEXT, "graph.json", "--creds", "a:b"), USAGE, "for none"),
    Case("a diff by no strategy", (*NEXT, "graph.json", "--strategy", "x"), USAGE, "--strategy: invalid choice"),
    Case("an image with another plan", (*NEXT, "oci:image"), PLAN, "dev.fastlayers.plan: a plan of version 7",
         layout_with({"annotations": {"dev.fastlayers.plan": "7"}})),
    Case("an image that says nothing", (*NEXT, "oci:image"), PLAN, "oci:image: this image does not say which paths",
         layout_with({"annotations": {}})),
    Case("an image with a layer too many", (*NEXT, "oci:image"), IMAGE, "its layers is 2, that of its diff IDs 1",
         layout_with({"layers": [{"digest": "sha256:0", "size": 1}, {}]})),
    Case("an image with a layer of no size", (*NEXT, "oci:image"), IMAGE, "not a whole image: KeyError 'size'",
         layout_with({"layers": [{"digest": "sha256:0"}]})),
    Case("a path that is nowhere", ("explain", "graph.json", "zlib"), PLAN, "zlib: in no layer of graph.json"),
    Case("paths that nobody tells", ("explain", "oci:image", "zlib"), PLAN, "does not say which paths",
         layout_with({"annotations": {}})),
    Case("a closure of something else", ("explain", "oci:image", BASE, "--closure", "other.json"), PLAN,
         f"oci:image: {BASE}: not in the closure that --closure names",
         lambda folder: (layout_with({})(folder), write_json(folder / "other.json", [node(LIB)]))),
    Case("a closure for a plan", ("plan", "graph.json", "--previous", "graph.json"), PLAN,
         "graph.json: not a plan, since it has no layers: `fastlayers plan --format json` makes one"),
    Case("a history of one", ("simulate", "graph.json"), PLAN, "graph.json: one image, plan or closure is no history"),
    Case("a history without sizes", ("simulate", "graph.txt", "graph.txt", "--strategy", "popularity"), PLAN,
         "a NAR size is not known", text("graph.txt", f"{BASE}\n\n0\n")),
    Case("a history by no plan", ("simulate", "graph.json", "graph.json", "--strategy", "x"), USAGE, "--strategy: inv"),
    Case("a history of no layers", ("simulate", "graph.json", "--max-layers", "0"), USAGE, "--max-layers"),
    Case("a history that breaks off", ("simulate", "h.jsonl"), CLOSURE, "h.jsonl: line 2: not JSON",
         text("h.jsonl", '[{"path": "' + BASE + '", "references": []}]\n[{')),
    Case("a page in no folder", ("report", "graph.json", "--html", "no/page.html"), DESTINATION, "no/page.html: No"),
    Case("a page that is a folder", ("report", "graph.json", "--html", "root"), DESTINATION, "root: Is a directory"),
]  # fmt: skip


@each_of(CUSTOM, PLANS, COMMAND_LINES, REUSE)
def test_one_line_a_status_and_nothing_left(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refuse(case, folder, capfd)
