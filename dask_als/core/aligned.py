"""Arrays that start on a cache line: rows of theirs then lie in as few lines as they can."""

from __future__ import annotations

import math
import mmap
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike

CACHE_LINE_BYTES = 64


# Of both sides, and of a worker's chunk of both.
_MOST_KEPT = 4
# From this size on memory is taken from the system and given back each time.
_LARGE_BYTES = 4 << 20

_HUGE_PAGE_BYTES = 2 << 20


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an array of whatever was there that starts on a cache line, C-contiguous."""
    return _aligned(np.empty(_n_bytes(shape, dtype), np.uint8), shape, dtype)


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return zeros that start on a cache line, C-contiguous."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array


def recycled_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return what `aligned_empty` does; if it is large, in the memory of one that is gone.

    The system gives memory page by page, which takes longer than to write to it. So the memory of
    the last few of these arrays is kept for as long as there is any of them.
    """
    n_bytes = _n_bytes(shape, dtype)
    if n_bytes < _LARGE_BYTES:
        return aligned_empty(shape, dtype)
    return _aligned(np.asarray(_Loan(_kept_memory(n_bytes))), shape, dtype)


def _n_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize + CACHE_LINE_BYTES


def _aligned(memory: np.ndarray, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    start = -memory.ctypes.data % CACHE_LINE_BYTES
    stop = start + len(memory) - CACHE_LINE_BYTES
    return memory[start:stop].view(dtype).reshape(shape)


# Without a lock, which a `__del__` could find closed by its own thread: each of these steps is one.
_kept: deque[np.ndarray] = deque(maxlen=_MOST_KEPT)
_on_loan: set[int] = set()


class _Loan:
    """Memory for an array and its views; when the last of them is gone, it is kept."""

    def __init__(self, memory: np.ndarray) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__
        _on_loan.add(id(self))

    def __del__(self, on_loan: set[int] = _on_loan, kept: deque[np.ndarray] = _kept) -> None:
        on_loan.discard(id(self))
        if on_loan:
            kept.append(self._memory)
        else:
            kept.clear()


def _kept_memory(n_bytes: int) -> np.ndarray:
    """Return memory of a size that was kept, else new memory."""
    for _ in range(_MOST_KEPT):
        try:
            memory = _kept.popleft()
        except IndexError:
            break
        if len(memory) == n_bytes:
            return memory
        _kept.append(memory)
    return _memory_in_huge_pages(n_bytes)


def _memory_in_huge_pages(n_bytes: int) -> np.ndarray:
    """Return new memory, in huge pages where the system has them.

    A processor has few addresses of pages at hand: rows from all over 40 MB take 3 to 8 % longer if
    its pages are small. NumPy asks for huge ones, too, but too late if its memory was used before.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return np.empty(n_bytes, np.uint8)
    memory = mmap.mmap(-1, n_bytes + _HUGE_PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a system without them
        memory.madvise(advice)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % _HUGE_PAGE_BYTES
    return whole[start : start + n_bytes]
