"""Problems for the kernel of explicit ratings."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dask_als.kernels.least_squares import solve_rows


class Problem(NamedTuple):
    """Arguments of `solve_rows`."""

    indptr: np.ndarray
    indices: np.ndarray
    ratings: np.ndarray
    own_factors: np.ndarray
    fixed_bias: np.ndarray
    fixed_factors: np.ndarray
    mean: float
    bias_ridge: np.ndarray
    factor_ridge: np.ndarray

    def solved(self, solve=solve_rows):
        """Return (bias, factors, squared_error)."""
        *arrays, mean, bias_ridge, factor_ridge = self
        return solve(*arrays, mean=mean, bias_ridge=bias_ridge, factor_ridge=factor_ridge)

    def astype(self, dtype):
        """Return the problem with the factors and biases in another dtype."""
        return self._replace(
            own_factors=self.own_factors.astype(dtype),
            fixed_bias=self.fixed_bias.astype(dtype),
            fixed_factors=self.fixed_factors.astype(dtype),
        )

    def rows(self, chosen):
        """Return the problem of some rows, in the order given."""
        starts, ends = self.indptr[:-1][chosen], self.indptr[1:][chosen]
        taken = [np.arange(start, end) for start, end in zip(starts, ends, strict=True)]
        places = np.concatenate([np.empty(0, np.int64), *taken])
        return self._replace(
            indptr=np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int64),
            indices=self.indices[places],
            ratings=self.ratings[places],
            own_factors=self.own_factors[chosen],
            bias_ridge=self.bias_ridge[chosen],
            factor_ridge=self.factor_ridge[chosen],
        )


def problem(counts, rank, dtype=np.float64, *, n_fixed=700, ridge=0.05, seed=0):
    """Return a problem with the given numbers of ratings in its rows."""
    random = np.random.default_rng(seed)
    counts = np.asarray(counts, np.int64)
    n, nnz = len(counts), int(counts.sum())
    return Problem(
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        indices=random.integers(0, n_fixed, nnz, dtype=np.int32),
        ratings=(random.integers(1, 11, nnz) / 2).astype(np.float32),
        own_factors=random.normal(0, rank**-0.5, (n, rank)),
        fixed_bias=random.normal(0, 0.3, n_fixed),
        fixed_factors=random.normal(0, rank**-0.5, (n_fixed, rank)),
        mean=3.5,
        bias_ridge=random.uniform(1e-3, 1, n),
        factor_ridge=random.uniform(ridge, 2 * ridge, n),
    ).astype(dtype)


def mixed_counts(rank, rows=37):
    """Return numbers of ratings around the limits that a rank sets, some others, zero and many."""
    limits = [1, rank // 2, rank, 16]
    near = [max(0, limit + step) for limit in limits for step in (-1, 0, 1)]
    some = np.random.default_rng(rank).integers(0, 2 * rank + 40, rows - len(near))
    return [0, *near, *some, 0, 3000, 1]


def digest(dtype):
    """Return the bits of a solution as text."""
    solved = problem(mixed_counts(33), 33, dtype).solved()
    return "".join(part.tobytes().hex() for part in solved)
