from collections.abc import Iterable
from typing import Any, Self, final

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray

__test__: dict[str, str]

def topological_order(indptr: NDArray[np.int64], indices: NDArray[np.int32], order: NDArray[np.int32]) -> int: ...
def spread(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    order: NDArray[np.int32],
    sets: NDArray[np.uint64],
    up: bool = False,
) -> None: ...
def path_counts(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], order: NDArray[np.int32], paths: NDArray[np.uint64]
) -> bool: ...
def popularity(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    order: NDArray[np.int32],
    paths: NDArray[np.uint64],
    counts: NDArray[np.uint64],
) -> None: ...
def partition(
    sizes: NDArray[np.int64],
    counts: NDArray[np.int64],
    sets: NDArray[np.uint64],
    groups: NDArray[np.int32],
    limit: int,
    *,
    heavy_words: int,
    heavy: int,
    light: int,
    joined: int,
    least: int = 0,
    most: int = 0,
    passes: int = 0,
) -> int: ...
def settle(
    sizes: NDArray[np.int64],
    counts: NDArray[np.int64],
    sets: NDArray[np.uint64],
    groups: NDArray[np.int32],
    fixed: NDArray[np.uint8],
    *,
    heavy_words: int,
    heavy: int,
    light: int,
    joined: int,
    least: int = 0,
    most: int = 0,
    passes: int = 1,
) -> None: ...
def order_layers(
    sizes: NDArray[np.int64],
    sets: NDArray[np.uint64],
    weights: NDArray[np.int64],
    order: NDArray[np.int32],
    work: int,
) -> None: ...
def resolve_names(
    names: ReadableBuffer, lists: list[Any], lengths: NDArray[np.int64], positions: NDArray[np.int32]
) -> bool: ...
def keeps_xattr(name: str) -> bool: ...

@final
class TarLayer:
    def __new__(
        cls,
        *,
        uid: int,
        gid: int,
        uname: str,
        gname: str,
        mtime: int,
        root: str = "",
        whiteouts: bool = False,
        xattrs: bool = False,
    ) -> Self: ...
    def add_directory(
        self,
        path: str,
        mode: int = 0o755,
        *,
        owner: tuple[int, int] | None = None,
        xattrs: Iterable[tuple[str, bytes]] = (),
    ) -> None: ...
    def add_file(
        self,
        path: str,
        data: bytes,
        mode: int = 0o644,
        *,
        owner: tuple[int, int] | None = None,
        xattrs: Iterable[tuple[str, bytes]] = (),
    ) -> None: ...
    def add_symlink(
        self,
        path: str,
        target: str,
        *,
        owner: tuple[int, int] | None = None,
        xattrs: Iterable[tuple[str, bytes]] = (),
    ) -> None: ...
    def add_part(
        self,
        path: str,
        source: str,
        offset: int = 0,
        size: int = -1,
        mode: int = 0o644,
        *,
        owner: tuple[int, int] | None = None,
        xattrs: Iterable[tuple[str, bytes]] = (),
    ) -> None: ...
    def add_path(self, path: str) -> None: ...
    def add_tree(self, path: str) -> None: ...
    def add_layer(self, other: TarLayer) -> None: ...
    @property
    def memory(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def fingerprint(self) -> int: ...
    def look(self) -> tuple[str, int, int, bool]: ...
    def __len__(self) -> int: ...
    def open(self) -> TarStream: ...
    def open_nar(self, path: str) -> TarStream: ...

@final
class TarStream:
    def __new__(cls, layer: TarLayer, tree: bytes | None = None) -> Self: ...
    @property
    def size(self) -> int: ...
    def readinto(self, buffer: bytearray | memoryview) -> int: ...
    def write_to(self, fd: int, *, splice: bool = False) -> int: ...

def start_writing(fd: int, offset: int, size: int) -> None: ...
def wait_written(fd: int, offset: int, size: int) -> None: ...
