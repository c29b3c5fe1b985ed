"""The report's page in a browser: it draws what is in its data, and everybody can use it."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from fastlayers import plan_layers, read_closure
from integration.clients import fastlayers
from layouts import Layer, write_layout
from required import require_tool

AXE = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
WIDE, NARROW = (1280, 900), (390, 800)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Chromium without a window, and with a profile of its own."""
    options = ChromeOptions()
    options.binary_location = require_tool("chromium")
    profile = tmp_path_factory.mktemp("chromium")
    for argument in ("headless=new", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options, ChromeService(require_tool("chromedriver"))) as driver:
        yield driver


def updated(graph: Path, folder: Path) -> Path:
    """The closure after an update: every twentieth path, and whatever needs one of them, has another hash part."""
    nodes = json.loads(graph.read_text())["graph"]
    paths = sorted(node["path"] for node in nodes)
    needs = {node["path"]: set(node["references"]) - {node["path"]} for node in nodes}
    changed = set(paths[::20])
    while more := {path for path in paths if needs[path] & changed} - changed:
        changed |= more

    def renamed(path: str) -> str:
        directory, _, name = path.rpartition("/")
        return f"{directory}/{name[16:32]}{name[:16]}{name[32:]}" if path in changed else path

    for node in nodes:
        node["path"], node["references"] = renamed(node["path"]), list(map(renamed, node["references"]))
    file = folder / "updated.json"
    file.write_text(json.dumps({"graph": nodes}))
    return file


def image_of(graph: Path, folder: Path, tag: str) -> str:
    """An image of a closure's plan, with a base and a customisation; its layers are as long as a text that names it."""
    plan = plan_layers(read_closure(graph), 60, "auto")
    layers = [Layer(b"base " * 1000, comment="a base image")]
    layers += [Layer(json.dumps(paths).encode() * 100, list(paths)) for paths in plan.layers]
    return write_layout(folder, [*layers, Layer(tag.encode(), comment="customisation")], tag)


@pytest.fixture(scope="module")
def pages(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of one closure, of one image of it, of an update, of a history, of an image of others' and of nothing."""
    folder = tmp_path_factory.mktemp("pages")
    first = folder / "first.json"
    recorded = json.loads(gzip.decompress((shared / "formats/closure-525-attrs.json.gz").read_bytes()))
    first.write_text(json.dumps({"graph": recorded["graph"]}))
    second = updated(first, folder)
    images = [image_of(graph, folder / "oci", str(number)) for number, graph in enumerate([first, second])]
    others = write_layout(folder / "others", [Layer(b"1", comment="ADD file /"), Layer(b"2")], plan=False)
    empty = folder / "empty.json"
    empty.write_text("[]")
    sizes = ["--closure", first, "--closure", second]
    sources: dict[str, list[str | Path]] = {
        "closure": [first],
        "image": [images[0]],
        "update": [*images, *sizes],
        "bare": images,
        "others": [others, others],
        "nothing": [empty],
        "history": [first, second, first, second, "--strategy", "auto"],
        "many": [first, second, "--max-layers", "450"],
    }
    for name, arguments in sources.items():
        fastlayers("report", *arguments, "--html", folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in sources}


@pytest.fixture
def opened(browser: Chrome, pages: dict[str, Path]) -> Callable[..., Chrome]:
    """Opens a page in a window of some size, in some colours; there must be nothing on the console."""

    def open_page(name: str, size: tuple[int, int] = WIDE, colours: str = "light") -> Chrome:
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False},
        )
        feature = {"name": "prefers-color-scheme", "value": colours}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get_log("performance")
        browser.get(pages[name].as_uri())
        assert browser.get_log("browser") == []
        return browser

    return open_page


def data_of(page: Path) -> Any:
    """What is in a page, with whole names of paths, and with layers where the page names those of the image before."""
    text = page.read_text()
    data = json.loads(text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0])
    folded, names = iter(data["names"]), [""]
    for shared, rest in zip(folded, folded, strict=True):
        names.append(names[-1][:shared] + rest)
    data["full"] = [data["before"] + rest + names[name + 1] for rest, name, _, _ in data["paths"]]
    before: list[Any] = []
    for image in data["images"]:
        image["layers"] = [before[layer] if isinstance(layer, int) else layer for layer in image["layers"]]
        before = image["layers"]
    return data


