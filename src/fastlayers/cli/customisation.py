"""The options that say what goes into an image besides its closure."""

from __future__ import annotations

import argparse
import os
import re

from .parser import Parser, UsageError, checked, complete, complete_file

TYPE_CHECKING = False  # importing it from typing takes a tenth of --help
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..contents import Generated
    from ..customisation import Customisation, LinkedTree

__all__ = ["add_customisation", "read_customisation"]


def add_customisation(parser: Parser) -> None:
    """Add the options; :func:`read_customisation` puts together what they say."""
    group = parser.add_argument_group("Besides the closure (all in a last layer)")
    contents = group.add_argument(
        "--contents",
        action="append",
        default=[],
        metavar="PATH",
        help="Link to what is in this store path at the root of the image; several are merged.",
    )
    complete(contents, complete_file)
    group.add_argument(
        "--contents-priority",
        dest="priorities",
        action="append",
        default=[],
        metavar="PATH=N",
        help="Of two files at one name take that of the PATH with the lower N, which is 5 for all others.",
    )
    files = group.add_argument(
        "--extra-files",
        dest="extras",
        action="append",
        type=_folder,
        default=[],
        metavar="DIR",
        help="Put what is in DIR at the root of the image; modes are 0644, and 0755 of what can be executed.",
    )
    complete(files, complete_file)
    tar = group.add_argument(
        "--extra-tar",
        dest="extras",
        action="append",
        type=_tar,
        default=[],
        metavar="FILE",
        help="Unpack a plain tar archive there, with its modes and owners.",
    )
    complete(tar, complete_file)
    group.add_argument(
        "--owner",
        dest="owners",
        action="append",
        default=[],
        metavar="PATH=UID:GID",
        help="Owner of this path in that layer and of all below it.",
    )
    group.add_argument(
        "--mode",
        dest="modes",
        action="append",
        default=[],
        metavar="PATH=MODE",
        help="Mode of this path in that layer, in octal, such as /tmp=1777.",
    )
    group.add_argument(
        "--include-nix-db", dest="nix_db", action="store_true", help="Register the closure, so that Nix works inside."
    )
    parser.add_argument(
        "--xattrs", action="store_true", help="Keep Linux capabilities and user.* attributes of all files."
    )


def _folder(text: str) -> tuple[str, str]:
    return "folder", text


def _tar(text: str) -> tuple[str, str]:
    return "tar", text


def read_customisation(options: argparse.Namespace) -> Customisation:
    """Put together what the options say; folders and archives are read.

    Raises:
        UsageError: an option's value is malformed.
        ConfigError, LayerError: a folder or an archive cannot be read, or has what no layer can have.
    """
    from ..customisation import Customisation

    owners = {path: _owner(path, text) for path, text in _values("--owner", "UID:GID", options.owners).items()}
    modes = {path: _mode(path, text) for path, text in _values("--mode", "MODE", options.modes).items()}
    checked("--owner", Customisation, owners=owners)
    checked("--mode", Customisation, modes=modes)
    contents = _contents(options)
    extras = tuple(_extra(kind, place, options.xattrs) for kind, place in options.extras)
    return Customisation(contents, extras, owners, modes, options.nix_db)


def _contents(options: argparse.Namespace) -> tuple[LinkedTree, ...]:
    from ..customisation import DEFAULT_PRIORITY, LinkedTree

    given = _values("--contents-priority", "N", options.priorities)
    priorities = {os.path.normpath(path): _priority(path, text) for path, text in given.items()}
    paths = [os.path.normpath(path) for path in options.contents]
    for path in priorities:
        if path not in paths:
            raise UsageError(f"--contents-priority {path}: no --contents is this path")
    return tuple(LinkedTree(_tree(path, options.store_root), priorities.get(path, DEFAULT_PRIORITY)) for path in paths)


def _tree(path: str, store_root: str) -> str:
    """The path in the image of what is given as a store path, or as a symlink to one (``result``)."""
    from ..sources import nix_store

    inside = nix_store.resolve(path, store_root=store_root)
    if inside is None:
        raise UsageError(f"--contents {path}: not in the Nix store, and no symlink into it")
    return inside


def _extra(kind: str, place: str, xattrs: bool) -> Generated:
    from ..customisation import read_folder, read_tar

    return (read_folder if kind == "folder" else read_tar)(place, xattrs=xattrs)


def _values(option: str, what: str, texts: list[str]) -> Mapping[str, str]:
    values = {}
    for text in texts:
        path, equals, value = text.rpartition("=")
        if not path or not equals:
            raise UsageError(f"{option} {text}: expected PATH={what}")
        values[path] = value
    return values


def _owner(path: str, text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]{1,10}):([0-9]{1,10})", text)
    if not found:
        raise UsageError(f"--owner {path}={text}: expected UID:GID, two numbers")
    return int(found[1]), int(found[2])


def _mode(path: str, text: str) -> int:
    if not re.fullmatch("[0-7]{1,5}", text):
        raise UsageError(f"--mode {path}={text}: expected octal digits, such as 0755")
    return int(text, 8)


def _priority(path: str, text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise UsageError(f"--contents-priority {path}={text}: expected a whole number")
    return int(text)
