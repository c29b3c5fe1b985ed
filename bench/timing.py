"""Commands beside each other: how long each takes, in turn on the same input."""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Command", "Failed", "Row", "compare", "in_turn", "judge", "peak_memory"]


class Failed(Exception):
    """A command did not do its work."""


@dataclass
class Row:
    """One line of the table.

    Attributes:
        work, against, goal: what is measured, beside what, and what it has to reach.
        ours, peer: the two commands.
        ours_seconds, peer_seconds: medians.
        runs: how many alternating runs they are medians of.
        ratio: ours over the peer's, or the peer's over ours where the goal says "times faster".
        met: whether the goal is; None for a row that is not measured, or that is for information.
        bytes: what both read, for rows that have a throughput.
        note: what else was seen, or why the row is not measured.
    """

    work: str
    against: str
    goal: str
    ours: str = ""
    peer: str = ""
    ours_seconds: float | None = None
    peer_seconds: float | None = None
    runs: int = 0
    ratio: float | None = None
    met: bool | None = None
    bytes: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Command:
    """A program and its arguments; what it prints is thrown away, put into a file, or drained by a second process."""

    arguments: Sequence[str]
    stdin: Path | None = None
    stdout: Path | None = None
    drain: bool = False

    def __str__(self) -> str:
        """As a shell takes it."""
        text = shlex.join(self.arguments)
        text += f" < {self.stdin}" if self.stdin else ""
        return f"{text} | cat > /dev/null" if self.drain else f"{text} > {self.stdout}" if self.stdout else text

    def run(self) -> float:
        """Seconds that it takes.

        Raises:
            Failed: its exit status is not 0.
        """
        with (
            (self.stdin or Path(os.devnull)).open("rb") as source,
            (self.stdout or Path(os.devnull)).open("wb") as sink,
        ):
            start = time.perf_counter()
            if self.drain:
                with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=sink) as cat:
                    assert cat.stdin is not None
                    status = subprocess.run(
                        self.arguments, stdin=source, stdout=cat.stdin, stderr=subprocess.PIPE, check=False
                    )
                    cat.stdin.close()
            else:
                status = subprocess.run(self.arguments, stdin=source, stdout=sink, stderr=subprocess.PIPE, check=False)
            taken = time.perf_counter() - start
        if status.returncode:
            said = status.stderr.decode(errors="replace")[-300:].strip()
            raise Failed(f"exit status {status.returncode}: {self}: {said}")
        return taken


def in_turn(
    actions: Sequence[Callable[[], float]],
    runs: int,
    limit: float = float("inf"),
    before: Callable[[], object] = lambda: None,
) -> tuple[list[float], int]:
    """The median of each action's seconds over alternating runs, and how many those are.

    A first run of each is not counted. When the next runs would end after ``limit`` seconds there are no more; where
    that leaves the first alone, it counts.
    """
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while len(rounds) <= runs:
        began = time.perf_counter()
        times = []
        for action in actions:
            before()
            times.append(action())
        rounds.append(times)
        now = time.perf_counter()
        if now - start + now - began > limit:
            break
    counted = rounds[1:] or rounds
    return [statistics.median(times) for times in zip(*counted, strict=True)], len(counted)


def compare(
    rows: Sequence[Row],
    ours: Command,
    peers: Sequence[Command],
    runs: int,
    limit: float,
    before: Callable[[], object] = lambda: None,
) -> None:
    """Fill rows from one command of ours and a peer's for each row."""
    medians, counted = in_turn([*(peer.run for peer in peers), ours.run], runs, limit, before)
    for row, peer, peer_seconds in zip(rows, peers, medians, strict=False):
        row.ours, row.peer, row.runs = str(ours), str(peer), counted
        row.ours_seconds, row.peer_seconds = medians[-1], peer_seconds


def judge(row: Row, *, at_most: float | None = None, faster: float | None = None) -> Row:
    """Compute the ratio, and whether the goal is met where there is one."""
    assert row.ours_seconds is not None and row.peer_seconds is not None
    if faster is not None:
        row.ratio = row.peer_seconds / row.ours_seconds
        row.met = row.ratio >= faster
    else:
        row.ratio = row.ours_seconds / row.peer_seconds
        row.met = None if at_most is None else row.ratio <= at_most
    return row


def peak_memory(arguments: Sequence[str]) -> int:
    """The largest sum of the proportional set sizes (PSS) of a command's processes, in bytes; looked at every 20 ms.

    Raises:
        Failed: its exit status is not 0.
    """
    peak = 0
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        while process.poll() is None:
            peak = max(peak, _pss(process.pid))
            time.sleep(0.02)
    if process.returncode:
        raise Failed(f"exit status {process.returncode}: {shlex.join(arguments)}")
    return peak


def _pss(session: int) -> int:
    total = 0
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and os.getsid(int(folder.name)) == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):  # it has ended
            continue
    return total
