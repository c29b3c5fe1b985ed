"""What is wrong with images: a table of damage, each with its one line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from fake_registry import FakeRegistry, Reply, Seen
from fastlayers import ImageError, PlanError, RegistryError, inspect_image, read_base, verify_image
from fastlayers.cli import run
from fastlayers.inspection.stores import LayoutStore
from fastlayers.report import print_verdict
from images import OCI, StoredImage, archive_of, digest_of, squeeze, tar_of
from tables import each_of

ONE = tar_of(("etc", None), ("etc/one", b"1" * 5000), ("bin", "usr/bin"))
TWO = tar_of(("etc", None), ("etc/two", b"2" * 5000), ("ü" * 120, b"long"))
GOOD = StoredImage([ONE, TWO])
STORED = [digest_of(squeeze(tar)) for tar in (ONE, TWO)]
L1, L2 = (f"layer {number} ({digest})" for number, digest in enumerate(STORED, 1))


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def blob(number: int, change: Callable[[bytes], bytes] | None) -> StoredImage:
    """Layer ``number`` has other bytes than its digest says, or is gone."""

    def spoil(blobs: dict[str, bytes], layers: list[str]) -> None:
        data = blobs.pop(layers[number - 1])
        if change is not None:
            blobs[layers[number - 1]] = change(data)

    return replace(GOOD, spoil=spoil)


def layer(data: bytes) -> tuple[StoredImage, str]:
    """The second layer is stored so, and its digest is right; its name for faults."""
    return replace(GOOD, stored={1: data}), f"layer 2 ({digest_of(data)})"


def tar(data: bytes) -> tuple[StoredImage, str]:
    """The second layer is this tar, and all digests are right."""
    return replace(GOOD, tars=[ONE, data]), f"layer 2 ({digest_of(squeeze(data))})"


@dataclass(frozen=True)
class Case:
    """An image with one fault; ``says`` is its line, or how that ends."""

    name: str
    image: StoredImage
    says: str


def case(name: str, made: tuple[StoredImage, str], says: str) -> Case:
    return Case(name, made[0], f"{made[1]}: {says}")


def set_in(*path: Any) -> Callable[[Any], object]:
    """Set what the keys but the last lead to, to the last."""
    *keys, last, value = path

    def change(document: Any) -> None:
        for key in keys:
            document = document[key]
        document[last] = value

    return change


def swap(document: dict[str, Any]) -> None:
    document["layers"].reverse()


def without_diff_id(document: dict[str, Any]) -> None:
    document["rootfs"]["diff_ids"].pop()


NOTHING = "sha256:" + "0" * 64
CASES = [
    Case("a flipped byte", blob(1, lambda data: flip(data, 50)), f"{L1}: its bytes are those of sha256:"),
    Case("a truncated blob", blob(2, lambda data: data[:-1]), f"{L2}: {len(squeeze(TWO)) - 1} bytes, but the manifest"),
    Case("a blob that is longer", blob(2, lambda data: data + b"x"), f"{L2}: {len(squeeze(TWO)) + 1} bytes, but the"),
    Case("a missing blob", blob(1, None), f"{L1}: not there"),
    Case("a wrong size", replace(GOOD, manifest=set_in("layers", 0, "size", 7)),
         f"{L1}: {len(squeeze(ONE))} bytes, but the manifest says 7"),
    Case("a wrong size of the config", replace(GOOD, manifest=set_in("config", "size", 7)), "bytes, not 7"),
    Case("a missing config", replace(GOOD, manifest=set_in("config", "digest", NOTHING)), f"{NOTHING}: not there"),
    Case("a missing manifest", replace(GOOD, entry=set_in("digest", NOTHING)), f"manifest {NOTHING}: not there"),
    Case("a diff ID too few", replace(GOOD, config=without_diff_id),
         "the number of its layers is 2, that of its diff IDs 1"),
    Case("swapped layers", replace(GOOD, manifest=swap),
         "the diff IDs of layers 1 and 2 are in another order than the layers"),
    Case("a wrong diff ID", replace(GOOD, config=set_in("rootfs", "diff_ids", 1, NOTHING)),
         f"{L2}: its diff ID is {digest_of(TWO)}, but the config says {NOTHING}"),
    Case("a diff ID that is none", replace(GOOD, config=set_in("rootfs", "diff_ids", 1, "md5:1")), "$.rootfs.diff_ids"),
    Case("no architecture", replace(GOOD, config=lambda config: config.pop("architecture")), "`architecture`"),
    Case("another platform", replace(GOOD, entry=set_in("platform", "architecture", "arm64")),
         "is for linux/amd64, but is listed for linux/arm64"),
    Case("an index that names nothing", replace(GOOD, index=set_in("manifests", [])), "index.json: names no image"),
    Case("an index that is none", replace(GOOD, index=lambda index: index.pop("manifests")), "index.json: Object"),
    Case("a manifest without layers", replace(GOOD, manifest=lambda manifest: manifest.pop("layers")), "`layers`"),
    Case("a negative size", replace(GOOD, manifest=set_in("layers", 0, "size", -1)), "$.layers[0].size"),
    Case("another type than listed", replace(GOOD, manifest=set_in("mediaType", f"{OCI}index.v1+json")),
         f"is of the type {OCI}index.v1+json, but is listed as {OCI}manifest.v1+json"),
    Case("a type that is no manifest's", replace(GOOD, entry=set_in("mediaType", "text/plain")),
         "is of the type text/plain, which is no manifest's"),
    Case("a type that is no layer's", replace(GOOD, manifest=set_in("layers", 0, "mediaType", "text/plain")),
         f"{L1}: is of the type text/plain, which is no layer's"),
    Case("plain by its type", replace(GOOD, manifest=set_in("layers", 0, "mediaType", f"{OCI}layer.v1.tar")),
         f"{L1}: its media type says none, its bytes gzip"),
    Case("zstd by its type", replace(GOOD, manifest=set_in("layers", 0, "mediaType", f"{OCI}layer.v1.tar+zstd")),
         f"{L1}: its media type says zstd, its bytes gzip"),
    case("gzip with junk behind it", layer(squeeze(TWO) + b"junk"), "something that is no gzip is behind its end"),
    case("gzip with zeros behind it", layer(squeeze(TWO) + bytes(600)), "something that is no gzip is behind its end"),
    case("half a gzip", layer(squeeze(TWO)[:-100]), "its gzip ends in the middle"),
    case("gzip with a wrong checksum", layer(flip(squeeze(TWO), -6)), "cannot be decompressed as gzip: "),
    case("an entry twice", tar(tar_of(("a", b"1"), ("b", b""), ("./a", b"2"))), "entry /a: is there twice"),
    case("a directory and a file", tar(tar_of(("a", None), ("a", b"2"))), "entry /a: is there twice"),
    case("out of the image", tar(tar_of(("a/../../b", b"1"))), "entry /a/../../b: leads out of the image"),
    case("a damaged header", tar(flip(TWO, 512 + 5)), "byte 512 of the tar: no header: "),
    case("half a file", tar(tar_of(("a", bytes(9000)))[:4096]), "byte 4096 of the tar: its end, in the middle of a"),
    case("half a header", tar(tar_of(("a", None))[:700]), "byte 700 of the tar: its end, in the middle of a header"),
    case("a pax header that is none", tar(TWO.replace(b" path=", b"-path=")), "byte 6144 of the tar: a pax"),
    case("a layer twice", tar(ONE), "the same as layer 1"),
]  # fmt: skip


@each_of(CASES)
def test_each_fault_is_one_line(case: Case, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case.image.write(tmp_path / "image")
    with pytest.raises(SystemExit) as stopped:
        run(["verify", f"oci:{tmp_path}/image"])
    out, err = capfd.readouterr()
    assert stopped.value.code == 7
    (line,) = out.splitlines()
    assert case.says in line
    assert err == f"fastlayers: oci:{tmp_path}/image: 1 fault\n"


@pytest.mark.parametrize("compress", [bytes, squeeze, lambda data: squeeze(data[:999]) + squeeze(data[999:])])
def test_good_images(compress: Any, tmp_path: Path) -> None:
    image = replace(GOOD, compress=compress)
    image.write(tmp_path / "image")
    (tmp_path / "image.tar").write_bytes(archive_of(image.files()))
    (tmp_path / "image.tgz").write_bytes(squeeze(archive_of(image.files())))
    for name in ("oci:image", "oci:image:1", "oci-archive:image.tar", "docker-archive:image.tgz",
                 "docker-archive:image.tar:app:1"):  # fmt: skip
        transport, _, rest = name.partition(":")
        verdict = verify_image(f"{transport}:{tmp_path}/{rest}")
        assert (verdict.faults, verdict.notes) == ((), ())
        assert (verdict.images, verdict.layers, verdict.entries) == (1, 2, 6)
        assert verdict.size == sum(len(compress(tar)) for tar in GOOD.tars)


def test_zstd(tmp_path: Path) -> None:
    """Of several frames too."""
    image = replace(GOOD, compress=lambda data: zstd.compress(data[:999]) + zstd.compress(data[999:]))
    image.manifest = lambda document: [
        set_in("mediaType", f"{OCI}layer.v1.tar+zstd")(each) for each in document["layers"]
    ]
    image.write(tmp_path / "image")
    assert not verify_image(f"oci:{tmp_path}/image").faults


def test_all_faults_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def spoil(blobs: dict[str, bytes], layers: list[str]) -> None:
        del blobs[layers[0]]
        blobs[layers[1]] = flip(blobs[layers[1]], 99)

    replace(GOOD, spoil=spoil, entry=set_in("platform", "os", "plan9")).write(tmp_path / "image")
    with pytest.raises(SystemExit):
        run(["verify", f"oci:{tmp_path}/image", "--json"])
    out, err = capfd.readouterr()
    verdict = json.loads(out)
    assert verdict["good"] is False
    assert [fault["place"].split(" ")[0] for fault in verdict["faults"]] == ["config", "layer", "layer"]
    assert [fault["place"] for fault in verdict["faults"]][1:] == [L1, L2]
    assert err.endswith("3 faults\n")


def test_a_line_is_one_whatever_a_name_has_in_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = "a\n\x1b[31mb\udcff"
    data = tar_of((name, b""), (name, b""))
    replace(GOOD, tars=[data]).write(tmp_path / "image")
    with pytest.raises(SystemExit):
        run(["verify", f"oci:{tmp_path}/image"])
    assert capfd.readouterr().out.endswith(": entry /a\\n\\x1b[31mb\\udcff: is there twice\n")


def test_a_file_that_grows_after_its_size_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GOOD.write(tmp_path / "image")
    from fastlayers.base import StoredFolder

    monkeypatch.setattr(StoredFolder, "size", lambda self, name: len((tmp_path / "image" / name).read_bytes()[:5000]))
    path = tmp_path / "image/blobs/sha256" / STORED[0][7:]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + bytes(8000))
    (fault,) = [fault for fault in verify_image(f"oci:{tmp_path}/image").faults if fault.place == L1]
    assert str(size) in fault.what


def test_limits_of_clients(tmp_path: Path) -> None:
    tars = [tar_of((f"file-{number}", b"x")) for number in range(130)]
    replace(GOOD, tars=tars).write(tmp_path / "image")
    image = f"oci:{tmp_path}/image"
    verdict = verify_image(image)
    assert not verdict.faults
    assert verdict.notes == ("130 layers: docker takes at most 125", "130 layers: podman takes at most 128")
    assert list(map(str, verify_image(image, client="docker").faults)) == ["130 layers: docker takes at most 125"]
    assert not verify_image(image, client="containerd").faults
    with pytest.raises(PlanError, match="no client lxc; there are: docker, podman, containerd"):
        verify_image(image, client="lxc")


def test_empty_layers_may_be_there_often(tmp_path: Path) -> None:
    """A build step that changes no file leaves one."""
    empty = tar_of()
    replace(GOOD, tars=[empty, ONE, empty, empty]).write(tmp_path / "image")
    assert not verify_image(f"oci:{tmp_path}/image").faults


def test_every_image_without_a_tag_and_one_with(tmp_path: Path) -> None:
    GOOD.write(tmp_path / "image")
    good = json.loads((tmp_path / "image/index.json").read_text())["manifests"][0]
    other = replace(GOOD, tars=[TWO], tag="2", config=set_in("rootfs", "diff_ids", [NOTHING]))
    other.write(tmp_path / "image")
    bad = json.loads((tmp_path / "image/index.json").read_text())["manifests"][0]
    (tmp_path / "image/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [good, bad]}))
    image = f"oci:{tmp_path}/image"
    assert not verify_image(f"{image}:1").faults
    for name in (image, f"{image}:2"):
        (fault,) = verify_image(name).faults
        assert fault.what == f"its diff ID is {digest_of(TWO)}, but the config says {NOTHING}"
    (fault,) = verify_image(f"{image}:3").faults
    assert str(fault) == "index.json: no image has the tag 3; there are 1, 2"


def test_an_image_of_two_names_is_one(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where one of them is listed without a platform."""
    GOOD.write(tmp_path / "image")
    index = tmp_path / "image/index.json"
    (entry,) = json.loads(index.read_text())["manifests"]
    other = {**entry, "annotations": {"org.opencontainers.image.ref.name": "2"}}
    for more in (other, {key: value for key, value in other.items() if key != "platform"}):
        index.write_text(json.dumps({"schemaVersion": 2, "manifests": [entry, more]}))
        verdict = verify_image(f"oci:{tmp_path}/image")
        assert (verdict.faults, verdict.images, verdict.layers) == ((), 1, 2)
        print_verdict(verdict, quiet=False)
        assert ": good: 1 image, 2 layers, 6 entries, " in capfd.readouterr().out


