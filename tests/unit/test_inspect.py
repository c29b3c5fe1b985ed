"""What images say of themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fake_registry import FakeRegistry
from fastlayers import Codec, ImageError, build_image, inspect_image, parse_destination, read_closure, verify_image
from fastlayers.base import read_manifest
from fastlayers.cli import run
from images import OCI, StoredImage, archive_of, digest_of, squeeze, tar_of
from stores import APP, BASE, LIB, make_store

TARS = [tar_of((f"file-{number}", bytes(1000))) for number in range(2)]
GOOD = StoredImage(TARS)
NAMES = ["oci:image", "oci:image:1", "oci-archive:image.tar", "oci-archive:image.tar:1", "docker-archive:image.tar",
         "docker-archive:image.tar:app:1", "docker-archive:image.tgz"]  # fmt: skip


def annotate(document: dict[str, Any]) -> None:
    document["annotations"] = {"org.opencontainers.image.title": "app"}
    document["layers"][1]["annotations"] = {
        "dev.fastlayers.recipe": "abc",
        "dev.fastlayers.paths": json.dumps([f"/nix/store/{'a' * 32}-one", "two"]),
    }


def tell(document: dict[str, Any]) -> None:
    document["variant"], document["created"] = "v3", "2024-05-06T07:08:09Z"
    document["history"] = [{"created_by": "COPY"}, {"empty_layer": True}, {"comment": "second"}]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    image = replace(GOOD, manifest=annotate, config=tell)
    image.write(tmp_path / "image")
    (tmp_path / "image.tar").write_bytes(archive_of(image.files()))
    (tmp_path / "image.tgz").write_bytes(squeeze(archive_of(image.files())))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_is_told(name: str, folder: Path) -> None:
    facts = inspect_image(name)
    entry = json.loads((folder / "image/index.json").read_text())["manifests"][0]
    assert facts.manifest is not None and facts.manifest.digest == entry["digest"]
    manifest = json.loads((folder / "image/blobs/sha256" / entry["digest"][7:]).read_text())
    assert facts.image_id == manifest["config"]["digest"]
    assert (facts.platform, facts.created) == ("linux/amd64/v3", "2024-05-06T07:08:09Z")
    assert (facts.config, facts.annotations) == ({"Cmd": ["/bin/app"]}, manifest["annotations"])
    for layer, tar, described in zip(facts.layers, TARS, manifest["layers"], strict=True):
        assert (layer.digest, layer.diff_id, layer.size) == (described["digest"], digest_of(tar), described["size"])
        assert (layer.codec, layer.media_type) == ("gzip", f"{OCI}layer.v1.tar+gzip")
    assert [layer.history for layer in facts.layers] == ["COPY", "second"]
    assert [layer.paths for layer in facts.layers] == [[], [f"/nix/store/{'a' * 32}-one", "two"]]
    document = json.loads(json.dumps(facts.to_dict()))
    assert document["layers"][1]["annotations"]["dev.fastlayers.recipe"] == "abc"
    assert document["manifest"]["digest"] == entry["digest"]


def test_a_docker_archive_alone(folder: Path) -> None:
    files = replace(GOOD, config=tell).files()
    del files["index.json"]
    (folder / "docker.tar").write_bytes(archive_of(files))
    facts = inspect_image("docker-archive:docker.tar:app:1")
    assert facts.manifest is None
    assert facts.image_id == f"sha256:{json.loads(files['manifest.json'])[0]['Config'].rpartition('/')[2]}"
    assert [(layer.digest, layer.codec, layer.diff_id) for layer in facts.layers] == [
        (None, "gzip", digest_of(tar)) for tar in TARS
    ]


def test_the_table(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["inspect", "oci:image"])
    assert not stopped.value.code
    lines = capfd.readouterr().out.splitlines()
    facts = inspect_image("oci:image")
    assert lines[0] == "image oci:image"
    assert f"image ID {facts.image_id}" in lines
    assert 'config Cmd: ["/bin/app"]' in lines
    assert "annotation org.opencontainers.image.title: app" in lines
    assert "layer 2, annotation dev.fastlayers.recipe: abc" in lines
    (row,) = [line for line in lines if line.startswith("    2 ")]
    assert row.split() == ["2", "one,", "two", "0.1", "kB", "gzip", str(facts.layers[1].digest)[7:19],
                           facts.layers[1].diff_id[7:19]]  # fmt: skip


def test_json_is_what_the_api_gives(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["inspect", "--json", "oci:image"])
    assert json.loads(capfd.readouterr().out) == inspect_image("oci:image").to_dict()


def test_an_image_of_ours(tmp_path: Path) -> None:
    closure = read_closure(str(make_store(tmp_path)))
    made = build_image(
        closure,
        [parse_destination(f"oci:{tmp_path}/image:1")],
        store_root=f"{tmp_path}/root",
        codec=Codec("zstd"),
        jobs=1,
    )
    facts = inspect_image(f"oci:{tmp_path}/image:1")
    assert facts.manifest is not None and facts.manifest.digest == made.image.manifest_digest
    assert facts.image_id == made.image.config_digest
    assert facts.annotations["dev.fastlayers.strategy"] == "expected-cost/1"
    assert [layer.digest for layer in facts.layers] == made.image.layer_digests
    assert [layer.codec for layer in facts.layers] == ["zstd"] * 3
    told = " ".join(layer.history for layer in facts.layers) + " ".join(
        path for layer in facts.layers for path in layer.paths
    )
    assert all(path in told for path in (APP, BASE, LIB))


@pytest.mark.usefixtures("quick")
def test_a_registry(registry: FakeRegistry) -> None:
    """Two requests and one for what is there; nothing of the layers."""
    config = {"architecture": "arm64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
    digest = registry.add_image("app", "one", [], config)
    entry = {"mediaType": f"{OCI}manifest.v1+json", "digest": digest, "platform": {"architecture": "arm64"}}
    size = len(registry.manifests["app", digest][0])
    index = {"schemaVersion": 2, "mediaType": f"{OCI}index.v1+json", "manifests": [{**entry, "size": size}]}
    registry.add_manifest("app", "all", index)
    facts = inspect_image(f"docker://{registry.host}/app:all", architecture="arm64")
    assert facts.manifest is not None and facts.manifest.digest == digest
    assert facts.index == digest_of(registry.manifests["app", "all"][0])
    assert facts.platforms == ("linux/arm64",)
    with pytest.raises(ImageError, match="nothing for linux/riscv64; it has linux/arm64"):
        inspect_image(f"docker://{registry.host}/app:all", architecture="riscv64")
    with pytest.raises(ImageError, match=r"^docker://[^/]+/app:absent: there is no such image$"):
        inspect_image(f"docker://{registry.host}/app:absent")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("oci:absent", "absent: No such file or directory"),
        ("oci:image:2", "image: 0 images with the tag 2; there is 1$"),
        ("docker-archive:image.tar:app:2", "image.tar: 0 images named app:2; there is app:1$"),
        ("oci-archive:image/index.json", "not a tar archive"),
        ("oci:.", ".: no index.json: not an OCI layout"),
        ("oci:image.tar", "image.tar: not a folder: an archive is oci-archive:FILE or docker-archive:FILE"),
    ],
)
def test_no_image(name: str, says: str, folder: Path) -> None:
    with pytest.raises(ImageError, match=says):
        inspect_image(name)


@pytest.mark.parametrize("hidden", ["image", "image/blobs", "image/index.json"])
@pytest.mark.parametrize("read", [inspect_image, verify_image, read_manifest])
def test_what_may_not_be_read_is_not_called_absent(read: Callable[[str], object], hidden: str, folder: Path) -> None:
    read("oci:image")  # and what is loaded for it
    (folder / hidden).chmod(0)
    folder.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        if read is verify_image and hidden != "image":  # a fault among others
            assert [fault.what for fault in verify_image("oci:image").faults] == ["Permission denied"]
        else:
            with pytest.raises(ImageError, match=r"^image.*: Permission denied$"):
                read("oci:image")
    finally:
        os.seteuid(user)
        (folder / hidden).chmod(0o755)


def test_damaged_documents(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = inspect_image("oci:image").image_id
    assert config is not None
    (folder / "image/blobs/sha256" / config[7:]).write_bytes(b"{}")
    with pytest.raises(SystemExit) as stopped:
        run(["inspect", "oci:image"])
    assert stopped.value.code == 7
    out, err = capfd.readouterr()
    assert not out
    assert err.startswith(f"fastlayers: image: {config}: 2 bytes, not ") and err.count("\n") == 1


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_reference(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run([command, "image.tar"])
    assert stopped.value.code == 2
    assert "IMAGE image.tar: expected docker-archive:FILE" in capfd.readouterr().err
