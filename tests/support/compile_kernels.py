"""Compile the kernels that tests need, in parallel: python compile_kernels.py [--all].

Without it, the processes of a run of the tests would all compile the same kernels at the same time.
"""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from dask_als.kernels import gibbs, implicit, least_squares

LEAST_SQUARES = [(False, False), (True, False), (False, True), (True, True)]
"""With weights or without, and nonnegative or not."""


def kernels(dtype):
    """Yield functions that return a kernel, with their arguments; the slowest first."""
    yield from ((least_squares.kernel_of, dtype, *flags) for flags in LEAST_SQUARES)
    yield from ((gibbs.kernel_of, dtype, weighted) for weighted in (False, True))
    yield from ((implicit.kernel_of, dtype, nonnegative) for nonnegative in (False, True))
    yield implicit.gram_kernel_of, dtype


OF_FAST_TESTS = [*kernels("float32"), (least_squares.kernel_of, "float64", False, False)]


def compile_kernel(kernel_of, dtype, *flags):
    """Compile a kernel into numba's cache on disk."""
    kernel_of(np.dtype(dtype), *flags)


def main(arguments):
    wanted = [*kernels("float32"), *kernels("float64")] if "--all" in arguments else OF_FAST_TESTS
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context) as pool:
        for compiling in [pool.submit(compile_kernel, *kernel) for kernel in wanted]:
            compiling.result()


if __name__ == "__main__":
    main(sys.argv[1:])
