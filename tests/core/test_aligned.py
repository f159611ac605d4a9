import gc
import re
from pathlib import Path

import numpy as np
import pytest

from dask_als.core import aligned
from dask_als.core.aligned import aligned_empty, aligned_zeros, recycled_empty


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (5, 3), (0, 4), (4, 0), (2000, 64)])
def test_arrays_start_on_a_cache_line(dtype, shape):
    kept = []
    for _ in range(20):
        for make in (recycled_empty, aligned_empty, aligned_zeros):
            array = make(shape, dtype)
            assert not array.size or array.ctypes.data % 64 == 0
            assert (array.shape, array.dtype) == (shape, dtype)
            assert array.flags.c_contiguous
            assert array.flags.writeable
            kept.append(array)
        assert not array.any()
        kept[-2][...] = 1  # so that memory which is used again is not zero by chance
        kept = kept[-4:]


LARGE = (40_000, 64)


@pytest.fixture(autouse=True)
def nothing_on_loan():
    gc.collect()
    assert not aligned._on_loan
    yield
    assert not aligned._on_loan
    assert not aligned._kept


def test_memory_of_a_large_array_is_used_again_when_its_last_view_is_gone():
    other = recycled_empty((1 << 21,), np.float64)
    first = recycled_empty(LARGE, np.float32)
    place = first.ctypes.data
    view = first[100:200, 3].reshape(10, 10)
    del first
    second = recycled_empty(LARGE, np.float32)
    assert second.ctypes.data != place
    del view
    third = recycled_empty(LARGE, np.float32)
    assert third.ctypes.data == place
    assert not np.shares_memory(third, second)
    assert not np.shares_memory(third, other)


def test_memory_is_not_kept_without_end():
    arrays = [recycled_empty((40_000 + i, 64), np.float32) for i in range(20)]
    last = arrays.pop()
    arrays.clear()
    assert len(aligned._kept) == aligned._MOST_KEPT
    del last
    assert not aligned._kept


def test_small_arrays_are_not_kept():
    kept = recycled_empty(LARGE, np.float32)
    recycled_empty((1000, 64), np.float32)
    assert not aligned._kept
    del kept


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir(), reason="the system has no huge pages"
)
def test_large_arrays_ask_for_huge_pages_whatever_memory_was_used_before():
    freed = [np.ones(1 << 16) for _ in range(100)]
    del freed
    array = recycled_empty(LARGE, np.float32)
    array[...] = 1
    first, last = array.ctypes.data, array.ctypes.data + array.nbytes - 1
    assert first % (2 << 20) == 0
    assert "hg" in _flags_of_mapping(first)
    assert "hg" in _flags_of_mapping(last)


def _flags_of_mapping(address):
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        mapping = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if mapping:
            start, stop = (int(bound, 16) for bound in mapping.groups())
            inside = start <= address < stop
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("the address is in no mapping")
