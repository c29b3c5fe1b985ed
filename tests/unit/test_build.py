"""From a closure to images: layers, configuration, who works, and what is left when it fails."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from fastlayers import (
    Codec,
    ConfigError,
    DestinationError,
    ImageName,
    LayerError,
    LayerPlan,
    Pipeline,
    PlanError,
    Settings,
    build_image,
    parallel,
    parse_destination,
    plan_layers,
    plan_pipeline,
    read_base,
    read_closure,
)
from fastlayers.build import BuildResult
from fastlayers.closure import Closure
from fastlayers.contents import Generated, GeneratedEntry, Tree
from fastlayers.layer import MeasuredLayer, NewFile
from stores import ABSENT, APP, BASE, LIB, make_store, write_file

NAME = ImageName("example.org/app", "1")
CODECS = [Codec(), Codec("gzip"), Codec("zstd", 1)]


@pytest.fixture
def closure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Closure:
    """The closure of the small store, in a working folder that has nothing else."""
    graph = make_store(tmp_path / "in")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    return read_closure(str(graph))


def build(closure: Closure, *targets: str, **options: Any) -> BuildResult:
    destinations = [parse_destination(target, NAME) for target in targets]
    return build_image(closure, destinations, **{"store_root": os.path.abspath("../in/root"), "jobs": 1, **options})


class Layout:
    """What an OCI layout, in a folder or in an archive, says of its images; every digest and size is checked."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            self.files = {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}
        else:
            with tarfile.open(path) as tar:
                found = tar.getmembers()
                assert all(member.isreg() and member.mode == 0o644 and member.mtime == 1 for member in found)
                self.files: dict[str, bytes] = {}
                for member in found:
                    data = tar.extractfile(member).read()
                    # A plain layer that the image has twice is a member twice: its place is taken before it is made.
                    assert self.files.setdefault(member.name, data) == data
                self.members = len(found)
        for name, data in self.files.items():
            if name.startswith("blobs/"):
                assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
        assert json.loads(self.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
        self.index = json.loads(self.files["index.json"])
        assert self.index["schemaVersion"] == 2
        assert self.index["mediaType"] == "application/vnd.oci.image.index.v1+json"

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        data = self.files["blobs/sha256/" + descriptor["digest"].removeprefix("sha256:")]
        assert descriptor["size"] == len(data)
        return data

    def image(self, number: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
        """Manifest and config, after the checks of the OCI image specification."""
        entry = self.index["manifests"][number]
        assert entry["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
        manifest = json.loads(self.blob(entry))
        assert manifest["schemaVersion"] == 2 and manifest["mediaType"] == entry["mediaType"]
        assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
        config = json.loads(self.blob(manifest["config"]))
        assert entry["platform"] == {key: config[key] for key in ("architecture", "os", "variant") if key in config}
        assert config["rootfs"]["type"] == "layers"
        assert len(config["rootfs"]["diff_ids"]) == len(manifest["layers"])
        assert sum(not item.get("empty_layer") for item in config["history"]) == len(manifest["layers"])
        for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
            kind, _, compression = layer["mediaType"].partition("+")
            assert kind == "application/vnd.oci.image.layer.v1.tar"
            data = decompress(self.blob(layer), compression)
            assert diff_id == "sha256:" + hashlib.sha256(data).hexdigest()
        return manifest, config


def decompress(data: bytes, compression: str) -> bytes:
    import gzip

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return {"": bytes, "gzip": gzip.decompress, "zstd": zstd.decompress}[compression](data)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_layout_is_valid(closure: Closure, codec: Codec) -> None:
    settings = Settings({"Cmd": [f"{APP}/bin/app"], "Env": ["A=1"]}, "arm64", "v8", "2024-05-06T07:08:09Z")
    made = build(closure, "oci:image", codec=codec, settings=settings)
    layout = Layout(Path("image"))
    manifest, config = layout.image()
    assert layout.index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "1"
    assert (config["architecture"], config["variant"], config["os"]) == ("arm64", "v8", "linux")
    assert config["created"] == "2024-05-06T07:08:09Z"
    assert config["config"] == settings.config
    assert config["rootfs"]["diff_ids"] == [layer.descriptor.diff_id for layer in made.layers]
    assert [layer["digest"] for layer in manifest["layers"]] == [layer.descriptor.digest for layer in made.layers]
    assert [path in item["comment"] for path, item in zip([BASE, LIB, APP], config["history"], strict=True)] == [
        True
    ] * 3
    assert manifest["annotations"] == {
        "dev.fastlayers.codec": codec.profile,
        "dev.fastlayers.tar": "nixpkgs/1",
        "dev.fastlayers.plan": "1",
        "dev.fastlayers.strategy": "expected-cost/1",
    }
    assert made.image.config_digest == manifest["config"]["digest"]
    assert made.image.manifest_digest == layout.index["manifests"][0]["digest"]
    assert len(layout.files) == 2 + 2 + 3  # nothing but index, oci-layout, config, manifest and three layers
    assert sorted(os.listdir("image")) == ["blobs", "index.json", "oci-layout"]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_an_archive_is_a_layout_and_a_docker_archive(closure: Closure, codec: Codec, transport: str) -> None:
    made = build(closure, f"{transport}:image.tar", codec=codec)
    archive = Path("image.tar")
    assert archive.stat().st_size % 10240 == 0
    layout = Layout(archive)
    manifest, config = layout.image()
    docker = json.loads(layout.files["manifest.json"])
    blob = "blobs/sha256/"
    assert docker == [
        {
            "Config": blob + manifest["config"]["digest"][7:],
            "RepoTags": ["example.org/app:1"],
            "Layers": [blob + layer["digest"][7:] for layer in manifest["layers"]],
        }
    ]
    assert len(config["rootfs"]["diff_ids"]) == 3
    assert list(layout.files)[-5:] == [
        docker[0]["Config"],
        blob + made.image.manifest_digest[7:],
        "index.json",
        "oci-layout",
        "manifest.json",
    ]
    assert sorted(list(layout.files)[:-5]) == sorted(docker[0]["Layers"])
    assert layout.members == len(layout.files)  # no path occurs twice
    assert os.listdir() == ["image.tar"]


def test_members_stand_in_the_order_of_the_layers(closure: Closure) -> None:
    for target, codec in (("oci-archive:plain.tar", Codec()), ("oci-archive:gzip.tar", Codec("gzip"))):
        made = build(closure, target, codec=codec)
        names = list(Layout(Path(target.partition(":")[2])).files)
        assert names[:3] == ["blobs/sha256/" + layer.descriptor.digest[7:] for layer in made.layers]


def test_diff_ids_do_not_depend_on_the_codec(closure: Closure) -> None:
    ids = {tuple(layer.descriptor.diff_id for layer in build(closure, codec=codec).layers) for codec in CODECS}
    assert len(ids) == 1


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_pipe_gets_the_bytes_of_a_file(closure: Closure, codec: Codec) -> None:
    build(closure, "docker-archive:image.tar", codec=codec)
    level = f":{codec.level}" if codec.level else ""
    program = [sys.executable, "-m", "fastlayers", "build", "../in/graph.json", "--store-root", "../in/root", "--quiet"]
    options = ["--to", "docker-archive:-:example.org/app:1", "--compress", codec.name + level]
    done = subprocess.run([*program, *options], check=True, stdout=subprocess.PIPE)
    assert done.stdout == Path("image.tar").read_bytes()


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "threads": lambda: ThreadPoolExecutor(3),
    "spawned processes": lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")),
}


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("name", EXECUTORS)
def test_any_executor_gives_the_same_bytes(closure: Closure, codec: Codec, name: str) -> None:
    build(closure, "docker-archive:one.tar", "oci:one", codec=codec)
    with EXECUTORS[name]() as executor:
        build(closure, "docker-archive:other.tar", "oci:other", codec=codec, executor=executor)
        assert executor.submit(len, "x").result() == 1  # it is ours to shut down
    assert Path("one.tar").read_bytes() == Path("other.tar").read_bytes()
    assert listing(Path("one")) == listing(Path("other"))


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("jobs", [2, 5])
def test_worker_processes_give_the_same_bytes(
    closure: Closure, codec: Codec, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(closure, "docker-archive:one.tar", codec=codec)
    monkeypatch.setattr(parallel, "_SMALL", 0)
    build(closure, "docker-archive:other.tar", codec=codec, jobs=jobs)
    assert Path("one.tar").read_bytes() == Path("other.tar").read_bytes()


def test_progress(closure: Closure, monkeypatch: pytest.MonkeyPatch) -> None:
    for small in (1 << 30, 0):
        monkeypatch.setattr(parallel, "_SMALL", small)
        seen: list[tuple[int, int]] = []
        made = build(closure, jobs=2, progress=lambda done, total, seen=seen: seen.append((done, total)))
        total = sum(layer.descriptor.tar_size for layer in made.layers)
        assert seen[-1] == (total, total)
        assert sorted(seen) == seen


def test_several_destinations_are_made_at_once(closure: Closure) -> None:
    build(closure, "docker-archive:a.tar", "oci-archive:b.tar", "oci:c")
    build(closure, "docker-archive:alone.tar")
    assert Path("a.tar").read_bytes() == Path("alone.tar").read_bytes()
    one, two, three = (Layout(Path(name)).image() for name in ("a.tar", "b.tar", "c"))
    assert one == two == three


def test_two_tags_in_one_new_layout(closure: Closure) -> None:
    build(closure, "oci:image:one", "oci:image:two")
    layout = Layout(Path("image"))
    tags = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in layout.index["manifests"]]
    assert sorted(tags) == ["one", "two"]
    assert layout.image(0) == layout.image(1)


# --- plans and the layer that is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize("max_layers", [2, 3, 4, 100])
def test_one_layer_is_kept_for_the_customisation(closure: Closure, max_layers: int) -> None:
    extra = [Generated("image", (GeneratedEntry("/tmp", 0o1777),))]
    more = Closure(
        closure.paths,
        [closure.references(i) for i in range(3)],
        nar_sizes=closure.nar_sizes.tolist(),
        contents=[Tree(path) for path in closure.paths],
        extra=extra,
    )
    without, with_one = build(closure, max_layers=max_layers), build(more, max_layers=max_layers)
    expected = plan_layers(closure, max_layers - 1).layers
    assert [layer.paths for layer in without.layers] == list(expected)
    assert with_one.layers[:-1] == without.layers  # a customisation never moves a store layer
    assert with_one.layers[-1].kind == "customisation"
    assert len(with_one.layers) <= max_layers


def test_no_layer_is_left(closure: Closure) -> None:
    with pytest.raises(PlanError, match="a limit of 1 leaves no layer for the closure: one is kept for the custom"):
        build(closure, max_layers=1)


def test_build_takes_a_plan(closure: Closure) -> None:
    plan = LayerPlan(((APP, BASE), (LIB,)))
    made = build(closure, "oci:image", layer_plan=plan)
    assert made.plan is plan
    assert [layer.paths for layer in made.layers] == [(APP, BASE), (LIB,)]
    manifest, _ = Layout(Path("image")).image()
    assert "dev.fastlayers.strategy" not in manifest["annotations"]


def test_what_is_excluded_is_not_in_the_image(closure: Closure) -> None:
    made = build(closure, "oci:image", exclude=[APP])
    assert [layer.paths for layer in made.layers] == [(BASE,), (LIB,)]
    assert made.to_dict()["excluded"] == [APP]
    by_pipeline = build(closure, layer_plan=plan_pipeline(closure, Pipeline([["popularity_contest"]], {APP})))
    assert [layer.descriptor for layer in by_pipeline.layers] == [layer.descriptor for layer in made.layers]
    with pytest.raises(ConfigError, match=f"^{APP}: named in the configuration or the contents, but excluded$"):
        build(closure, exclude=[APP], settings=Settings({"Cmd": [f"{APP}/bin/app"]}), store_dir="/nix/store")
    with pytest.raises(PlanError, match="every path is excluded: there is nothing to build"):
        build(closure, exclude=closure.paths)


def test_build_by_the_strategy_auto(closure: Closure) -> None:
    made = build(closure, "oci:image", max_layers=3, strategy="auto")
    assert [layer.paths for layer in made.layers] == [(BASE, LIB), (APP,)]
    manifest, _ = Layout(Path("image")).image()
    assert manifest["annotations"]["dev.fastlayers.strategy"] == "auto/1"


@pytest.mark.parametrize("form", ["layers", "json"])
def test_build_takes_what_plan_prints(closure: Closure, form: str) -> None:
    program = [sys.executable, "-m", "fastlayers"]
    printed = [*program, "plan", "../in/graph.json", "--max-layers", "2", "--format", form]
    Path("plan.json").write_bytes(subprocess.run(printed, check=True, stdout=subprocess.PIPE).stdout)
    options = ["--plan", "plan.json", "--store-root", "../in/root", "--to", "oci:image", "--json"]
    done = subprocess.run([*program, "build", "../in/graph.json", *options], check=True, stdout=subprocess.PIPE)
    result = json.loads(done.stdout)
    assert [layer["paths"] for layer in result["layers"]] == [[BASE, LIB], [APP]]
    expected = build(closure, max_layers=3)
    assert [layer["diff_id"] for layer in result["layers"]] == [layer.descriptor.diff_id for layer in expected.layers]
    assert result["strategy"] == ("expected-cost/1" if form == "json" else None)


# --- on a base --------------------------------------------------------------------------------------------------------


def test_layers_of_a_base_are_counted_and_come_first(closure: Closure) -> None:
    build(closure, "docker-archive:base.tar", max_layers=3)  # two layers
    base = read_base("docker-archive:base.tar")
    with pytest.raises(PlanError, match="a limit of 3 leaves no layer for the closure: the base image has 2, one"):
        build(closure, base=base, max_layers=3)
    made = build(closure, "oci:image", base=base, max_layers=4)
    assert [layer.paths for layer in made.layers] == [(APP, BASE, LIB)]
    manifest, config = Layout(Path("image")).image()
    assert config["rootfs"]["diff_ids"][:2] == [blob.diff_id for blob in base.layers]
    assert [layer["digest"] for layer in manifest["layers"]][:2] == [blob.digest for blob in base.layers]
    assert len(config["history"]) == 3


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_base_with_the_same_layers(closure: Closure, codec: Codec) -> None:
    build(closure, "docker-archive:base.tar", codec=codec)
    base = read_base("docker-archive:base.tar")
    made = build(closure, "docker-archive:image.tar", "oci:image", base=base, codec=codec)
    layout = Layout(Path("image.tar"))
    assert layout.image() == Layout(Path("image")).image()
    assert len(layout.image()[0]["layers"]) == 6
    assert made.layers[0].descriptor.digest == base.layers[0].digest
    program = [sys.executable, "-m", "fastlayers", "build", "../in/graph.json", "--store-root", "../in/root", "--quiet"]
    level = f":{codec.level}" if codec.level else ""
    options = ["--from", "docker-archive:base.tar", "--compress", codec.name + level]
    done = subprocess.run(
        [*program, *options, "--to", "docker-archive:-:example.org/app:1"], check=True, stdout=subprocess.PIPE
    )
    assert done.stdout == Path("image.tar").read_bytes()


def test_an_image_on_itself_has_each_blob_once(closure: Closure) -> None:
    build(closure, "docker-archive:first.tar")
    build(closure, "docker-archive:second.tar", base=read_base("docker-archive:first.tar"))
    with tarfile.open("second.tar") as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))


