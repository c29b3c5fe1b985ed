"""What a virtual environment's own interpreter says of itself."""

from __future__ import annotations

import os
import subprocess

import msgspec

from ..errors import ClosureError

__all__ = ["Interpreter", "ask"]

_QUERY = """
import json, os, platform, sys, sysconfig
version = sys.implementation.version
implementation = "%d.%d.%d" % version[:3]
if version.releaselevel != "final":
    implementation += version.releaselevel[0] + str(version.serial)
base = {"base": sys.base_prefix, "installed_base": sys.base_prefix,
        "platbase": sys.base_exec_prefix, "installed_platbase": sys.base_exec_prefix}
print()
print(json.dumps({
    "base_prefix": sys.base_prefix,
    "base_executable": getattr(sys, "_base_executable", None) or sys.executable,
    "stdlib": sysconfig.get_path("stdlib", vars=base),
    "platstdlib": sysconfig.get_path("platstdlib", vars=base),
    "purelib": sysconfig.get_path("purelib"),
    "platlib": sysconfig.get_path("platlib"),
    "multiarch": getattr(sys.implementation, "_multiarch", ""),
    "markers": {
        "implementation_name": sys.implementation.name,
        "implementation_version": implementation,
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": "%d.%d" % sys.version_info[:2],
        "sys_platform": sys.platform,
    },
}))
"""


class Interpreter(msgspec.Struct, frozen=True):
    """What the interpreter answered.

    Attributes:
        base_prefix: where the installation is that the environment was made from.
        base_executable: its binary, or a symlink to it.
        stdlib: its standard library.
        platstdlib: the same, for what is compiled.
        purelib: where the environment's distributions are.
        platlib: the same, for distributions with compiled modules.
        multiarch: the name of the architecture in directories, as Debian has it, or empty.
        markers: the environment in which the markers of requirements are evaluated.
        home: the directory of the binary, as pyvenv.cfg has it, or empty.
    """

    base_prefix: str
    base_executable: str
    stdlib: str
    platstdlib: str
    purelib: str
    platlib: str
    multiarch: str
    markers: dict[str, str]
    home: str = ""


def ask(directory: str) -> Interpreter:
    """Run the interpreter of the environment at an absolute path.

    Raises:
        ClosureError: it is no virtual environment, it shares the system's distributions, or its Python does not run.
    """
    settings = _settings(f"{directory}/pyvenv.cfg")
    if settings.get("include-system-site-packages", "").lower() == "true":
        raise ClosureError(
            f"{directory}/pyvenv.cfg: include-system-site-packages = true: distributions outside the environment"
            " are not in its closure; make it without --system-site-packages"
        )
    python = f"{directory}/bin/python"
    try:
        # -I: nothing from the caller's directory or variables; -B: reading an environment does not change it.
        run = subprocess.run([python, "-I", "-B", "-c", _QUERY], capture_output=True, check=False)
    except OSError as error:
        raise ClosureError(f"{python}: {error.strerror}") from None
    if run.returncode:
        last = run.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ClosureError(f"{python}: failed with status {run.returncode}: {last or 'no message'}")
    try:
        # A .pth file may have printed something before.
        interpreter = msgspec.json.decode(run.stdout.strip().rpartition(b"\n")[2], type=Interpreter)
    except msgspec.MsgspecError as error:
        raise ClosureError(f"{python}: its answer cannot be read: {error}") from None
    return msgspec.structs.replace(interpreter, home=settings.get("home", ""))


def _settings(file: str) -> dict[str, str]:
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as lines:
            pairs = (line.partition("=") for line in lines)
            return {key.strip().lower(): value.strip() for key, _, value in pairs}
    except FileNotFoundError:
        raise ClosureError(f"{os.path.dirname(file)}: not a virtual environment: it has no pyvenv.cfg") from None
    except OSError as error:
        raise ClosureError(f"{file}: {error.strerror}") from None
