"""The options that make an image's configuration."""

from __future__ import annotations

import argparse
import os
import re

from ..errors import ConfigError
from .parser import Parser, UsageError, checked, complete, complete_file

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..image import Settings

__all__ = ["add_settings", "read_settings"]


def add_settings(parser: Parser) -> None:
    """Add the options; :func:`read_settings` puts together what they say."""
    file = parser.add_argument(
        "--config", metavar="FILE", help="An OCI or Docker config object; the options below add to it."
    )
    complete(file, complete_file)
    parser.add_argument("--cmd", metavar="WORDS", help="The command: a JSON list, or words as in a shell.")
    parser.add_argument("--entrypoint", metavar="WORDS", help="The entrypoint, likewise.")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="A variable.")
    parser.add_argument("--workdir", metavar="DIR", help="Where the command starts.")
    parser.add_argument("--user", metavar="USER", help="Who runs the command.")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="A label.")
    parser.add_argument("--expose", action="append", default=[], metavar="PORT[/udp]", help="A port.")
    parser.add_argument("--volume", action="append", default=[], metavar="DIR", help="A volume.")
    parser.add_argument(
        "--arch", default="", metavar="ARCH", help="Architecture, as Go names it. [default: this machine's]"
    )
    parser.add_argument("--variant", metavar="VARIANT", help="Of the architecture, such as v8.")
    parser.add_argument(
        "--created", metavar="DATE", help="The image's date. [default: SOURCE_DATE_EPOCH, or 1970-01-01T00:00:01Z]"
    )


def read_settings(options: argparse.Namespace) -> Settings:
    """Put together what the options say, on top of the file that ``--config`` names.

    Raises:
        UsageError: an option's value is malformed.
        ConfigError: the file or SOURCE_DATE_EPOCH is wrong.
    """
    from ..image import Settings

    return Settings(_config(options), options.arch, options.variant, _created(options.created))


def _config(options: argparse.Namespace) -> dict[str, Any]:
    from ..image import merge_env, read_config

    config = read_config(options.config) if options.config else {}
    if options.cmd is not None:
        config["Cmd"] = _words("--cmd", options.cmd)
    if options.entrypoint is not None:
        config["Entrypoint"] = _words("--entrypoint", options.entrypoint)
    if options.env:
        _pairs("--env", options.env)
        config["Env"] = merge_env(config.get("Env") or (), options.env)
    if options.workdir is not None:
        config["WorkingDir"] = options.workdir
    if options.user is not None:
        config["User"] = options.user
    if options.label:
        config["Labels"] = {**(config.get("Labels") or {}), **_pairs("--label", options.label)}
    if options.expose:
        config["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **{_port(port): {} for port in options.expose}}
    if options.volume:
        config["Volumes"] = {**(config.get("Volumes") or {}), **{volume: {} for volume in options.volume}}
    return config


def _words(option: str, text: str) -> list[str]:
    """A JSON list of words, or a line as a shell would split it."""
    import json
    import shlex

    if text.lstrip().startswith("["):
        try:
            words = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{option} {text[:100]}: not a JSON list: {error}") from None
        if not all(isinstance(word, str) for word in words):
            raise UsageError(f"{option} {text}: a word that is no text")
        return list(words)
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def _pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not name or not equals:
            raise UsageError(f"{option} {value}: expected NAME=VALUE")
        pairs[name] = content
    return pairs


def _port(text: str) -> str:
    number, _, protocol = text.partition("/")
    if (
        not re.fullmatch("[0-9]{1,5}", number)
        or not 0 < int(number) < 65536
        or protocol not in ("", "tcp", "udp", "sctp")
    ):
        raise UsageError(f"--expose {text}: expected PORT or PORT/tcp, PORT/udp, PORT/sctp")
    return f"{int(number)}/{protocol or 'tcp'}"


def _created(text: str | None) -> str:
    """The image's date: --created, SOURCE_DATE_EPOCH, or always the same."""
    import datetime

    from ..image import EPOCH, parse_date

    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if text is not None:
        date = checked("--created", parse_date, text)
    elif epoch:
        try:
            date = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC)
        except (ValueError, OverflowError, OSError):
            raise ConfigError(f"SOURCE_DATE_EPOCH: {epoch}: not a number of seconds") from None
    else:
        return EPOCH
    try:
        return date.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise UsageError(f"--created {text}: before the first or after the last date of all") from None
