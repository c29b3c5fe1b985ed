"""A signal raises between any two lines of a destination: none may leave a half-made image."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fastlayers import Codec, build_image, parse_destination, read_closure
from stores import make_store


class Interruption(BaseException):
    """What a signal's handler raises."""


def interrupt(line: int) -> Any:
    """A trace function that raises at one line of all that destinations run, counted as they run."""
    left = line

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        code = frame.f_code
        # Signals are ignored from the first one on: what removes the half-made image is not interrupted itself.
        if "destinations" not in code.co_filename or code.co_name == "abort":
            return None
        if event == "line":
            left -= 1
            if not left:
                raise Interruption
        return trace

    return trace


# A file that was opened and not yet reached its `with` is closed by the interpreter.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("codec", [Codec(), Codec("gzip")], ids=["none", "gzip"])
@pytest.mark.parametrize(
    ("target", "finished"),
    [("oci:out/image:1", "out/image/index.json"), ("docker-archive:out/image.tar:a:1", "out/image.tar")],
    ids=["layout", "archive"],
)
def test_every_line(target: str, finished: str, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closure = read_closure(str(make_store(tmp_path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda fd: None)  # a signal leaves what was written; only a crash would not
    before = sys.gettrace()
    complete: set[str] | None = None  # names of the files of an image that is there
    interrupted = 0
    while True:
        Path("out").mkdir()
        sys.settrace(interrupt(interrupted + 1))
        try:
            build_image(closure, [parse_destination(target)], store_root=str(tmp_path / "root"), jobs=1, codec=codec)
            break
        except Interruption:
            interrupted += 1
        finally:
            sys.settrace(before)
        files = {str(path) for path in Path("out").rglob("*")}
        if Path(finished).exists():
            complete = complete or files
            assert files == complete, interrupted
        else:
            assert not files, interrupted
        shutil.rmtree("out")
    assert interrupted > 50
    assert complete == {str(path) for path in Path("out").rglob("*")}
