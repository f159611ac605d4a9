"""A block's ratings: the check of their arrays, and their fixed rows as a source for `gram`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from dask_als.kernels import gram, parts, simd
from dask_als.kernels.compilation import read_only

_jit = parts.part

# Of indptr, indices and ratings, the first arrays of every kernel.
CSR_TYPES = read_only(types.int64), read_only(types.int32), read_only(types.float32)


def weights_type(weighted):
    """Return numba's type of the ratings' weights, the array after those: none if unweighted."""
    return read_only(types.float32) if weighted else types.none


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


class _WeightedRated(NamedTuple):
    """The same with the ratings' weights, and the place for the roots of those gathered."""

    indices: Any
    ratings: Any
    weights: Any
    roots: Any
    fixed: Any
    rank: int


@_jit
def rated_rows(block, position, fixed, sizes, buffers):
    """Return the fixed rows of the ratings from a position on, as a source for `gram`.

    The weight of a row is y = rating - mean - fixed bias; the sums are Σ y, Σ y² and N. If the
    ratings have weights w, a row and its y are multiplied by √w, and the sums have w in each term.
    """
    return _source(block.weights, block, position, fixed, sizes, buffers)


def _source(weights, block, position, fixed, sizes, buffers):
    """Return the source for ratings with or without weights. For numba code only."""
    raise NotImplementedError


@overload(_source, jit_options=parts.OPTIONS)
def _source_of_kind(weights, block, position, fixed, sizes, buffers):
    def plain(weights, block, position, fixed, sizes, buffers):
        indices, ratings = block.indices + position, block.ratings + position
        return _Rated(indices, ratings, fixed, sizes.rank)

    def weighted(weights, block, position, fixed, sizes, buffers):
        indices, ratings = block.indices + position, block.ratings + position
        weights_from = weights + position
        return _WeightedRated(indices, ratings, weights_from, buffers.roots, fixed, sizes.rank)

    return plain if isinstance(weights, types.NoneType) else weighted


@_jit
def no_sums(weights, count):
    """Return the sums before the first of a number of ratings."""
    if weights is None:
        return 0.0, 0.0, np.float64(count)
    return 0.0, 0.0, 0.0


@_jit
def scaled(value, weights, roots, i):
    """Return a value times the root of a gathered rating's weight, if ratings have weights."""
    if weights is None:
        return value
    return value * roots[i]


@_jit
def scaled_by_weight(value, weights, i, scratch):
    """Return a value times the root of the weight of rating i, if ratings have weights."""
    if weights is None:
        return value
    scratch[0] = math.sqrt(np.float64(weights[i]))  # rounded as the root of a gathered row
    return value * scratch[0]


def row_buffer(buffers, weights):
    """Return the buffer into which `gram` gathers rows, their weights and, if any, their roots.

    For numba code only.
    """
    raise NotImplementedError


@overload(row_buffer, jit_options=parts.OPTIONS)
def _row_buffer_of_kind(buffers, weights):
    if isinstance(weights, types.NoneType):
        return lambda buffers, weights: gram.Gathered(buffers.gathered, buffers.weights, None)
    return lambda buffers, weights: gram.Gathered(buffers.gathered, buffers.weights, buffers.roots)


@_jit
def ratings_to_prefetch(block, position, size, sizes):
    """Return position and number of the ratings, one chunk ahead, whose rows to prefetch.

    If they are prefetched while `size` ratings from a position on are gathered, the rows of every
    chunk are in the cache when the chunk begins.
    """
    ahead = simd.least(position + sizes.chunk, block.n_ratings)
    return ahead, simd.least(size, block.n_ratings - ahead)


@_jit
def rows_to_prefetch(block, position, size, fixed, sizes, buffers):
    """Return the rows to prefetch while `size` ratings from a position on are gathered."""
    ahead, count = ratings_to_prefetch(block, position, size, sizes)
    return gram.Ahead(rated_rows(block, ahead, fixed, sizes, buffers), count)


def _gather_rated(source, i, place, weight, sums):
    index = np.int64(source.indices[i])
    gram.copy_row(source.fixed.factors + index * source.rank, source.rank, place)
    y = source.ratings[i] - source.fixed.mean - source.fixed.bias[index]
    weight[0] = y
    return sums[0] + y, sums[1] + y * y, sums[2]


def _gather_weighted(source, i, place, weight, sums):
    index = np.int64(source.indices[i])
    w = np.float64(source.weights[i])
    y = source.ratings[i] - source.fixed.mean - source.fixed.bias[index]
    root = source.roots + i
    root[0] = math.sqrt(w)
    gram.copy_row_scaled(source.fixed.factors + index * source.rank, source.rank, place, root)
    weight[0] = math.sqrt(w) * y
    return sums[0] + w * y, sums[1] + w * y * y, sums[2] + w


def _prefetch_rated(source, i):
    index = np.int64(source.indices[i])
    simd.prefetch(source.fixed.bias + index)
    gram.prefetch_row(source.fixed.factors + index * source.rank, source.rank)


gram.register_source(_Rated, gather_with=_gather_rated, prefetch_with=_prefetch_rated)
gram.register_source(_WeightedRated, gather_with=_gather_weighted, prefetch_with=_prefetch_rated)


@_jit
def add_rated_rows(block, row, fixed, sizes, buffers, matrix):
    """Overwrite matrix with the Gram matrix and moments of a row's fixed rows.

    Returns
    -------
    tuple of float
        Σ y, Σ y² and N; see `rated_rows`.
    """
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    rows, sums = row_buffer(buffers, block.weights), no_sums(block.weights, count)
    for first in range(0, count, sizes.chunk):
        size = simd.least(sizes.chunk, count - first)
        source = rated_rows(block, start + first, fixed, sizes, buffers)
        ahead = rows_to_prefetch(block, start + first, size, fixed, sizes, buffers)
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
