"""The data of a half-epoch in memory: a partition's ratings, and biases and factors of rows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from dask_als.core.aligned import aligned_empty, recycled_empty
from dask_als.core.random import standard_normal
from dask_als.core.side import ITEMS, Side

PREDICTIONS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Block:
    """One partition's ratings as compressed sparse rows.

    Row ``rows[i]`` of the solved side has the ratings ``ratings[indptr[i]:indptr[i + 1]]`` of the
    fixed side's rows ``indices[indptr[i]:indptr[i + 1]]``, which ascend.

    Attributes
    ----------
    rows : range
        The rows of the solved side that the block holds.
    indptr : ndarray of int64, shape (len(rows) + 1,)
    indices : ndarray of int32, shape (n_ratings,)
    ratings : ndarray of float32, shape (n_ratings,)
    weights : ndarray of float32, shape (n_ratings,), or None
        How often each rating's squared error counts; None if ratings have no weights.
    """

    rows: range
    indptr: np.ndarray
    indices: np.ndarray
    ratings: np.ndarray
    weights: np.ndarray | None = None

    def __sizeof__(self) -> int:
        of_weights = 0 if self.weights is None else self.weights.nbytes
        return self.indptr.nbytes + self.indices.nbytes + self.ratings.nbytes + of_weights

    @property
    def counts(self) -> np.ndarray:
        """The number of ratings of each row, int64."""
        return np.diff(self.indptr)

    @property
    def total_weights(self) -> np.ndarray:
        """The sum of the weights of each row's ratings; without weights, their number."""
        if self.weights is None:
            return self.counts
        row = self.row_of_rating - self.rows.start
        return np.bincount(row, self.weights, minlength=len(self.rows))

    def weighted(self, values: np.ndarray) -> np.ndarray:
        """Return a value of each rating times its weight, if ratings have weights."""
        return values if self.weights is None else values * self.weights

    def of_ratings(self, chosen: np.ndarray | slice, rows: range, indptr: np.ndarray) -> Block:
        """Return a block of some of the ratings, which belong to `rows` as `indptr` says."""
        weights = None if self.weights is None else self.weights[chosen]
        return Block(rows, indptr, self.indices[chosen], self.ratings[chosen], weights)

    @property
    def row_of_rating(self) -> np.ndarray:
        """The row of each rating, int64, shape (n_ratings,)."""
        return np.repeat(np.arange(self.rows.start, self.rows.stop), self.counts)


def block_of(
    rows: range,
    row: np.ndarray,
    column: np.ndarray,
    ratings: np.ndarray,
    weights: np.ndarray | None = None,
) -> Block:
    """Make a block of ratings that are sorted by row, then by column.

    Raises
    ------
    ValueError
        If a rating is out of the rows' range or out of order.
    """
    if len(row) and not (rows.start <= row[0] and row[-1] < rows.stop):
        raise ValueError(f"rows {row[0]} to {row[-1]} are not all within {rows}")
    steps = np.diff(row.astype(np.int64))
    if (steps < 0).any() or (np.diff(column)[steps == 0] <= 0).any():
        raise ValueError("ratings are not sorted by row and column, or contain a pair twice")
    counts = np.bincount(row - rows.start, minlength=len(rows))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    if weights is not None:
        weights = np.ascontiguousarray(weights)
    return Block(rows, indptr, np.ascontiguousarray(column), np.ascontiguousarray(ratings), weights)


def split(block: Block, n_blocks: int, *, row_cost: float) -> list[Block]:
    """Split a block into blocks of consecutive rows of about equal cost.

    Parameters
    ----------
    block : Block
    n_blocks : int
        The most blocks; there is none without rows.
    row_cost : float
        What a row costs in addition to its ratings, in ratings.

    Returns
    -------
    list of Block
        Their indices and ratings are views.
    """
    cost = block.indptr + row_cost * np.arange(len(block.indptr))
    bounds = np.searchsorted(cost, cost[-1] * np.arange(1, n_blocks) / n_blocks)
    starts = np.unique([0, *bounds, len(block.rows)]).tolist()
    return [_rows_of(block, start, stop) for start, stop in itertools.pairwise(starts)]


def _rows_of(block: Block, start: int, stop: int) -> Block:
    indptr = block.indptr[start : stop + 1]
    ratings = slice(indptr[0], indptr[-1])
    return block.of_ratings(ratings, block.rows[start:stop], indptr - indptr[0])


@dataclass(frozen=True)
class Factors:
    """Biases and factors of contiguous rows of one side.

    Attributes
    ----------
    bias : ndarray of float32 or float64, shape (n_rows,)
    factors : ndarray of the same dtype, shape (n_rows, rank)
    """

    bias: np.ndarray
    factors: np.ndarray

    def __sizeof__(self) -> int:
        return self.bias.nbytes + self.factors.nbytes

    def __getitem__(self, rows: slice) -> Factors:
        return Factors(self.bias[rows], self.factors[rows])


def concatenated(parts: list[Factors]) -> Factors:
    """Concatenate the factors of consecutive rows; a single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    bias = np.concatenate([part.bias for part in parts])
    factors = recycled_empty((len(bias), parts[0].factors.shape[1]), bias.dtype)
    np.concatenate([part.factors for part in parts], out=factors)
    return Factors(bias, factors)


def random_factors(side: Side, rows: range, *, rank: int, seed: int, dtype: str) -> Factors:
    """Return the initial factors of training: biases 0, factors Normal(0, 1/sqrt(rank))."""
    normal = standard_normal(rows, rank, seed=seed, stream=int(side is ITEMS))
    factors = aligned_empty((len(rows), rank), dtype)
    factors[:] = normal / np.sqrt(rank)
    return Factors(np.zeros(len(rows), dtype=dtype), factors)


def zero_factors(rows: range, *, rank: int, dtype: str) -> Factors:
    """Return biases and factors of 0; from these, training fits biases alone."""
    return Factors(np.zeros(len(rows), dtype=dtype), np.zeros((len(rows), rank), dtype=dtype))


def predictions(
    users: Factors, items: Factors, user_rows: np.ndarray, item_rows: np.ndarray, *, mean: float
) -> np.ndarray:
    """Predict ratings: mean + user bias + item bias + product of factors.

    Parameters
    ----------
    users, items : Factors
    user_rows, item_rows : ndarray of int, shape (n,)
        Row numbers of the two sides.
    mean : float
        The global mean that training subtracted.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    predicted = np.empty(len(user_rows))
    # In chunks, so that the gathered factors stay in the processor's cache and need little memory.
    for start in range(0, len(user_rows), PREDICTIONS_AT_ONCE):
        chunk = slice(start, start + PREDICTIONS_AT_ONCE)
        u, v = user_rows[chunk], item_rows[chunk]
        products = np.einsum("nk,nk->n", users.factors[u], items.factors[v], dtype=np.float64)
        biases = users.bias[u].astype(np.float64) + items.bias[v]
        predicted[chunk] = mean + biases + products
    return predicted