def test_indexes_in_indexes(tmp_path: Path) -> None:
    """As deep as anybody has them; one that leads to itself cannot be made, one that is too deep is refused."""
    GOOD.write(tmp_path / "image")
    index = tmp_path / "image/index.json"
    for depth in range(7):
        verdict = verify_image(f"oci:{tmp_path}/image")
        assert bool(verdict.faults) == (depth > 5)
        data = index.read_bytes()
        (tmp_path / "image/blobs/sha256" / digest_of(data)[7:]).write_bytes(data)
        entry = {"mediaType": f"{OCI}index.v1+json", "digest": digest_of(data), "size": len(data)}
        index.write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def test_what_is_named_often_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four indexes, each of which names the next one ten times: ten thousand ways to a manifest."""
    GOOD.write(tmp_path / "image")
    index = tmp_path / "image/index.json"
    entries = json.loads(index.read_text())["manifests"]
    for _ in range(4):
        data = json.dumps({"schemaVersion": 2, "manifests": entries * 10}).encode()
        (tmp_path / "image/blobs/sha256" / digest_of(data)[7:]).write_bytes(data)
        entries = [{"mediaType": f"{OCI}index.v1+json", "digest": digest_of(data), "size": len(data)}]
    other = {**entries[0], "annotations": {"org.opencontainers.image.ref.name": "other"}}
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [*entries, other]}))
    read = []
    document = LayoutStore.document

    def reading(store: LayoutStore, descriptor: Any, **more: Any) -> bytes:
        read.append(descriptor.digest)
        return document(store, descriptor, **more)

    monkeypatch.setattr(LayoutStore, "document", reading)
    verdict = verify_image(f"oci:{tmp_path}/image")
    assert (verdict.faults, verdict.images) == ((), 1)
    assert len(read) == len(set(read)) == 6  # four indexes, the manifest, its config


def test_a_manifest_that_is_listed_for_two_platforms_is_wrong_once(tmp_path: Path) -> None:
    GOOD.write(tmp_path / "image")
    index = tmp_path / "image/index.json"
    (entry,) = json.loads(index.read_text())["manifests"]
    other = {**entry, "platform": {"os": "linux", "architecture": "riscv64"}}
    index.write_text(json.dumps({"schemaVersion": 2, "manifests": [entry, entry, other, other]}))
    (tmp_path / "image/manifest.json").unlink(missing_ok=True)
    (fault,) = verify_image(f"oci:{tmp_path}/image").faults
    assert "is listed for linux/riscv64" in str(fault)


def test_what_is_no_image(tmp_path: Path) -> None:
    """Attestations lie beside an image in an index; their blobs are no tars, and have digests nevertheless."""
    GOOD.write(tmp_path / "image")
    entries = json.loads((tmp_path / "image/index.json").read_text())["manifests"]
    unknown = set_in("platform", {"os": "unknown", "architecture": "unknown"})
    other = replace(GOOD, stored={0: b"{}", 1: b"[]"}, entry=unknown, tag="attestation")
    other.write(tmp_path / "image")
    entries += json.loads((tmp_path / "image/index.json").read_text())["manifests"]
    (tmp_path / "image/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (tmp_path / "image/manifest.json").unlink()
    verdict = verify_image(f"oci:{tmp_path}/image")
    assert (verdict.faults, verdict.images, verdict.layers, verdict.entries) == ((), 1, 4, 6)
    (note,) = verdict.notes
    assert note.startswith(f"manifest {entries[1]['digest']}: is not of an image")
    (fault,) = verify_image(f"oci:{tmp_path}/image:attestation").faults
    assert str(fault) == f"{tmp_path}/image: no image is there"
    (tmp_path / "image/blobs/sha256" / digest_of(b"{}")[7:]).write_bytes(b"()")
    (fault,) = verify_image(f"oci:{tmp_path}/image").faults
    assert str(fault) == f"layer 1 ({digest_of(b'{}')}): its bytes are those of {digest_of(b'()')}"


def test_a_document_that_cannot_be_opened(tmp_path: Path) -> None:
    """The rest is verified nevertheless."""
    image = replace(GOOD, spoil=lambda blobs, layers: blobs.pop(layers[0]))
    image.write(tmp_path / "image")
    manifest = json.loads((tmp_path / "image/index.json").read_text())["manifests"][0]["digest"]
    config = json.loads((tmp_path / "image/blobs/sha256" / manifest[7:]).read_text())["config"]["digest"]
    path = tmp_path / "image/blobs/sha256" / config[7:]
    size = path.stat().st_size
    path.unlink()
    path.symlink_to(path)
    faults = list(map(str, verify_image(f"oci:{tmp_path}/image").faults))
    assert faults == [f"config {config}: not there", f"{L1}: not there"]
    path.unlink()
    path.mkdir()
    (fault, _) = verify_image(f"oci:{tmp_path}/image").faults
    assert fault.place == f"config {config}" and f"bytes, not {size}" in fault.what


def test_one_layer_and_two_sizes(tmp_path: Path, registry: FakeRegistry) -> None:
    """Of two images, the second's manifest is wrong about a layer of the first."""
    good = pushed(registry, GOOD)
    wrong = replace(GOOD, manifest=set_in("layers", 0, "size", 7)).files()
    (entry,) = json.loads(wrong["index.json"])["manifests"]
    entries = []
    for data in (registry.manifests["app", "1"][0], wrong[f"blobs/sha256/{entry['digest'][7:]}"]):
        digest = registry.add_manifest("app", "x", json.loads(data))
        size = len(registry.manifests["app", digest][0])
        entries.append({"mediaType": f"{OCI}manifest.v1+json", "digest": digest, "size": size})
    registry.add_manifest("app", "1", {"schemaVersion": 2, "mediaType": f"{OCI}index.v1+json", "manifests": entries})
    faults = list(map(str, verify_image(good).faults))
    assert faults == [f"{L1}: {len(squeeze(ONE))} bytes, but the manifest says 7"]