def violations(browser: Chrome) -> list[str]:
    """What axe finds, a line each."""
    browser.execute_script(AXE)
    found = browser.execute_async_script("const done = arguments[0]; axe.run().then(done);")
    assert found["passes"]
    return [f"{one['id']}: {node['html'][:200]}: {node['failureSummary']}" for one in found["violations"]
            for node in one["nodes"]]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "size", "colours"),
    [
        ("closure", WIDE, "light"),
        ("image", NARROW, "dark"),
        ("update", NARROW, "light"),
        ("history", WIDE, "dark"),
        ("others", WIDE, "light"),
        ("nothing", WIDE, "light"),
    ],
)
def test_everybody_can_use_it(
    name: str, size: tuple[int, int], colours: str, opened: Callable[..., Chrome], pages: dict[str, Path]
) -> None:
    browser = opened(name, size, colours)
    browser.find_element(By.ID, "search").send_keys("lib")
    for button in browser.find_elements(By.CSS_SELECTOR, "#layers button")[:1]:
        button.click()
    assert violations(browser) == []
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [one["params"]["request"]["url"] for one in asked if one["method"] == "Network.requestWillBeSent"]
    assert urls == [pages[name].as_uri()]
    # Nothing is wider than the window, but for tables, which scroll by themselves.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]


def test_it_draws_what_there_is(opened: Callable[..., Chrome], pages: dict[str, Path]) -> None:
    browser, data = opened("update"), data_of(pages["update"])
    layers = data["images"][1]["layers"]
    assert len(browser.find_elements(By.CSS_SELECTOR, "#stack [role=option]")) == len(layers)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#layers tbody tr")) == len(layers)
    cells = browser.find_elements(By.CSS_SELECTOR, "#map [role=option]")
    assert len(cells) == 525 + 2  # and two layers of no paths
    states = [layer[0] for layer in data["images"][1]["update"]["layers"]]
    for state, name in enumerate(["kept", "above", "new"]):
        drawn = browser.find_elements(By.CSS_SELECTOR, f"#stack .s-{name}[role=option]")
        assert len(drawn) == states.count(state)
    # Areas are as sizes are.
    script = """return [...document.querySelectorAll("#map [role=option]")].map((cell) => {
        const box = cell.getBBox();
        return [cell.id, box.width * box.height];
    })"""
    areas = dict(browser.execute_script(script))
    sizes = {f"map-p{path}": data["paths"][path][2] for layer in layers for path in layer[1]}
    big = sorted(sizes, key=sizes.__getitem__)[-30:]  # of the small ones more is lost to the gap between cells
    ratios = [areas[name] / sizes[name] for name in big]
    assert max(ratios) < 1.2 * min(ratios)
    Select(browser.find_element(By.ID, "image")).select_by_value("0")
    assert not browser.find_element(By.ID, "update-section").is_displayed()
    assert len(browser.find_elements(By.CSS_SELECTOR, "#stack [role=option]")) == len(data["images"][0]["layers"])


