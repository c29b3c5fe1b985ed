"""Malformed inputs: each gives one line, its exit status, and leaves nothing behind."""

import base64
import gzip
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fastlayers.cli import run
from layouts import Layer, write_layout
from layouts import digest as layer_digest
from nix_stores import make_database, registered
from stores import ABSENT, APP, BASE, LIB, NODES, make_store, write_file, write_json

USAGE, CLOSURE, PLAN, CONFIG, LAYER, IMAGE, DESTINATION = 2, 3, 4, 5, 6, 7, 8

BUILD = ("build", "graph.json", "--store-root", "root", "--quiet")
TO = ("--to", "docker-archive:out.tar")


@dataclass(frozen=True)
class Case:
    """A command in a folder that has a good store and graph.json, after ``prepare`` has spoilt something."""

    name: str
    arguments: tuple[str, ...]
    status: int
    says: str
    prepare: Callable[[Path], object] = lambda folder: None


def text(name: str, data: str | bytes) -> Callable[[Path], object]:
    return lambda folder: write_file(folder / name, data)


def nodes(*changed: Any, **top: Any) -> Callable[[Path], object]:
    return lambda folder: write_json(folder / "bad.json", {"graph": list(changed), **top})


def node(path: str, *references: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "references": list(references), **more}


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


