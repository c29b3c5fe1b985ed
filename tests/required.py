"""What a test needs of the machine; in a module, since every folder of tests may have a conftest of its own."""

import os
import shutil
from typing import NoReturn

import pytest

REQUIRED = os.environ.get("FASTLAYERS_REQUIRE_TOOLS") == "1"


def unavailable(reason: str) -> NoReturn:
    """Skip the test that runs; with FASTLAYERS_REQUIRE_TOOLS=1, as in .ci/run, it fails instead."""
    if REQUIRED:
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require_tool(name: str) -> str:
    """The path of a program that the test needs; where it is not installed, the test is skipped with its name."""
    path = shutil.which(name)
    if path is None:
        unavailable(f"{name} is not installed")
    return path


def require_root(purpose: str) -> None:
    """Skip the test where it does not run as root."""
    if os.geteuid() != 0:
        unavailable(f"{purpose} needs root")
