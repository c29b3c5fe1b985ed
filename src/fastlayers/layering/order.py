"""The order of layers (placeholder until the order stage lands)."""

from __future__ import annotations

from collections.abc import Sequence

from ..closure import Closure
from .history import ChangeHistory


def order_layers(
    closure: Closure,
    layers: Sequence[list[str]],
    *,
    previous: Sequence[Sequence[str]] | None = None,
    history: ChangeHistory = ChangeHistory(),
) -> list[list[str]]:
    return list(layers)
