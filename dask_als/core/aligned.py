"""Arrays that start on a cache line, so that each row spans as few lines as possible."""

from __future__ import annotations

import math
import mmap
from collections import deque
from contextlib import suppress

import numpy as np
from numpy.typing import DTypeLike

CACHE_LINE_BYTES = 64


# Enough for both sides, and for a worker's chunk of each.
_MOST_KEPT = 4
# Smaller arrays are not worth it: the allocator reuses their memory itself.
_LARGE_BYTES = 4 << 20

_HUGE_PAGE_BYTES = 2 << 20


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return an uninitialized C-contiguous array that starts on a cache line."""
    return _aligned(np.empty(_n_bytes(shape, dtype), np.uint8), shape, dtype)


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return a C-contiguous array of zeros that starts on a cache line."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array


def recycled_empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Return what `aligned_empty` does; a large array may reuse the memory of an earlier one.

    The system maps new memory page by page, which takes longer than writing to it. So the memory
    of the last few of these arrays is kept, as long as at least one of them is in use.
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


# Without a lock, as `__del__` may run in a thread that holds it; each step on these is atomic.
_kept: deque[np.ndarray] = deque(maxlen=_MOST_KEPT)
_on_loan: set[int] = set()


class _Loan:
    """The memory of an array and its views; it is kept when the last of them is gone."""

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
    """Return kept memory of a size, else new memory."""
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

    The processor caches the addresses of few pages: reading rows scattered over 40 MB takes 3 to
    8 % longer with small pages. NumPy asks for huge pages, too, but too late for reused memory.
    """
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is None:
        return np.empty(n_bytes, np.uint8)
    memory = mmap.mmap(-1, n_bytes + _HUGE_PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # the system lacks them
        memory.madvise(advice)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % _HUGE_PAGE_BYTES
    return whole[start : start + n_bytes]
