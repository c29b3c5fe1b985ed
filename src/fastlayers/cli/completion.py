"""Shell completion, by argcomplete; loaded when a shell asks for it."""

from __future__ import annotations

from argcomplete import autocomplete
from argcomplete.completers import SuppressCompleter

from .main import COMMANDS, load, top_parser

__all__ = ["complete_command_line"]


def complete_command_line() -> None:
    """Answer the shell and end the process."""
    parser = top_parser()
    commands = parser.add_subparsers()
    for name, summary in COMMANDS.items():
        load(name).define(commands.add_parser(name, help=summary))
    # Without a completer of its own an option takes anything, not a file.
    autocomplete(parser, default_completer=SuppressCompleter())
