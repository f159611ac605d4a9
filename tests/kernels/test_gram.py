"""Gram matrices against NumPy's, and how often rows are gathered and prefetched."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from numba import njit

from dask_als.core.aligned import aligned_zeros
from dask_als.kernels import cholesky, gram, simd
from dask_als.kernels.simd.memory import pointer

DTYPES = [
    np.dtype(np.float32),
    pytest.param(np.dtype(np.float64), marks=pytest.mark.slow),
]


@njit
def add_gram(rows, weights, columns, matrix, overwrite):
    gathered = gram.Gathered(pointer(rows), pointer(weights), None)
    update = gram.Update(gathered, len(rows), columns, pointer(matrix), overwrite, None)
    gram.add_gram(update, None, None)


def gathered(count, columns, dtype, seed=0):
    """Return rows and their weights."""
    random = np.random.default_rng(seed)
    rows = aligned_zeros((count, columns), dtype)
    rows[:] = random.standard_normal(rows.shape)
    return rows, random.standard_normal(count).astype(dtype)


def memory(columns, dtype):
    """Return room for a matrix, full of what must not show, and matrix and moments in it."""
    lane_count = simd.lanes_of(dtype)
    room = np.full(gram.size_of(columns, lane_count), np.nan, dtype)
    stride = gram.stride_of(columns, lane_count)
    return room, room[: (columns + 2) * stride].reshape(columns + 2, stride)[:, :columns]


def by_numpy(rows, weights):
    """Return the upper triangle of the Gram matrix, and the moments."""
    rows, weights = rows.astype(float), weights.astype(float)
    return np.triu(rows.T @ rows), [weights @ rows, rows.sum(axis=0)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n_tiles", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
def test_matrix_and_moments(dtype, n_tiles, count):
    columns = n_tiles * cholesky.tile_width(dtype)
    first, second = gathered(count, columns, dtype), gathered(count, columns, dtype, seed=1)
    room, matrix = memory(columns, dtype)
    add_gram(*first, columns, room, True)
    add_gram(*second, columns, room, False)
    rows, weights = zip(first, second, strict=True)
    triangle, moments = by_numpy(np.vstack(rows), np.concatenate(weights))
    tolerance = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(np.triu(matrix[:columns]), triangle, atol=tolerance * count)
    np.testing.assert_allclose(matrix[columns:], moments, atol=tolerance * count)


class Counted(NamedTuple):
    """A source that counts how often each row is gathered and prefetched."""

    rows: Any
    weights: Any
    columns: int
    gathered: Any
    prefetched: Any


def _gather(source, i, place, weight, sums):
    for c in range(source.columns):
        place[c] = source.rows[i * source.columns + c]
    weight[0] = source.weights[i]
    source.gathered[i] += 1
    return sums + 1


def _prefetch(source, i):
    source.prefetched[i] += 1


gram.register_source(Counted, gather_with=_gather, prefetch_with=_prefetch)


@njit
def add_gram_of_source(rows, weights, buffer, columns, matrix, gathered, prefetched, n_ahead):
    source = Counted(
        pointer(rows), pointer(weights), columns, pointer(gathered), pointer(prefetched)
    )
    room = gram.Gathered(pointer(buffer[0]), pointer(buffer[1]), None)
    ahead = gram.Ahead(source, n_ahead)
    update = gram.Update(room, len(rows), columns, pointer(matrix), True, ahead)
    return gram.add_gram(update, source, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "n_ahead"), [(1, 1), (3, 3), (8, 0), (9, 2), (50, 50)])
def test_every_row_is_gathered_once_and_every_row_ahead_prefetched_once(dtype, count, n_ahead):
    columns = 2 * cholesky.tile_width(dtype)
    rows, buffer = gathered(count, columns, dtype), gathered(count, columns, dtype, seed=1)
    room, matrix = memory(columns, dtype)
    n_gathered, n_prefetched = np.zeros(count, np.int64), np.zeros(60, np.int64)
    sums = add_gram_of_source(*rows, buffer, columns, room, n_gathered, n_prefetched, n_ahead)
    assert sums == count
    assert (n_gathered == 1).all()
    assert n_prefetched[:n_ahead].tolist() == [1] * n_ahead
    assert not n_prefetched[n_ahead:].any()
    for got, wanted in zip(buffer, rows, strict=True):
        np.testing.assert_array_equal(got, wanted)
    wanted_room, wanted = memory(columns, dtype)
    add_gram(*rows, columns, wanted_room, True)
    np.testing.assert_array_equal(np.triu(matrix[:columns]), np.triu(wanted[:columns]))
