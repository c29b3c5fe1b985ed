"""nix/ as its users have it: evaluated and built by Nix, with a small package set in nixpkgs' place.

Each test sees, at /nix, a store of the tests' own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from integration.clients import Docker, Engine, Podman, image_config, layers_of, member, place
from required import require_root, require_tool

PROJECT = Path(__file__).parents[2]
PACKAGES = Path(__file__).parent / "nixpkgs"

IMAGES = """
let
  pkgs = import <nixpkgs> {
    overlays = [
      (import ./fastlayers/nix/overlay.nix)
      (import ./fastlayers/nix/dockertools.nix)
    ];
  };
  arguments = {
    name = "Team/App";
    contents = [ pkgs.hello pkgs.busybox ];
    config.Cmd = [ "/bin/hello" ];
    config.Env = [ "PLACE=${pkgs.iana}" ];
  };
  image = changes: pkgs.dockerTools.buildLayeredImage ({ compressor = "none"; } // arguments // changes);
  layoutOf = changes: pkgs.fastlayers.buildImageLayout (arguments // changes);
  onBase = { fromImage = few; tag = "2"; maxLayers = 5; };
  few = image { maxLayers = 3; };
  hello = pkgs.hello;
in
{
  inherit pkgs few hello;
  stream = pkgs.fastlayers.streamLayeredImage (arguments // { passthru.mine = "kept"; });
  plain = image { };
  gz = image { compressor = "gz"; };
  zstd = image { compressor = "zstd"; };
  layout = layoutOf { tag = "1"; compressor = "zstd"; };
  based = image onBase;
  basedLayout = layoutOf (onBase // { compressor = "none"; });
  pipeline = image {
    layeringPipeline = [
      [ "split_paths" [ pkgs.busybox ] ]
      [ "over" "rest" [ "pipe" [ [ "popularity_contest" ] [ "limit_layers" 2 ] ] ] ]
    ];
  };
  linksOnly = image { includeStorePaths = false; };
  changed = image {
    uid = 7; gid = 8; uname = "me"; gname = "us";
    architecture = "arm64";
    created = "2024-05-06 07:08:09"; mtime = "2001-02-03T04:05:06Z";
    extraCommands = "mkdir -m 1777 tmp; echo mine > note";
    fakeRootCommands = "mkdir home; chown 1000:100 home";
  };
  fakechroot = image { enableFakechroot = true; fakeRootCommands = "mkdir home; chown 1000:100 home"; };
  database = image { includeNixDB = true; };
  graph = pkgs.runCommand "graph.json" { __structuredAttrs = true; exportReferencesGraph.graph = [ hello ]; } ''
    cp "$NIX_ATTRS_JSON_FILE" $out
  '';
  text = pkgs.runCommand "graph.txt" { exportReferencesGraph = [ "graph" hello ]; } "cp graph $out";
}
"""


class Nix:
    """Nix with a store of its own at /nix, which nobody else sees: a command has its own view of the file system."""

    def __init__(self, folder: Path) -> None:
        require_root("a store at /nix")
        for tool in ("nix-build", "unshare", "fakeroot", "jq", "pigz", "zstd", "sqlite3", "busybox"):
            require_tool(tool)
        self.folder = folder
        Path("/nix").mkdir(exist_ok=True)
        (folder / "nix").mkdir()
        (folder / "nix.conf").write_text(
            "build-users-group =\nsandbox = false\nfilter-syscalls = false\nsubstituters =\nfsync-metadata = false\n"
            "experimental-features = nix-command flakes\n"
        )
        checkout = folder / "fastlayers"
        for name in ("nix", "src", "tests"):
            ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info", "_archive.c", "_core.c")
            shutil.copytree(PROJECT / name, checkout / name, ignore=ignored)
        for name in ("LICENSE", "MANIFEST.in", "README.md", "flake.nix", "pyproject.toml", "setup.py"):
            shutil.copy(PROJECT / name, checkout)
        (folder / "images.nix").write_text(IMAGES)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("NIX_")}
        self.environment = {
            **kept,
            "NIX_CONF_DIR": str(folder),
            "NIX_REMOTE": "local",
            "NIX_PATH": f"nixpkgs={PACKAGES}",
            "HOME": str(folder),
            "FASTLAYERS_TEST_PATH": os.environ["PATH"],
            "XDG_CACHE_HOME": str(folder / "cache"),  # of Nix, which has to have one
            "FASTLAYERS_TEST_PYTHON": sys.executable,
        }

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        view = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /nix && exec "$@"', self.folder / "nix")
        environment = {**self.environment, **options.pop("env", {})}
        return subprocess.run(
            (*view, *command), check=False, capture_output=True, cwd=self.folder, env=environment, **options
        )

    def call(self, *command: str | Path, **options: Any) -> bytes:
        done = self.run(*command, **options)
        assert done.returncode == 0, f"{command}\n{done.stderr.decode()[-4000:]}"
        return done.stdout

    def fastlayers(self, *arguments: str | Path) -> bytes:
        return self.call(sys.executable, "-P", "-m", "fastlayers", *arguments)  # not the checkout

    def build(self, *arguments: str | Path) -> str:
        """The path in the store of what nix-build gives."""
        return self.call("nix-build", "--no-out-link", *arguments).decode().split()[-1]

    def image(self, name: str) -> Path:
        """An image of IMAGES, as a path that is there outside too."""
        return self.outside(self.build("images.nix", "-A", name))

    def outside(self, path: str) -> Path:
        return self.folder / path[1:]

    def evaluate(self, name: str) -> Any:
        return json.loads(self.call("nix-instantiate", "--eval", "--strict", "--json", "images.nix", "-A", name))


@pytest.fixture(scope="module")
def nix() -> Iterator[Nix]:
    with place() as folder:
        yield Nix(folder)


def diff_ids(archive: Path) -> list[str]:
    return list(image_config(archive)["rootfs"]["diff_ids"])


def top_layer(archive: Path, *arguments: str) -> str:
    """What tar lists of the customisation layer."""
    (manifest,) = json.loads(member(archive, "manifest.json"))
    data = member(archive, manifest["Layers"][-1])
    return subprocess.run(
        ["tar", "-tv", "--utc", *arguments], input=data, check=True, capture_output=True
    ).stdout.decode()


def test_the_package_is_built_and_its_tests_pass(nix: Nix) -> None:
    package = nix.outside(nix.build("fastlayers/nix"))
    assert {path.name for path in (package / "bin").iterdir()} == {"fastlayers"}
    nix.build("fastlayers/nix", "-A", "tests")  # dockerTools' arguments give dockerTools' layers, among them


@pytest.fixture(scope="module")
def example(nix: Nix) -> Path:
    """The first example of docs/nix.md, built as is written there."""
    found = re.search(
        r"```nix\n(.*?)```\n\n```\n(nix-build)\n(docker load -i result)\n",
        (PROJECT / "docs/nix.md").read_text(),
        re.S,
    )
    assert found
    (nix.folder / "default.nix").write_text(found[1])
    nix.call(found[2])
    return nix.outside(os.readlink(nix.folder / "result"))


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_the_example_of_the_guide_runs(example: Path, engine: str, request: pytest.FixtureRequest) -> None:
    client: Docker | Podman = request.getfixturevalue(engine)
    assert isinstance(client, Engine)
    with client.loaded(example, "hello:1") as image:
        assert client.run(image) == "hello\n"


def test_the_example_has_the_layers_of_the_command_line(nix: Nix, example: Path) -> None:
    closure = nix.folder / "closure.json"
    hello = nix.build("<nixpkgs>", "-A", "hello")
    closure.write_bytes(nix.call("nix", "path-info", "--json", "-r", hello))
    archive = nix.folder / "command.tar"
    nix.fastlayers(
        "build", closure, "--strategy", "auto", "--to", f"docker-archive:{archive}:hello:1", "--cmd", "/bin/hello"
    )
    assert len(diff_ids(archive)) == 8
    assert diff_ids(example)[:-1] == diff_ids(archive)


@pytest.mark.parametrize("strategy", ["auto", "popularity"])
def test_every_source_gives_the_same_layers(nix: Nix, strategy: str) -> None:
    hello = nix.build("images.nix", "-A", "hello")
    closure = nix.folder / f"{strategy}.json"
    closure.write_bytes(nix.call("nix", "path-info", "--json", "-r", hello))
    sources = [f"nix:{hello}", hello, str(closure), nix.build("images.nix", "-A", "graph")]
    if strategy == "popularity":  # the text form has no sizes
        sources.append(nix.build("images.nix", "-A", "text"))
    found = []
    for number, source in enumerate(sources):
        archive = nix.folder / f"{strategy}-{number}.tar"
        nix.fastlayers(
            "build", source, "--strategy", strategy, "--max-layers", "4", "--to", f"docker-archive:{archive}:a:1"
        )
        found.append(diff_ids(archive))
    assert len(found[0]) == 3
    assert [ids for ids in found if ids != found[0]] == []


def test_an_image_is_the_same_inside_a_build_and_outside(nix: Nix) -> None:
    script = nix.build("images.nix", "-A", "stream")
    conf = nix.build("images.nix", "-A", "plain.stream.conf")
    outside = nix.call(script)
    assert outside == nix.fastlayers("stream", conf)
    assert outside == nix.image("plain").read_bytes()
    for codec, program in (("gz", "gzip"), ("zstd", "zstd")):
        image = nix.image(codec)
        assert image.name.endswith({"gz": "-App.tar.gz", "zstd": "-App.tar.zst"}[codec])
        assert subprocess.run([program, "-dc", image], check=True, capture_output=True).stdout == outside
    another = nix.call(script, "--repo_tag", "other:3")
    assert json.loads(
        subprocess.run(["tar", "-xO", "manifest.json"], input=another, check=True, capture_output=True).stdout
    )[0]["RepoTags"] == ["other:3"]


def test_a_build_uses_the_cores_that_it_was_given(nix: Nix) -> None:
    script = nix.evaluate("stream.streamScript")
    nix.image("stream")
    for cores, expected in (("3", "stream --jobs 3 --help"), ("0", "stream --help"), ("", "stream --help")):
        done = nix.run("bash", "-x", script, "--help", env={"NIX_BUILD_CORES": cores})
        assert done.returncode == 0
        assert expected in done.stderr.decode().splitlines()[-1]


def test_attributes_are_those_of_dockertools(nix: Nix) -> None:
    conf = nix.build("images.nix", "-A", "stream.conf")
    tag = Path(conf).name.partition("-")[0]
    assert json.loads(nix.outside(conf).read_bytes())["repo_tag"] == f"team/app:{tag}"
    for image in ("stream", "plain", "plain.stream"):
        assert nix.evaluate(f"{image}.imageTag") == tag
        assert nix.evaluate(f"{image}.imageName") == "team/app"
        assert nix.build("images.nix", "-A", f"{image}.conf") == conf
    assert nix.evaluate("stream.isExe") is True
    assert nix.evaluate("stream.mine") == "kept"
    assert nix.evaluate("layout.imageTag") == "1"


@pytest.mark.parametrize(("layout", "archive", "base"), [("layout", "plain", 0), ("basedLayout", "based", 3)])
def test_a_layout_has_the_layers_of_the_archive(nix: Nix, layout: str, archive: str, base: int) -> None:
    folder, ids = nix.image(layout), diff_ids(nix.image(archive))
    found = []
    for layer in layers_of(folder):
        data = layer.read_bytes()
        if data[:4] == b"\x28\xb5\x2f\xfd":
            data = subprocess.run(["zstd", "-dc"], input=data, check=True, capture_output=True).stdout
        found.append("sha256:" + hashlib.sha256(data).hexdigest())
    assert found[:-1] == ids[:-1]
    assert len(found) == len(ids) > base
    (entry,) = json.loads((folder / "index.json").read_text())["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == f"docker.io/team/app:{'2' if base else '1'}"


def test_layers_are_split_as_the_arguments_say(nix: Nix) -> None:
    def split(name: str) -> list[list[str]]:
        conf = json.loads(nix.outside(nix.build("images.nix", "-A", f"{name}.stream.conf")).read_bytes())
        return [[path.partition("-")[2] for path in layer] for layer in conf["store_layers"]]

    every = {f"{name}-1.0" for name in ("busybox", "curl", "database", "hello", "iana", "readline", "tls", "zlib")}
    for name, count in (("plain", 8), ("few", 2), ("pipeline", 3)):
        assert {path for layer in split(name) for path in layer} == every
        assert len(split(name)) == count
    assert split("pipeline")[0] == ["busybox-1.0"]
    assert split("linksOnly") == []
    assert diff_ids(nix.image("based"))[:3] == diff_ids(nix.image("few"))
    assert len(diff_ids(nix.image("based"))) == 5


def test_the_arguments_reach_the_image(nix: Nix) -> None:
    image = nix.image("changed")
    config = image_config(image)
    assert config["architecture"] == "arm64"
    assert config["created"] == "2024-05-06T07:08:09+00:00"
    (manifest,) = json.loads(member(image, "manifest.json"))
    layer = member(image, manifest["Layers"][0])
    listed = subprocess.run(["tar", "-tv", "--utc"], input=layer, check=True, capture_output=True).stdout.decode()
    assert all(" me/us " in line and " 2001-02-03 04:05 " in line for line in listed.splitlines())
    top = top_layer(image, "--numeric-owner")
    assert re.search(r"^drwxrwxrwt 0/0 .* \./tmp/$", top, re.M)
    assert re.search(r"^drwxr-xr-x 1000/100 .* \./home/$", top, re.M)
    assert re.search(r"^-rw-r--r-- 0/0 .* \./note$", top, re.M)
    assert re.search(r" \./bin/hello -> /nix/store/[^/]*-hello-1.0/bin/hello$", top, re.M)


def test_commands_in_a_chroot(nix: Nix) -> None:
    top = top_layer(nix.image("fakechroot"), "--numeric-owner")
    assert re.search(r"^drwxr-xr-x 1000/100 .* \./home/$", top, re.M)
    assert not re.search(r" \./(dev|proc|sys|nix/store)/", top)


def test_a_nix_database_of_the_contents(nix: Nix, tmp_path: Path) -> None:
    image = nix.image("database")
    (manifest,) = json.loads(member(image, "manifest.json"))
    subprocess.run(["tar", "-x", "-C", tmp_path], input=member(image, manifest["Layers"][-1]), check=True)
    with closing(sqlite3.connect(tmp_path / "nix/var/nix/db/db.sqlite")) as database:
        rows = dict(database.execute("SELECT path, registrationTime FROM ValidPaths").fetchall())
    assert sorted(path.partition("-")[2] for path in rows) == [
        f"{name}-1.0" for name in ("busybox", "curl", "database", "hello", "iana", "readline", "tls", "zlib")
    ]
    assert set(rows.values()) == {1}
    roots = tmp_path / "nix/var/nix/gcroots/docker"
    assert sorted(os.readlink(root).partition("-")[2] for root in roots.iterdir()) == ["busybox-1.0", "hello-1.0"]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ('compressor = "xz"; ', "team/app: compressor xz: expected gz, none, zstd"),
        ("maxLayers = 1; ", "team/app: maxLayers must be at least 2"),
        ("maxLayers = 4; fromImage = few; ", "app: maxLayers is 4, and fromImage and the customisation take 4"),
        ("mood = 1; ", "called with unexpected argument 'mood'"),
    ],
)
def test_wrong_arguments(nix: Nix, expression: str, message: str) -> None:
    text = f'with import ./images.nix; pkgs.fastlayers.buildLayeredImage {{ name = "team/app"; {expression} }}'
    done = nix.run("nix-build", "--no-out-link", "-E", text)
    assert done.returncode != 0
    assert message in done.stderr.decode()


def test_the_flake(nix: Nix) -> None:
    options = ("--no-write-lock-file", "--override-input", "nixpkgs", f"path:{PACKAGES}")
    shown = json.loads(nix.call("nix", "flake", "show", "--json", f"path:{nix.folder}/fastlayers", *options))
    assert set(shown["overlays"]) == {"default", "dockerTools"}
    assert set(shown["checks"]["x86_64-linux"]) == {"dockerTools", "version"}
    version = importlib.metadata.version("fastlayers")
    for system in ("aarch64-linux", "x86_64-linux"):
        assert shown["packages"][system]["default"]["name"] == f"fastlayers-{version}"
