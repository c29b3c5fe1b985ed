"""Malformed configs, base images, trees and destinations: one line, a status, and nothing left."""

import gzip
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlayers.cli import run
from images import archive_of
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
    damaged,
    database,
    refuse,
    text,
)
from stores import ABSENT, APP, BASE, CONF, LIB, write_file, write_json
from tables import each_of


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
    Case("name in a destination", (*BUILD, "--to", "docker-archive:out.tar:a//b"), USAGE, "tar:a//b: a//b: not a name"),
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


TAR = archive_of({"etc/base": b"base"})
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
    return archive_of(members)


def of_manifest(data: bytes) -> bytes:
    """A docker archive without an image."""
    return archive_of({"manifest.json": data})


def random_bytes(count: int) -> bytes:
    """Bytes that no compressor makes shorter, and that are always the same."""
    return b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(count // 32))


def spoilt_gzip() -> bytes:
    """A compressed archive whose headers can be read, and a layer's bytes cannot."""
    layer = archive_of({"a": random_bytes(1 << 20)})
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
    Case("a tar of something else", ON, IMAGE, "not an OCI layout", text("base.tar", archive_of({"a": b""}))),
    Case("base manifest that is not JSON", ON, IMAGE, "not JSON", text("base.tar", of_manifest(b"["))),
    Case("base manifest that is a number", ON, IMAGE, "base.tar: ", text("base.tar", of_manifest(b"5"))),
    Case("two images", ON, IMAGE, "2 images", text("base.tar", of_manifest(b"[{},{}]"))),
    Case("no image of that name", (*BUILD, *TO, "--from", "docker-archive:base.tar:a:1"), IMAGE, "0 images named a:1",
         text("base.tar", docker())),
    Case("no such layer", ON, IMAGE, "no member gone", text("base.tar", docker(Layers=["gone"]))),
    Case("no such config", ON, IMAGE, "no member gone", text("base.tar", docker(Config="gone"))),
    Case("more layers than diff IDs", ON, IMAGE, "the number of its layers is 2, that of its diff IDs 1",
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


@each_of(CONFIGS, CONFS, BASES, TREES, DESTINATIONS)
def test_malformed_images(case: Case, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refuse(case, folder, capfd)


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
