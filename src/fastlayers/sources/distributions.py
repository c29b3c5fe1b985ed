"""The distributions that are installed in an environment: what they are, what they own, what they require."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import BytesHeaderParser

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ..errors import ClosureError
from .filelists import Distribution

__all__ = ["Installed", "find", "requirements", "share"]

_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_REINSTALL = "install it again with a current pip"


@dataclass(frozen=True, slots=True)
class Installed:
    """One distribution.

    Attributes:
        name: normalised.
        version: as its metadata has it.
        record: the path of its RECORD.
        requires: its requirements, unread.
    """

    name: str
    version: str
    record: str
    requires: tuple[str, ...]

    @property
    def node(self) -> str:
        """The node's name."""
        return f"{self.name}=={self.version}"


class _DirInfo(msgspec.Struct):
    editable: bool = False


class _DirectUrl(msgspec.Struct):
    dir_info: _DirInfo | None = None


def find(sites: Iterable[str], prefix: str) -> list[Installed]:
    """The distributions in directories of these real paths, in the environment at ``prefix``, sorted by name.

    Raises:
        ClosureError: one has no RECORD, is there twice, or is editable, or a .pth file leads out of the environment.
    """
    found: dict[str, Installed] = {}
    for site in sites:
        try:
            names = sorted(os.listdir(site))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ClosureError(f"{site}: {error.strerror}") from None
        for name in names:
            # A name with a tilde is what pip leaves behind when it fails to uninstall.
            if name.startswith("~"):
                continue
            path = f"{site}/{name}"
            if name.endswith(".dist-info"):
                one = _read(path)
                other = found.setdefault(one.name, one)
                if other is not one:
                    raise ClosureError(f"{one.name}: installed twice: {os.path.dirname(other.record)} and {path}")
            elif name.endswith((".egg-info", ".egg")):
                raise ClosureError(f"{path}: no RECORD says which files are its own: {_REINSTALL}")
            elif name.endswith(".egg-link"):
                raise _editable(name.removesuffix(".egg-link"), path)
    for site in sites:
        for name in os.listdir(site) if os.path.isdir(site) else ():
            if name.startswith("__editable__") and name.endswith(".pth"):
                raise _editable(name.removeprefix("__editable__.").removesuffix(".pth"), f"{site}/{name}")
            if name.endswith(".pth"):
                _check_pth(f"{site}/{name}", prefix)
    return [found[name] for name in sorted(found)]


def _read(path: str) -> Installed:
    try:
        with open(f"{path}/METADATA", "rb") as file:
            head = file.read().replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    except OSError as error:
        raise ClosureError(f"{path}/METADATA: {error.strerror}") from None
    metadata: Message = BytesHeaderParser().parsebytes(head)
    name, version = metadata["Name"], metadata["Version"]
    if not name or not version:
        raise ClosureError(f"{path}/METADATA: no {'Version' if name else 'Name'}")
    name = canonicalize_name(str(name).strip())
    try:
        with open(f"{path}/direct_url.json", "rb") as file:
            url = msgspec.json.decode(file.read(), type=_DirectUrl)
    except FileNotFoundError:
        url = _DirectUrl()
    except OSError as error:
        raise ClosureError(f"{path}/direct_url.json: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise ClosureError(f"{path}/direct_url.json: {error}") from None
    if url.dir_info is not None and url.dir_info.editable:
        raise _editable(name, path)
    if not os.path.exists(f"{path}/RECORD"):
        raise ClosureError(f"{path}: no RECORD says which files are its own: {_REINSTALL}")
    requires = tuple(str(line) for line in metadata.get_all("Requires-Dist", ()))
    return Installed(name, str(version).strip(), f"{path}/RECORD", requires)


def _editable(name: str, path: str) -> ClosureError:
    return ClosureError(
        f"{name}: {path}: an editable install, its files are outside the environment: install it without -e"
    )


def share(
    installed: Iterable[Installed], prefix: str, found: Mapping[str, os.stat_result]
) -> tuple[list[Distribution], dict[str, str]]:
    """Divide files among the distributions that list them, in their order; the second value has each file's node.

    Args:
        installed: the distributions.
        prefix: the environment's real path.
        found: what is in the environment, without directories (those with nothing in them may be there).

    Raises:
        ClosureError: a file is not there, is outside the environment, or two distributions list different files.
    """
    owners: dict[str, str] = {}
    digests: dict[str, str] = {}
    below = prefix + "/"
    shared = []
    for one in installed:
        distribution = Distribution(one.node, one.record)
        excluded = []
        for path, digest in distribution.listed().items():
            status = found.get(path)
            if status is None or not path.startswith(below):
                if not path.startswith(below):
                    raise ClosureError(f"{one.node}: {path}: outside the environment {prefix}")
                if not path.endswith(".pyc") and not os.path.isdir(path):
                    raise ClosureError(f"{one.node}: {path}: in its RECORD, but not there")
                excluded.append(path)
                continue
            if stat.S_ISLNK(status.st_mode) and not f"{os.path.realpath(path)}/".startswith(below):
                raise ClosureError(f"{one.node}: {path}: a symlink to {os.readlink(path)}, outside the environment")
            owner = owners.setdefault(path, one.node)
            if owner == one.node:
                digests[path] = digest
            else:
                if not digest or digest != digests[path]:
                    raise ClosureError(f"{path}: both {owner} and {one.node} list it, with different digests")
                excluded.append(path)
        shared.append(Distribution(one.node, one.record, frozenset(excluded)) if excluded else distribution)
    return shared, owners


def requirements(installed: Iterable[Installed], markers: Mapping[str, str]) -> dict[str, set[str]]:
    """For the node of each distribution the nodes of those that it requires and that are there.

    What it requires for an extra counts where another distribution requires it with this extra.

    Raises:
        ClosureError: a requirement cannot be read.
    """
    by_name = {one.name: one for one in installed}
    required = {one.name: _required(one, by_name) for one in by_name.values()}
    extras: dict[str, set[str]] = {name: {""} for name in by_name}
    references: dict[str, set[str]] = {name: set() for name in by_name}
    todo = [(name, "") for name in by_name]
    while todo:
        name, extra = todo.pop()
        for requirement in required[name]:
            if requirement.marker and not requirement.marker.evaluate({**markers, "extra": extra}):
                continue
            other = canonicalize_name(requirement.name)
            references[name].add(by_name[other].node)
            for wanted in map(canonicalize_name, requirement.extras):
                if wanted not in extras[other]:
                    extras[other].add(wanted)
                    todo.append((other, wanted))
    return {by_name[name].node: names for name, names in references.items()}


def _required(one: Installed, by_name: Mapping[str, Installed]) -> list[Requirement]:
    """The requirements that are installed; the others, most of them for extras, are not worth parsing."""
    parsed = []
    for text in one.requires:
        match = _NAME.match(text)
        if match and canonicalize_name(match[1]) not in by_name:
            continue
        try:
            parsed.append(Requirement(text))
        except InvalidRequirement as error:
            message = str(error).partition("\n")[0]
            raise ClosureError(f"{one.node}: Requires-Dist: {text}: {message}") from None
    return parsed


def _check_pth(path: str, prefix: str) -> None:
    """A .pth file may put folders on the module path; those outside the environment are not in the image."""
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            folder = line.strip()
            if not folder or folder.startswith(("#", "import ", "import\t")):
                continue
            target = os.path.realpath(os.path.join(os.path.dirname(path), folder))
            if os.path.isdir(target) and not f"{target}/".startswith(f"{prefix}/"):
                raise ClosureError(f"{path}: {folder} is outside the environment and would not be in the image")
