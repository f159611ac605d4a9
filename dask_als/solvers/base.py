"""What all methods share: the protocol of a method, and the parts and sides that it solves.

In a half-epoch every partition of one side is solved while the other side is fixed. `solve_part`
runs once per partition. `join_parts` joins the solved side, which workers fetch from each other as
the fixed side of the next half-epoch. Methods travel with the tasks, so they hold settings only.
Statistics for later half-epochs travel with the factors: each partition contributes its
`SolvedPart.moments`, and `join_parts` computes `SolvedSide.shared` from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dask_als.core.blocks import Block, Factors, concatenated, predictions
from dask_als.core.side import Side
from dask_als.core.superaccumulator import as_float, exact_sum
from dask_als.solvers.objective import NO_SUMS, Sums


@dataclass(frozen=True)
class HalfEpoch:
    """A half-epoch. Initial factors have the number of the epoch before the first one.

    Attributes
    ----------
    side : Side
        The solved side.
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
    solution : Factors
    rated : ndarray of bool, shape (n_rows,)
        Rows that have training ratings.
    sums : Sums
    moments : tuple
        The partition's contributions to `SolvedSide.shared`, one object per partition.
    """

    solution: Factors
    rated: np.ndarray
    sums: Sums
    moments: tuple[Any, ...] = ()

    def __sizeof__(self) -> int:
        return self.solution.__sizeof__() + self.rated.nbytes


@dataclass(frozen=True)
class SolvedSide:
    """All rows of a side after a half-epoch; the fixed side of the next one.

    Attributes
    ----------
    solution : Factors
        Rows without training ratings have the mean bias and zero factors.
    sums : Sums
        Over the rows with ratings.
    mean_bias : float
        The mean bias of the rows with ratings; all other rows get it.
    shared : object
        Statistics for the next half-epochs, computed from the moments of all partitions.
    residual_precision : float or None
        The precision of the ratings, if the method draws one.
    start : int
        The row of the side that is the first of `solution`. Of a fixed side, a home may hold only
        the rows that its blocks use, and number them by their positions.
    """

    solution: Factors
    sums: Sums
    mean_bias: float
    shared: Any = None
    residual_precision: float | None = None
    start: int = 0

    def __sizeof__(self) -> int:
        return self.solution.__sizeof__()

    def rows(self, rows: range) -> Factors:
        """Return some of the side's rows, which `solution` must have."""
        return self.solution[rows.start - self.start : rows.stop - self.start]


@dataclass(frozen=True)
class HomeSums:
    """What the rows of a home contribute to a `SolvedSide`, besides themselves.

    Attributes
    ----------
    n_rows : int
    n_rated : int
        Rows that have training ratings.
    bias : int
        The exact sum of their biases.
    sums : Sums
    moments : tuple
        Contributions to `SolvedSide.shared`.
    """

    n_rows: int
    n_rated: int
    bias: int
    sums: Sums
    moments: tuple[Any, ...] = ()


class RowMethod(Protocol):
    """How rows of a side are solved while the other is fixed."""

    def start_part(
        self,
        initial: Factors,
        rated: np.ndarray | None = None,
        residual_precision: float | None = None,
    ) -> SolvedPart:
        """Wrap initial factors; without `rated`, all rows count as rated."""
        ...

    def solve_part(
        self,
        step: HalfEpoch,
        block: Block,
        own: SolvedSide,
        fixed: SolvedSide,
        row_prior: Any = None,
    ) -> SolvedPart:
        """Solve the rows of a partition; `own` is the solved side before this half-epoch.

        Of a side with attributes, `row_prior` is its `RowPrior`, here and in `Method.join_parts`.
        """
        ...

    def join_parts(self, step: HalfEpoch, parts: list[SolvedPart]) -> SolvedSide:
        """Join the partitions of a side and compute `SolvedSide.shared`."""
        ...


class HomeMethod(Protocol):
    """A method that joins a side whose rows stay on their homes."""

    def sums_of_home(self, rows: list[range], parts: list[SolvedPart]) -> HomeSums:
        """Return what the consecutive partitions of a home contribute, given their rows."""
        ...

    def join_homes(self, step: HalfEpoch, homes: list[HomeSums], no_rows: Factors) -> SolvedSide:
        """Join a side as `join_parts` does, but for its rows, from all homes in order."""
        ...


