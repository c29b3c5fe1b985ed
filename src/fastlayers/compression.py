"""Codecs: named profiles, so that a layer compressed twice has one digest.

A profile's name holds all that decides the bytes: library, its version, level, block. What the number of threads is
never matters. ``gzip`` is ISA-L's (levels 0 to 2: the same bytes on every x86-64 processor; elsewhere other bytes, and
level 3 depends on the processor, so the profile then names the machine), each block of 1 MiB compressed by itself with
the 32 KiB before it as dictionary. ``zstd`` is the reference library in its multi-threaded mode, with a checksum.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, Protocol

from .digest import BLOCK
from .errors import ImageError

__all__ = ["CODECS", "MAGIC", "Codec", "Encoder", "codec_of", "decompressed"]

MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}  # the first bytes

CODECS: dict[str, tuple[int, int, int]] = {  # name: lowest, highest and default level
    "none": (0, 0, 0),
    "gzip": (0, 3, 2),
    "zstd": (1, 19, 3),
}


class Encoder(Protocol):
    """Where blocks go in; the compressed bytes come out where :meth:`Codec.encoder` was told."""

    def write(self, data: memoryview, /) -> object: ...

    def close(self) -> object: ...


class _Output:
    """The file that compressors think they write to."""

    def __init__(self, write: Callable[[memoryview], object]) -> None:
        self._write = write

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data)
        self._write(view)
        return view.nbytes

    def flush(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Codec:
    """A way of compressing layers; ``level`` None is the codec's default.

    Raises:
        ValueError: there is no such codec or level.
    """

    name: Literal["none", "gzip", "zstd"] = "none"
    level: int | None = None

    def __post_init__(self) -> None:
        if self.name not in CODECS:
            raise ValueError(f"no codec {self.name}; there are {', '.join(CODECS)}")
        lowest, highest, _ = CODECS[self.name]
        if self.level is not None and not lowest <= self.level <= highest:
            raise ValueError(f"{self.name} has levels {lowest} to {highest}, not {self.level}")

    @property
    def media_type_suffix(self) -> str:
        """What follows the media type of a plain layer."""
        return "" if self.name == "none" else f"+{self.name}"

    @property
    def profile(self) -> str:
        """The name of everything that decides the compressed bytes."""
        level = CODECS[self.name][2] if self.level is None else self.level
        if self.name == "gzip":
            from isal import ISAL_VERSION

            machine = platform.machine()
            tied = f" {machine}" if machine != "x86_64" or level > 2 else ""
            return f"gzip isa-l-{ISAL_VERSION} level={level} block={BLOCK}{tied}"
        if self.name == "zstd":
            return f"zstd zstd-{_zstd().zstd_version} level={level} checksum"
        return "none"

    def encoder(self, write: Callable[[memoryview], object], threads: int) -> Encoder:
        """Compress what is written to the encoder, with so many threads; ``write`` gets the result.

        Every block written must be :data:`digest.BLOCK` bytes, but for the last.
        """
        level = CODECS[self.name][2] if self.level is None else self.level
        if self.name == "gzip":
            from isal import igzip_threaded

            gzip: Encoder = igzip_threaded.open(  # type: ignore[no-untyped-call]
                _Output(write), "wb", compresslevel=level, threads=max(threads, 1), block_size=BLOCK
            )
            return gzip
        zstd = _zstd()
        options = {
            zstd.CompressionParameter.compression_level: level,
            zstd.CompressionParameter.nb_workers: max(threads, 1),
            zstd.CompressionParameter.checksum_flag: 1,
        }
        encoder: Encoder = zstd.ZstdFile(_Output(write), "wb", options=options)
        return encoder


def codec_of(start: bytes) -> str:
    """The codec of bytes that begin so: "none", "gzip" or "zstd"."""
    return next((name for name, magic in MAGIC.items() if start.startswith(magic)), "none")


def decompressed(blocks: Iterable[bytes | memoryview], codec: str) -> Iterator[bytes]:
    """Decompress what comes in blocks, into blocks of at most :data:`digest.BLOCK` bytes, as it is asked for.

    Several gzip members or zstd frames, one behind the other, are one stream, as the formats have it.

    Raises:
        ImageError: it is no such stream, ends in the middle, or has something else behind its end.
    """
    decoder: Any = None
    begun = done = 0  # members or frames
    fresh = False  # nothing has come out of the last one
    for block in blocks:
        data: bytes | memoryview = block
        while True:
            if decoder is None:
                if not len(data):
                    break
                decoder, begun, fresh = _decoder(codec), begun + 1, True
            try:
                plain = decoder.decompress(data, BLOCK)
            except Exception as error:  # each library has its own
                if fresh and begun > 1:
                    raise ImageError(f"something that is no {codec} is behind its end") from None
                raise ImageError(f"cannot be decompressed as {codec}: {error}") from None
            if plain:
                fresh = False
                yield plain
            if decoder.eof:
                data, decoder, done = decoder.unused_data, None, done + 1
            elif decoder.needs_input:
                break
            else:
                data = b""
    if decoder is not None or not done:
        if fresh and begun > 1:
            raise ImageError(f"something that is no {codec} is behind its end")
        raise ImageError(f"its {codec} ends in the middle")


def _decoder(codec: str) -> Any:
    if codec == "gzip":
        from isal import igzip_lib

        return igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return _zstd().ZstdDecompressor()


def _zstd() -> ModuleType:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    module: ModuleType = zstd
    return module
