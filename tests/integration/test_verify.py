"""Images of other programs are good, and say to us what they say to others; what is put on a base is found there."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastlayers import inspect_image, verify_image
from integration.clients import Docker, Podman, call, fastlayers, place
from integration.registries import DockerRegistry
from required import require_tool

NAME = "fastlayers-merged:1"


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tar of a root in which /bin is a symlink, as in all larger distributions."""
    folder = tmp_path_factory.mktemp("merged")
    with tarfile.open(folder / "root.tar", "w") as tar:
        for name in ("usr", "usr/bin"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        link = tarfile.TarInfo("bin")
        link.type, link.linkname = tarfile.SYMTYPE, "usr/bin"
        tar.addfile(link)
        tar.add(require_tool("busybox"), "usr/bin/busybox")
        applet = tarfile.TarInfo("usr/bin/sh")
        applet.type, applet.linkname = tarfile.SYMTYPE, "busybox"
        tar.addfile(applet)
    return folder / "root.tar"


def saved(engine: Docker | Podman, root: Path, folder: Path, *options: str) -> str:
    """An image that an engine imported, and what it writes of it."""
    engine.call("import", "--change", 'CMD ["sh"]', "--change", "ENV WHO=base", root, NAME)
    engine.call("save", *options, "-o", folder / "saved.tar", NAME)
    engine.forget()
    return str(folder / "saved.tar")


@pytest.fixture(scope="module")
def images(
    merged: Path, docker: Docker, podman: Podman, skopeo: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The same root in images by docker, podman and skopeo."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("docker", "podman", "oci", "skopeo")}
    found = {
        "docker save": f"docker-archive:{saved(docker, merged, folders['docker'])}",
        "podman save": f"docker-archive:{saved(podman, merged, folders['podman'])}",
        "podman save as OCI": f"oci-archive:{saved(podman, merged, folders['oci'], '--format', 'oci-archive')}",
    }
    for kind in ("gzip", "zstd"):
        found[f"skopeo {kind}"] = f"oci:{folders['skopeo']}/{kind}:1"
        compress = ("--dest-compress", "--dest-compress-format", kind)
        call(skopeo, "copy", "--quiet", "--insecure-policy", *compress, found["docker save"], found[f"skopeo {kind}"])
    yield found


KINDS = ["docker save", "podman save", "podman save as OCI", "skopeo gzip", "skopeo zstd"]


def config_of(skopeo: str, image: str) -> Any:
    return json.loads(call(skopeo, "inspect", "--config", image))


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_others_are_good(kind: str, images: dict[str, str], skopeo: str) -> None:
    verdict = verify_image(images[kind], client="docker")
    assert (verdict.faults, verdict.images, verdict.layers) == ((), 1, 1)
    assert verdict.entries == 5
    facts, config = inspect_image(images[kind]), config_of(skopeo, images[kind])
    assert [layer.diff_id for layer in facts.layers] == config["rootfs"]["diff_ids"]
    assert facts.config["Cmd"] == config["config"]["Cmd"] == ["sh"]
    assert facts.config["Env"][-1:] == config["config"]["Env"][-1:] == ["WHO=base"]
    assert facts.platform == f"{config['os']}/{config['architecture']}"


@pytest.mark.parametrize("kind", ["skopeo gzip", "skopeo zstd", "podman save as OCI"])
def test_skopeo_says_what_we_say(kind: str, images: dict[str, str], skopeo: str) -> None:
    facts, told = inspect_image(images[kind]), json.loads(call(skopeo, "inspect", images[kind]))
    assert facts.manifest is not None and facts.manifest.digest == told["Digest"]
    assert [layer.digest for layer in facts.layers] == told["Layers"]
    raw = json.loads(call(skopeo, "inspect", "--raw", images[kind]))
    assert [layer.size for layer in facts.layers] == [layer["size"] for layer in raw["layers"]]
    assert facts.image_id == raw["config"]["digest"]


def test_umoci_says_what_we_say(images: dict[str, str]) -> None:
    image = images["skopeo gzip"]
    told = json.loads(call(require_tool("umoci"), "stat", "--json", "--image", image.removeprefix("oci:")))
    layers = [entry["layer"] for entry in told["history"] if not entry.get("empty_layer")]
    found = [(layer.digest, layer.size, layer.media_type) for layer in inspect_image(image).layers]
    assert found == [(layer["digest"], layer["size"], layer["mediaType"]) for layer in layers]


def test_what_skopeo_refuses_is_refused(images: dict[str, str], skopeo: str, tmp_path: Path) -> None:
    call("cp", "-r", images["skopeo gzip"].split(":")[1], tmp_path / "image")
    image = f"oci:{tmp_path}/image:1"
    (layer,) = inspect_image(image).layers
    blob = tmp_path / "image/blobs" / str(layer.digest).replace(":", "/")
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    with pytest.raises(AssertionError, match="igest"):
        call(skopeo, "copy", "--quiet", "--insecure-policy", image, f"oci:{tmp_path}/copy:1")
    (fault,) = verify_image(image).faults
    assert fault.place == f"layer 1 ({layer.digest})" and fault.what.startswith("its bytes are those of ")


def test_an_image_in_a_real_registry(images: dict[str, str], skopeo: str) -> None:
    with place() as folder:
        registry = DockerRegistry(folder)
        try:
            image = f"docker://{registry.host}/app:1"
            tls = "--dest-tls-verify=false"
            call(skopeo, "copy", "--quiet", "--insecure-policy", tls, images["docker save"], image)
            told = json.loads(call(skopeo, "inspect", "--tls-verify=false", image))
            facts = inspect_image(image)
            assert facts.manifest is not None and facts.manifest.digest == told["Digest"]
            assert [layer.digest for layer in facts.layers] == told["Layers"]
            verdict = verify_image(image)
            assert (verdict.faults, verdict.entries) == ((), 5)
        finally:
            registry.kill()


@pytest.mark.parametrize("kind", ["docker save", "skopeo zstd"])
def test_what_is_put_behind_a_symlink_of_the_base_runs(
    kind: str, images: dict[str, str], docker: Docker, podman: Podman, tmp_path: Path
) -> None:
    (tmp_path / "extra/bin").mkdir(parents=True)
    hello = tmp_path / "extra/bin/hello"
    hello.write_text("#!/bin/sh\n/bin/busybox readlink /bin\necho $WHO\n")
    hello.chmod(0o755)
    store = tmp_path / "root/nix/store" / f"{'0' * 32}-note"
    store.parent.mkdir(parents=True)
    store.write_text("note\n")
    (tmp_path / "graph.json").write_text(
        json.dumps({"graph": [{"path": f"/nix/store/{store.name}", "references": []}]})
    )
    archive = tmp_path / "image.tar"
    options = ("--from", images[kind], "--extra-files", tmp_path / "extra", "--store-root", tmp_path / "root")
    to = ("--to", f"docker-archive:{archive}:{NAME}", "--cmd", "/bin/hello", "--quiet")
    fastlayers("build", tmp_path / "graph.json", *options, *to)
    assert not verify_image(f"docker-archive:{archive}").faults
    engines = [podman] if kind == "skopeo zstd" else [docker, podman]
    for engine in engines:
        with engine.loaded(archive, NAME):
            assert engine.run(NAME) == "usr/bin\nbase\n"
