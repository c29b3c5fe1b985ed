"""The image of a virtual environment runs by itself: what ``make demo`` builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.clients import Docker, Podman, Runc, call, fastlayers

NAME = "fastlayers-demo:1"
COMMAND = 'python -c "import numpy; print(numpy.__version__)"'


@pytest.mark.parametrize("which", ["environment", "debian_environment"])
def test_the_image_of_an_environment_runs(
    which: str, request: pytest.FixtureRequest, docker: Docker, podman: Podman, runc: Runc, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(which)
    expected = call(folder / "bin/python", "-c", "import numpy; print(numpy.__version__)")
    archive, layout = tmp_path / "demo.tar", tmp_path / "demo"
    to = ("--to", f"docker-archive:{archive}:{NAME}", "--to", f"oci:{layout}:1")
    options = (f"venv:{folder}", *to, "--cmd", COMMAND)
    if which == "environment":  # fastlayers is in it, so it makes its own image
        call(folder / "bin" / "fastlayers", "build", *options)
    else:
        fastlayers("build", *options)
    for engine in (docker, podman):
        with engine.loaded(archive, NAME):
            assert engine.run(NAME) == expected
            seen = "import os, pwd; print(oct(os.stat('/tmp').st_mode), pwd.getpwnam('nobody').pw_uid)"
            assert engine.run(NAME, "python", "-c", seen) == "0o41777 65534\n"
    with runc.unpacked(layout, "1") as bundle:
        assert runc.run(bundle) == expected
