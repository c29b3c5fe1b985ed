"""Names, dates, configurations and how they are merged, and the images of it all."""

import json
from pathlib import Path
from typing import Any

import pytest

from fastlayers import BaseImage, ConfigError, ImageName, LayerDescriptor, Settings, read_config
from fastlayers.image import (
    canonical_json,
    check_config,
    make_image,
    merge_config,
    merge_env,
    parse_date,
    store_paths_in,
)
from stores import ABSENT, APP, BASE, write_json


@pytest.mark.parametrize(
    ("text", "repository", "tag", "full", "normalised"),
    [
        ("app", "app", None, "app:latest", "docker.io/library/app:latest"),
        ("app:1", "app", "1", "app:1", "docker.io/library/app:1"),
        ("team/app:v1.0_x-y", "team/app", "v1.0_x-y", "team/app:v1.0_x-y", "docker.io/team/app:v1.0_x-y"),
        ("example.org/a/b", "example.org/a/b", None, "example.org/a/b:latest", "example.org/a/b:latest"),
        ("localhost/app:1", "localhost/app", "1", "localhost/app:1", "localhost/app:1"),
        ("host:5000/app", "host:5000/app", None, "host:5000/app:latest", "host:5000/app:latest"),
        ("host:5000/app:2", "host:5000/app", "2", "host:5000/app:2", "host:5000/app:2"),
        ("[::1]:5000/app:2", "[::1]:5000/app", "2", "[::1]:5000/app:2", "[::1]:5000/app:2"),
        ("a.b_c__d-e--f", "a.b_c__d-e--f", None, "a.b_c__d-e--f:latest", "docker.io/library/a.b_c__d-e--f:latest"),
    ],
)
def test_names(text: str, repository: str, tag: str | None, full: str, normalised: str) -> None:
    name = ImageName.parse(text)
    assert (name.repository, name.tag, name.full, name.normalised) == (repository, tag, full, normalised)


def test_no_name() -> None:
    assert ImageName().full is None and ImageName().normalised is None
    assert ImageName(tag="1").full is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "App",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "ä",
        "a b",
        "a:",
        "a:-x",
        "a:" + "x" * 129,
        "a:b:c",
        "a\n",
    ],
)
def test_bad_names(text: str) -> None:
    with pytest.raises(ConfigError):
        ImageName.parse(text)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09+00:00"),
        ("2024-05-06T07:08:09+02:00", "2024-05-06T07:08:09+02:00"),
        ("2024-05-06", "2024-05-06T00:00:00+00:00"),
        ("20240506T070809Z", "2024-05-06T07:08:09+00:00"),
    ],
)
def test_dates(text: str, iso: str) -> None:
    assert parse_date(text).isoformat() == iso


def test_a_date_without_a_zone_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Pacific/Auckland")
    time.tzset()
    try:
        assert parse_date("1970-01-01T00:00:05").timestamp() == 5
    finally:
        monkeypatch.undo()
        time.tzset()


def test_merge_env() -> None:
    assert merge_env(["A=1", "B=2", "A=3"], ["C=4", "B=5=6"]) == ["A=3", "B=5=6", "C=4"]
    assert merge_env([], []) == []
    assert merge_env(["A"], ["A=1"]) == ["A=1"]


def test_merge_config() -> None:
    base = {
        "Env": ["PATH=/bin", "A=1"],
        "Cmd": ["sh"],
        "User": "base",
        "Labels": {"a": "1", "b": "2"},
        "Volumes": {"/a": {}},
        "ExposedPorts": None,
    }
    before = json.dumps(base)
    own = {"Env": ["A=2", "B=3"], "User": "own", "Labels": {"b": "3"}, "ExposedPorts": {"80/tcp": {}}, "Volumes": None}
    assert merge_config(base, own) == {
        "Env": ["PATH=/bin", "A=2", "B=3"],
        "Cmd": ["sh"],
        "User": "own",
        "Labels": {"a": "1", "b": "3"},
        "Volumes": {"/a": {}},
        "ExposedPorts": {"80/tcp": {}},
    }
    assert json.dumps(base) == before


def test_an_entrypoint_drops_the_command_of_the_base() -> None:
    base = {"Cmd": ["sh"], "Entrypoint": ["old"]}
    assert merge_config(base, {"Entrypoint": ["new"]}) == {"Entrypoint": ["new"]}
    assert merge_config(base, {"Entrypoint": ["new"], "Cmd": ["x"]}) == {"Entrypoint": ["new"], "Cmd": ["x"]}
    assert merge_config(base, {"Cmd": ["x"]}) == {"Entrypoint": ["old"], "Cmd": ["x"]}
    assert merge_config(base, {"Entrypoint": []}) == {"Entrypoint": []}
    assert merge_config(base, {"Entrypoint": None, "Cmd": None}) == base


@pytest.mark.parametrize("whole", [False, True])
def test_read_config(tmp_path: Path, whole: bool) -> None:
    config = {"Cmd": ["x"], "Env": ["A=é"], "Labels": {"a": ""}, "Healthcheck": {"Test": ["NONE"]}}
    document = {"architecture": "amd64", "config": config} if whole else config
    assert read_config(str(write_json(tmp_path / "config.json", document))) == config


