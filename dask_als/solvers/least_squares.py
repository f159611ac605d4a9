"""A half-epoch of biased alternating least squares.

A row's bias is solved before its factors.

Source: Koren, Bell and Volinsky 2009, "Matrix factorization techniques for recommender systems".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dask_als.core.blocks import Block, Factors
from dask_als.core.side import Side
from dask_als.kernels.attributes import ratings_less_prior
from dask_als.kernels.least_squares import solve_rows, solve_rows_plain
from dask_als.settings.training import Regularization, TrainSettings
from dask_als.solvers import base
from dask_als.solvers.base import HalfEpoch, HomeSums, SolvedPart, SolvedSide
from dask_als.solvers.objective import objective, rmse, sums_of
from dask_als.solvers.reference import reference_is_wanted
from dask_als.solvers.row_prior import Regression, RowPrior, penalty_of


@dataclass(frozen=True)
class LeastSquares:
    """Biased alternating least squares: every row is set to its best bias and factors."""

    settings: TrainSettings
    mean: float

    def start_part(
        self,
        initial: Factors,
        rated: np.ndarray | None = None,
        residual_precision: float | None = None,
    ) -> SolvedPart:
        """Wrap initial factors."""
        return base.unsolved_part(initial, rated)

    def solve_part(
        self,
        step: HalfEpoch,
        block: Block,
        own: SolvedSide,
        fixed: SolvedSide,
        row_prior: RowPrior | None = None,
    ) -> SolvedPart:
        """Solve the rows of a partition."""
        if row_prior is None:
            return solve_part(step.side, block, own, fixed, self.mean, self.settings)
        return self._solve_deviations(step, block, own, fixed, row_prior)

    def _solve_deviations(
        self,
        step: HalfEpoch,
        block: Block,
        own: SolvedSide,
        fixed: SolvedSide,
        row_prior: RowPrior,
    ) -> SolvedPart:
        """Solve the rows as deviations from their prior means; `sums` has those of deviations.

        The deviation of a row without ratings is 0, so that its factors are at their prior mean.
        """
        means = row_prior.means[block.rows.start : block.rows.stop]
        less = ratings_less_prior(
            block.indptr, block.indices, block.ratings, means, fixed.solution.factors
        )
        of_rows = replace(block, ratings=less)
        deviations = own.rows(block.rows).factors - means
        part = _solve_rows(step.side, of_rows, deviations, fixed, self.mean, self.settings)
        return replace(part, solution=Factors(part.solution.bias, part.solution.factors + means))

    def join_parts(
        self, step: HalfEpoch, parts: list[SolvedPart], row_prior: RowPrior | None = None
    ) -> SolvedSide:
        """Join the partitions of a side; half-epochs share nothing else."""
        joined = base.join_parts(parts)
        if row_prior is None:
            return joined
        return replace(joined, sums=joined.sums + penalty_of(row_prior))

    def sums_of_home(self, rows: list[range], parts: list[SolvedPart]) -> HomeSums:
        """Return the sums of a home's rows."""
        return base.sums_of_home(*parts)

    def join_homes(self, step: HalfEpoch, homes: list[HomeSums], no_rows: Factors) -> SolvedSide:
        """Join a side but for its rows."""
        return base.join_homes(homes, no_rows)

    def regression(self, own: SolvedSide) -> Regression:
        """Return what the weights of a side's attributes are fitted to: their best values."""
        return Regression(np.zeros(own.solution.factors.shape[1]), None)

    def figures(
        self, first: SolvedSide, last: SolvedSide, n_ratings: int, weight: float
    ) -> tuple[float, float]:
        """Return objective and training RMSE, see `objective`."""
        value = objective(first.sums, last.sums, self.settings)
        return value, rmse(last.sums.squared_error, weight)

    def held_out_error(self, block: Block, users: SolvedSide, items: SolvedSide) -> int:
        """Return the exact sum of squared errors."""
        return base.held_out_error(block, users, items, self.mean)


def solve_part(
    side: Side,
    block: Block,
    own: SolvedSide,
    fixed: SolvedSide,
    mean: float,
    settings: TrainSettings,
) -> SolvedPart:
    """Solve the rows of a partition.

    Parameters
    ----------
    side : Side
        The solved side; each side may have its own regularization.
    block : Block
        The partition's ratings.
    own : SolvedSide
        The solved side before this half-epoch; biases depend on these factors.
    fixed : SolvedSide
    mean : float
        The global mean, which is subtracted from the ratings.
    settings : TrainSettings
    """
    own_factors = own.rows(block.rows).factors
    return _solve_rows(side, block, own_factors, fixed, mean, settings)


def _solve_rows(
    side: Side,
    block: Block,
    own_factors: np.ndarray,
    fixed: SolvedSide,
    mean: float,
    settings: TrainSettings,
) -> SolvedPart:
    regularization = settings.regularization(side)
    weights = regularization_weights(block, regularization)
    solve = solve_rows_plain if reference_is_wanted() else solve_rows
    constraint = {"nonnegative": True} if settings.nonnegative else {}
    bias, factors, squared_error = solve(  # type: ignore[no-untyped-call]
        block.indptr,
        block.indices,
        block.ratings,
        own_factors,
        fixed.solution.bias,
        fixed.solution.factors,
        mean=mean,
        bias_ridge=regularization.bias / settings.residual_precision * weights,
        factor_ridge=regularization.factor / settings.residual_precision * weights,
        weights=block.weights,
        **constraint,
    )
    solution = Factors(bias, factors)
    return SolvedPart(solution, block.counts > 0, sums_of(solution, squared_error, weights))


def regularization_weights(block: Block, regularization: Regularization) -> np.ndarray:
    """Return the factor of each row's regularization; float64, shape (n_rows,).

    It is 1, or the row's number of ratings if regularization is scaled by count: a rating with a
    weight counts as many times. A row without ratings counts as one rating; its solution is 0.
    """
    if regularization.by_count:
        return np.where(block.counts > 0, block.total_weights, 1).astype(np.float64)
    return np.ones(len(block.rows))
