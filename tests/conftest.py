"""What tests of every kind share."""

import gc
import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from required import REQUIRED, require_tool, unavailable

__all__ = ["require_tool"]


# What a shell may have set and fastlayers, or what it prints with, goes by.
OF_THE_USER = [
    *("SOURCE_DATE_EPOCH", "VIRTUAL_ENV", "NIX_STORE", "NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_REMOTE"),
    *("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_CERT_PATH", "DOCKER_TLS_VERIFY", "REGISTRY_AUTH_FILE"),
    *("COLUMNS", "FORCE_COLOR", "NO_COLOR"),
]


@pytest.fixture(autouse=True, scope="session")
def nothing_of_the_user() -> Iterator[None]:
    """No test goes by who runs it: no variables of hers, the usual umask, and a cache that cannot be a folder, so that
    nothing is remembered in her home or from one test to the next."""
    umask = os.umask(0o022)
    with pytest.MonkeyPatch.context() as patch:
        for name in OF_THE_USER:
            patch.delenv(name, raising=False)
        patch.setenv("XDG_CACHE_HOME", os.devnull)
        yield
    os.umask(umask)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of recorded graphs, golden digests and samples beside the project; without it the test is skipped."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        unavailable("no ../shared beside the project: its recorded graphs and golden digests are needed")
    return folder


@pytest.fixture
def ordinary() -> Iterator[Path]:
    """A folder of an ordinary user's, and her rights while the test runs: root, who reads everything, gives up his."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        if user == 0:
            nobody = 65534
            os.chown(folder, nobody, nobody)
            gc.collect()  # semaphores of other tests' processes are removed with root's rights, or not at all
            os.seteuid(nobody)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where every tool is required, no test may be skipped, for whatever reason."""
    report = yield
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
    return report
