"""Products with the attributes of rows: which rows of the other side have rated them, or do.

The attributes X of a side are R, 1 where there is a training rating, with each row divided by the
root of its number of ratings. Both products with X are sums of the dense rows that a row of CSR
points to: X B those of B, by the side's own block, and Xᵀ Y those of Y, by the other side's block.
A row's sum has one order, so that its bits do not depend on which other rows a block has.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dask_als.core.aligned import aligned_empty, aligned_zeros
from dask_als.core.jit import compiled


def sums_of_rated(indptr: np.ndarray, indices: np.ndarray, dense: np.ndarray) -> np.ndarray:
    """Return for each row of a block the sum of the dense rows that it has ratings of.

    Parameters
    ----------
    indptr, indices : ndarray of int64, shape (n + 1,), and int32
        The block's ratings as CSR. Indices are rows of `dense`; they are not checked.
    dense : ndarray of float32 or float64, shape (m, rank)

    Returns
    -------
    ndarray of the same dtype, shape (n, rank)
    """
    sums = aligned_zeros((len(indptr) - 1, dense.shape[1]), dense.dtype)
    _add_rated(indptr, indices, dense, sums)
    return sums


def products_with(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return ``rows @ matrix`` in the dtype of `rows`, each row's sums in one order.

    Not by BLAS, whose bits depend on the number of rows.
    """
    products = aligned_empty(rows.shape, rows.dtype)
    _multiply(rows, np.ascontiguousarray(matrix, rows.dtype), products)
    return products


def ratings_less_prior(
    indptr: np.ndarray,
    indices: np.ndarray,
    ratings: np.ndarray,
    means: np.ndarray,
    fixed_factors: np.ndarray,
) -> np.ndarray:
    """Return the ratings of a block less what the rows' prior means predict of them.

    With u = mean + w, a rating's error is that of w on the rating less mean·f. So a kernel that
    solves rows with the prior mean 0 solves for w.

    Parameters
    ----------
    indptr, indices, ratings : ndarray of int64 (n + 1,), int32 (nnz,), float32 (nnz,)
    means : ndarray, shape (n, rank)
    fixed_factors : ndarray, shape (m, rank)

    Returns
    -------
    ndarray of float32 (nnz,)
    """
    less = np.empty_like(ratings)
    _subtract_predicted(indptr, indices, ratings, means, fixed_factors, less)
    return less


def dots_of_columns(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the dot product of each column of one array with that of the other; float64."""
    dots = np.zeros(left.shape[1])
    _add_dots(left, right, dots)
    return dots


@compiled
def _add_rated(indptr: Any, indices: Any, dense: Any, sums: Any) -> None:
    n, rank = sums.shape
    for row in range(n):
        for position in range(indptr[row], indptr[row + 1]):
            rated = np.int64(indices[position])
            for c in range(rank):
                sums[row, c] += dense[rated, c]


@compiled
def _multiply(rows: Any, matrix: Any, products: Any) -> None:
    n, rank = rows.shape
    for row in range(n):
        for c in range(rank):
            products[row, c] = 0
        for i in range(rank):
            for c in range(rank):
                products[row, c] += rows[row, i] * matrix[i, c]


@compiled
def _subtract_predicted(
    indptr: Any, indices: Any, ratings: Any, means: Any, factors: Any, less: Any
) -> None:
    n, rank = means.shape
    for row in range(n):
        for position in range(indptr[row], indptr[row + 1]):
            rated = np.int64(indices[position])
            predicted = 0.0
            for c in range(rank):
                predicted += np.float64(means[row, c]) * np.float64(factors[rated, c])
            less[position] = ratings[position] - predicted


@compiled
def _add_dots(left: Any, right: Any, dots: Any) -> None:
    n, rank = left.shape
    for row in range(n):
        for c in range(rank):
            dots[c] += np.float64(left[row, c]) * np.float64(right[row, c])