def test_keys_are_enough(opened: Callable[..., Chrome]) -> None:
    browser = opened("history")
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)  # the choice of an image
    browser.switch_to.active_element.send_keys(Keys.TAB)
    stack = browser.switch_to.active_element
    assert stack.get_attribute("role") == "listbox"
    stack.send_keys(Keys.ARROW_RIGHT)
    assert stack.get_attribute("aria-activedescendant") == "stack-l0"
    stack.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert stack.get_attribute("aria-activedescendant") == "stack-l1"
    assert browser.find_element(By.ID, "selection").text.startswith("Layer 2 of ")
    stack.send_keys(Keys.END)
    last = len(browser.find_elements(By.CSS_SELECTOR, "#stack [role=option]"))
    assert browser.find_element(By.ID, "selection").text.startswith(f"Layer {last} of {last}")
    stack.send_keys(Keys.TAB)
    paths = browser.switch_to.active_element
    paths.send_keys(Keys.HOME)
    assert (paths.get_attribute("aria-activedescendant") or "").startswith("map-p")


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Between two colours as sRGB from 0 to 255, after WCAG 2."""

    def luminance(colour: tuple[float, ...]) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_every_shape_can_be_seen(colours: str, opened: Callable[..., Chrome]) -> None:
    """Against the page, whatever it tells (WCAG 1.4.11); what is hollow by its edge."""
    browser = opened("history", WIDE, colours)
    script = """
        const made = document.body.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
        const told = (name, part) => { made.setAttribute("class", name); return getComputedStyle(made)[part]; };
        return [getComputedStyle(document.body).backgroundColor, told("v0", "stroke"), told("line l-new", "stroke"),
            told("line l-above", "stroke"), ...arguments[0].map((name) => told(name, "fill"))];
    """
    shapes = ["s-kept", "s-above", "s-new", "s-bound", "v1", "v2", "v3", "v4"]
    colours_of = [tuple(map(float, re.findall(r"[0-9.]+", text))) for text in browser.execute_script(script, shapes)]
    page, *found = colours_of
    assert [round(contrast(page, one), 2) for one in found if contrast(page, one) < 3] == []


def test_no_colour_tells_anything_alone(opened: Callable[..., Chrome], pages: dict[str, Path]) -> None:
    """A layer's state is its height, and how often a path changed is the length of a line."""
    browser, data = opened("update"), data_of(pages["update"])
    heights = browser.execute_script("""
        return [...document.querySelectorAll("#stack [role=option]")].map((one) => one.lastChild.getBBox().height);
    """)
    states = [layer[0] for layer in data["images"][1]["update"]["layers"]]
    of_state = [{height for height, one in zip(heights, states, strict=True) if one == state} for state in range(3)]
    assert all(len(one) == 1 for one in of_state)
    kept, above, new = (one.pop() for one in of_state)
    assert 10 < kept < 0.7 * above < 0.7 * new
    browser, data = opened("history"), data_of(pages["history"])
    lines = browser.execute_script("""
        return [...document.querySelectorAll("#map [role=option]")].map((cell) => {
            const box = cell.getBBox();
            const line = [...document.querySelectorAll("#map .gauge")].find((one) => {
                const at = one.getBBox();
                return at.x > box.x && at.x < box.x + box.width && at.y > box.y && at.y < box.y + box.height;
            });
            return [cell.id, box.width, box.height, line ? line.getBBox().width / (box.width + 1 - 8) : 0];
        });
    """)
    told = {name: share for name, width, height, share in lines if width > 40 and height > 40}
    assert len(told) > 10
    for name, share in told.items():
        assert share == pytest.approx(data["paths"][int(name.removeprefix("map-p"))][3] / 3, abs=0.02)
    assert {round(share) for share in told.values()} == {0, 1}


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_of_very_many_layers_the_largest_is_the_widest(
    size: tuple[int, int], opened: Callable[..., Chrome], pages: dict[str, Path]
) -> None:
    browser, layers = opened("many", size), data_of(pages["many"])["images"][1]["layers"]
    assert len(layers) > size[0] / 4
    boxes = browser.execute_script("""
        const whole = document.querySelector("#stack").clientWidth;
        return [...document.querySelectorAll("#stack [role=option] .column")].map((one) => {
            const box = one.getBBox();
            return [box.x, box.width, whole];
        });
    """)
    by_size = [width for _, (_, width, _) in sorted(zip([layer[0] for layer in layers], boxes, strict=True))]
    assert by_size[0] > 0 and by_size[-1] > 10 * by_size[len(layers) // 2]
    assert all(one <= other + 0.02 for one, other in pairwise(by_size))
    assert all(x >= 0 and x + width <= whole + 0.1 for x, width, whole in boxes)


def test_a_screen_reader_is_told_once(opened: Callable[..., Chrome]) -> None:
    """Of what arrow keys choose by the option itself; of what is chosen in a table by a line that is not seen."""
    browser = opened("history")
    live = (
        "return [...document.querySelectorAll('[role=status],[role=alert],[aria-live]')].map((one) => one.textContent)"
    )
    stack = browser.find_element(By.CSS_SELECTOR, "#stack [role=listbox]")
    stack.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    option = browser.find_element(By.ID, stack.get_attribute("aria-activedescendant") or "")
    assert (option.get_attribute("aria-label") or "").startswith("Layer 2: ")
    assert not any(browser.execute_script(live))
    browser.find_elements(By.CSS_SELECTOR, "#layers button")[4].click()
    [told] = [text for text in browser.execute_script(live) if text]
    assert told.startswith("Selected: Layer 5 of ")
    stack.send_keys(Keys.ARROW_RIGHT)
    assert not any(browser.execute_script(live))


def test_search(opened: Callable[..., Chrome], pages: dict[str, Path]) -> None:
    browser, data = opened("closure"), data_of(pages["closure"])
    full = data["full"]
    assert sorted(full) == sorted(read_closure(pages["closure"].parent / "first.json").paths)
    box, count = browser.find_element(By.ID, "search"), browser.find_element(By.ID, "found-count")
    box.send_keys("LIB c6")
    expected = sum("lib" in path.lower() and "c6" in path.lower() for path in full)
    assert expected and count.text == f"{expected} path{'s' if expected > 1 else ''} found."
    box.clear()
    box.send_keys(full[7])
    assert count.text == "1 path found."
    browser.find_element(By.CSS_SELECTOR, "#found button").click()
    assert full[7] in browser.find_element(By.ID, "selection").text
    assert browser.find_element(By.CSS_SELECTOR, "#map [aria-selected=true]").get_attribute("id") == "map-p7"
    box.clear()
    box.send_keys("lib")
    assert count.text.endswith("; the largest 50 are shown.")
    assert len(browser.find_elements(By.CSS_SELECTOR, "#found button")) == 50


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_reasons_are_told_at_any_width(
    size: tuple[int, int], opened: Callable[..., Chrome], pages: dict[str, Path]
) -> None:
    """In a column of their own, or below what a layer holds; no table is wider than the window."""
    browser, data = opened("update", size), data_of(pages["update"])
    states = [layer[0] for layer in data["images"][1]["update"]["layers"]]
    number = states.index(2)
    row = browser.find_elements(By.CSS_SELECTOR, "#layers tbody tr")[number]
    assert row.text.count("rebuilt: ") + row.text.count("other bytes") == 1
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.scroll')].map((one) => [one.scrollWidth, one.clientWidth])"
    )
    assert all(inside <= outside for inside, outside in widths)


