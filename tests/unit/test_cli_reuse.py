"""diff, explain, simulate and report as users see them."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from fake_registry import FakeRegistry
from fastlayers import Closure, plan_layers, read_closure
from fastlayers.cli.main import run
from fastlayers.layering import strategies
from fastlayers.layering.guidance import Guidance
from fastlayers.layering.history import ChangeHistory, learn
from fastlayers.layering.plan import LayerPlan
from layouts import Layer, write_layout
from stores import APP, BASE, LIB, NODES, make_store, write_json

NEW_APP = APP.replace("-app-3.0", "-app-3.1").replace("/0f", "/9f")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """graph.json, and new.json in which the application has another version."""
    make_store(tmp_path)
    app, *others = NODES
    write_json(tmp_path / "new.json", {"graph": [{**app, "path": NEW_APP, "narSize": 1000}, *others]})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NIX_STORE_DIR", "NIX_STORE", "NIX_STATE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def images(folder: Path) -> list[str]:
    layers = [Layer(b"base" * 100, [BASE]), Layer(b"lib" * 100, [LIB])]
    tops = [Layer(b"old" * 200, [APP]), Layer(b"new" * 300, [NEW_APP])]
    return [
        write_layout(Path("oci"), [*layers, top, Layer(b"links", comment="customisation")], str(number))
        for number, top in enumerate(tops, 1)
    ]


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    out, err = capfd.readouterr()
    assert (ended.value.code, err) == (0, "")
    return out


def told(capfd: pytest.CaptureFixture[str], *arguments: str) -> Any:
    return json.loads(printed(capfd, *arguments, "--json"))


def squeezed(text: str) -> list[str]:
    return [re.sub(" +", " ", line).strip() for line in text.splitlines()]


def test_diff_of_closures(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = squeezed(printed(capfd, "diff", "graph.json", "new.json"))
    assert lines[0] == "graph.json -> new.json; sizes: NAR sizes"
    assert "by digest 1 1.0 kB 1.00 podman, containerd, skopeo: layers whose digest is new" in lines
    assert "bound 1.0 kB the paths that are new" in lines
    assert lines[-1] == "3 1.0 kB new app-3.1 replaced app-3.0 -> 3.1"
    document = told(capfd, "diff", "graph.json", "new.json", "--max-layers", "1")
    assert (document["by_digest"], document["bound"]) == (1000 + 520 + 456, 1000)


def test_diff_of_images(images: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    lines = squeezed(printed(capfd, "diff", *images))
    assert lines[0] == f"{images[0]} -> {images[1]}; sizes: as they are stored"
    assert lines[-2:] == ["3 0.9 kB new app-3.1 replaced app-3.0 -> 3.1", "4 0.0 kB kept customisation above layer 3"]
    document = told(capfd, "diff", *images)
    assert (document["by_digest"], document["by_chain"], document["bound"]) == (900, 905, 900)
    same = printed(capfd, "diff", images[0], images[0])
    assert "above layer" not in same and squeezed(same)[2].startswith("by digest 0 0.0 kB")


def test_diff_of_images_of_others(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Which paths are in their layers nobody says: layers alone are compared, and history names them."""
    names = [
        write_layout(
            Path("other"),
            [Layer(b"1", comment="store paths:\n/nix/store/" + "a" * 32 + "-glibc"), Layer(top, comment="app")],
            str(n),
            plan=False,
        )
        for n, top in enumerate([b"22", b"333"])
    ]
    assert squeezed(printed(capfd, "diff", *names))[-1] == "2 0.0 kB new app other bytes"
    document = told(capfd, "diff", *names)
    assert (document["by_digest"], document["bound"]) == (3, None)
    assert squeezed(printed(capfd, "explain", names[0]))[-2].startswith("1 0.0 kB store paths: glibc")


