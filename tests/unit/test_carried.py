"""The plan that an image carries in its annotations."""

import json
from typing import Any

import pytest

from fastlayers.errors import PlanError
from fastlayers.layering.carried import PATHS, PLAN, plan_of_manifest


def manifest(*layers: list[str] | str | None, version: str | None = "1") -> dict[str, Any]:
    def descriptor(paths: list[str] | str | None) -> dict[str, Any]:
        if paths is None:
            return {"digest": "sha256:0"}
        return {"annotations": {PATHS: paths if isinstance(paths, str) else json.dumps(paths)}}

    return {"annotations": {PLAN: version} if version else {}, "layers": list(map(descriptor, layers))}


def test_layers_in_order() -> None:
    assert plan_of_manifest(manifest(None, ["b", "a"], ["c"], [])) == [[], ["b", "a"], ["c"], []]


def test_an_image_without_a_plan() -> None:
    assert plan_of_manifest(manifest(["a"], version=None)) == []
    assert plan_of_manifest({"annotations": None, "layers": []}) == []


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (manifest(["a"], version="2"), "a plan of version 2; this release reads version 1"),
        (manifest(["a"], "{}"), "layer 2: dev.fastlayers.paths: Expected `array`"),
        (manifest("["), "layer 1: dev.fastlayers.paths: Input data was truncated"),
        (manifest("[1]"), r"layer 1: dev.fastlayers.paths: Expected `str`, got `int` - at `\$\[0\]`"),
        (manifest(["a"], ["b", "a"]), "a: in layer 1 and again in layer 2"),
    ],
)
def test_what_is_no_plan(document: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        plan_of_manifest(document)
