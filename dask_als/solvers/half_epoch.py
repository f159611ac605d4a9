"""One half-epoch: every partition of a side solved while the other side is fixed.

``solve_part`` runs once a partition; ``join_parts`` puts the solved side together, and its result
is what the workers pull from each other as the next half-epoch's fixed side. Source: Koren, Bell
and Volinsky 2009, "Matrix factorization techniques for recommender systems"; the bias comes first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_als.core.blocks import Block, Factors, concatenated, predictions
from dask_als.core.side import Side
from dask_als.core.superaccumulator import as_float, exact_sum
from dask_als.kernels.least_squares import solve_rows, solve_rows_plain
from dask_als.settings.training import Regularization, TrainSettings
from dask_als.solvers.objective import NO_SUMS, Sums, sums_of
from dask_als.solvers.reference import reference_is_wanted


@dataclass(frozen=True)
class HalfEpoch:
    """Which half-epoch it is, or, with the number of the epoch before, what training starts from.

    Attributes
    ----------
    side : Side
        The one that is solved.
    epoch : int
        From 1.
    """

    side: Side
    epoch: int


@dataclass(frozen=True)
class SolvedPart:
    """One partition's rows after a half-epoch.

    Attributes
    ----------
    state : Factors
    rated : ndarray of bool, shape (n_rows,)
        Rows that have training ratings.
    sums : Sums
    moments : tuple
        What the rows add to what the method's next half-epochs share, an object a partition.
    """

    state: Factors
    rated: np.ndarray
    sums: Sums
    moments: tuple[Any, ...] = ()

    def __sizeof__(self) -> int:
        return self.state.__sizeof__() + self.rated.nbytes


@dataclass(frozen=True)
class SolvedSide:
    """All rows of a side after a half-epoch: what is broadcast.

    Attributes
    ----------
    state : Factors
        Rows without training ratings have the mean bias and zero factors.
    sums : Sums
        Over the rows with ratings.
    mean_bias : float
        Mean of the biases of the rows with ratings: the fallback for all others.
    shared : object
        What all partitions of the next half-epochs share, made by the method from the moments.
    residual_precision : float or None
        The precision of the ratings, from a method that draws it.
    """

    state: Factors
    sums: Sums
    mean_bias: float
    shared: Any = None
    residual_precision: float | None = None

    def __sizeof__(self) -> int:
        return self.state.__sizeof__()


def unsolved_part(state: Factors, rated: np.ndarray | None = None) -> SolvedPart:
    """Wrap a state that training starts from; all rows count as rated if nothing else is known."""
    rated = np.ones(len(state.bias), dtype=bool) if rated is None else rated
    return SolvedPart(state, rated, NO_SUMS)


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
        The solved side, which may have a regularization of its own.
    block : Block
        The partition's ratings.
    own : SolvedSide
        The solved side before this half-epoch; the bias is solved with its factors.
    fixed : SolvedSide
    mean : float
        The global mean taken out of the ratings.
    settings : TrainSettings
    """
    regularization = settings.regularization(side)
    weights = regularization_weights(block, regularization)
    solve = solve_rows_plain if reference_is_wanted() else solve_rows
    bias, factors, squared_error = solve(  # type: ignore[no-untyped-call]
        block.indptr,
        block.indices,
        block.ratings,
        own.state.factors[block.rows.start : block.rows.stop],
        fixed.state.bias,
        fixed.state.factors,
        mean=mean,
        bias_ridge=regularization.bias / settings.residual_precision * weights,
        factor_ridge=regularization.factor / settings.residual_precision * weights,
    )
    state = Factors(bias, factors)
    return SolvedPart(state, block.counts > 0, sums_of(state, squared_error, weights))


def regularization_weights(block: Block, regularization: Regularization) -> np.ndarray:
    """Return by what each row's regularization is multiplied; float64, shape (n_rows,).

    By 1, or by the row's number of ratings; a row without any, whose solution is 0, counts as one.
    """
    if regularization.by_count:
        return np.maximum(block.counts, 1).astype(np.float64)
    return np.ones(len(block.rows))


def chunk_of(parts: list[SolvedPart]) -> SolvedPart:
    """Put consecutive partitions together as if they were one."""
    return SolvedPart(
        concatenated([part.state for part in parts]),
        np.concatenate([part.rated for part in parts]),
        sum((part.sums for part in parts), NO_SUMS),
        tuple(moments for part in parts for moments in part.moments),
    )


def join_parts(parts: list[SolvedPart]) -> SolvedSide:
    """Put a side's partitions together and give rows without ratings the mean bias."""
    whole = chunk_of(parts)
    state, rated = whole.state, whole.rated
    mean_bias = as_float(exact_sum(state.bias[rated])) / max(1, int(rated.sum()))
    if not rated.all():
        bias = np.where(rated, state.bias, state.bias.dtype.type(mean_bias))
        state = Factors(bias, state.factors)
    return SolvedSide(state, whole.sums, mean_bias)


def add_predictions(
    block: Block, users: SolvedSide, items: SolvedSide, mean: float, before: np.ndarray | None
) -> np.ndarray:
    """Return the sum of predictions of held-out ratings, these and those of epochs before."""
    predicted = predictions(users.state, items.state, block.row_of_rating, block.indices, mean=mean)
    return predicted if before is None else before + predicted


def error_of_average(block: Block, total: np.ndarray, n_epochs: int) -> int:
    """Return the exact sum of squared errors of averaged predictions."""
    return exact_sum((block.ratings - total / n_epochs) ** 2)


def held_out_error(block: Block, users: SolvedSide, items: SolvedSide, mean: float) -> int:
    """Return the exact sum of squared errors over held-out ratings, by user."""
    predicted = predictions(users.state, items.state, block.row_of_rating, block.indices, mean=mean)
    return exact_sum((block.ratings - predicted) ** 2)
