"""Images on a base that docker made, and nixpkgs' own format, with real clients."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.clients import Docker, NixClosure, Podman, call, fastlayers, image_config
from required import require_tool
from stores import CONF

BASE = "fastlayers-base:1"
NAME = "fastlayers-on-base:1"


@pytest.fixture(scope="module")
def base(docker: Docker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What ``docker save`` gives of an image with busybox alone, which has a command and variables."""
    folder = tmp_path_factory.mktemp("base")
    with tarfile.open(folder / "busybox.tar", "w") as tar:
        tar.add(require_tool("busybox"), "bin/busybox")
    changes = ("ENV WHO=base", "ENV PATH=/bin", 'ENTRYPOINT ["/bin/busybox"]', 'CMD ["echo", "base"]')
    options = [word for change in changes for word in ("--change", change)]
    docker.call("import", *options, folder / "busybox.tar", BASE)
    docker.call("save", "-o", folder / "base.tar", BASE)
    docker.forget()
    yield folder / "base.tar"


@pytest.fixture(scope="module")
def base_references(base: Path, skopeo: str) -> dict[str, str]:
    """The base as a docker archive, and as an OCI layout and archive, where its layer is gzip."""
    references = {"docker-archive": f"docker-archive:{base}:{BASE}"}
    for transport in ("oci", "oci-archive"):
        references[transport] = f"{transport}:{base.parent / transport}:1"
        call(skopeo, "copy", "--quiet", "--insecure-policy", references["docker-archive"], references[transport])
    return references


@pytest.mark.parametrize(("kind", "compress"), [("docker-archive", "none"), ("oci", "gzip"), ("oci-archive", "none")])
def test_an_image_on_a_base_runs(
    kind: str,
    compress: str,
    base: Path,
    base_references: dict[str, str],
    git_closure: NixClosure,
    docker: Docker,
    podman: Podman,
    tmp_path: Path,
) -> None:
    archive = tmp_path / "image.tar"
    options = ("--from", base_references[kind], "--env", "WHO=image", "--max-layers", "10", "--compress", compress)
    built = json.loads(
        fastlayers(
            "build", git_closure.folder / "graph.json", "--to", f"docker-archive:{archive}:{NAME}", *options, "--json"
        )
    )
    config, below = image_config(archive), image_config(base)
    diff_ids = config["rootfs"]["diff_ids"]
    # One layer of the base, one kept for a customisation: eight for the closure.
    assert diff_ids == below["rootfs"]["diff_ids"] + [layer["diff_id"] for layer in built["layers"]]
    assert len(diff_ids) == 9
    assert config["config"]["Entrypoint"] == ["/bin/busybox"] and config["config"]["Cmd"] == ["echo", "base"]
    assert config["config"]["Env"] == ["WHO=image", "PATH=/bin"]
    for engine in (docker, podman):
        with engine.loaded(archive, NAME):
            assert engine.run(NAME) == "base\n"
            assert engine.run(NAME, "sh", "-c", "echo $WHO") == "image\n"
            git = engine.run(NAME, "--version", options=["--entrypoint", f"{git_closure.root}/bin/git"])
            assert git.startswith("git version ")


def test_an_entrypoint_drops_the_command_of_the_base(
    base_references: dict[str, str], git_closure: NixClosure, podman: Podman, tmp_path: Path
) -> None:
    options = ("--from", base_references["oci"], "--entrypoint", f"{git_closure.root}/bin/git", "--name", NAME)
    archive = tmp_path / "image.tar"
    fastlayers("build", git_closure.folder / "graph.json", "--to", f"oci-archive:{archive}", *options)
    assert "Cmd" not in image_config(archive)["config"]
    with podman.loaded(archive, NAME):
        assert podman.run(NAME, "--version").startswith("git version ")


def test_a_base_counts(base_references: dict[str, str], git_closure: NixClosure, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "fastlayers", "build", git_closure.folder / "graph.json", "--max-layers", "2")
    to = ("--from", base_references["oci"], "--to", f"oci:{tmp_path}/layout:1")
    done = subprocess.run([*command, *to], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (4, "", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def conf(git_closure: NixClosure, tmp_path: Path) -> Path:
    """The conf.json that nixpkgs would write for the closure with a customisation layer of one file."""
    customisation = tmp_path / "customisation"
    customisation.mkdir()
    (tmp_path / "note").write_text("customised\n")
    with tarfile.open(customisation / "layer.tar", "w") as tar:
        tar.add(tmp_path / "note", "note")
    checksum = hashlib.sha256((customisation / "layer.tar").read_bytes()).hexdigest()
    (customisation / "checksum").write_text(checksum + "\n")
    plan = fastlayers("plan", git_closure.folder / "graph.json", "--max-layers", "19", "--format", "layers")
    values = {
        **CONF,
        "config": {"Cmd": git_closure.command.split()},
        "store_layers": json.loads(plan),
        "customisation_layer": str(customisation),
        "repo_tag": NAME,
    }
    (tmp_path / "conf.json").write_text(json.dumps(values))
    return tmp_path / "conf.json"


def test_a_stream_has_the_layers_of_the_build(
    conf: Path, git_closure: NixClosure, docker: Docker, podman: Podman, tmp_path: Path
) -> None:
    archive, streamed = tmp_path / "build.tar", tmp_path / "stream.tar"
    with streamed.open("wb") as out:
        command = [sys.executable, "-m", "fastlayers", "stream", str(conf), "--jobs", "2"]
        subprocess.run(command, stdout=out, stderr=subprocess.DEVNULL, check=True)
    graph = git_closure.folder / "graph.json"
    fastlayers("build", graph, "--to", f"docker-archive:{archive}:{NAME}", "--max-layers", "20")
    built, diff_ids = image_config(archive)["rootfs"]["diff_ids"], image_config(streamed)["rootfs"]["diff_ids"]
    assert len(built) == 19
    assert diff_ids[:-1] == built
    assert diff_ids[-1] == "sha256:" + (conf.parent / "customisation" / "checksum").read_text().strip()
    for engine in (docker, podman):
        with engine.loaded(streamed, NAME):
            assert engine.run(NAME).startswith("git version ")
            assert engine.run(NAME, f"{git_closure.root}/bin/cat", "/note") == "customised\n"


def test_a_stream_goes_into_docker_by_a_pipe(conf: Path, docker: Docker) -> None:
    command = [sys.executable, "-m", "fastlayers", "stream", str(conf), "--repo_tag", "fastlayers-piped:2", "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as streaming:
        try:
            assert "fastlayers-piped:2" in docker.call("load", stdin=streaming.stdout)
            assert docker.run("fastlayers-piped:2").startswith("git version ")
        finally:
            docker.forget()
    assert streaming.returncode == 0
