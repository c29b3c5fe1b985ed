#!/usr/bin/env python3
"""Run a peer's command and fastlayers' alternately on the same input, and print the ratio of their medians.

    python bench/compare.py [--runs N] [--cold] 'PEER COMMAND' 'FASTLAYERS COMMAND'

Each command is run by a shell and its standard output drained by a second process, as a client would. One run of each
comes first and is not counted. With --cold the page cache is dropped before every run (root alone can). Printed, as
text or with --json: seconds of every run, both medians, and how many times faster the second command is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time


def run(command: str, *, cold: bool) -> float:
    """Seconds that a command takes, its output drained through a pipe."""
    if cold:
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w") as caches:
            caches.write("3\n")
    start = time.perf_counter()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as drain:
        status = subprocess.run(command, shell=True, stdout=drain.stdin, stderr=subprocess.PIPE, check=False)
        assert drain.stdin is not None
        drain.stdin.close()
        drain.wait()
    if status.returncode:
        sys.exit(
            f"compare.py: exit status {status.returncode}: {command}\n{status.stderr.decode(errors='replace')[-500:]}"
        )
    return time.perf_counter() - start


def main() -> None:
    """Compare two commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("peer")
    parser.add_argument("ours")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {args.peer: [], args.ours: []}
    for command in seconds:
        run(command, cold=args.cold)
    for _ in range(args.runs):
        for command, times in seconds.items():
            times.append(run(command, cold=args.cold))
    medians = {command: statistics.median(times) for command, times in seconds.items()}
    ratio = medians[args.peer] / medians[args.ours]
    if args.json:
        print(json.dumps({"seconds": seconds, "medians": medians, "ratio": ratio, "cold": args.cold}, indent=2))
        return
    for command, times in seconds.items():
        print(f"{medians[command]:8.3f} s  (of {', '.join(f'{t:.3f}' for t in sorted(times))})  {command}")
    print(f"{ratio:8.2f} times faster")


if __name__ == "__main__":
    main()
