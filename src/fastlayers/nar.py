"""NAR hashes: whether store paths are still what Nix registered.

A NAR is Nix's serialisation of a tree. It is read through the table of the very layer that is made next, so what is
checked and what is packed are the same files: each must keep its inode, size and mtime from the one to the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ._archive import TarLayer
from .digest import pump
from .errors import LayerError

__all__ = ["check_nar_hashes", "nar_hash"]

_SMALL = 8 << 20  # bytes; trees of a layer below it are read sooner than other threads start


def nar_hash(
    layer: TarLayer, path: str, *, threads: int = 1, tick: Callable[[int], object] = lambda count: None
) -> str:
    """The NAR hash of a tree in a layer: ``sha256:`` and 64 hexadecimal digits.

    Args:
        layer: a layer that was measured.
        path: a store path in it.
        threads: with more than one a large tree is hashed by a second thread.
        tick: is told of every block's length; what it raises ends the work.

    Raises:
        LayerError: a file cannot be read, or changed since the layer was measured.
    """
    stream = layer.open_nar(path)
    return pump(stream, stream.size, lambda block: None, tick, threads)


def check_nar_hashes(
    layer: TarLayer, expected: Sequence[tuple[str, str]], *, threads: int, tick: Callable[[int], object]
) -> None:
    """Check trees of a layer against NAR hashes.

    Args:
        layer: a layer that was measured.
        expected: store paths in it and their NAR hashes, each spelled as :func:`nar_hash` spells it.
        threads: how many trees of a large layer may be read side by side, each with a second thread that hashes.
        tick: is called after every block; what it raises ends the work.

    Raises:
        LayerError: a tree has another NAR hash, or cannot be read.
    """

    def check(item: tuple[str, str]) -> None:
        path, registered = item
        # No byte of the layer's own has been made.
        found = nar_hash(layer, path, threads=threads, tick=lambda count: tick(0))
        if found != registered:
            raise LayerError(f"{path}: not what Nix registered: its NAR hash is {found}, not {registered}")

    if threads <= 1 or len(expected) <= 1 or layer.size < _SMALL:
        for item in expected:
            check(item)
        return
    with ThreadPoolExecutor(min(threads, len(expected)), thread_name_prefix="nar") as readers:
        try:
            for _ in readers.map(check, expected):
                pass
        except BaseException:
            readers.shutdown(cancel_futures=True)
            raise
