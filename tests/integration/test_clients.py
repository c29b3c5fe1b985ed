"""Every client takes the images of a real Nix closure, and runs a program from them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.clients import (
    Docker,
    Engine,
    NixClosure,
    Podman,
    Runc,
    call,
    fastlayers,
    file_digest,
    image_config,
    layers_of,
)

NAME = "fastlayers-git:1"


@dataclass(frozen=True)
class Images:
    """One image at every destination."""

    codec: str
    places: Mapping[str, Path]

    def __getitem__(self, transport: str) -> Path:
        return self.places[transport]


@pytest.fixture(scope="module", params=["none", "gzip", "zstd"])
def images(
    request: pytest.FixtureRequest, git_closure: NixClosure, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Images]:
    """The image of the closure with layers of each codec; one build writes all destinations."""
    folder = tmp_path_factory.mktemp(request.param)
    places = {"docker-archive": folder / "docker.tar", "oci-archive": folder / "oci.tar", "oci": folder / "oci"}
    to = [f"--to={transport}:{file}:{'1' if 'oci' in transport else NAME}" for transport, file in places.items()]
    options = ("--compress", request.param, "--name", NAME, "--cmd", git_closure.command)
    fastlayers("build", git_closure.folder / "graph.json", *to, *options)
    yield Images(request.param, places)
    shutil.rmtree(folder)


@pytest.mark.parametrize("transport", ["docker-archive", "oci", "oci-archive"])
def test_skopeo_reads_every_destination(images: Images, transport: str, skopeo: str, tmp_path: Path) -> None:
    source = f"{transport}:{images[transport]}" + (":1" if transport != "docker-archive" else f":{NAME}")
    seen = json.loads(call(skopeo, "inspect", source))
    assert seen["Architecture"] and len(seen["Layers"]) == len(layers_of(images["oci"]))
    # It checks digests when it copies.
    call(skopeo, "copy", "--quiet", "--insecure-policy", source, f"oci:{tmp_path}/copy:1")
    config = json.loads(call(skopeo, "inspect", "--config", f"oci:{tmp_path}/copy:1"))
    assert config["rootfs"] == image_config(images["docker-archive"])["rootfs"]


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_docker_loads_and_runs(images: Images, transport: str, docker: Docker) -> None:
    if images.codec == "zstd" and docker.call("version", "--format", "{{.Server.Version}}").startswith("20."):
        with pytest.raises(AssertionError, match="invalid tar header"):
            docker.call("load", "-i", images[transport])
        return
    check_engine(docker, images[transport])


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_podman_loads_and_runs(images: Images, transport: str, podman: Podman) -> None:
    check_engine(podman, images[transport])


def test_podman_loads_a_layout(images: Images, podman: Podman) -> None:
    try:
        image = podman.call("pull", "--quiet", f"oci:{images['oci']}:1").strip()
        assert podman.run(image).startswith("git version ")
    finally:
        podman.forget()


def check_engine(engine: Engine, archive: Path) -> None:
    with engine.loaded(archive, NAME):
        assert engine.run(NAME).startswith("git version ")
        assert engine.inspect(NAME)["RootFS"]["Layers"] == image_config(archive)["rootfs"]["diff_ids"]


def test_runc_runs_what_umoci_unpacks(images: Images, runc: Runc, git_closure: NixClosure) -> None:
    if images.codec == "zstd":  # umoci 0.4 cannot read it
        return
    with runc.unpacked(images["oci"], "1") as bundle:
        check_tree(bundle / "rootfs", git_closure)
        assert runc.run(bundle).startswith("git version ")


def test_gnu_tar_unpacks_the_closure(git_layout: Path, git_closure: NixClosure, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for layer in layers_of(git_layout):
        call("tar", "-xpf", layer, "-C", root)
    check_tree(root, git_closure)


def check_tree(root: Path, closure: NixClosure) -> None:
    """The tree has the closure's paths, all that is in them, and nothing else."""
    assert [path.name for path in root.iterdir()] == ["nix"]
    assert [path.name for path in (root / "nix").iterdir()] == ["store"]
    assert sorted(f"/nix/store/{path.name}" for path in (root / "nix/store").iterdir()) == closure.paths
    for path in closure.paths:
        copy = f"{root}{path}"
        call("diff", "-r", "--no-dereference", path, copy)
        assert listing(copy) == listing(path)


