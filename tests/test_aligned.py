import numpy as np
import pytest

from dask_als.aligned import aligned_empty, aligned_zeros


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (5, 3), (0, 4), (4, 0), (2000, 64)])
def test_arrays_start_on_a_cache_line(dtype, shape):
    kept = []
    for _ in range(20):
        for array in (aligned_empty(shape, dtype), aligned_zeros(shape, dtype)):
            assert not array.size or array.ctypes.data % 64 == 0
            assert (array.shape, array.dtype) == (shape, dtype)
            assert array.flags.c_contiguous
            assert array.flags.writeable
            kept.append(array)
        assert not array.any()
        kept[-2][...] = 1  # so that memory which is used again is not zero by chance
        kept = kept[-4:]
