"""What a terminal is shown of names that somebody else chose: each in one line, and nothing that it would obey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastlayers.cli.main import run
from layouts import Layer, write_layout

EVIL = "ev\x1b[2J\x1b]0;il\x07\n\r\x9b31m\x7f\u202e"
SHOWN = r"ev\x1b[2J\x1b]0;il\x07\n\r\x9b31m\x7f\u202e"
OLD, NEW, KEPT = (
    f"/nix/store/{hash_part * 32}-{EVIL}-{version}" for hash_part, version in [("0", 1), ("1", 2), ("2", 1)]
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two closures, and an image of each that has everything bad: paths, a layer's comment, a tag and a label."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    for name, path in [("old", OLD), ("new", NEW)]:
        nodes = [{"path": path, "narSize": 1000, "references": [KEPT]}, {"path": KEPT, "narSize": 10, "references": []}]
        Path(f"{name}.json").write_text(json.dumps({"graph": nodes}))
        layers = [Layer(b"kept", [KEPT]), Layer(name.encode(), [path]), Layer(name.encode() * 2, comment=EVIL)]
        write_layout(Path("image"), layers, name, labels={EVIL: EVIL})
    write_layout(Path("image"), [Layer(b"1")], EVIL)
    Path("closures.jsonl").write_text("".join(f"{Path(f'{name}.json').read_text()}\n" for name in ("old", "new")))
    return tmp_path


def shown(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The status, and what a terminal would get, of which there is nothing but lines of what can be printed."""
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    out, err = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    assert (out + err).replace("\n", "").isprintable()
    return ended.value.code, out + err


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "old.json"),
        ("diff", "old.json", "new.json"),
        ("diff", "oci:image:old", "oci:image:new"),
        ("explain", "old.json"),
        ("explain", "old.json", KEPT),
        ("explain", "oci:image:old", "--closure", "old.json"),
        ("report", "oci:image:old", "oci:image:new", "--closure", "old.json"),
        ("inspect", "oci:image:old"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_tables(arguments: tuple[str, ...], folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status, text = shown(capfd, *arguments)
    assert status == 0
    assert SHOWN[:12] in text  # a column beside another one has the first part alone


def test_lines_of_a_table_are_as_many_as_its_rows(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, text = shown(capfd, "inspect", "oci:image:old")
    lines = text.splitlines()
    assert f'config Labels: {{"{SHOWN}": "{SHOWN}"}}' in text.replace(r"\u001b", r"\x1b").replace(r"\u0007", r"\x07")
    assert [line.split()[0] for line in lines[-3:]] == ["1", "2", "3"]
    assert f"{SHOWN}-1 " in lines[-2] and f"{SHOWN} " in lines[-1]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("inspect", "oci:image:none"), 7),  # whose message names the tags that there are
        (("verify", "oci:image:none"), 7),
        (("explain", "old.json", EVIL), 4),
        (("plan", f"{EVIL}.json"), 3),
        (("simulate", "old.json", f"nix:{EVIL}"), 3),
        (("plan", f"--{EVIL}"), 2),
        (("build", "old.json", "--to", "oci:made", "--store-root", "."), 6),  # no such path
    ],
)
def test_errors(arguments: tuple[str, ...], status: int, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ended, text = shown(capfd, *arguments)
    assert ended == status
    assert SHOWN[:12] in text
    assert len(text.splitlines()) == 1 + (arguments[0] == "verify")


def test_a_file_of_such_a_name(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Which is a title, and of a report the name of an image."""
    for name in ("old", "new"):
        Path(f"{name}.json").rename(f"{EVIL}{name}.json")
    sources = [f"{EVIL}old.json", f"{EVIL}new.json"]
    for arguments in (["simulate", *sources], ["report", *sources], ["diff", *sources], ["explain", sources[0]]):
        status, text = shown(capfd, *arguments)
        assert status == 0 and f"{SHOWN}old.json" in text, arguments


def on_a_terminal(*arguments: str) -> str:
    ours, theirs = os.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen([sys.executable, "-m", "fastlayers", *arguments], stdout=theirs)
        os.close(theirs)
        text = b""
        try:
            while block := terminal.read(4096):
                text += block
        except OSError:  # the other side is closed
            pass
        assert process.wait() == 0
    return text.decode().replace("\r\n", "\n")


def in_a_pipe(*arguments: str) -> str:
    command = [sys.executable, "-m", "fastlayers", *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode()


@pytest.mark.parametrize("arguments", [("closure", "old.json"), ("popularity", "old.json", "--counts")])
def test_programs_get_paths_as_they_are(arguments: tuple[str, ...], folder: Path) -> None:
    """And a terminal gets nothing that it would obey, but for ends of lines."""
    assert f"{KEPT}\n" in in_a_pipe(*arguments)
    text = on_a_terminal(*arguments)
    assert text.replace("\n", "").replace("\t", "").isprintable()
    assert SHOWN.partition(r"\n")[0] in text


def test_programs_get_json_as_it_is(folder: Path) -> None:
    found: Any = json.loads(in_a_pipe("plan", "old.json", "--format", "json"))
    assert {path for layer in found["layers"] for path in layer["paths"]} == {OLD, KEPT}
    assert on_a_terminal("plan", "old.json", "--format", "json").replace("\n", "").isprintable()
