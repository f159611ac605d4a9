"""Rows that a model of samples was not trained on, solved with the prior that the samples have.

A row w = (bias, factors) has the prior Normal(m, R Rᵀ), and a rating of fixed row j is
Normal(mean + c_j + (1, f_j)·w, 1 / alpha). With w = m + R z, z has the prior Normal(0, I), so it is
the solution of a ridge regression, by the kernel of training:

    y_j = mean + c_j + (1, f_j)·m + (1, f_j) R z,    ridge 1 / alpha

Bias and factors are solved jointly, so the row needs no earlier value. In sampled training, a row
of a side with n rated rows, factors u and biases b has this prior (see `gibbs` for its symbols):

    E[Lambda⁻¹] = (d / t I + Σ u uᵀ - Σu Σuᵀ / (n + 1)) / (d + n - 1)
    E[mu] = Σu / (n + 1),    Cov[mu] = E[Lambda⁻¹] / (n + 1),    E[1 / gamma] = (2 + Σ b²) / n
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from dask_als.core.blocks import Block, Factors
from dask_als.core.side import Side
from dask_als.kernels.attributes import ratings_less_prior
from dask_als.kernels.least_squares import solve_rows
from dask_als.settings.training import TrainSettings
from dask_als.solvers import base
from dask_als.solvers.base import HalfEpoch, SolvedPart, SolvedSide
from dask_als.solvers.gibbs import PRIOR_ROWS
from dask_als.solvers.new_row_prior import NewRowPrior
from dask_als.solvers.objective import NO_SUMS
from dask_als.solvers.row_prior import RowPrior


@dataclass(frozen=True)
class SideMoments:
    """Sums over the rated rows of a side, in one sample.

    Attributes
    ----------
    n_rows : int
    total : ndarray of float64, shape (rank,)
        Of the factors.
    gram : ndarray of float64, shape (rank, rank)
        Of the factors.
    squared_bias : float
    """

    n_rows: int
    total: np.ndarray
    gram: np.ndarray
    squared_bias: float

    def expected_prior(
        self, settings: TrainSettings, side: Side
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the expected mean and second moment of new factors, and a bias's variance."""
        n, rank = self.n_rows, len(self.total)
        weight = settings.regularization(side).factor * math.sqrt(rank / 16)
        scatter = PRIOR_ROWS / weight * np.eye(rank) + self.gram
        scatter -= np.outer(self.total, self.total) / (n + 1)
        covariance = scatter / (PRIOR_ROWS + n - 1)
        mean = self.total / (n + 1)
        second = covariance * (1 + 1 / (n + 1)) + np.outer(mean, mean)
        return mean, second, (2 + self.squared_bias) / max(1, n)


@dataclass(frozen=True)
class NewRows:
    """The method that solves new rows; see `base.Method`.

    Attributes
    ----------
    priors : dict of Side to NewRowPrior
        Of the solved side.
    residual_precision : float
        alpha.
    mean : float
        The global mean.
    """

    priors: dict[Side, NewRowPrior]
    residual_precision: float
    mean: float

    def start_part(
        self,
        initial: Factors,
        rated: np.ndarray | None = None,
        residual_precision: float | None = None,
    ) -> SolvedPart:
        """Wrap rows of the fixed side."""
        return base.unsolved_part(initial, rated)

    def join_parts(self, step: HalfEpoch, parts: list[SolvedPart]) -> SolvedSide:
        """Join the fixed side, as the kernel needs it to solve z."""
        side = base.join_parts(parts)
        prior, factors = self.priors[step.side.other], side.solution.factors
        with_bias = np.ones((len(factors), factors.shape[1] + 1))
        with_bias[:, 1:] = factors
        offset = side.solution.bias + _product(with_bias, prior.mean[:, None])[:, 0]
        whitened = _product(with_bias, prior.root)
        solution = Factors(offset.astype(factors.dtype), whitened.astype(factors.dtype))
        return SolvedSide(solution, side.sums, side.mean_bias, shared=factors)

    def solve_part(
        self,
        step: HalfEpoch,
        block: Block,
        own: SolvedSide,
        fixed: SolvedSide,
        row_prior: RowPrior | None = None,
    ) -> SolvedPart:
        """Solve the rows of a block; rows without ratings get zeros, as from the kernels.

        With `row_prior`, rows whose mean there is not 0 have it in place of that of a new row.
        """
        whitened = fixed.solution.factors
        n, dtype = len(block.rows), whitened.dtype
        prior, rated = self.priors[step.side], block.counts > 0
        further = np.zeros((n, whitened.shape[1]))
        if row_prior is not None:
            has_own = row_prior.means.any(axis=1)
            further[has_own, 1:] = row_prior.means[has_own] - prior.mean[1:]
            less = ratings_less_prior(
                block.indptr,
                block.indices,
                block.ratings,
                np.ascontiguousarray(further[:, 1:].astype(dtype)),
                fixed.shared,
            )
            block = replace(block, ratings=less)
        _, solved, _ = solve_rows(  # type: ignore[no-untyped-call]
            block.indptr,
            block.indices,
            block.ratings,
            np.zeros((n, whitened.shape[1]), dtype),
            fixed.solution.bias,
            whitened,
            mean=self.mean,
            # The first factor is the bias; that of the kernel stays 0.
            bias_ridge=np.full(n, np.inf),
            factor_ridge=np.full(n, 1 / self.residual_precision),
            weights=block.weights,
        )
        rows = (prior.mean + further + _product(solved, prior.root.T)) * rated[:, None]
        bias = np.ascontiguousarray(rows[:, 0].astype(dtype))
        return SolvedPart(Factors(bias, rows[:, 1:].astype(dtype, order="C")), rated, NO_SUMS)


def _product(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return rows @ matrix in float64: not by BLAS, whose bits depend on the number of rows."""
    result = np.zeros((len(rows), matrix.shape[1]))
    for j, weights in enumerate(matrix):
        result += rows[:, j, None] * weights
    return result