def test_what_is_chosen_from_a_table_comes_into_sight(opened: Callable[..., Chrome], pages: dict[str, Path]) -> None:
    browser, layers = opened("update"), data_of(pages["update"])["images"][1]["layers"]
    number = max(range(len(layers)), key=lambda number: len(layers[number][1]))
    button = browser.find_elements(By.CSS_SELECTOR, "#layers button")[number]
    browser.execute_script("arguments[0].scrollIntoView()", button)
    button.click()
    chosen = browser.find_element(By.ID, "selection")
    assert chosen.text.startswith(f"Layer {number + 1} of {len(layers)}")
    assert chosen.text.endswith(f"and {len(layers[number][1]) - 12} more")
    top, bottom = browser.execute_script(
        "const box = arguments[0].getBoundingClientRect(); return [box.top, box.bottom]", chosen
    )
    assert top >= 0 and bottom <= WIDE[1] + 1


def test_a_bound_that_is_not_known_is_no_zero(opened: Callable[..., Chrome], pages: dict[str, Path]) -> None:
    update = data_of(pages["bare"])["images"][1]["update"]
    assert not update["exact"]
    bound = opened("bare").find_element(By.CSS_SELECTOR, "#update-bars .row").text
    assert "sizes of some paths are not known: --closure tells them" in bound
    assert ("≥ " if update["bound"] else "?") in bound and "\n0 B" not in bound
