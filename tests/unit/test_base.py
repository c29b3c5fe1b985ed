"""Base images: what can be built on, in every form in which they are on disk."""

import gzip
import hashlib
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastlayers import BaseImage, ImageError, read_base

LAYERS = [b"one" + bytes(10237), b"two" + bytes(10237)]
DIFF_IDS = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in LAYERS]
CONFIG = {
    "architecture": "arm64",
    "variant": "v8",
    "os": "linux",
    "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
    "rootfs": {"type": "layers", "diff_ids": DIFF_IDS},
    "history": [{"created_by": "one"}, {"created_by": "CMD", "empty_layer": True}, {"created_by": "two"}],
}


def member(name: str, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def manifest(*layers: str, tags: list[str] | None = None) -> bytes:
    return json.dumps([{"Config": "c.json", "RepoTags": tags or ["base:1"], "Layers": list(layers)}]).encode()


def docker(compress: Callable[[bytes], bytes] = bytes) -> bytes:
    return tar(
        member("./0/layer.tar", compress(LAYERS[0])),
        member("1", type=tarfile.DIRTYPE),
        member("1/layer.tar", compress(LAYERS[1])),
        member("c.json", json.dumps(CONFIG).encode()),
        member("manifest.json", manifest("0/layer.tar", "1/layer.tar")),
    )


def layout(folder: Path, tags: list[str | None], compress: Callable[[bytes], bytes] = bytes) -> None:
    entries = []

    def blob(data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
        (folder / "blobs/sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data), "mediaType": "application/x"}

    for tag in tags:
        described = {"config": blob(json.dumps(CONFIG).encode()), "layers": [blob(compress(data)) for data in LAYERS]}
        entry = blob(json.dumps(described).encode())
        entries.append(entry if tag is None else {**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))


def packed(folder: Path) -> bytes:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return tar(*(member(str(path.relative_to(folder)), path.read_bytes()) for path in files))


def check(base: BaseImage, compress: Callable[[bytes], bytes] = bytes, suffix: str = "") -> None:
    assert (base.architecture, base.variant) == ("arm64", "v8")
    assert base.config == CONFIG["config"]
    assert list(base.history) == CONFIG["history"]
    assert [blob.diff_id for blob in base.layers] == DIFF_IDS
    for blob, data in zip(base.layers, LAYERS, strict=True):
        stored = compress(data)
        assert (blob.size, blob.media_type_suffix) == (len(stored), suffix)
        assert blob.digest == "sha256:" + hashlib.sha256(stored).hexdigest()
        for _ in range(2):
            out = bytearray()
            blob.copy(out.extend)
            assert bytes(out) == stored


def squeeze(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize("outside", [bytes, squeeze, lzma.compress], ids=["plain", "gzip", "xz"])
@pytest.mark.parametrize(("inside", "suffix"), [(bytes, ""), (squeeze, "+gzip")], ids=["plain", "gzip"])
def test_docker_archive(
    tmp_path: Path, outside: Callable[[bytes], bytes], inside: Callable[[bytes], bytes], suffix: str
) -> None:
    (tmp_path / "base.tar").write_bytes(outside(docker(inside)))
    for name in ("", ":base:1"):
        check(read_base(f"docker-archive:{tmp_path}/base.tar{name}"), inside, suffix)


def test_docker_archive_whose_layers_are_links(tmp_path: Path) -> None:
    """As old releases of docker save wrote a layer that an image has twice."""
    (tmp_path / "base.tar").write_bytes(
        tar(
            member("a/real.tar", LAYERS[0]),
            member("a/layer.tar", type=tarfile.LNKTYPE, linkname="a/real.tar"),
            member("b/layer.tar", type=tarfile.SYMTYPE, linkname="../c/layer.tar"),
            member("c/layer.tar", LAYERS[1]),
            member("c.json", json.dumps(CONFIG).encode()),
            member("manifest.json", manifest("a/layer.tar", "b/layer.tar")),
        )
    )
    check(read_base(f"docker-archive:{tmp_path}/base.tar"))


@pytest.mark.parametrize(
    ("kind", "target", "says"),
    [
        (tarfile.SYMTYPE, "layer.tar", "not a file"),
        (tarfile.SYMTYPE, "/gone", "no member"),
        (tarfile.FIFOTYPE, "", "not a"),
    ],
)
def test_docker_archive_whose_links_lead_nowhere(tmp_path: Path, kind: bytes, target: str, says: str) -> None:
    config = {**CONFIG, "rootfs": {"diff_ids": DIFF_IDS[:1]}}
    (tmp_path / "base.tar").write_bytes(
        tar(
            member("a/layer.tar", type=kind, linkname=target),
            member("c.json", json.dumps(config).encode()),
            member("manifest.json", manifest("a/layer.tar")),
        )
    )
    with pytest.raises(ImageError, match=says):
        read_base(f"docker-archive:{tmp_path}/base.tar")


@pytest.mark.parametrize(("compress", "suffix"), [(bytes, ""), (squeeze, "+gzip")], ids=["plain", "gzip"])
@pytest.mark.parametrize("tag", [None, "v1"])
def test_oci_layout_and_archive(tmp_path: Path, tag: str | None, compress: Any, suffix: str) -> None:
    (tmp_path / "base").mkdir()
    layout(tmp_path / "base", [tag], compress)
    (tmp_path / "base.tar").write_bytes(packed(tmp_path / "base"))
    (tmp_path / "base.tgz").write_bytes(squeeze(packed(tmp_path / "base")))
    behind = f":{tag}" if tag else ""
    for reference in ("oci:base", "oci-archive:base.tar", "oci-archive:base.tgz", "docker-archive:base.tar"):
        transport, _, name = reference.partition(":")
        for wanted in {"", behind}:
            check(read_base(f"{transport}:{tmp_path}/{name}{wanted}"), compress, suffix)


def test_layers_that_are_named_by_their_digest_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an archive that is an OCI layout too; they are checked when they are copied."""
    stored = [squeeze(layer) for layer in LAYERS]
    names = [f"blobs/sha256/{hashlib.sha256(data).hexdigest()}" for data in stored]
    members = [member(name, data) for name, data in zip(names, stored, strict=True)]
    more = [member("c.json", json.dumps(CONFIG).encode()), member("manifest.json", manifest(*names))]
    (tmp_path / "base.tar").write_bytes(tar(*members, *more))
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        base = read_base(f"docker-archive:{tmp_path}/base.tar")
    check(base, squeeze, "+gzip")
    (tmp_path / "base.tar").write_bytes(tar(member(names[0], stored[1]), members[1], *more))
    with pytest.raises(ImageError, match=f"its bytes are not those of sha256:{names[0][13:]}"):
        read_base(f"docker-archive:{tmp_path}/base.tar").layers[0].copy(lambda block: None)


def test_a_layout_for_several_platforms(tmp_path: Path) -> None:
    layout(tmp_path, [None])
    (entry,) = json.loads((tmp_path / "index.json").read_text())["manifests"]
    platform = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    inner = json.dumps({"manifests": [{**entry, "platform": platform}]}).encode()
    digest = hashlib.sha256(inner).hexdigest()
    (tmp_path / "blobs/sha256" / digest).write_bytes(inner)
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [{"digest": f"sha256:{digest}"}]}))
    check(read_base(f"oci:{tmp_path}", architecture="arm64"))
    with pytest.raises(ImageError, match=f"sha256:{digest}: an index with nothing for linux/riscv64"):
        read_base(f"oci:{tmp_path}", architecture="riscv64")


def test_several_images_need_a_tag(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    layout(tmp_path / "base", ["one", "two", None])
    with pytest.raises(ImageError, match=r"3 images: name one by its tag; there are one, two$"):
        read_base(f"oci:{tmp_path}/base")
    check(read_base(f"oci:{tmp_path}/base:two"))
    with pytest.raises(ImageError, match=r"0 images with the tag three; there are one, two$"):
        read_base(f"oci:{tmp_path}/base:three")
    (tmp_path / "many").mkdir()
    layout(tmp_path / "many", list("fedcba"))
    with pytest.raises(ImageError, match=r"0 images with the tag g; there are a, b, c, d, e, \.\.\.$"):
        read_base(f"oci:{tmp_path}/many:g")


def test_history_that_does_not_fit_is_replaced(tmp_path: Path) -> None:
    config = {**CONFIG, "history": [{"created_by": "all at once"}]}
    members = [member("l0", LAYERS[0]), member("l1", LAYERS[1]), member("c.json", json.dumps(config).encode())]
    (tmp_path / "base.tar").write_bytes(tar(*members, member("manifest.json", manifest("l0", "l1"))))
    history = read_base(f"docker-archive:{tmp_path}/base.tar").history
    assert [entry["comment"] for entry in history] == ["layer 1 of the base image", "layer 2 of the base image"]


@pytest.mark.parametrize("transport", ["docker-archive", "oci"])
def test_a_base_that_goes_away(tmp_path: Path, transport: str) -> None:
    """What can no longer be read is the base's failure, not that of the file that it is copied to."""
    if transport == "oci":
        (tmp_path / "base").mkdir()
        layout(tmp_path / "base", [None])
    else:
        (tmp_path / "base").write_bytes(docker())
    base = read_base(f"{transport}:{tmp_path}/base")
    os.rename(tmp_path / "base", tmp_path / "elsewhere")
    with pytest.raises(ImageError, match=r"base: .+: No such file or directory"):
        base.layers[0].copy(lambda block: None)


@pytest.mark.parametrize("reference", ["", "base.tar", "docker:base", "oci:", "docker-daemon:base:1", "oci-archive"])
def test_no_reference(reference: str) -> None:
    with pytest.raises(ImageError, match="expected docker-archive:FILE"):
        read_base(reference)
