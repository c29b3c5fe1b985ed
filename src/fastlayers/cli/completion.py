"""Shell completion, by argcomplete; loaded when a shell asks for it."""

from __future__ import annotations

from argcomplete import autocomplete
from argcomplete.completers import SuppressCompleter

from .parser import Parser

__all__ = ["complete_command_line"]


def complete_command_line(parser: Parser) -> None:
    """Answer the shell and end the process."""
    # Without a completer of its own an option takes anything, not a file.
    autocomplete(parser, default_completer=SuppressCompleter())
