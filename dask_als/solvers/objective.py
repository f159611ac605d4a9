"""Objective and RMSE of an epoch, from the sums that partitions return."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from dask_als.core.blocks import Factors
from dask_als.core.side import side_named
from dask_als.core.superaccumulator import as_float, exact_sum
from dask_als.settings.training import Regularization, TrainSettings


@dataclass(frozen=True)
class Sums:
    """Exact sums (`exact_sum`) over rows of one side; they do not depend on the partitions.

    Attributes
    ----------
    squared_error : int
        Over the rows' ratings, when the rows were solved.
    squared_bias, squared_factors : int
        Over the rows, each weighted like its regularization: by 1, or by its number of ratings.
    """

    squared_error: int
    squared_bias: int
    squared_factors: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


NO_SUMS = Sums(0, 0, 0)


def sums_of(solution: Factors, squared_error: np.ndarray, weights: np.ndarray) -> Sums:
    """Return the sums over solved rows.

    Parameters
    ----------
    solution : Factors
        The rows' new biases and factors.
    squared_error : ndarray of float64, shape (n_rows,)
    weights : ndarray, shape (n_rows,)
        The weights of the rows' regularization.
    """
    bias = solution.bias.astype(np.float64)
    norms = np.einsum("nk,nk->n", solution.factors, solution.factors, dtype=np.float64)
    return Sums(
        exact_sum(squared_error), exact_sum(weights * (bias * bias)), exact_sum(weights * norms)
    )


def objective(first: Sums, last: Sums, settings: TrainSettings) -> float:
    """Return the penalized log joint L of the notebook, which training raises.

    ``L = -1/2 lambda sum(error²) - 1/2 gamma sum(w bias²) - 1/2 tau sum(w |factor|²)``, the last
    two sums over the rows of both sides, each side with its own gamma and tau. The weight w of a
    row is 1, or its number of ratings if regularization is scaled by count (Zhou et al. 2008,
    "Large-scale parallel collaborative filtering for the Netflix prize").

    Parameters
    ----------
    first, last : Sums
        Of the sides that the epoch solved first and last. The errors are those of the last.
    """
    first_side = side_named(settings.first)
    return -0.5 * (
        settings.residual_precision * as_float(last.squared_error)
        + _penalty(first, settings.regularization(first_side))
        + _penalty(last, settings.regularization(first_side.other))
    )


def _penalty(sums: Sums, regularization: Regularization) -> float:
    return regularization.bias * as_float(sums.squared_bias) + regularization.factor * as_float(
        sums.squared_factors
    )


def rmse(squared_error: int, weight: float) -> float:
    """Return the root of the mean squared error, from an exact sum over ratings of some weight."""
    return math.sqrt(as_float(squared_error) / weight)
