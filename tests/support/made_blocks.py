"""Small blocks and states for tests of solvers and kernels."""

import numpy as np

from dask_als.core.blocks import Factors, block_of


def state_of(seed, n_rows, rank=4):
    rng = np.random.default_rng(seed)
    return Factors(rng.normal(size=n_rows), rng.normal(size=(n_rows, rank)))


def block_with(counts, n_fixed, seed=0, start=0):
    rng = np.random.default_rng(seed)
    row = np.repeat(np.arange(start, start + len(counts)), counts)
    column = np.concatenate([np.sort(rng.permutation(n_fixed)[:n]) for n in counts])
    ratings = rng.integers(1, 11, len(row)).astype(np.float32) / 2
    return block_of(range(start, start + len(counts)), row, column.astype(np.int32), ratings)