class Method(RowMethod, Protocol):
    """How a side is trained."""

    def join_parts(
        self, step: HalfEpoch, parts: list[SolvedPart], row_prior: Any = None
    ) -> SolvedSide:
        """Join the partitions of a side and compute `SolvedSide.shared`."""
        ...

    def figures(
        self, first: SolvedSide, last: SolvedSide, n_ratings: int, weight: float
    ) -> tuple[float, float]:
        """Return objective and training RMSE of an epoch, from the sides in order of solving.

        `weight` is the sum of the weights of the ratings; without weights, their number.
        """
        ...

    def held_out_error(self, block: Block, users: SolvedSide, items: SolvedSide) -> int:
        """Return the exact sum of squared errors over a block of held-out ratings by user."""
        ...


def unsolved_part(initial: Factors, rated: np.ndarray | None = None) -> SolvedPart:
    """Wrap initial factors; without `rated`, all rows count as rated."""
    rated = np.ones(len(initial.bias), dtype=bool) if rated is None else rated
    return SolvedPart(initial, rated, NO_SUMS)


def chunk_of(parts: list[SolvedPart]) -> SolvedPart:
    """Concatenate consecutive partitions into one."""
    return SolvedPart(
        concatenated([part.solution for part in parts]),
        np.concatenate([part.rated for part in parts]),
        sum((part.sums for part in parts), NO_SUMS),
        tuple(moments for part in parts for moments in part.moments),
    )


def join_parts(parts: list[SolvedPart]) -> SolvedSide:
    """Join the partitions of a side; rows without ratings get the mean bias."""
    whole = chunk_of(parts)
    sums = sums_of_home(whole)
    mean_bias = _mean_bias(sums.bias, sums.n_rated)
    return SolvedSide(with_mean_bias(whole, mean_bias), whole.sums, mean_bias)


def with_mean_bias(part: SolvedPart, mean_bias: float) -> Factors:
    """Return the solution of a part where rows without ratings have the mean bias."""
    solution, rated = part.solution, part.rated
    if rated.all():
        return solution
    bias = np.where(rated, solution.bias, solution.bias.dtype.type(mean_bias))
    return Factors(bias, solution.factors)


def sums_of_home(*parts: SolvedPart, moments: tuple[Any, ...] = ()) -> HomeSums:
    """Return what all methods need to know of the parts of a home."""
    return HomeSums(
        sum(len(part.rated) for part in parts),
        sum(int(part.rated.sum()) for part in parts),
        sum(exact_sum(part.solution.bias[part.rated]) for part in parts),
        sum((part.sums for part in parts), NO_SUMS),
        moments,
    )


def join_homes(homes: list[HomeSums], no_rows: Factors) -> SolvedSide:
    """Join a side but for its rows, from all homes in order."""
    mean_bias = _mean_bias(sum(home.bias for home in homes), sum(home.n_rated for home in homes))
    return SolvedSide(no_rows, sum((home.sums for home in homes), NO_SUMS), mean_bias)


def _mean_bias(total: int, n_rated: int) -> float:
    return as_float(total) / max(1, n_rated)


def add_predictions(
    block: Block, users: SolvedSide, items: SolvedSide, mean: float, before: np.ndarray | None
) -> np.ndarray:
    """Add the predictions of held-out ratings to their sum over earlier epochs, if there is one."""
    predicted = _predictions(block, users, items, mean)
    return predicted if before is None else before + predicted


def error_of_average(block: Block, total: np.ndarray, n_epochs: int) -> int:
    """Return the exact sum of squared errors of the predictions averaged over epochs."""
    return exact_sum(block.weighted((block.ratings - total / n_epochs) ** 2))


def held_out_error(block: Block, users: SolvedSide, items: SolvedSide, mean: float) -> int:
    """Return the exact sum of squared errors over a block of held-out ratings by user."""
    predicted = _predictions(block, users, items, mean)
    return exact_sum(block.weighted((block.ratings - predicted) ** 2))


def _predictions(block: Block, users: SolvedSide, items: SolvedSide, mean: float) -> np.ndarray:
    """Predict the ratings of a block by user."""
    user_rows = block.row_of_rating - users.start
    return predictions(users.solution, items.solution, user_rows, block.indices, mean=mean)
