"""Arrays that start on a cache line: rows of theirs then lie in as few lines as they can."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

from dask_als.simd import CACHE_LINE_BYTES


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an array of whatever was there that starts on a cache line, C-contiguous."""
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(n_bytes + CACHE_LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE_BYTES
    return memory[start : start + n_bytes].view(dtype).reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return zeros that start on a cache line, C-contiguous."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array
