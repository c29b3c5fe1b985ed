from typing import Any

import numpy as np
from _typeshed import ReadableBuffer
from numpy.typing import NDArray

__test__: dict[str, str]

def matrix(
    rows: NDArray[np.int32],
    lengths: NDArray[np.int64],
    targets: NDArray[np.int32],
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    own: NDArray[np.uint8],
) -> None: ...
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
    weights: NDArray[np.int64],
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
    weights: NDArray[np.int64],
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
