"""The methods of a half-epoch: one object, made from the settings, says how a side is solved.

Training knows the protocol `Method` only. A method's objects travel with the tasks, so they hold
settings and nothing else; what its half-epochs need of each other is in `SolvedPart.moments`, exact
sums over a partition's rows, and in `SolvedSide.shared`, which is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from dask_als.core.blocks import Block, Factors
from dask_als.settings.training import TrainSettings
from dask_als.solvers import half_epoch
from dask_als.solvers.gibbs import Gibbs
from dask_als.solvers.half_epoch import HalfEpoch, SolvedPart, SolvedSide
from dask_als.solvers.implicit import ImplicitLeastSquares
from dask_als.solvers.objective import objective, rmse
from dask_als.solvers.reference import check_reference


class Method(Protocol):
    """How a side is solved while the other is fixed."""

    def start_part(
        self,
        state: Factors,
        rated: np.ndarray | None = None,
        residual_precision: float | None = None,
    ) -> SolvedPart:
        """Wrap rows that training starts from; all count as rated if nothing else is known."""
        ...

    def solve_part(
        self, step: HalfEpoch, block: Block, own: SolvedSide, fixed: SolvedSide
    ) -> SolvedPart:
        """Solve the rows of a partition; `own` is the solved side before this half-epoch."""
        ...

    def join_parts(self, step: HalfEpoch, parts: list[SolvedPart]) -> SolvedSide:
        """Put a side together, with what the next half-epochs share."""
        ...

    def figures(self, first: SolvedSide, last: SolvedSide, n_ratings: int) -> tuple[float, float]:
        """Return objective and training RMSE after an epoch, of the sides in the order solved."""
        ...

    def held_out_error(self, block: Block, users: SolvedSide, items: SolvedSide) -> int:
        """Return the exact sum of squared errors over held-out ratings, by user."""
        ...


def method_of(settings: TrainSettings, mean: float) -> Method:
    """Return the method that the settings ask for.

    Parameters
    ----------
    settings : TrainSettings
    mean : float
        The global mean taken out of the ratings.
    """
    check_reference(settings)
    if settings.feedback == "implicit":
        return ImplicitLeastSquares(settings)
    return Gibbs(settings, mean) if settings.method == "gibbs" else LeastSquares(settings, mean)


def fold_in_method_of(settings: TrainSettings, mean: float) -> Method:
    """Return the method that solves a row for which a model was not trained."""
    # A model of samples has their factors side by side: their products are the mean covariance.
    return method_of(replace(settings, method="als"), mean)


def solve_side(
    method: Method, step: HalfEpoch, block: Block, own: SolvedSide, fixed: SolvedSide
) -> SolvedSide:
    """Solve a side that is one partition."""
    return method.join_parts(step, [method.solve_part(step, block, own, fixed)])


@dataclass(frozen=True)
class LeastSquares:
    """Biased alternating least squares: every row is set to its best bias and factors."""

    settings: TrainSettings
    mean: float

    def start_part(
        self,
        state: Factors,
        rated: np.ndarray | None = None,
        residual_precision: float | None = None,
    ) -> SolvedPart:
        """Wrap rows that training starts from."""
        return half_epoch.unsolved_part(state, rated)

    def solve_part(
        self, step: HalfEpoch, block: Block, own: SolvedSide, fixed: SolvedSide
    ) -> SolvedPart:
        """Solve the rows of a partition."""
        return half_epoch.solve_part(step.side, block, own, fixed, self.mean, self.settings)

    def join_parts(self, step: HalfEpoch, parts: list[SolvedPart]) -> SolvedSide:
        """Put a side together; half-epochs share nothing else."""
        return half_epoch.join_parts(parts)

    def figures(self, first: SolvedSide, last: SolvedSide, n_ratings: int) -> tuple[float, float]:
        """Return objective and training RMSE, see `objective`."""
        value = objective(first.sums, last.sums, self.settings)
        return value, rmse(last.sums.squared_error, n_ratings)

    def held_out_error(self, block: Block, users: SolvedSide, items: SolvedSide) -> int:
        """Return the exact sum of squared errors."""
        return half_epoch.held_out_error(block, users, items, self.mean)
