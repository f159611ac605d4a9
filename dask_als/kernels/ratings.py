"""A block's ratings: the check of their arrays, and their fixed rows as a source for `gram`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types

from dask_als.kernels import gram, simd
from dask_als.kernels.compilation import read_only

_jit = njit(nogil=True, error_model="numpy")

# Of indptr, indices and ratings, the first arrays of every kernel.
CSR_TYPES = read_only(types.int64), read_only(types.int32), read_only(types.float32)


def check_shapes(n_rows, csr, *others):
    """Raise an error if the arrays of a block do not fit together.

    Parameters
    ----------
    n_rows : int
        Rows of the block.
    csr : tuple of arrays
        indptr, indices and ratings.
    *others : tuple of array and tuple of int
        Other arrays, each with the shape that it should have.

    Raises
    ------
    ValueError
        If an array has another shape.
    """
    n_ratings = int(csr[0][-1])
    arrays = [*csr, *(array for array, _ in others)]
    expected = [(n_rows + 1,), (n_ratings,), (n_ratings,), *(shape for _, shape in others)]
    shapes = [array.shape for array in arrays]
    if shapes != expected:
        raise ValueError(f"arrays have shapes {shapes}; for these rows and ratings pass {expected}")


class Fixed(NamedTuple):
    """The fixed side, as pointers, and the global mean."""

    bias: Any
    factors: Any
    mean: float


class _Rated(NamedTuple):
    """The fixed rows of consecutive ratings: pointers to them and to the ratings."""

    indices: Any
    ratings: Any
    fixed: Any
    rank: int


@_jit
def rated_rows(block, position, fixed, sizes):
    """Return the fixed rows of the ratings from a position on, as a source for `gram`.

    The weight of a row is y = rating - mean - fixed bias; the sums are Σ y and Σ y².
    """
    indices, ratings = block.indices + position, block.ratings + position
    return _Rated(indices, ratings, fixed, sizes.rank)


@_jit
def row_buffer(buffers):
    """Return the buffer into which `gram` gathers rows and their weights."""
    return gram.Gathered(buffers.gathered, buffers.weights)


@_jit
def ratings_to_prefetch(block, position, size, sizes):
    """Return position and number of the ratings, one chunk ahead, whose rows to prefetch.

    If they are prefetched while `size` ratings from a position on are gathered, the rows of every
    chunk are in the cache when the chunk begins.
    """
    ahead = min(position + sizes.chunk, block.n_ratings)
    return ahead, min(size, block.n_ratings - ahead)


@_jit
def rows_to_prefetch(block, position, size, fixed, sizes):
    """Return the rows to prefetch while `size` ratings from a position on are gathered."""
    ahead, count = ratings_to_prefetch(block, position, size, sizes)
    return gram.Ahead(rated_rows(block, ahead, fixed, sizes), count)


def _gather_rated(source, i, place, weight, sums):
    index = np.int64(source.indices[i])
    gram.copy_row(source.fixed.factors + index * source.rank, source.rank, place)
    y = source.ratings[i] - source.fixed.mean - source.fixed.bias[index]
    weight[0] = y
    return sums[0] + y, sums[1] + y * y


def _prefetch_rated(source, i):
    index = np.int64(source.indices[i])
    simd.prefetch(source.fixed.bias + index)
    gram.prefetch_row(source.fixed.factors + index * source.rank, source.rank)


gram.register_source(_Rated, gather_with=_gather_rated, prefetch_with=_prefetch_rated)


@_jit
def add_rated_rows(block, row, fixed, sizes, buffers, matrix):
    """Overwrite matrix with the Gram matrix and moments of a row's fixed rows.

    Returns
    -------
    tuple of float
        Σ y and Σ y².
    """
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    rows, sums = row_buffer(buffers), (0.0, 0.0)
    for first in range(0, count, sizes.chunk):
        size = min(sizes.chunk, count - first)
        source = rated_rows(block, start + first, fixed, sizes)
        ahead = rows_to_prefetch(block, start + first, size, fixed, sizes)
        update = gram.Update(rows, size, sizes.columns, matrix, first == 0, ahead)
        sums = gram.add_gram(update, source, sums)
    return sums


@_jit
def dot(a, b, count):
    """Return a·b, summed in float64 and in eight parts."""
    parts = simd.widened(simd.zeros(a, 1, 1, 8))
    whole = count // 8 * 8
    for i in range(0, whole, 8):
        left = simd.widened(simd.load_tile(a + i, 0, 1, 1, 8))
        right = simd.widened(simd.load_tile(b + i, 0, 1, 1, 8))
        parts = simd.add_product(parts, left, right)
    total = simd.sum_of_lanes(parts)
    for i in range(whole, count):
        total += np.float64(a[i]) * np.float64(b[i])
    return total
