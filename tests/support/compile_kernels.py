"""Compile the kernels that tests need, in parallel: python compile_kernels.py [--all].

Without it, the processes of a run of the tests would all compile the same kernels at the same time.
"""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from dask_als.kernels import gibbs, implicit, least_squares

OF_FAST_TESTS = [
    (least_squares.kernel_of, "float32"),
    (least_squares.kernel_of, "float64"),
    (gibbs.kernel_of, "float32"),
    (implicit.kernel_of, "float32"),
    (implicit.gram_kernel_of, "float32"),
]
OTHERS = [
    (gibbs.kernel_of, "float64"),
    (implicit.kernel_of, "float64"),
    (implicit.gram_kernel_of, "float64"),
]


def compile_kernel(kernel_of, dtype):
    """Compile a kernel into numba's cache on disk."""
    kernel_of(np.dtype(dtype))


def main(arguments):
    kernels = [*OF_FAST_TESTS, *(OTHERS if "--all" in arguments else [])]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), context) as pool:
        for compiling in [pool.submit(compile_kernel, *kernel) for kernel in kernels]:
            compiling.result()


if __name__ == "__main__":
    main(sys.argv[1:])
