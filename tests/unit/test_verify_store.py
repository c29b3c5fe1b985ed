"""Store paths that are checked against the NAR hashes that Nix registered, in builds and in streams."""

import base64
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fastlayers import (
    Closure,
    ClosureError,
    ConfigError,
    LayerError,
    build_image,
    parallel,
    parse_destination,
    read_closure,
    stream_image,
)
from fastlayers.contents import Generated, GeneratedEntry, Tree
from nix_stores import make_registered_store
from stores import ABSENT, APP, BASE, CONF, LIB, NODES, write_file, write_json


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", "/nowhere")  # this machine's Nix is not asked
    monkeypatch.chdir(tmp_path)
    return make_registered_store(tmp_path)


def tamper(root: Path) -> None:
    """Change a byte of the library; a copy of the store that lost it has the size and the time that it had."""
    file = root / LIB[1:] / "lib" / "lib.so"
    before = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as data:
        data.seek(15_000)
        data.write(b"\1")
    file.chmod(0o444)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def build(closure: Closure, root: Path, **options: Any) -> str:
    """The manifest of the image, with layers checked."""
    options = {"store_root": str(root), "jobs": 1, "verify_store": True, **options}
    return build_image(closure, [parse_destination("oci:image")], **options).image.manifest_digest


def sources(root: Path) -> dict[str, Closure]:
    """The same closure with NAR hashes of its own, and without: then the store's database tells them."""
    return {"nix": read_closure(f"nix:{APP}", store_root=str(root)), "graph": read_closure("graph.json")}


@pytest.mark.parametrize("source", ["nix", "graph"])
@pytest.mark.parametrize("layers", [2, 100])
@pytest.mark.parametrize("workers", ["one", "processes", "executor"])
def test_builds(root: Path, monkeypatch: pytest.MonkeyPatch, source: str, layers: int, workers: str) -> None:
    monkeypatch.setattr(parallel, "_SMALL", 0)
    closure = sources(root)[source]
    with ThreadPoolExecutor(2) as executor:
        options = {"max_layers": layers, "jobs": 2 if workers == "processes" else 1}
        if workers == "executor":
            options["executor"] = executor
        verified = build(closure, root, **options)
        assert verified == build(closure, root, **options, verify_store=False)
        tamper(root)
        with pytest.raises(
            LayerError, match=rf"^{LIB}: not what Nix registered: its NAR hash is sha256:\w{{64}}, not "
        ):
            build(closure, root, **options)
    # The image that was there before is whole, and there is nothing else.
    assert json.loads(Path("image/index.json").read_text())["manifests"][0]["digest"] == verified
    assert not [path for path in Path().rglob("*") if "tmp" in path.name]


def test_a_document_s_own_hashes_come_first(root: Path) -> None:
    """It may be of another store, whose files these are."""
    other = "sha256:" + 64 * "0"
    write_json(Path("one.json"), [{**node, "narHash": other} for node in NODES if node["path"] == BASE])
    with pytest.raises(LayerError, match=f"^{BASE}: not what Nix registered: .*, not {other}$"):
        build(read_closure("one.json"), root)
    write_json(Path("one.json"), [{**node, "narHash": "md5:x"} for node in NODES if node["path"] == BASE])
    with pytest.raises(ClosureError, match=f"^{BASE}: md5:x: not a NAR hash$"):
        build(read_closure("one.json"), root)


def test_every_spelling_of_a_hash(root: Path) -> None:
    """As path-info writes them: SRI; base 32 is what exportReferencesGraph has."""
    closure = sources(root)["nix"]
    digest = bytes.fromhex((closure.nar_hashes[closure.index(BASE)] or "").removeprefix("sha256:"))
    text = "sha256-" + base64.b64encode(digest).decode()
    write_json(Path("one.json"), [{**node, "narHash": text} for node in NODES if node["path"] == BASE])
    build(read_closure("one.json"), root)


def test_a_path_whose_hash_nobody_tells(root: Path) -> None:
    write_json(Path("graph.json"), [*NODES, {"path": ABSENT, "references": []}])
    write_file(root / ABSENT[1:])
    with pytest.raises(ClosureError, match=f"^{ABSENT}: not a valid path of the store whose database is in {root}/nix"):
        build(read_closure("graph.json"), root)
    assert not Path("image").exists()


def test_a_closure_without_store_paths(root: Path) -> None:
    made = Generated("x", (GeneratedEntry("/x", data=b"x"),))
    with pytest.raises(ConfigError, match="no store path is in the closure: there is nothing to verify"):
        build(Closure(["x"], [[]], contents=[made]), root)


def test_other_nodes_are_not_checked(root: Path) -> None:
    made = Generated("x", (GeneratedEntry("/x", data=b"x"),))
    mixed = Closure([BASE, LIB, "x"], [[], [BASE], []], contents=[Tree(BASE), Tree(LIB), made])
    build(mixed, root)
    tamper(root)
    with pytest.raises(LayerError, match=f"^{LIB}: not what Nix registered"):
        build(mixed, root)


@pytest.fixture
def conf(root: Path) -> Path:
    """A conf.json of nixpkgs for two layers."""
    layer = write_file(root / "nix/store/custom/layer.tar", bytes(10240))
    write_file(layer.with_name("checksum"), hashlib.sha256(layer.read_bytes()).hexdigest() + "\n")
    return write_json(Path("conf.json"), {**CONF, "store_layers": [[BASE], [LIB, APP]]})


def stream(conf: Path, root: Path, **options: Any) -> bytes:
    with open("image.tar", "wb") as out:
        stream_image(str(conf), out.fileno(), store_root=str(root), **options)
    return Path("image.tar").read_bytes()


@pytest.mark.parametrize("jobs", [1, 2])
def test_streams(conf: Path, root: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    monkeypatch.setattr(parallel, "_SMALL", 0)
    assert stream(conf, root, jobs=jobs, verify_store=True) == stream(conf, root, jobs=jobs)
    tamper(root)
    with pytest.raises(LayerError, match=f"^{LIB}: not what Nix registered"):
        stream(conf, root, jobs=jobs, verify_store=True)


def test_a_stream_of_a_path_that_is_not_registered(conf: Path, root: Path) -> None:
    document = json.loads(conf.read_text())
    write_json(conf, {**document, "store_layers": [[BASE], ["/nix/store/custom"]]})
    with pytest.raises(ClosureError, match=r"^/nix/store/custom: not a valid path of the store"):
        stream(conf, root, verify_store=True)
    assert Path("image.tar").read_bytes() == b""
