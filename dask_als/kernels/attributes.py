"""Products with the attributes of rows: which rows of the other side have rated them, or do.

The attributes X of a side are R, 1 where there is a training rating, with each row divided by the
root of its number of ratings. Both products with X are sums of the dense rows that a row of CSR
points to: X B those of B, by the side's own block, and Xᵀ Y those of Y, by the other side's block.
A row's sum has one order, so that its bits do not depend on which other rows a block has.
Attributes from files are a sparse matrix of few columns, with which `weighted_sums` multiplies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from dask_als.core.aligned import aligned_empty, aligned_zeros
from dask_als.core.jit import compiled
from dask_als.core.sparse import SparseRows
from dask_als.kernels.compilation import (
    compile_kernel,
    digest_of_sources,
    made_once,
    number_type,
    read_only,
    writable,
)
from dask_als.kernels.gram import prefetch_row
from dask_als.kernels.ratings import CSR_TYPES, dot
from dask_als.kernels.simd import pointer


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
    _sum_kernel_of(dense.dtype)(indptr, indices, dense, sums)
    return sums


def weighted_sums(matrix: SparseRows, dense: np.ndarray) -> np.ndarray:
    """Return ``matrix @ dense``, each row's sums in the order of its columns.

    Parameters
    ----------
    matrix : SparseRows
        With values of the dtype of `dense`.
    dense : ndarray of float32 or float64, shape (n_columns, rank)
    """
    sums = aligned_zeros((matrix.n_rows, dense.shape[1]), dense.dtype)
    _add_weighted(matrix.indptr, matrix.indices, matrix.values, dense, sums)
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
    kernel = _prediction_kernel_of(means.dtype)
    kernel(indptr, indices, ratings, means, fixed_factors, less)
    return less


def dots_of_columns(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the dot product of each column of one array with that of the other; float64."""
    dots = np.zeros(left.shape[1])
    _add_dots(left, right, dots)
    return dots


# Rows are prefetched so many ratings before they are needed.
_AHEAD = 8


@made_once
def _sum_kernel_of(dtype: Any) -> Any:
    """Return the kernel for a dtype, compiled or from numba's cache on disk."""
    number = number_type(dtype)
    digest = digest_of_sources()

    def add_rated(indptr: Any, indices: Any, dense: Any, sums: Any) -> None:
        digest  # noqa: B018 - see `compile_kernel`
        n, rank = sums.shape
        rows, total = pointer(dense), pointer(sums)
        for row in range(n):
            place = total + row * rank
            for position in range(indptr[row], indptr[row + 1]):
                if position + _AHEAD < len(indices):
                    ahead = np.int64(indices[position + _AHEAD])
                    prefetch_row(rows + ahead * rank, rank)
                rated = rows + np.int64(indices[position]) * rank
                for c in range(rank):
                    place[c] += rated[c]

    csr = read_only(types.int64), read_only(types.int32)
    arrays = read_only(number, 2), writable(number, 2)
    return compile_kernel(add_rated, "add_rated", dtype, *csr, *arrays)


@compiled
def _add_weighted(indptr: Any, indices: Any, values: Any, dense: Any, sums: Any) -> None:
    for row in range(len(indptr) - 1):
        for position in range(indptr[row], indptr[row + 1]):
            column, value = indices[position], values[position]
            for c in range(dense.shape[1]):
                sums[row, c] += value * dense[column, c]


@compiled
def _multiply(rows: Any, matrix: Any, products: Any) -> None:
    n, rank = rows.shape
    for row in range(n):
        for c in range(rank):
            products[row, c] = 0
        for i in range(rank):
            for c in range(rank):
                products[row, c] += rows[row, i] * matrix[i, c]


@made_once
def _prediction_kernel_of(dtype: Any) -> Any:
    """Return the kernel for a dtype, compiled or from numba's cache on disk."""
    number = number_type(dtype)
    digest = digest_of_sources()

    def subtract_predicted(
        indptr: Any, indices: Any, ratings: Any, means: Any, factors: Any, less: Any
    ) -> None:
        digest  # noqa: B018 - see `compile_kernel`
        n, rank = means.shape
        rows = pointer(factors)
        for row in range(n):
            mean = pointer(means) + row * rank
            for position in range(indptr[row], indptr[row + 1]):
                if position + _AHEAD < len(indices):
                    ahead = np.int64(indices[position + _AHEAD])
                    prefetch_row(rows + ahead * rank, rank)
                rated = rows + np.int64(indices[position]) * rank
                less[position] = ratings[position] - dot(mean, rated, rank)

    arrays = read_only(number, 2), read_only(number, 2)
    result = writable(types.float32)
    return compile_kernel(
        subtract_predicted, "subtract_predicted", dtype, *CSR_TYPES, *arrays, result
    )


@compiled
def _add_dots(left: Any, right: Any, dots: Any) -> None:
    n, rank = left.shape
    for row in range(n):
        for c in range(rank):
            dots[c] += np.float64(left[row, c]) * np.float64(right[row, c])
