"""The parser of every command: argparse with this program's rules for errors, help and the order of arguments."""

from __future__ import annotations

import argparse
import os
import sys

from ..errors import FastlayersError

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn, ParamSpec, TypeVar

    from _typeshed import SupportsWrite

    P = ParamSpec("P")
    T = TypeVar("T")

__all__ = ["Parser", "UsageError", "checked", "complete", "complete_file", "complete_words"]

_WIDEST = 100  # columns of help; longer lines are hard to read


class UsageError(FastlayersError):
    """The command line is wrong."""

    exit_status = 2


def checked(option: str, convert: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Convert what an option was given.

    Raises:
        UsageError: the package does not take it; the message names the option.
    """
    try:
        return convert(*args, **kwargs)
    except FastlayersError as error:
        raise UsageError(f"{option} {error}") from None


def _help_width() -> int:
    """Columns of the terminal. (shutil would tell, and takes as long to import as argparse.)"""
    told = os.environ.get("COLUMNS", "")
    try:
        columns = int(told) if told.isdecimal() else os.get_terminal_size(1).columns
    except (OSError, ValueError):
        columns = 0  # no terminal, or a number of thousands of digits
    return min(columns or 80, _WIDEST)


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, width=_help_width(), max_help_position=28, **more)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, whose options are written in full and stand anywhere.

    The description is wrapped; the epilog and descriptions of groups are left as they are: keep their lines below 80
    columns.
    """

    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, formatter_class=_Help, allow_abbrev=False, add_help=False, **more)
        self._positionals.title, self._optionals.title = "Arguments", "Options"
        self.add_argument("-h", "--help", action="help", help="Show this help and exit.")

    def format_help(self) -> str:
        """The help, no wider than the terminal."""
        import textwrap

        self.description = textwrap.fill(self.description or "", _help_width())
        return super().format_help()

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help.

        Raises:
            OSError: it cannot be written; argparse itself would pass over that.
        """
        (file or sys.stdout).write(self.format_help())
        sys.stdout.flush()

    def error(self, message: str) -> NoReturn:
        """Refuse the command line.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message.removeprefix('argument ')} (see {self.prog} --help)")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse a command's arguments, options between them; what stands behind ``--`` is no option.

        Raises:
            UsageError: they are wrong.
        """
        if "--" not in arguments:
            return self._parse_known(arguments)
        # argparse looks for options behind -- too when it sorts them out from between arguments.
        end = arguments.index("--")
        literal = {f"\0{i}": argument for i, argument in enumerate(arguments[end + 1 :])}
        options = self._parse_known([*arguments[:end], *literal])
        for name, value in vars(options).items():
            if isinstance(value, list):
                setattr(options, name, [literal.get(one, one) for one in value])
            elif isinstance(value, str):
                setattr(options, name, literal.get(value, value))
        return options

    def _parse_known(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse; an option that there is not is named before one that is missing, for which it may well stand."""
        required = [action for action in self._actions if action.required]
        for action in required:
            action.required = False
        try:
            _, left = self.parse_known_args(arguments)
        finally:
            for action in required:
                action.required = True
        if unknown := [argument for argument in left if argument.startswith("-") and argument != "-"]:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return self.parse_intermixed_args(arguments)

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        # Before Python 3.13 argparse takes the value of --option=-- for the end of options.
        if action.option_strings and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)


def complete(action: argparse.Action, completer: Callable[..., Sequence[str]]) -> None:
    """Have shell completion ask ``completer`` (called as argcomplete does) for an argument's or option's values."""
    action.completer = completer  # type: ignore[attr-defined]


def complete_file(prefix: str, **context: object) -> Sequence[str]:
    """Complete the name of a file or folder."""
    from argcomplete.completers import FilesCompleter

    return list(FilesCompleter()(prefix))


def complete_words(*words: str) -> Callable[..., Sequence[str]]:
    """Complete one of some words."""
    return lambda **context: words
