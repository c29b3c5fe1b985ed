"""The pump: a stream's bytes go to SHA-256 and to a consumer, small ones in one thread and large ones in two."""

import hashlib
import io

import pytest

from fastlayers.digest import BLOCK, pump, sha256


def data_of(size: int) -> bytes:
    return hashlib.shake_128(b"pump").digest(size)


@pytest.mark.parametrize(
    "size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 8 * BLOCK - 1, 8 * BLOCK, 8 * BLOCK + 1, 11 * BLOCK + 7]
)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_byte_in_order(size: int, threads: int) -> None:
    data = data_of(size)
    consumed, ticks = [], []
    digest = pump(io.BytesIO(data), size, lambda block: consumed.append(bytes(block)), ticks.append, threads)
    assert b"".join(consumed) == data
    assert digest == sha256(data) == "sha256:" + hashlib.sha256(data).hexdigest()
    assert [len(block) for block in consumed] == ticks
    assert all(count == BLOCK for count in ticks[:-1])  # compressors cut the stream at blocks


@pytest.mark.parametrize("size", [3, 20 * BLOCK])
@pytest.mark.parametrize("where", ["consume", "tick", "read"])
@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_ends_the_work(size: int, where: str, threads: int) -> None:
    class Broken(io.BytesIO):
        def readinto(self, buffer: memoryview) -> int:
            if where == "read" and self.tell() >= size // 2:
                raise ArithmeticError
            return super().readinto(buffer)

    def fail(_: object) -> None:
        raise ArithmeticError

    done = []
    consume = fail if where == "consume" else done.append
    tick = fail if where == "tick" else lambda count: None
    with pytest.raises(ArithmeticError):
        pump(Broken(data_of(size)), size, consume, tick, threads)
    assert len(done) <= size // BLOCK // 2 + 1
