"""Codecs: one profile, one stream of bytes, whatever the number of threads."""

import gzip
import hashlib
import platform
import sys
from collections.abc import Callable

import pytest

from fastlayers import Codec
from fastlayers.compression import CODECS
from fastlayers.digest import BLOCK

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Compressible, but not all alike, and longer than a few blocks.
DATA = b"".join(hashlib.sha256(bytes([i % 251])).digest() * (1 + i % 7) for i in range(40_000))[: 4 * BLOCK + 12345]
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "zstd": zstd.decompress}
LEVELS = [("gzip", 0), ("gzip", 1), ("gzip", 2), ("gzip", 3), ("gzip", None), ("zstd", 1), ("zstd", 3), ("zstd", None)]


def compress(codec: Codec, data: bytes, threads: int) -> bytes:
    out = bytearray()
    encoder = codec.encoder(out.extend, threads)
    for at in range(0, len(data), BLOCK):
        encoder.write(memoryview(data)[at : at + BLOCK])
    encoder.close()
    return bytes(out)


@pytest.mark.parametrize(("name", "level"), LEVELS)
def test_threads_never_change_a_byte(name: str, level: int | None) -> None:
    codec = Codec(name, level)
    one = compress(codec, DATA, 1)
    assert len(one) < len(DATA)
    assert DECOMPRESS[name](one) == DATA
    for threads in (0, 2, 3, 5):
        assert compress(codec, DATA, threads) == one, threads
    assert compress(codec, DATA, 1) == one


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [1, 10240, BLOCK, BLOCK + 1])
def test_short_streams(name: str, size: int) -> None:
    assert DECOMPRESS[name](compress(Codec(name), DATA[:size], 2)) == DATA[:size]


def test_gzip_has_no_name_and_no_date() -> None:
    start = compress(Codec("gzip"), DATA, 2)[:10]
    assert start[:3] == b"\x1f\x8b\x08"
    assert start[3] == 0  # no name, no comment
    assert start[4:8] == bytes(4)


def test_zstd_has_a_checksum() -> None:
    data = compress(Codec("zstd"), DATA, 2)
    with pytest.raises(zstd.ZstdError):
        zstd.decompress(data[:-1] + bytes([data[-1] ^ 1]))


def test_default_level_is_the_level_of_the_table() -> None:
    for name, (_, _, default) in CODECS.items():
        assert Codec(name).profile == Codec(name, default).profile
        if name != "none":
            assert compress(Codec(name), DATA, 1) == compress(Codec(name, default), DATA, 1)


def test_profiles_name_what_decides_the_bytes() -> None:
    from isal import ISAL_VERSION

    assert Codec().profile == "none"
    tied = "" if platform.machine() == "x86_64" else f" {platform.machine()}"
    assert Codec("gzip").profile == f"gzip isa-l-{ISAL_VERSION} level=2 block=1048576{tied}"
    assert Codec("gzip", 3).profile == f"gzip isa-l-{ISAL_VERSION} level=3 block=1048576 {platform.machine()}"
    assert Codec("zstd", 7).profile == f"zstd zstd-{zstd.zstd_version} level=7 checksum"
    assert [Codec(name).media_type_suffix for name in CODECS] == ["", "+gzip", "+zstd"]


@pytest.mark.parametrize(
    ("name", "level", "says"),
    [
        ("lzma", None, "no codec lzma; there are none, gzip, zstd"),
        ("gzip", 4, "gzip has levels 0 to 3, not 4"),
        ("gzip", -1, "gzip has levels 0 to 3, not -1"),
        ("zstd", 0, "zstd has levels 1 to 19, not 0"),
        ("zstd", 20, "zstd has levels 1 to 19, not 20"),
        ("none", 1, "none has levels 0 to 0, not 1"),
    ],
)
def test_no_such_codec(name: str, level: int | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Codec(name, level)