def test_workers_of_a_foreign_executor_do_not_share_a_file(closure: Closure) -> None:
    sinks: list[object] = []

    class Foreign(ThreadPoolExecutor):
        def submit(self, fn: Any, task: Any, *more: Any) -> Any:
            sinks.extend(task.sinks)
            return super().submit(fn, task, *more)

    with Foreign(2) as executor:
        build(closure, "docker-archive:a.tar", executor=executor)
    assert sinks and all(isinstance(sink, NewFile) for sink in sinks)
    build(closure, "docker-archive:b.tar")
    assert Path("a.tar").read_bytes() == Path("b.tar").read_bytes()


def test_a_store_root_is_for_store_paths(closure: Closure) -> None:
    class Listed:
        owner = "listed"

        def paths(self) -> list[str]:
            return ["/etc/hostname"]

    mixed = Closure([BASE, "listed"], [[], []], contents=[Tree(BASE), Listed()])
    with pytest.raises(ConfigError, match="a store root is for store paths"):
        build(mixed, "oci:image")


def test_two_layers_of_the_same_bytes(closure: Closure) -> None:
    """Two nodes without a file of their own are two equal layers, and one blob."""

    class Nothing:
        def __init__(self, owner: str) -> None:
            self.owner = owner

        def paths(self) -> list[str]:
            return []

    empty = Closure(["a", "b"], [[], []], contents=[Nothing("a"), Nothing("b")])
    build(empty, "docker-archive:image.tar", store_root="")
    manifest, _ = Layout(Path("image.tar")).image()
    assert len(manifest["layers"]) == 2 and len({layer["digest"] for layer in manifest["layers"]}) == 1


