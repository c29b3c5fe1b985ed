"""Platforms: which of several manifests is for a machine."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["choose_platform", "default_architecture", "platform_name"]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "loongarch64": "loong64"}
_VARIANTS = {"arm64": "v8", "arm": "v7"}  # of an architecture whose name stands alone


def default_architecture() -> str:
    """This machine's architecture, as Go names it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def platform_name(described: Mapping[str, Any]) -> str:
    """``OS/ARCHITECTURE[/VARIANT]`` of an index entry's or a config's fields."""
    names = [described.get("os") or "linux", described.get("architecture") or "unknown", described.get("variant")]
    return "/".join(str(name) for name in names if name)


def choose_platform(
    entries: Sequence[Mapping[str, Any]], architecture: str, variant: str | None
) -> Mapping[str, Any] | None:
    """The entry of an index for Linux on this architecture: of the variant, else of the usual one, else the first.

    None where there is none; with a ``variant``, only that is good.
    """
    fitting = []
    for entry in entries:
        described = entry.get("platform") or {}
        if described.get("os", "linux") == "linux" and described.get("architecture") == architecture:
            fitting.append((described.get("variant") or _VARIANTS.get(architecture), entry))
    wanted = variant or _VARIANTS.get(architecture)
    exact = [entry for found, entry in fitting if found == wanted]
    if exact or variant:
        return exact[0] if exact else None
    return fitting[0][1] if fitting else None