def test_diff_of_plans(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, form in [("graph", "layers"), ("new", "json")]:
        Path(f"{name}.plan").write_text(printed(capfd, "plan", f"{name}.json", "--format", form))
    assert told(capfd, "diff", "graph.plan", "new.plan")["by_digest"] == 1000
    assert told(capfd, "diff", "new.plan", "graph.plan")["by_digest"] is None
    assert told(capfd, "diff", "new.plan", "graph.plan", "--closure", "graph.json")["by_digest"] == 816


def test_diff_of_images_in_a_registry(folder: Path, registry: FakeRegistry, capfd: pytest.CaptureFixture[str]) -> None:
    image = f"docker://{registry.host}/lab/app:1"
    printed(capfd, "build", "graph.json", "--store-root", "root", "--to", image, "--to", "oci:built", "--quiet")
    assert told(capfd, "diff", image, "oci:built")["by_digest"] == 0


def test_explain(folder: Path, images: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert squeezed(printed(capfd, "explain", "graph.json", "lib")) == [
        LIB, "layer 2 of 3, path 1 of 1", "refers to 1 of 3 paths, referred to by 1",
        "2 of 3 packages in the closure are its own or below it: when one changes, so does it",
        "alone: whatever shared its layer would be sent again with it"]  # fmt: skip
    lines = squeezed(printed(capfd, "explain", "graph.json", "--strategy", "popularity"))
    assert lines[0] == "graph.json, popularity/1: 3 layers, 1.8 kB"
    assert lines[2] == "1 1 0.5 kB base-1.0 popularity 4, rank 1 of 3: a layer of its own"
    assert printed(capfd, "explain", images[0], APP).splitlines()[1:] == [
        "layer 3 of 4, path 1 of 1", "its closure says more: name it with --closure"]  # fmt: skip
    with_closure = printed(capfd, "explain", images[0], "app-3.0", "--closure", "graph.json")
    assert with_closure.splitlines()[-1].startswith("alone: whatever shared its layer")  # as the default says
    lines = squeezed(printed(capfd, "explain", images[0]))
    assert lines[1] == "its closure says more: name it with --closure"
    assert lines[-1] == "4 0.0 kB customisation customisation"


def test_explain_an_image_that_was_guided(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its manifest names the strategy, which makes another plan of the closure alone."""
    built = ["build", "graph.json", "--store-root", "root", "--to", "oci:built:1", "--quiet", "--max-layers", "3"]
    Path("before.json").write_text(json.dumps([[LIB], [APP, BASE]]))
    printed(capfd, *built, "--previous", "before.json")
    lines = printed(capfd, "explain", "oci:built:1", "lib", "--closure", "graph.json").splitlines()
    assert lines[1] == "layer 1 of 2, path 1 of 1"
    assert lines[-1].startswith("expected-cost/1 makes another plan of this closure alone: it went by a plan before, ")
    lines = squeezed(printed(capfd, "explain", "oci:built:1", "--closure", "graph.json"))
    assert lines[0].startswith("oci:built:1, expected-cost/1: 2 layers, ")
    assert lines[1].startswith("expected-cost/1 makes another plan ") and lines[3].endswith(" lib-2.0")


def test_simulate(folder: Path, images: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    lines = squeezed(printed(capfd, "simulate", "graph.json", "new.json", "--max-layers", "3", "--max-layers", "1"))
    assert lines[0] == "1 update, graph.json to new.json; the bound is 1.0 kB"
    assert "popularity 3 1.00 1.00 - 1.0 kB leaf: 0 of 1" in lines
    assert "popularity 1 1.98 1.98 - 2.0 kB leaf: 0 of 1" in lines
    closures = ["--closure", "graph.json", "--closure", "new.json"]
    found = told(capfd, "simulate", *images, *closures, "--strategy", "auto", "--max-layers", "2")["replays"]
    assert [(one["strategy"], one["max_layers"]) for one in found] == [("as it is", None), ("auto", 2)]
    assert found[0]["steps"] == [{"by_digest": 900, "by_chain": 905, "bound": 900, "total": 1605}]
    assert found[1]["steps"][0]["bound"] == 1000


def test_report_in_the_terminal(folder: Path, images: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    one = squeezed(printed(capfd, "report", images[0]))
    assert one[0] == f"{images[0]}: 4 layers, 1.3 kB (stored sizes)"
    assert "downloads" not in one
    two = squeezed(printed(capfd, "report", *images))
    assert f"1 0.9 kB 0.9 kB 0.9 kB {images[0]} -> {images[1]}" in two
    assert "3 1 0.9 kB 56.1 % 1 app-3.1" in two and "2 1 0.3 kB 18.7 % 0 lib-2.0" in two
    assert two[-1] == "4 0.0 kB kept customisation above layer 3"


def test_report_as_a_page(folder: Path, images: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert printed(capfd, "report", *images, "--html", "page.html") == ""
    first = Path("page.html").read_bytes()
    printed(capfd, "report", *images, "--html", "page.html")
    assert Path("page.html").read_bytes() == first
    assert not [name for name in os.listdir() if name.endswith(".part")]
    assert stat.S_IMODE(os.stat("page.html").st_mode) & 0o444 == 0o444
    assert printed(capfd, "report", *images, "--html", "-").encode() == first + b"\n"
    assert not Path("-").exists()


def test_a_size_of_nothing_is_known(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("graph.json", "new.json"):
        nodes = json.loads(Path(name).read_text())["graph"]
        write_json(folder / name, {"graph": [{**node, "narSize": 0} for node in nodes]})
    [found] = told(capfd, "simulate", "graph.json", "new.json", "--strategy", "popularity", "--max-layers", "1")[
        "replays"
    ]
    assert found["steps"] == [{"by_digest": 0, "by_chain": 0, "bound": 0, "total": 0}]
    said = printed(capfd, "diff", "graph.json", "new.json", "--max-layers", "1")
    assert "at least" not in said and "?" not in said


def test_strategies_are_told_apart_from_what_they_gave(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A plan without a strategy's name is recognised by its layers."""
    made = plan_layers(read_closure("graph.json"), 2, "popularity")
    Path("plan.json").write_text(made.to_layers())
    said = printed(capfd, "explain", "plan.json", APP, "--closure", "graph.json")
    assert "popularity 1, rank 3 of 3: " in said


def test_simulate_learns_step_by_step_what_the_whole_history_tells(
    monkeypatch: pytest.MonkeyPatch, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told_of: list[ChangeHistory] = []
    real = strategies.plan_layers

    def spy(closure: Closure, max_layers: int, strategy: str | None, *, guidance: Guidance) -> LayerPlan:
        told_of.append(guidance.history)  # no closure is planned besides
        return real(closure, max_layers, strategy, guidance=guidance)

    monkeypatch.setattr(strategies, "plan_layers", spy)
    files = ["graph.json", "new.json", "graph.json"]
    printed(capfd, "simulate", *files, "--strategy", "expected-cost")
    closures = [read_closure(file).paths for file in files]
    assert told_of == [learn(closures[:k]) for k in range(3)]


def test_a_history_with_a_closure_twice_and_a_path_twice(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing changed, so nothing counts; what names a path twice is no closure, and is told by its line."""
    once = told(capfd, "simulate", "graph.json", "new.json")["replays"]
    twice = told(capfd, "simulate", "graph.json", "graph.json", "new.json", "new.json")["replays"]
    for one, two in zip(once, twice, strict=True):
        assert {**one, "steps": None} == {**two, "steps": None}
        assert [step for step in two["steps"] if step["bound"] or step["by_digest"] or step["by_chain"]] == one["steps"]
    Path("h.jsonl").write_text(f"{json.dumps(NODES)}\n{json.dumps([*NODES, NODES[0]])}\n")
    with pytest.raises(SystemExit) as ended:
        run(["simulate", "h.jsonl"])
    assert (ended.value.code, capfd.readouterr().err) == (3, f"fastlayers: h.jsonl: line 2: {APP}: given twice\n")
