"""Engines that are spoken to by a program: for a load it reads the archive from its standard input."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence

from ..errors import DestinationError
from . import FULL, NoEngine, Refused

__all__ = ["ProgramLoad", "ask", "find_program"]

_PATIENCE = 10  # seconds that a program may take to end when it is given up
_ANSWER = 300.0  # seconds until an answer to a question; podman gives none while another podman unpacks a layer
_WATCH = 2.0  # seconds between looks at whether the engine is there
_SAID = 200  # characters that go into an error of the beginning and of the end of what a program says
_OURS = " * oci-archive: "  # podman tells of each format that it tried; this is the archive's


def find_program(*names: str) -> str:
    """The first of some programs that is installed.

    Raises:
        NoEngine: none is.
    """
    for name in names:
        if shutil.which(name):
            return name
    raise NoEngine(f"{' or '.join(names)}: not installed")


def ask(*command: str, whole: bool = True) -> str:
    """What a program prints; where it need not be ``whole``, also when the program fails.

    Raises:
        DestinationError: it fails, or does not end.
    """
    place = " ".join([word for word in command if not word.startswith("-")][:3])
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_ANSWER)
    except subprocess.TimeoutExpired:
        raise DestinationError(f"{place}: no answer within {_ANSWER:g} seconds") from None
    except OSError as error:
        raise DestinationError(f"{command[0]}: {error.strerror}") from None
    if done.returncode and whole:
        raise DestinationError(f"{place}: {_said(done.stderr, done.returncode)}")
    return done.stdout.decode(errors="replace")


class ProgramLoad:
    """A program that reads an archive from its standard input.

    Attributes:
        fd: the pipe to it.
    """

    def __init__(self, *command: str, alive: Sequence[str] = (), says: str = "") -> None:
        """Start it.

        Args:
            command: the program and its arguments.
            alive: a command that fails when the engine is gone, for a program that would wait for it for ever.
            says: what it prints when it has loaded an image, where its exit status alone does not tell.
        """
        self._command = command
        self._says = says.encode()
        self._over = threading.Event()
        self._gone = ""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed with the program
        try:
            self._process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=self._output, stderr=self._output
            )
        except OSError as error:
            self._output.close()
            raise DestinationError(f"{command[0]}: {error.strerror}") from None
        assert self._process.stdin is not None
        self.fd = self._process.stdin.fileno()
        if alive:
            threading.Thread(target=self._watch, args=(alive,), name="engine", daemon=True).start()

    def answer(self) -> None:
        """Close the pipe, and wait for the program's end."""
        self._close_pipe()
        status = self._process.wait()
        self._over.set()
        self._output.seek(0)
        said = self._output.read()
        self._output.close()
        place = " ".join(self._command)
        if status < 0 and self._gone:
            raise DestinationError(self._gone)
        if status < 0:
            raise DestinationError(f"{place}: ended by {signal.Signals(-status).name}")
        if status:
            raise Refused(f"{place}: {_said(said, status)}")
        if self._says not in said:
            raise DestinationError(f"{place}: ended before it had loaded the image")

    def give_up(self) -> bool:
        """Close the pipe: the archive has no end, so that the program fails by itself, and leaves nothing.

        One that has read the end is terminated.
        """
        assert self._process.stdin is not None
        ended = self._process.stdin.closed
        self._close_pipe()
        self._over.set()
        if self._process.returncode is None:
            if ended:
                self._process.terminate()
            try:
                self._process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._output.close()
        return False

    def _watch(self, alive: Sequence[str]) -> None:
        while not self._over.wait(_WATCH):
            try:
                ask(*alive)
            except DestinationError as error:
                if not self._over.is_set():
                    self._gone = str(error)
                    self._process.kill()
                return

    def _close_pipe(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()


def _said(output: bytes, status: int) -> str:
    """What a program says of its failure, as one line."""
    lines = output.decode(errors="replace").splitlines()
    ours = [line.removeprefix(_OURS) for line in lines if line.startswith(_OURS)]
    first = next((i for i, line in enumerate(lines) if "rror" in line), max(len(lines) - 1, 0))
    text = " ".join(ours or lines[first:])
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) > 2 * _SAID:  # what failed stands first, and why last
        text = f"{text[:_SAID]} ... {text[-_SAID:]}"
    if FULL in " ".join(lines) and FULL not in text:
        text = f"{text}: {FULL}"
    return text or f"exit status {status}"
