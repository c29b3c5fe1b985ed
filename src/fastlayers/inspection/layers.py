"""One stored layer, looked at from its first byte to its last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..compression import codec_of
from ..entries import plain_blocks, read_entries
from ..errors import ImageError

__all__ = ["LayerReport", "examine_layer"]


@dataclass(frozen=True, slots=True)
class LayerReport:
    """What a stored layer is.

    Attributes:
        digest: of the stored bytes.
        size: how many there are.
        codec: "none", "gzip" or "zstd", by the first bytes.
        diff_id: digest of the tar, None where it cannot be decompressed.
        tar_size: bytes of the tar.
        entries: how many entries it has.
        faults: what is wrong with the tar, or with the compressed stream around it.
        unreadable: why the stored bytes could not be read, "" if they could.
    """

    digest: str
    size: int
    codec: str
    diff_id: str | None
    tar_size: int
    entries: int
    faults: tuple[str, ...]
    unreadable: str = ""


class _Tally:
    """Counts and hashes the blocks that pass, keeps the first bytes, and why there are no more."""

    def __init__(self, blocks: Iterable[bytes | memoryview], tick: Callable[[int], object]) -> None:
        self.digest, self.size, self.start, self.failed = hashlib.sha256(), 0, b"", ""
        self.blocks = self._pass(blocks, tick)

    def name(self) -> str:
        return "sha256:" + self.digest.hexdigest()

    def _pass(
        self, blocks: Iterable[bytes | memoryview], tick: Callable[[int], object]
    ) -> Iterator[bytes | memoryview]:
        try:
            for block in blocks:
                self.digest.update(block)
                self.size += len(block)
                if len(self.start) < 4:
                    self.start += block[: 4 - len(self.start)]
                tick(len(block))
                yield block
        except ImageError as error:
            self.failed = str(error)


def examine_layer(
    blocks: Iterable[bytes | memoryview], tick: Callable[[int], object] = lambda count: None
) -> LayerReport:
    """Read a layer: hash it, decompress it, hash that, and look at every entry.

    Memory: some blocks, and about 100 bytes for each entry.

    Args:
        blocks: the stored bytes.
        tick: is told how many more of them were read; what it raises ends the work.
    """
    stored = _Tally(blocks, tick)
    plain = _Tally(plain_blocks(stored.blocks), lambda count: None)
    faults: list[str] = []
    count, damage = 0, ""
    try:
        seen: set[bytes] = set()
        told: set[str] = set()
        for entry in read_entries(plain.blocks):
            count += 1
            if "/../" in f"{entry.path}/":
                faults.append(f"entry {entry.path}: leads out of the image")
            name = hashlib.blake2b(entry.path.encode("utf-8", "surrogateescape"), digest_size=16).digest()
            if name not in seen:
                seen.add(name)
            elif entry.path not in told and entry.path != "/":
                told.add(entry.path)
                faults.append(f"entry {entry.path}: is there twice")
    except ImageError as error:
        damage = str(error)
    for rest in (plain.blocks, stored.blocks):  # for the digests
        for _ in rest:
            pass
    if plain.failed or damage:
        faults.append(plain.failed or damage)  # where the stream breaks, the tar does too
    return LayerReport(
        stored.name(),
        stored.size,
        codec_of(stored.start),
        None if plain.failed else plain.name(),
        plain.size,
        count,
        tuple(faults),
        stored.failed,
    )
