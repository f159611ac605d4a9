"""Compile the kernels that tests need, in parallel: python tests/support/compile_kernels.py.

Without it, the processes of a run of the tests would all compile the same kernels at the same time.
"""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from dask_als.kernels import gibbs, implicit, least_squares


def compile_kernel(kernel_of, dtype):
    """Compile a kernel into numba's cache on disk."""
    kernel_of(np.dtype(dtype))


def main():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context) as pool:
        compiling = [
            pool.submit(compile_kernel, kernel_of, dtype)
            for kernel_of in (
                least_squares.kernel_of,
                gibbs.kernel_of,
                implicit.kernel_of,
                implicit.gram_kernel_of,
            )
            for dtype in ("float32", "float64")
        ]
        for each in compiling:
            each.result()


if __name__ == "__main__":
    main()