def listing(path: str) -> str:
    """Name, mode and link target of every entry, sorted."""
    found = call("find", ".", "-printf", "%p %M %l\\0", cwd=path) if Path(path).is_dir() else ""
    own = call("find", path, "-maxdepth", "0", "-printf", "%M %l")
    return "\n".join([own, *sorted(found.split("\0"))])


def test_gnu_tar_agrees_with_every_layer(git_layout: Path, git_closure: NixClosure) -> None:
    for layer in layers_of(git_layout):
        listed = call("tar", "-tPf", layer).splitlines()
        with tarfile.open(layer) as tar:
            assert [member.name + "/" * member.isdir() for member in tar] == listed
        paths = [name for name in listed if name not in ("/nix/", "/nix/store/")]
        # Types, modes, owners, dates, sizes, link targets and contents, of every entry but the parent directories.
        names = "".join(f"{name}\0" for name in paths)
        assert call("tar", "-dPf", layer, "--null", "--no-recursion", "-T", "-", input=names) == ""
        verbose = call("tar", "-tvPf", layer, "--utc", "--full-time").splitlines()
        assert len(verbose) == len(listed)
        assert all(" root/root " in line and " 1970-01-01 00:00:01 " in line for line in verbose)


def test_builds_are_the_same_byte_for_byte(git_closure: NixClosure, tmp_path: Path) -> None:
    graph, digests = git_closure.folder / "graph.json", set()
    for number, jobs in enumerate(("1", "2", "5")):
        file = tmp_path / f"{number}.tar"
        fastlayers("build", graph, "--to", f"docker-archive:{file}:{NAME}", "--jobs", jobs, "--quiet")
        digests.add(file_digest(file))
        file.unlink()
    piped = tmp_path / "piped.tar"
    with piped.open("wb") as out:
        build = [sys.executable, "-m", "fastlayers", "build", str(graph), "--to", f"docker-archive:-:{NAME}"]
        subprocess.run(["sh", "-c", '"$@" | cat', "sh", *build], stdout=out, stderr=subprocess.DEVNULL, check=True)
    digests.add(file_digest(piped))
    assert len(digests) == 1


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_compressed_builds_are_the_same(codec: str, git_closure: NixClosure, tmp_path: Path) -> None:
    graph, digests = git_closure.folder / "graph.json", set()
    for jobs in ("1", "3"):
        file = tmp_path / f"{jobs}.tar"
        fastlayers("build", graph, "--to", f"oci-archive:{file}:1", "--jobs", jobs, "--compress", codec, "--quiet")
        digests.add(file_digest(file))
    assert len(digests) == 1


def test_a_closure_without_sizes_has_the_same_layers(git_closure: NixClosure, git_layout: Path, tmp_path: Path) -> None:
    """In another order: of what tells no NAR sizes all paths count alike."""
    layout = tmp_path / "layout"
    fastlayers("build", git_closure.folder / "graph.txt", "--to", f"oci:{layout}:1", "--cmd", git_closure.command)
    assert sorted(
        path.name for path in (git_layout / "blobs" / "sha256").iterdir() if path.stat().st_size > 40_000
    ) == (sorted(path.name for path in (layout / "blobs" / "sha256").iterdir() if path.stat().st_size > 40_000))
    shutil.rmtree(layout)


@pytest.mark.parametrize("source", ["path-info.json", "-"])
def test_the_format_of_the_closure_does_not_matter(
    source: str, git_closure: NixClosure, git_layout: Path, tmp_path: Path
) -> None:
    layout = tmp_path / "layout"
    command = ("build", git_closure.folder / source if source != "-" else "-")
    with (git_closure.folder / "graph.json").open("rb") as graph:
        stdin = graph if source == "-" else subprocess.DEVNULL
        fastlayers(*command, "--to", f"oci:{layout}:1", "--cmd", git_closure.command, stdin=stdin)
    assert (layout / "index.json").read_bytes() == (git_layout / "index.json").read_bytes()
    shutil.rmtree(layout)
