"""The entry: which commands there are, signals, errors and exit statuses."""

from __future__ import annotations

import os
import signal
import sys

from .. import __version__
from ..errors import FastlayersError
from .parser import Parser

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType
    from typing import Any

__all__ = ["COMMANDS", "command_parser", "load", "run", "top_parser"]

# Each is the module of the same name in this folder, loaded when it is asked for; help lists them in this order.
COMMANDS = {
    "build": "Build an image of a closure.",
    "cache": "Look after the cache of digests.",
    "closure": "Print a closure's paths, sorted.",
    "diff": "Show what clients download for an update, and why.",
    "explain": "Say why a path is in its layer.",
    "index": "Join images of several platforms under one tag.",
    "inspect": "Show what an image says of itself.",
    "plan": "Show which paths go into which layer.",
    "popularity": "Print a closure's paths, the most popular first.",
    "report": "Show layers and updates, in the terminal or as a page.",
    "simulate": "Compare strategies on a history of updates.",
    "stream": "Write the archive that nixpkgs' streamLayeredImage writes.",
    "verify": "Check whether an image is what it says.",
}

_MORE = """\
Sources:
  nix:PATH    the closure of PATH, in the Nix store or a symlink into it
  FILE or -   what Nix wrote: exportReferencesGraph, nix path-info --json -r
  venv:DIR    a virtual environment of Python's; the active one if none is named

Shell completion (bash; also zsh and, with --shell fish, fish):
  eval "$(register-python-argcomplete fastlayers)"

Exit statuses:
  0   done
  1   another failure
  2   the command line is wrong: a destination, name, tag or date on it, too
  3   a source cannot be read, or is no closure
  4   a plan cannot be made, read, used or compared
  5   the configuration is wrong, or names paths that are not in the closure
  6   a file cannot go into a layer, changed while it was read, or is not what
      Nix registered
  7   an image cannot be read, is not whole, or has faults
  8   a destination cannot be written; an engine cannot be reached, or refuses
  9   a registry cannot be reached, or refuses
  130 interrupted (143: terminated; 141: nobody reads what is printed)
"""


class _Stopped(BaseException):
    """SIGINT or SIGTERM."""

    def __init__(self, signum: int) -> None:
        self.signum = signum


def _stop(signum: int, frame: FrameType | None) -> None:
    # What is half-made is being removed from now on; more signals must not end that half-way.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise _Stopped(signum)


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its status; errors are one line on standard error."""
    if sys.stdout is None:  # closed by who started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    signal.signal(signal.SIGTERM, _stop)
    # Who started us may want these ignored, as nohup does.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _stop)
    # No linear algebra is done here: numpy need not start a thread for each core.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    status = 0
    try:
        if "_ARGCOMPLETE" in os.environ:
            from .completion import complete_command_line

            complete_command_line(_whole_parser())
        _run_command(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
    except FastlayersError as error:
        status = _fail(str(error), error.exit_status)
    except _Stopped as stopped:
        status = _fail("interrupted" if stopped.signum == signal.SIGINT else "terminated", 128 + stopped.signum)
    except BrokenPipeError:
        # Who reads has enough, as head has: the end that SIGPIPE gives others. Python must not try once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 128 + signal.SIGPIPE
    except RecursionError:
        status = _fail("a document is nested too deeply", 1)
    except MemoryError:
        status = _fail("out of memory", 1)
    except OSError as error:
        # Files are named where they are opened; what is left is the output.
        status = _fail(f"{error.filename or 'standard output'}: {error.strerror}", 1 if error.filename else 8)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)


def _fail(message: str, status: int) -> int:
    from ..report import print_notes

    print_notes([" ".join(message.split("\n"))])
    return status


def _run_command(arguments: Sequence[str]) -> None:
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        command = load(name)
        command.run(command_parser(name).parse(arguments[1:]))
        return
    parser = top_parser()
    options, unknown = parser.parse_known_args(arguments[:1])
    if options.version:
        print(f"fastlayers {__version__}")
    elif unknown:
        parser.error(f"no such {'option' if name.startswith('-') else 'command'}: {name}")
    else:
        parser.error("name a command")


def top_parser() -> Parser:
    """The parser of the program's own options; its help lists the commands."""
    parser = Parser("fastlayers", usage="%(prog)s [-h | --version] COMMAND ...")
    parser.description = "Turn package closures into layered, reproducible container images."
    parser.add_argument("--version", action="store_true", help="Show the version and exit.")
    listing = "\n".join(f"{name:12}{summary}" for name, summary in COMMANDS.items())
    parser.add_argument_group("Commands", listing)
    parser.epilog = _MORE
    return parser


def _whole_parser() -> Parser:
    """The parser of the whole command line, with every command's arguments."""
    parser = top_parser()
    commands = parser.add_subparsers()
    for name, summary in COMMANDS.items():
        load(name).define(commands.add_parser(name, help=summary))
    return parser


def load(name: str) -> Any:
    """A command's module."""
    from importlib import import_module

    return import_module(f".{name}", __package__)


def command_parser(name: str) -> Parser:
    """The parser of a command's arguments."""
    parser = Parser(f"fastlayers {name}")
    load(name).define(parser)
    return parser