def database(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        root = folder / "root"
        make_database(root / "nix/var/nix/db", registered(root))
        for change in changes:
            change(folder)

    return write


def damaged(folder: Path) -> None:
    file = folder / "root" / BASE[1:] / "etc" / "base"
    file.chmod(0o644)
    file.write_bytes(b"BASE\n")


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


def config(document: Any) -> Callable[[Path], object]:
    return lambda folder: write_json(folder / "config.json", document)


CONFIGURED = (*BUILD, *TO, "--config", "config.json")
CONFIGS = [
    Case("no config", CONFIGURED, CONFIG, "config.json: No such file"),
    Case("config that is not JSON", CONFIGURED, CONFIG, "not a config object", text("config.json", "{")),
    Case("config that is a list", CONFIGURED, CONFIG, "not a config object", config([])),
    Case("deeply nested config", CONFIGURED, CONFIG, "not a config", text("config.json", '{"a":' + "[" * 100_000)),
    Case("command of a wrong type", CONFIGURED, CONFIG, "Cmd", config({"Cmd": "sh"})),
    Case("variable without a value", CONFIGURED, CONFIG, "Env: PATH", config({"Env": ["PATH"]})),
    Case("variable without a name", CONFIGURED, CONFIG, "Env: =x", config({"Env": ["=x"]})),
    Case("variables of a wrong type", (*CONFIGURED, "--env", "A=1"), CONFIG, "Env", config({"Env": 5})),
    Case("label of a wrong type", (*CONFIGURED, "--label", "a=1"), CONFIG, "Labels", config({"Labels": {"b": 1}})),
    Case("labels of a wrong type", (*CONFIGURED, "--label", "a=1"), CONFIG, "Labels", config({"Labels": ["b"]})),
    Case("volumes of a wrong type", (*CONFIGURED, "--volume", "/a"), CONFIG, "Volumes", config({"Volumes": "/b"})),
    Case("command not in the closure", (*BUILD, *TO, "--cmd", f"{ABSENT}/bin/x"), CONFIG, ABSENT),
    Case("no name", (*BUILD, *TO, "--name", "Upper"), USAGE, "--name Upper: not a name"),
    Case("no tag", (*BUILD, *TO, "--name", "a", "--tag", "not ok"), USAGE, "--tag not ok: not a tag"),
    Case(
        "name in a destination",
        (*BUILD, "--to", "docker-archive:out.tar:a//b"),
        USAGE,
        "out.tar:a//b: a//b: not a name",
    ),
    Case("tag in a destination", (*BUILD, "--to", "oci:out:/"), USAGE, "--to oci:out:/: /: not a tag"),
    Case(
        "a colon in a path",
        (*BUILD, "--to", "oci:C:/out:1"),
        USAGE,
        "/out:1: not a tag: letters, digits, . _ -, at most 128 (the path ends at its first colon: C)",
    ),
    Case(
        "a colon in an archive's path",
        (*BUILD, "--to", "docker-archive:a:b:c:d"),
        USAGE,
        "--to docker-archive:a:b:c:d: b:c: not a name for an image: ",
    ),
    Case("no date", (*BUILD, *TO, "--created", "yesterday"), USAGE, "--created yesterday: not a date"),
    Case("date before all dates", (*BUILD, *TO, "--created", "0001-01-01T00:00:00+23:00"), USAGE, "0001-01-01"),
    Case("no mtime", (*BUILD, *TO, "--mtime=--5"), USAGE, "--mtime --5: not a date"),
    Case("mtime in superscript", (*BUILD, *TO, "--mtime", "²"), USAGE, "²: not a date"),
    Case("an argument that is not UTF-8", (*BUILD, *TO, "--label", "a=\udcff"), CONFIG, "not UTF-8"),
    Case("a command that is not UTF-8", (*BUILD, *TO, "--cmd", "echo \udcff"), CONFIG, "not UTF-8"),
    Case("half a surrogate pair in a command", (*BUILD, *TO, "--cmd", '["\\ud800"]'), CONFIG, "not UTF-8"),
]

CONF = {
    "architecture": "amd64",
    "config": {},
    "store_dir": "/nix/store",
    "from_image": None,
    "store_layers": [[APP], [LIB, BASE]],
    "customisation_layer": "/nix/store/custom",
    "repo_tag": "a:b",
    "created": "1970-01-01T00:00:01+00:00",
    "mtime": "1970-01-01T00:00:01+00:00",
    "uid": "0",
    "gid": "0",
    "uname": "root",
    "gname": "root",
}
STREAM = ("stream", "conf.json", "--store-root", "root", "--quiet")


def conf(**changes: Any) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        custom = folder / "root/nix/store/custom"
        write_file(custom / "layer.tar", bytes(10240))
        write_file(custom / "checksum", hashlib.sha256(bytes(10240)).hexdigest())
        write_json(folder / "conf.json", {key: value for key, value in {**CONF, **changes}.items() if value != "gone"})

    return write


def custom(name: str, data: bytes | None) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        conf()(folder)
        path = folder / "root/nix/store/custom" / name
        path.unlink()
        if data is not None:
            write_file(path, data)

    return write


CONFS = [
    Case("no conf", STREAM, CONFIG, "conf.json: No such file"),
    Case("conf that is not JSON", STREAM, CONFIG, "not a conf.json", text("conf.json", "{")),
    Case("conf that is a list", STREAM, CONFIG, "not a conf.json", text("conf.json", "[]")),
    Case("deeply nested conf", STREAM, CONFIG, "not a conf", text("conf.json", '{"config":' + '{"a":' * 100_000)),
    *(Case(f"conf without {key}", STREAM, CONFIG, key, conf(**{key: "gone"})) for key in CONF),
    Case("uid that is a number", STREAM, CONFIG, "uid", conf(uid=0)),
    Case("uid that is a word", STREAM, CONFIG, "uid: root: not a number", conf(uid="root")),
    Case("uid beyond 64 bits", STREAM, CONFIG, "not within 64 bits", conf(uid=str(2**63))),
    Case("uid of 5,000 digits", STREAM, CONFIG, "uid", conf(uid="1" * 5000)),
    Case("created that is no date", STREAM, CONFIG, "created: x: neither", conf(created="x")),
    Case("mtime that is no date", STREAM, CONFIG, "mtime: x: neither", conf(mtime="x")),
    Case("mtime before all time zones", STREAM, CONFIG, "mtime: 0001-01-01", conf(mtime="0001-01-01")),
    Case("layers that are no lists", STREAM, CONFIG, "store_layers", conf(store_layers=[APP])),
    Case("a path outside the store", STREAM, CONFIG, "/etc/passwd: not below", conf(store_layers=[["/etc/passwd"]])),
    Case("dot dot in a path", STREAM, CONFIG, "not below", conf(store_layers=[["/nix/store/../../etc"]])),
    Case("a zero byte in a path of conf", STREAM, CONFIG, "not below", conf(store_layers=[["/nix/store/a\0"]])),
    Case("a zero byte in the owner", STREAM, CONFIG, "uname", conf(uname="a\0b")),
    Case("a zero byte in the group", STREAM, CONFIG, "gname", conf(gname="a\0b")),
    Case("a path that is not absolute", STREAM, CONFIG, "store_layers: nix",
         conf(store_dir="", store_layers=[["nix"]])),
    Case("the root as a path", STREAM, CONFIG, "store_layers: /", conf(store_dir="/", store_layers=[["/"]])),
    Case("a zero byte in the customisation", STREAM, CONFIG, "customisation_layer",
         conf(customisation_layer="/nix/store/a\0b")),
    Case("a zero byte in the base image", STREAM, CONFIG, "from_image", conf(from_image="/nix/store/a\0b")),
    Case("a store path that is not there", STREAM, LAYER, f"{ABSENT}: No such file", conf(store_layers=[[ABSENT]])),
    Case("no customisation", STREAM, IMAGE, "No such file", conf(customisation_layer="/nix/store/gone")),
    Case("no customisation layer", STREAM, IMAGE, "layer.tar: No such file", custom("layer.tar", None)),
    Case("another customisation layer", STREAM, IMAGE, "not those of", custom("layer.tar", bytes(512))),
    Case("short checksum", STREAM, IMAGE, "3 characters, not 64", custom("checksum", b"abc")),
    Case("checksum that is not ASCII", STREAM, IMAGE, "not text", custom("checksum", b"\xff" * 64)),
    Case("a damaged store path in a stream", (*STREAM, "--verify-store"), LAYER, f"{BASE}: not what Nix registered",
         database(conf(), damaged)),
    Case("a stream without a database", (*STREAM, "--verify-store"), CLOSURE, "db/schema: No such file", conf()),
    Case("no base image", STREAM, IMAGE, "No such file", conf(from_image="/nix/store/base.tar")),
    Case("base image that is no tar", STREAM, IMAGE, "not a docker archive", conf(from_image=f"{BASE}/etc/base")),
    Case("variables of conf of a wrong type", STREAM, CONFIG, "Env", conf(config={"Env": 5}, from_image="/x")),
]  # fmt: skip


def archive(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


TAR = archive({"etc/base": b"base"})
DIFF_ID = "sha256:" + hashlib.sha256(TAR).hexdigest()


def docker(*, layer: bytes = TAR, image: dict[str, Any] | None = None, **entry: Any) -> bytes:
    """A docker archive of one layer, in which something is other than it should be."""
    whole = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]}, "config": {}}
    manifest = {"Config": "c.json", "RepoTags": ["base:1"], "Layers": ["l/layer.tar"], **entry}
    members = {
        "l/layer.tar": layer,
        "c.json": json.dumps({**whole, **(image or {})}).encode(),
        "manifest.json": json.dumps([manifest]).encode(),
    }
    return archive(members)