# --- the configuration ------------------------------------------------------------------------------------------------


def test_store_paths_of_the_configuration(closure: Closure) -> None:
    settings = Settings(
        {"Cmd": [f"{APP}/bin/app"], "Env": [f"P={ABSENT}/bin:{LIB}/bin"], "Labels": {"x": f"{ABSENT}x"}}
    )
    with pytest.raises(
        ConfigError, match=f"{ABSENT}, {ABSENT}x: named in the configuration or the contents, but not in the closure"
    ):
        build(closure, settings=settings, store_dir="/nix/store")
    build(closure, settings=settings)  # without a store directory nothing is looked for


def test_variables_that_the_closure_needs(closure: Closure) -> None:
    needing = Closure([BASE], [[]], environment={"PATH": "/x/bin", "A": "1"})
    build(needing, "oci:image", settings=Settings({"Env": ["A=2", "B=3"]}))
    assert Layout(Path("image")).image()[1]["config"]["Env"] == ["PATH=/x/bin", "A=2", "B=3"]


def test_to_dict_is_json(closure: Closure) -> None:
    made = build(closure)
    result = json.loads(json.dumps(made.to_dict()))
    assert result["image_id"] == made.image.config_digest
    assert [layer["paths"] for layer in result["layers"]] == [[BASE], [LIB], [APP]]
    assert [layer["tar_size"] for layer in result["layers"]] == [layer.descriptor.tar_size for layer in made.layers]


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("small", [1 << 30, 0])
def test_a_file_that_changes_leaves_no_image(
    closure: Closure, codec: Codec, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It grows when all layers are measured and none is read."""
    monkeypatch.setattr(parallel, "_SMALL", small)
    file = Path("../in/root" + APP) / "bin/app"
    file.chmod(0o755)
    measured = parallel.measure_each

    def measure_and_spoil(*arguments: Any) -> list[MeasuredLayer]:
        layers = list(measured(*arguments))
        with file.open("ab") as script:
            script.write(bytes(100_000))
        return layers

    monkeypatch.setattr("fastlayers.build.measure_each", measure_and_spoil)
    with pytest.raises(LayerError, match="app"):
        build(closure, "docker-archive:image.tar", "oci:image", codec=codec, jobs=2)
    assert os.listdir() == []


def test_progress_may_stop_the_work(closure: Closure, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for small in (1 << 30, 0):
        monkeypatch.setattr(parallel, "_SMALL", small)
        with pytest.raises(KeyboardInterrupt):
            build(closure, "docker-archive:image.tar", "oci:image", jobs=2, progress=stop)
        assert os.listdir() == []


def test_an_image_that_was_there_stays_when_the_next_one_fails(closure: Closure) -> None:
    build(closure, "docker-archive:image.tar", "oci:image")
    before = listing(Path())
    write_file(Path("../in/root" + LIB) / ".wh.x")
    with pytest.raises(LayerError):
        build(closure, "docker-archive:image.tar", "oci:image")
    assert listing(Path()) == before


def test_an_archive_replaces_what_a_symlink_leads_to(closure: Closure) -> None:
    write_file(Path("real.tar"), "old", 0o644)
    Path("link.tar").symlink_to("real.tar")
    build(closure, "docker-archive:link.tar")
    assert Path("link.tar").is_symlink()
    assert "index.json" in Layout(Path("real.tar")).files


# --- a layout that is there -------------------------------------------------------------------------------------------


def tags(path: str) -> list[str]:
    index = Layout(Path(path)).index
    return [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]


def test_other_tags_stay_and_the_same_is_replaced(closure: Closure) -> None:
    build(closure, "oci:image:one")
    build(closure, "oci:image:two", settings=Settings({"Cmd": ["x"]}))
    assert tags("image") == ["one", "two"]
    before = Layout(Path("image")).image(1)
    build(closure, "oci:image:one", settings=Settings({"Cmd": ["y"]}))
    assert sorted(tags("image")) == ["one", "two"]
    layout = Layout(Path("image"))
    images = dict(zip(tags("image"), [layout.image(0), layout.image(1)], strict=True))
    assert images["two"] == before
    assert images["one"][1]["config"] == {"Cmd": ["y"]}


def test_the_same_image_again_changes_nothing(closure: Closure) -> None:
    build(closure, "oci:image")
    before = listing(Path("image"))
    build(closure, "oci:image")
    assert listing(Path("image")) == before


def test_an_empty_folder_becomes_a_layout(closure: Closure) -> None:
    Path("image").mkdir()
    build(closure, "oci:image")
    Layout(Path("image")).image()


def test_a_folder_of_other_things_is_refused(closure: Closure) -> None:
    write_file(Path("image/precious"), "x")
    with pytest.raises(DestinationError, match="image: a folder with other things in it, not an OCI layout"):
        build(closure, "oci:image")
    assert listing(Path("image")) == {"precious": b"x"}


def test_an_empty_folder_stays_empty_when_the_build_fails(closure: Closure, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("image").mkdir()

    def fail(*_: Any, **__: Any) -> None:
        raise LayerError("x")

    monkeypatch.setattr("fastlayers.build.make_image", fail)
    with pytest.raises(LayerError):
        build(closure, "oci:image", "oci-archive:image.tar")
    assert os.listdir("image") == [] and os.listdir() == ["image"]


def test_what_others_put_into_a_layout_stays(closure: Closure) -> None:
    build(closure, "oci:image:1")
    index = json.loads(Path("image/index.json").read_bytes())
    signature = {"mediaType": "application/x", "digest": "sha256:" + "1" * 64, "size": 1}
    index["manifests"].append(signature)
    index["annotations"] = {"kept": "yes"}
    Path("image/index.json").write_text(json.dumps(index))
    for _ in range(2):
        untagged = parse_destination("oci:image")
        build_image(closure, [untagged], store_root=os.path.abspath("../in/root"))
    after = json.loads(Path("image/index.json").read_bytes())
    assert after["annotations"] == {"kept": "yes"} and signature in after["manifests"]
    assert len(after["manifests"]) == 3  # the tagged one, the signature, and the one without a tag once


def test_many_builds_into_one_layout_at_once(closure: Closure) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: build(closure, f"oci:image:{number}", jobs=1), range(16)))
    assert sorted(tags("image"), key=int) == [str(number) for number in range(16)]
    for number in range(16):
        assert read_base(f"oci:image:{number}").layers


def test_a_failed_build_leaves_what_another_made_meanwhile(closure: Closure) -> None:
    first = parse_destination("oci:image:1")
    first.begin([], [], Codec(), local=True)
    build(closure, "oci:image:2")
    first.abort()
    assert tags("image") == ["2"] and read_base("oci:image:2").layers