def test_foreign_layers(tmp_path: Path) -> None:
    """They may be kept elsewhere."""

    def change(document: dict[str, Any]) -> None:
        document["layers"][0]["mediaType"] = f"{OCI}layer.nondistributable.v1.tar+gzip"
        document["layers"][0]["urls"] = ["https://layers.example.org/1"]

    replace(GOOD, manifest=change).write(tmp_path / "image")
    assert not verify_image(f"oci:{tmp_path}/image").notes
    (tmp_path / "image/blobs/sha256" / STORED[0][7:]).unlink()
    verdict = verify_image(f"oci:{tmp_path}/image")
    assert (verdict.faults, verdict.notes) == ((), (f"{L1}: not here, but at https://layers.example.org/1",))


def docker_archive(folder: Path, change: Callable[[dict[str, Any], dict[str, bytes]], object], *, oci: bool) -> str:
    """A docker archive whose ``manifest.json`` and members are changed."""
    files = replace(GOOD, compress=bytes).files()
    (document,) = json.loads(files["manifest.json"])
    if not oci:
        del files["index.json"], files["oci-layout"]
    change(document, files)
    files["manifest.json"] = json.dumps([document]).encode()
    (folder / "image.tar").write_bytes(archive_of(files))
    return f"docker-archive:{folder}/image.tar"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda document, files: document["Layers"].reverse(), ["layer 1 is", "layer 2 is"]),
        (lambda document, files: document["Layers"].pop(), ["manifest.json: the number of its layers is 1, in"]),
        (lambda document, files: document.update(Config="blobs/sha256/x"), ["is that of no image in index.json"]),
        (lambda document, files: document.pop("Config"), ["manifest.json: Object missing required field `Config`"]),
        (lambda document, files: files.pop("oci-layout"), ["oci-layout: not there"]),
        (lambda document, files: None, []),
    ],
)  # fmt: skip
def test_an_archive_that_is_two(change: Any, says: list[str], tmp_path: Path) -> None:
    faults = list(map(str, verify_image(docker_archive(tmp_path, change, oci=True)).faults))
    assert len(faults) == len(says)
    for fault, text in zip(faults, says, strict=True):
        assert text in fault


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda document, files: document["Layers"].reverse(), ["are in another order than the layers"]),
        (lambda document, files: document["Layers"].pop(), ["the number of its layers is 1, that of its diff IDs 2"]),
        (lambda document, files: document.update(Config="c.json"), ["config c.json: ", "no member c.json"]),
        (lambda document, files: files.update({document["Config"]: b"{}"}), ["`architecture`", "its bytes"]),
        (lambda document, files: files.pop(document["Layers"][0]), ["layer 1 (blobs/", ": not there"]),
        (lambda document, files: None, []),
    ],
)  # fmt: skip
def test_a_docker_archive_alone(change: Any, says: list[str], tmp_path: Path) -> None:
    faults = "\n".join(map(str, verify_image(docker_archive(tmp_path, change, oci=False)).faults))
    assert bool(faults) == bool(says)
    for text in says:
        assert text in faults