def random_bytes(count: int) -> bytes:
    """Bytes that no compressor makes shorter, and that are always the same."""
    return b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(count // 32))


def spoilt_gzip() -> bytes:
    """A compressed archive whose headers can be read, and a layer's bytes cannot."""
    layer = archive({"a": random_bytes(1 << 20)})
    image = {"rootfs": {"diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]}}
    data = bytearray(gzip.compress(docker(layer=layer, image=image), mtime=0))
    data[300_000:300_100] = bytes(100)
    return bytes(data)


def layout(folder: Path, **changes: bytes | dict[str, Any] | None) -> None:
    """An OCI layout of one layer, in which something is other than it should be."""

    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        write_file(folder / "blobs/sha256" / digest, data)
        return {"digest": f"sha256:{digest}", "size": len(data), "mediaType": "x"}

    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [DIFF_ID]}, **changes.get("config", {})}
    layer = {**blob(TAR), **changes.get("layer", {})}
    manifest = {"config": blob(json.dumps(config).encode()), "layers": [layer], **changes.get("manifest", {})}
    index = {
        "manifests": [{**blob(json.dumps(manifest).encode()), **changes.get("entry", {})}],
        **changes.get("index", {}),
    }
    write_file(folder / "oci-layout", '{"imageLayoutVersion":"1.0.0"}')
    write_json(folder / "index.json", index)


def at_layout(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: layout(folder / "base", **changes)


def without_layer(folder: Path) -> None:
    layout(folder / "base")
    (folder / "base/blobs/sha256" / DIFF_ID[7:]).unlink()


def with_other_layer(folder: Path) -> None:
    layout(folder / "base")
    path = folder / "base/blobs/sha256" / DIFF_ID[7:]
    path.chmod(0o644)
    path.write_bytes(bytes(len(TAR)))


ON = (*BUILD, *TO, "--from", "docker-archive:base.tar")
ON_LAYOUT = (*BUILD, *TO, "--from", "oci:base")
BASES = [
    Case("no transport", (*BUILD, *TO, "--from", "debian:12"), USAGE, "--from debian:12: expected"),
    Case("no base", ON, IMAGE, "base.tar: No such file"),
    Case("base that is no tar", ON, IMAGE, "not a tar archive", text("base.tar", "hello")),
    Case("base that is empty", ON, IMAGE, "base.tar: ", text("base.tar", "")),
    Case("base cut off in a layer", ON, IMAGE, "base.tar: ", text("base.tar", docker()[:2000])),
    Case("compressed base cut off", ON, IMAGE, "base.tar: ", text("base.tar", spoilt_gzip()[:200_000])),
    Case("compressed base with spoilt bytes", ON, IMAGE, "base.tar: ", text("base.tar", spoilt_gzip())),
    Case("a tar of something else", ON, IMAGE, "not an OCI layout", text("base.tar", archive({"a": b""}))),
    Case("base manifest that is not JSON", ON, IMAGE, "not JSON", text("base.tar", archive({"manifest.json": b"["}))),
    Case("base manifest that is a number", ON, IMAGE, "base.tar: ", text("base.tar", archive({"manifest.json": b"5"}))),
    Case("two images", ON, IMAGE, "2 images", text("base.tar", archive({"manifest.json": b"[{},{}]"}))),
    Case("no image of that name", (*BUILD, *TO, "--from", "docker-archive:base.tar:a:1"), IMAGE, "0 images named a:1",
         text("base.tar", docker())),
    Case("no such layer", ON, IMAGE, "no member gone", text("base.tar", docker(Layers=["gone"]))),
    Case("no such config", ON, IMAGE, "no member gone", text("base.tar", docker(Config="gone"))),
    Case("more layers than diff IDs", ON, IMAGE, "2 layers, but 1",
         text("base.tar", docker(Layers=["l/layer.tar"] * 2))),
    Case("layer with other bytes", ON, IMAGE, "not those of", text("base.tar", docker(layer=bytes(10240)))),
    Case("diff ID that is a number", ON, IMAGE, "base.tar: ",
         text("base.tar", docker(image={"rootfs": {"diff_ids": [5]}}))),
    Case("diff ID that is a path", ON, IMAGE, "base.tar: ",
         text("base.tar", docker(image={"rootfs": {"diff_ids": ["sha256:../../x"]}}))),
    Case("no rootfs", ON, IMAGE, "base.tar: ", text("base.tar", docker(image={"rootfs": None}))),
    Case("base config of a wrong type", ON, IMAGE, "base.tar: ", text("base.tar", docker(image={"config": [1]}))),
    Case("base variables of a wrong type", ON, IMAGE, "base.tar: ",
         text("base.tar", docker(image={"config": {"Env": 5}}))),
    Case("base variable of a wrong type", ON, IMAGE, "base.tar: ",
         text("base.tar", docker(image={"config": {"Env": [5]}}))),
    Case("base history of a wrong type", ON, IMAGE, "base.tar: ", text("base.tar", docker(image={"history": [5]}))),
    Case("base architecture of a wrong type", ON, IMAGE, "base.tar: ",
         text("base.tar", docker(image={"architecture": 5}))),
    Case("no layout", ON_LAYOUT, IMAGE, "base: no index.json"),
    Case("index that is not JSON", ON_LAYOUT, IMAGE, "not JSON", text("base/index.json", "{")),
    Case("index without manifests", ON_LAYOUT, IMAGE, "manifests", text("base/index.json", "{}")),
    Case("no such tag", (*BUILD, *TO, "--from", "oci:base:2"), IMAGE, "0 images with the tag 2", at_layout()),
    Case("manifest with another digest", ON_LAYOUT, IMAGE, "base: ", at_layout(entry={"digest": "sha256:" + "0" * 64})),
    Case("manifest digest of a wrong type", ON_LAYOUT, IMAGE, "base: ", at_layout(entry={"digest": 5})),
    Case("manifest digest with another algorithm", ON_LAYOUT, IMAGE, "md5:1", at_layout(entry={"digest": "md5:1"})),
    Case("index of no platforms", ON_LAYOUT, IMAGE, "nothing for linux/", at_layout(manifest={"manifests": []})),
    Case("layer of another size", ON_LAYOUT, IMAGE, "not 1", at_layout(layer={"size": 1})),
    Case("layer that leads out of the layout", ON_LAYOUT, IMAGE, "not a digest",
         at_layout(layer={"digest": "sha256:../x"})),
    Case("layout without its layer", ON_LAYOUT, IMAGE, "base", without_layer),
    Case("layout whose layer has other bytes", ON_LAYOUT, IMAGE, "not those of", with_other_layer),
    Case("layout whose diff ID is a number", ON_LAYOUT, IMAGE, "base: ",
         at_layout(config={"rootfs": {"diff_ids": [5]}})),
    Case("layers beyond the limit", (*ON, "--max-layers", "2"), PLAN, "the base image has 1",
         text("base.tar", docker())),
]  # fmt: skip


def in_lib(make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: make(folder / "root" / LIB[1:] / "lib")


def bind_socket(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
    finally:
        os.chdir(here)


TREES = [
    Case("a store path that is missing", (*BUILD, *TO), LAYER, f"{APP}: No such file",
         lambda folder: (folder / "root" / APP[1:]).rename(folder / "root/nix/elsewhere")),
    Case("a fifo", (*BUILD, *TO), LAYER, f"{LIB}/lib/fifo: a socket, device or pipe",
         in_lib(lambda lib: os.mkfifo(lib / "fifo"))),
    Case("a socket", (*BUILD, *TO), LAYER, f"{LIB}/lib/socket: a socket, device or pipe", in_lib(bind_socket)),
    Case("a whiteout", (*BUILD, *TO), LAYER, f"{LIB}/lib/.wh.x: ", in_lib(lambda lib: write_file(lib / ".wh.x"))),
    Case("a folder that is a whiteout", (*BUILD, *TO), LAYER, f"{LIB}/lib/.wh..wh..opq: ",
         in_lib(lambda lib: (lib / ".wh..wh..opq").mkdir())),
    Case("a store root that is missing", (*BUILD, *TO, "--store-root", "absent"), LAYER, "absent/nix/store"),
    Case("a fifo in a stream", STREAM, LAYER, "a socket, device or pipe",
         lambda folder: (conf()(folder), os.mkfifo(folder / "root" / LIB[1:] / "fifo"))),
    Case("uid beyond 64 bits in a build", (*BUILD, *TO, "--uid", str(2**63)), USAGE, "--uid: 9223372036854775808: "),
    Case("mtime beyond 64 bits", (*BUILD, *TO, "--mtime", str(2**63)), USAGE, "than a tar header can hold"),
]  # fmt: skip

DESTINATIONS = [
    Case("no such transport", (*BUILD, "--to", "docker:x"), USAGE, "docker:x: expected"),
    Case("no path", (*BUILD, "--to", "oci:"), USAGE, "oci:: expected"),
    Case("no colon", (*BUILD, "--to", "out.tar"), USAGE, "out.tar: expected"),
    Case("archive in a folder that is missing", (*BUILD, "--to", "oci-archive:absent/out.tar"),
         DESTINATION, "No such file"),
    Case("archive that is a folder", (*BUILD, "--to", "oci-archive:root"), DESTINATION, "root: is a directory"),
    Case("archive below a file", (*BUILD, "--to", "oci-archive:graph.json/out"), DESTINATION, "Not a directory"),
    Case("layout in a folder that is missing", (*BUILD, "--to", "oci:absent/out"), DESTINATION, "No such file"),
    Case("layout that is a file", (*BUILD, "--to", "oci:graph.json"), DESTINATION, "graph.json"),
    Case("layout that is another folder", (*BUILD, "--to", "oci:root"),
         DESTINATION, "root: a folder with other things"),
    Case("layout with a broken index", (*BUILD, "--to", "oci:out"), DESTINATION, "not an image index", lambda folder: (
        layout(folder / "out"), write_file(folder / "out/index.json", "{"))),
    Case("layout with a wrong index", (*BUILD, "--to", "oci:out"), DESTINATION, "not an image index",
         lambda folder: layout(folder / "out", index={"manifests": 5})),
    Case("layout with wrong annotations", (*BUILD, "--to", "oci:out"), DESTINATION, "not an image index",
         lambda folder: layout(folder / "out", entry={"annotations": ["x"]})),
    Case("layout with an index that is a list", (*BUILD, "--to", "oci:out"), DESTINATION, "not an image index",
         lambda folder: (layout(folder / "out"), write_file(folder / "out/index.json", "[]"))),
    Case("a full device", (*BUILD, "--to", "docker-archive:/dev/full"), DESTINATION, "/dev/full: No space left"),
    Case("a full device, compressed", (*BUILD, "--to", "docker-archive:/dev/full", "--compress", "gzip"), DESTINATION,
         "/dev/full: No space left"),
    Case("the second of two", (*BUILD, *TO, "--to", "oci:root"), DESTINATION, "root: a folder with other things"),
    Case("a layer that fails for two", (*BUILD, *TO, "--to", "oci:out", "--compress", "zstd"), LAYER, "fifo",
         in_lib(lambda lib: os.mkfifo(lib / "fifo"))),
]  # fmt: skip

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
    Case("an image with a layer too many", (*NEXT, "oci:image"), IMAGE, "2 layers, but 1 diff IDs",
         layout_with({"layers": [{"digest": "sha256:0", "size": 1}, {}]})),
    Case("an image with a layer of no size", (*NEXT, "oci:image"), IMAGE, "not a whole image: KeyError 'size'",
         layout_with({"layers": [{"digest": "sha256:0"}]})),
    Case("a path that is nowhere", ("explain", "graph.json", "zlib"), PLAN, "zlib: in no layer of graph.json"),
    Case("paths that nobody tells", ("explain", "oci:image", "zlib"), PLAN, "does not say which paths",
         layout_with({"annotations": {}})),
    Case("a closure of something else", ("explain", "oci:image", BASE, "--closure", "other.json"), PLAN,
         f"oci:image: {BASE}: not in the closure that --closure names",
         lambda folder: (layout_with({})(folder), write_json(folder / "other.json", [node(LIB)]))),
    Case("a history of one", ("simulate", "graph.json"), PLAN, "graph.json: one image is no history"),
    Case("a history without sizes", ("simulate", "graph.txt", "graph.txt", "--strategy", "popularity"), PLAN,
         "a NAR size is not known", text("graph.txt", f"{BASE}\n\n0\n")),
    Case("a history by no plan", ("simulate", "graph.json", "graph.json", "--strategy", "x"), USAGE, "--strategy: inv"),
    Case("a history of no layers", ("simulate", "graph.json", "--max-layers", "0"), USAGE, "--max-layers"),
    Case("a history that breaks off", ("simulate", "h.jsonl"), CLOSURE, "h.jsonl: line 2: not JSON",
         text("h.jsonl", '[{"path": "' + BASE + '", "references": []}]\n[{')),
    Case("a page in no folder", ("report", "graph.json", "--html", "no/page.html"), DESTINATION, "no/page.html: No"),
    Case("a page that is a folder", ("report", "graph.json", "--html", "root"), DESTINATION, "root: Is a directory"),
]  # fmt: skip

CASES = [*REUSE, *CLOSURES, *STORES, *CUSTOM, *PLANS, *CONFIGS, *CONFS, *BASES, *TREES, *DESTINATIONS, *COMMAND_LINES]


def listing(folder: Path) -> dict[str, tuple[int, str]]:
    """Everything below a folder: its kind, and its content's digest."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        found[str(path)] = (mode, base64.b16encode(os.fsencode(content)).decode())
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    make_store(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name in ("VIRTUAL_ENV", "SOURCE_DATE_EPOCH", "NIX_STORE_DIR", "NIX_STORE", "NIX_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def test_the_table_is_long_and_its_names_are_unique() -> None:
    assert len(CASES) == len({case.name for case in CASES}) > 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_line_a_status_and_nothing_left(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case.prepare(folder)
    before = listing(folder)
    with pytest.raises(SystemExit) as ended:
        run(case.arguments)
    out, err = capfd.readouterr()
    assert ended.value.code == case.status, err
    assert case.says in err
    assert "Traceback" not in err
    assert err.startswith("fastlayers: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    if case.arguments[:1] != ("stream",):
        assert out == ""
    assert listing(folder) == before


@pytest.mark.parametrize("value", ["soon", "1e400", "9" * 30, "²"])
def test_source_date_epoch(value: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    with pytest.raises(SystemExit) as ended:
        run([*BUILD, *TO])
    assert ended.value.code == CONFIG
    assert capfd.readouterr().err == f"fastlayers: SOURCE_DATE_EPOCH: {value}: not a number of seconds\n"


@pytest.mark.parametrize("image", ["plain", "on a base"])
def test_stream_to_a_full_device(image: str, folder: Path) -> None:
    conf(**({"from_image": "/nix/store/base.tar"} if image == "on a base" else {}))(folder)
    write_file(folder / "root/nix/store/base.tar", docker())
    with open("/dev/full", "wb") as full:
        program = [sys.executable, "-m", "fastlayers", *STREAM]
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == DESTINATION
    assert done.stderr == b"fastlayers: standard output: No space left on device\n"


def test_stream_to_nobody(folder: Path) -> None:
    conf(store_layers=[[APP, LIB]] * 50)(folder)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        program = [sys.executable, "-m", "fastlayers", *STREAM]
        done = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writing)
    assert done.returncode == DESTINATION
    assert done.stderr == b"fastlayers: standard output: Broken pipe\n"
