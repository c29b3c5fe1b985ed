"""``fastlayers cache``: look after the digest cache."""

from __future__ import annotations

import argparse
import re

from ..errors import DestinationError
from .options import add_cache_folder, size
from .parser import Parser, UsageError, complete, complete_words

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from typing import Any

__all__ = ["define", "run"]

_ACTIONS = ("info", "verify", "prune", "clear")
_DAYS = 30


def define(parser: Parser) -> None:
    """Tell the command's arguments."""
    parser.usage = "%(prog)s [OPTIONS] info|verify|prune|clear"
    parser.description = "Look after the cache in which build and stream remember digests of layers."
    parser.epilog = """\
Actions:
  info    where it is, how many layers it knows, how many bytes it takes
  verify  name the files that are damaged; the exit status is 1 if any is
  prune   remove what is damaged, and what was not used for a while
  clear   remove everything

Examples:
  fastlayers cache info
  fastlayers cache prune --older-than 7
  fastlayers cache prune --max-size 10MB
"""
    action = parser.add_argument("action", metavar="ACTION", choices=_ACTIONS, help="What to do.")
    complete(action, complete_words(*_ACTIONS))
    add_cache_folder(parser)
    parser.add_argument(
        "--older-than",
        type=_days,
        metavar="DAYS",
        help=f"prune: what was not used for so long. [default: {_DAYS}, or nothing with --max-size]",
    )
    parser.add_argument(
        "--max-size",
        type=size,
        metavar="SIZE",
        help="prune: the least recently used, until the rest takes no more: bytes, or such as 10MB.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON.")


def run(options: argparse.Namespace) -> None:
    """Do what is asked for."""
    from ..cache import DigestCache, default_folder
    from ..report import counted, print_data, print_lines

    if options.action != "prune" and (options.older_than is not None or options.max_size is not None):
        raise UsageError("--older-than and --max-size are for prune")
    folder = options.cache or default_folder()
    if folder is None:
        raise DestinationError("there is no home to have a cache in: name one, --cache DIR")
    cache = DigestCache(folder)
    facts: dict[str, Any]
    entries = list(cache.entries())
    damaged = [entry.path for entry in entries if not entry.whole]
    if options.action in ("info", "verify"):
        taken = sum(entry.size for entry in entries)
        facts = {"folder": folder, "layers": len(entries) - len(damaged), "bytes": taken}
        if options.action == "verify":
            facts["damaged"] = damaged
    else:
        seconds = None if options.older_than is None else options.older_than * 86400
        if seconds is None and options.max_size is None:
            seconds = _DAYS * 86400
        clear = options.action == "clear"
        gone = cache.clear() if clear else cache.prune(older_than=seconds, max_size=options.max_size)
        facts = {"folder": folder, "removed": len(gone), "bytes": sum(entry.size for entry in gone)}
    if options.json:
        import json

        print_data([json.dumps(facts, indent=2)])
    else:
        lines = [f"{path}: damaged" for path in damaged] if options.action == "verify" else []
        did = f"{facts['removed']} removed" if "removed" in facts else counted(facts["layers"], "layer")
        print_lines([*lines, f"{folder}: {did}, {counted(facts['bytes'], 'byte')}"])
    if options.action == "verify" and damaged:
        raise SystemExit(1)


def _days(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise argparse.ArgumentTypeError(f"{text}: expected a number of days")
    return float(text)