@pytest.mark.parametrize("oci", [False, True])
@pytest.mark.parametrize("name", ["manifest.json", "config"])
def test_a_document_that_is_too_large(name: str, oci: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not read into memory, whoever asks for it."""
    monkeypatch.setattr("fastlayers.base._LARGEST", 5000)
    named = []

    def grow(document: dict[str, Any], files: dict[str, bytes]) -> None:
        document["Config"] = document["Config"] if oci else "config.json"
        document["More"] = "x" * (5000 if name == "manifest.json" else 0)
        files[document["Config"]] = b" " * 5001
        named.append("manifest.json" if name == "manifest.json" else document["Config"])

    image = docker_archive(tmp_path, grow, oci=oci)
    said = f"{named[0]}: more than 5000 bytes, too many for a document"
    faults = list(map(str, verify_image(image).faults))
    wrong = [": 5001 bytes, not "] if oci else []  # an index says how large it is, so that it is not opened
    large = [] if oci and name == "config" else [said]
    assert len(faults) == len([*large, *wrong])
    assert all(text in fault for text, fault in zip([*large, *wrong], faults, strict=True))
    for read in (inspect_image, read_base):
        with pytest.raises(ImageError) as caught:
            read(image)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_name_that_the_archive_does_not_have(tmp_path: Path) -> None:
    image = docker_archive(tmp_path, lambda document, files: None, oci=True)
    (fault,) = verify_image(f"{image}:other:1").faults
    assert str(fault) == "manifest.json: no image is named other:1; there is app:1"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("oci:absent", "absent: No such file or directory"),
        ("docker-archive:absent.tar", "absent.tar: No such file or directory"),
        ("oci-archive:no.tar", "no.tar: not a tar archive"),
    ],
)
def test_nothing_to_verify(reference: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "no.tar").write_bytes(b"not a tar")
    with pytest.raises(ImageError, match=says):
        verify_image(reference)


def test_a_folder_that_is_no_layout(tmp_path: Path) -> None:
    faults = verify_image(f"oci:{tmp_path}").faults
    assert list(map(str, faults)) == ["oci-layout: not there", "index.json: not there"]


def pushed(registry: FakeRegistry, image: StoredImage) -> str:
    files = image.files()
    (entry,) = json.loads(files["index.json"])["manifests"]
    manifest = json.loads(files[f"blobs/sha256/{entry['digest'][7:]}"])
    for described in (manifest["config"], *manifest["layers"]):
        data = files.get(f"blobs/sha256/{described['digest'][7:]}")
        if data is not None:
            registry.blobs["app", described["digest"]] = data
    registry.add_manifest("app", "1", manifest)
    return f"docker://{registry.host}/app:1"


@pytest.mark.usefixtures("quick")
def test_a_registry(registry: FakeRegistry) -> None:
    verdict = verify_image(pushed(registry, GOOD))
    assert (verdict.faults, verdict.layers, verdict.entries) == ((), 2, 6)
    faults = verify_image(pushed(registry, replace(GOOD, manifest=set_in("layers", 0, "size", 7)))).faults
    assert list(map(str, faults)) == [f"{L1}: {len(squeeze(ONE))} bytes, but the manifest says 7"]
    del registry.blobs["app", STORED[1]]
    assert f"{L2}: not there" in map(str, verify_image(f"docker://{registry.host}/app:1").faults)
    with pytest.raises(ImageError, match=r"^docker://[^/]+/app:absent: there is no such image$"):
        verify_image(f"docker://{registry.host}/app:absent")


@pytest.mark.usefixtures("quick")
def test_a_registry_that_goes_away(registry: FakeRegistry) -> None:
    """Is no fault of the image."""
    image = pushed(registry, GOOD)
    registry.interfere = lambda seen: Reply(500) if STORED[1] in seen.path and seen.method == "GET" else None
    with pytest.raises(RegistryError):
        verify_image(image)


def test_a_signal_ends_it_while_the_registry_hangs(registry: FakeRegistry) -> None:
    image = pushed(registry, GOOD)
    asked, over = threading.Event(), threading.Event()

    def interfere(seen: Seen) -> None:
        if seen.method == "GET" and STORED[1] in seen.path:
            asked.set()
            over.wait(60)

    registry.interfere = interfere
    command = [sys.executable, "-m", "fastlayers", "verify", image]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert asked.wait(60)
            process.terminate()  # SIGINT may be ignored, where the tests run in the background of a shell
            out, err = process.communicate(timeout=60)
        finally:
            over.set()
            process.kill()
    assert (process.returncode, out, err) == (143, "", "fastlayers: terminated\n")


def test_sparse_and_gnu_names(tmp_path: Path) -> None:
    """Tars that other programs write."""
    import io

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a" * 300, "b" * 300):
            info = tarfile.TarInfo(name)
            info.size = 10
            archive.addfile(info, io.BytesIO(b"x" * 10))
            link = tarfile.TarInfo(name + "l")
            link.type, link.linkname = tarfile.SYMTYPE, name
            archive.addfile(link)
    replace(GOOD, tars=[out.getvalue()], compress=lambda data: gzip.compress(data, 1)).write(tmp_path / "image")
    verdict = verify_image(f"oci:{tmp_path}/image")
    assert (verdict.faults, verdict.entries) == ((), 4)