@pytest.mark.parametrize(
    "config",
    [{"Cmd": "x"}, {"Cmd": [1]}, {"User": 0}, {"ExposedPorts": ["80"]}, {"Volumes": {"/a": None}}, {"Env": ["=a"]},
     {"WorkingDir": []}, {"Labels": {"a": 1}}, {"StopSignal": 9}, {"Other": "\udcff"}],
)  # fmt: skip
def test_bad_configs(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="here: "):
        check_config(config, "here")


def test_store_paths_in() -> None:
    config = {"Cmd": [f"{APP}/bin/x", f"{ABSENT}/bin/y"], "Env": [f"P={BASE}:{ABSENT}"], "Labels": {ABSENT + "z": "é"}}
    assert store_paths_in(config, "/nix/store") == sorted([APP, BASE, ABSENT, ABSENT + "z"])
    assert store_paths_in(config, "/gnu/store") == []
    assert store_paths_in({"Cmd": ["/nix/store/short-name/bin"]}, "/nix/store") == []


def test_canonical_json() -> None:
    assert canonical_json({"b": [1, None], "a": "é"}) == '{"a":"é","b":[1,null]}'.encode()
    # A byte that is not UTF-8 makes no invalid document.
    assert json.loads(canonical_json({"a": "\udcff"})) == {"a": "\udcff"}
    assert canonical_json({"a": "\udcff"}) == rb'{"a":"\udcff"}'


def descriptor(letter: str) -> LayerDescriptor:
    return LayerDescriptor(f"sha256:{letter * 64}", 10240, f"sha256:{letter.upper() * 64}", 99, "gzip x", "+gzip")


def test_make_image() -> None:
    paths = [f"/nix/store/{number}" for number in range(25)]
    layers = [(descriptor("a"), "closure", paths), (descriptor("b"), "customisation", [])]
    settings, recipes = Settings({"Cmd": ["x"]}, "amd64"), ["c" * 64, None]
    image = make_image(settings, layers, base=None, annotations={"k": "v"}, recipes=recipes)
    config, manifest = json.loads(image.config), json.loads(image.manifest)
    assert image.config == canonical_json(config) and image.manifest == canonical_json(manifest)
    assert config["rootfs"] == {"type": "layers", "diff_ids": ["sha256:" + "a" * 64, "sha256:" + "b" * 64]}
    assert config["created"] == "1970-01-01T00:00:01Z" and config["os"] == "linux" and "variant" not in config
    assert [entry["created_by"] for entry in config["history"]] == ["fastlayers"] * 2
    assert config["history"][0]["comment"].endswith("/nix/store/19 and 5 more")
    assert manifest["layers"][0] == {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": "sha256:" + "A" * 64,
        "size": 99,
        "annotations": {
            "dev.fastlayers.recipe": "c" * 64,
            "dev.fastlayers.diff-id": "sha256:" + "a" * 64,
            "dev.fastlayers.tar-size": "10240",
            "dev.fastlayers.entries": "0",
            "dev.fastlayers.codec": "gzip x",
            "dev.fastlayers.paths": json.dumps(paths, separators=(",", ":")),
        },
    }
    assert {"dev.fastlayers.recipe", "dev.fastlayers.paths"}.isdisjoint(manifest["layers"][1]["annotations"])
    assert manifest["annotations"] == {"k": "v", "dev.fastlayers.plan": "1"}
    assert manifest["config"]["size"] == len(image.config) and manifest["config"]["digest"] == image.config_digest
    assert image.layer_digests == [layer["digest"] for layer in manifest["layers"]]
    entry = image.index_entry(ImageName("app", "1"))
    assert entry["digest"] == image.manifest_digest and entry["size"] == len(image.manifest)
    assert json.loads(image.docker_manifest(ImageName("app")))[0]["RepoTags"] == ["app:latest"]
    assert not json.loads(image.docker_manifest(ImageName()))[0]["RepoTags"]


@pytest.mark.parametrize(("layers", "told"), [(100, "all"), (400, "no paths"), (4000, "nothing")])
def test_annotations_stay_below_what_registries_take(layers: int, told: str) -> None:
    one = (descriptor("a"), "closure", ["/nix/store/" + "x" * 100] * 30)
    image = make_image(Settings(), [one] * layers, base=None, annotations={}, recipes=["c" * 64] * layers)
    manifest = json.loads(image.manifest)
    assert ("dev.fastlayers.plan" in manifest["annotations"]) == (told == "all")
    for layer in manifest["layers"]:
        own = layer.get("annotations", {})
        assert ("dev.fastlayers.paths" in own) == (told == "all")
        assert ("dev.fastlayers.recipe" in own) == (told != "nothing")
    assert len(image.manifest) < (2 << 20)


@pytest.mark.parametrize(
    ("own", "own_variant", "expected"),
    [("", None, ("arm64", "v8")), ("amd64", None, ("amd64", None)), ("", "v9", ("arm64", "v9"))],
)
def test_platform_of_the_base(own: str, own_variant: str | None, expected: tuple[str, str | None]) -> None:
    base = BaseImage((), {}, (), "arm64", "v8")
    config = json.loads(make_image(Settings({}, own, own_variant), [], base=base, annotations={}).config)
    assert (config["architecture"], config.get("variant")) == expected
