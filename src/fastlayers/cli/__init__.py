"""The command line: a module for each command, and :func:`run`, which the program starts with.

A command's module has ``define``, which tells a parser its options and loads nothing, and ``run``, which loads what it
needs; it is named in :data:`~fastlayers.cli.main.COMMANDS`. What commands do is in the API, their tables are in report.
"""

from .main import COMMANDS, run

__all__ = ["COMMANDS", "run"]
