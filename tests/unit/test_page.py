"""The page's data, and the page around it."""

from __future__ import annotations

import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fastlayers.errors import DestinationError
from fastlayers.layering.plan import LayerPlan
from fastlayers.reuse.page import page_data, render_page, write_page
from fastlayers.reuse.stack import LayerStack, StackLayer, stack_of_plan
from fastlayers.reuse.update import updates_of


def store_path(name: str, build: int = 0) -> str:
    return f"/nix/store/{build:032d}-{name}"


A, B, C = (store_path(f"{letter}-1") for letter in "abc")
A2, A3, D = store_path("a-1", 2), store_path("a-2", 3), store_path("d-1")
SIZES = {A: 1, A2: 2, A3: 3, B: 10, C: 100, D: 1000}


def history() -> list[LayerStack]:
    plans = [((A, B), (C,)), ((A2, B), (C,)), ((A3, D), (C,), (B,))]
    return [stack_of_plan(f"image {number}", LayerPlan(plan), sizes=SIZES) for number, plan in enumerate(plans)]


def test_data() -> None:
    stacks = history()
    data = page_data(stacks, updates_of(stacks))
    assert data["before"] == "/nix/store/" + 31 * "0"
    assert data["names"] == [0, "a-1", 2, "2", 0, "b-1", 0, "c-1", 0, "d-1"]
    paths, names = data["paths"], ["a-1", "a-2", "b-1", "c-1", "d-1"]
    rows = {data["before"] + rest + names[name]: (size, changes) for rest, name, size, changes in paths}
    assert rows == {A: (1, 2), A2: (2, 2), A3: (3, 2), B: (10, 0), C: (100, 0), D: (1000, 0)}
    assert [image["size"] for image in data["images"]] == [111, 112, 1113]
    index = {path: number for number, path in enumerate(rows)}
    kind = data["changes"].index
    assert "update" not in data["images"][0]
    assert data["images"][1]["update"] == {
        "digest": 12, "chain": 112, "bound": 2, "exact": True,
        "layers": [[2, [kind("replaced"), index[A2], index[A]]], [1]]}  # fmt: skip
    assert data["images"][2]["update"]["layers"][2] == [2, [kind("moved out"), index[A2], 1]]
    assert data["images"][2]["layers"] == [(1003, (index[A3], index[D]), "", ""), 1, (10, (index[B],), "", "")]


def test_several_reasons_of_one_kind_and_paths_of_any_names() -> None:
    stacks = [stack_of_plan("x", LayerPlan(((A, B, "half\udcff"),))), stack_of_plan("y", LayerPlan(((A2, D),)))]
    data = page_data(stacks, updates_of(stacks))
    assert data["before"] == ""
    paths = [rest for rest, *_ in data["paths"]]
    assert sorted(paths) == ["", *(path[: -len("x-1")] for path in (A, B, D, A2))]
    replaced, added, removed = [one[0] for one in data["images"][1]["update"]["layers"][0][1:]]
    kinds = [data["changes"][kind] for kind in (replaced, added, removed)]
    assert kinds == ["replaced", "added", "removed"]
    assert len(data["images"][1]["update"]["layers"][0][3]) == 1 + 2 * 2


def test_unknown_sizes_and_labels() -> None:
    stack = LayerStack("x", (StackLayer("sha256:0123456789abcdef", "d", None, (), "<base>"),), "stored", False)
    assert page_data([stack], [])["images"][0]["layers"] == [(-1, (), "<base>", "0123456789ab")]


class Elements(HTMLParser):
    """Which elements a page has, and whatever attribute could load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loading: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loading += [one for one in attrs if one[0] in ("src", "href", "srcset", "data", "action", "style")]


def test_the_page_is_whole_and_alone() -> None:
    stacks = history()
    page = render_page(stacks, updates_of(stacks))
    found = Elements(page)
    assert found.loading == []
    assert not re.findall(r"@[A-Z_]+@", page)
    assert found.tags.count("script") == 2 and "link" not in found.tags
    assert not re.search(r"url\(|@import|fetch\(|https?://(?!www\.w3\.org/2000/svg)", page)


def test_nothing_in_the_data_is_markup() -> None:
    evil = "</script><script>alert(1)</script>@PROGRAM@"
    stack = stack_of_plan(evil, LayerPlan(((f"{store_path('x')}{evil}", "half\udcff"),)))
    page = render_page([stack], [])
    assert Elements(page).tags.count("script") == 2
    text = page.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(text)["images"][0]["name"] == evil


def versions(builds: int, share: int) -> list[LayerStack]:
    """1,500 paths with names as long as those of nixpkgs, in a hundred layers; one of ``share`` has a new version."""
    stacks = []
    since = [0] * 1500
    for build in range(builds):
        since = [build if (number + build) % share == 0 else old for number, old in enumerate(since)]
        paths = [store_path(f"a-package-with-a-name-{n}-1.{old}.3-lib", old) for n, old in enumerate(since)]
        layers = tuple(tuple(paths[at : at + 15]) for at in range(0, 1500, 15))
        sizes = dict(zip(paths, range(10**9, 10**9 + 1500), strict=True))
        stacks.append(stack_of_plan(f"docker://registry.example.org/app:{build}", LayerPlan(layers), sizes=sizes))
    return stacks


@pytest.mark.parametrize(("builds", "share", "most"), [(2, 1, 250_000), (5, 1, 500_000), (31, 3, 1_400_000)])
def test_fifteen_hundred_paths(builds: int, share: int, most: int) -> None:
    """Without the hash parts of all paths, which nothing makes smaller, there is little."""
    stacks = versions(builds, share)
    assert len(render_page(stacks, updates_of(stacks)).encode()) < most


def test_a_layer_that_stays_is_told_once() -> None:
    one, two = versions(2, 1)
    pages = [render_page(stacks, updates_of(stacks)) for stacks in ([one] * 2, [one] * 12, [one, two])]
    assert len(pages[1]) - len(pages[0]) < 20_000 < len(pages[2]) - len(pages[0])


def test_a_page_takes_the_place_of_another_as_a_whole(tmp_path: Path) -> None:
    file, link = tmp_path / "page.html", tmp_path / "link.html"
    file.write_text("old")
    link.symlink_to("page.html")
    write_page(str(link), "new")
    assert link.is_symlink() and file.read_text() == "new"
    dangling = tmp_path / "dangling.html"
    dangling.symlink_to("later.html")
    write_page(str(dangling), "made")
    assert dangling.is_symlink() and (tmp_path / "later.html").read_text() == "made"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling.html", "later.html", "link.html", "page.html"]


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    """A pipe, and a file that has no name any more, which a symlink such as /dev/stdout leads to."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_text)
        write_page(str(pipe), "through")
        assert read.result() == "through"
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with (tmp_path / "gone").open("w+") as gone:
        (tmp_path / "gone").unlink()
        link = tmp_path / "stdout"
        link.symlink_to(f"/proc/self/fd/{gone.fileno()}")
        write_page(str(link), "nameless")
        assert link.is_symlink() and gone.read() == "nameless"


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match=r"nowhere/page\.html: No such file"):
        write_page(f"{tmp_path}/nowhere/page.html", "")
    with pytest.raises(DestinationError, match="Is a directory"):
        write_page(str(tmp_path), "")
    assert not list(tmp_path.iterdir())
