"""Gram matrices of gathered rows.

Rows are gathered into a buffer: `columns` numbers each (their length rounded up to whole tiles,
with zeros), and behind them two weights. A Gram matrix has the same layout, with two rows of
moments below its last row: the sums of the gathered rows times their first and second weight.

A tile of the matrix stays in registers while the buffer streams by. In a column of tiles, those
above the diagonal are computed, and the square on the diagonal but for its lower left quarter. The
column's last pass is for the lower right quarter, for what whole tiles leave of the upper half, and
for the moments. A tile is added to the matrix when the buffer is through: float32 needs sums to be
short before they are summed.

Rows lie anywhere in memory, and computing does not use it. So the rows that are gathered next are
already brought to the cache, one after the other and evenly over all passes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable

from dask_als import simd
from dask_als.simd import REGISTER_BYTES, lanes

# Rows and columns of registers in a tile, for float32 and float64: what the processor can hold.
_TILES = ((16, 1), (8, 2)) if REGISTER_BYTES == 64 else ((4, 2), (4, 2))

tile_rows = simd.constant_by_dtype(_TILES[0][0], _TILES[1][0])
tile_columns = simd.constant_by_dtype(_TILES[0][1], _TILES[1][1])


def _quarter(itemsize, rows, columns):
    """Return the rows that whole tiles leave above a quarter, and its rows, columns and lanes."""
    lane_count = REGISTER_BYTES // itemsize
    half = lane_count * columns // 2
    return half % rows, half, max(1, columns // 2), min(lane_count, half)


_rows_left, _quarter_rows, _quarter_columns, _quarter_lanes = (
    simd.constant_by_dtype(*sizes)
    for sizes in zip(_quarter(4, *_TILES[0]), _quarter(8, *_TILES[1]), strict=True)
)

_jit = njit(nogil=True, error_model="numpy")


def tile_width(dtype):
    """Return how many numbers wide a tile is."""
    return simd.lanes_of(dtype) * _TILES[0 if dtype == np.float32 else 1][1]


@register_jitable
def stride_of(columns, lane_count):
    """Return how many numbers a row of a buffer or of a matrix takes."""
    return columns + lane_count


@register_jitable
def size_of(columns, lane_count):
    """Return how many numbers a matrix takes with its moments.

    The odd register keeps equal elements of successive matrices out of the same cache set.
    """
    return (columns + 2) * stride_of(columns, lane_count) + lane_count


class Ahead(NamedTuple):
    """Rows that are to be gathered next, of `length` numbers each."""

    indices: Any
    n_indices: int
    rows: Any
    length: int


@_jit
def gather(indices, count, rows, length, gathered, stride):
    """Copy the indexed rows to the buffer, with zeros up to a whole register."""
    width = lanes(rows)
    whole = length // width * width
    for i in range(count):
        source = rows + np.int64(indices[i]) * length
        target = gathered + i * stride
        for c in range(0, whole, width):
            simd.store(target + c, simd.load(source + c))
        if whole < length:
            simd.store(target + whole, simd.load_first(source + whole, length - whole))


@_jit
def gather_scaled(indices, count, rows, length, gathered, stride):
    """Do what `gather` does, each row times its second weight, which is in the buffer already."""
    width = lanes(rows)
    whole = length // width * width
    zero = simd.zeros(rows, 1, 1)
    for i in range(count):
        source = rows + np.int64(indices[i]) * length
        target = gathered + i * stride
        scale = simd.broadcast_tile(target + (stride - width + 1), 0, 1, 1)
        for c in range(0, whole, width):
            simd.store(target + c, simd.add_product(zero, scale, simd.load(source + c)))
        if whole < length:
            rest = simd.load_first(source + whole, length - whole)
            simd.store(target + whole, simd.add_product(zero, scale, rest))


@_jit
def transpose(gathered, count, stride, length, transposed, columns):
    """Write the buffer's transpose to another: `length` rows of `count` numbers, then zeros."""
    width = lanes(gathered)
    for c in range(0, length, width):
        for i in range(count, columns):
            simd.store(gathered + (i * stride + c), simd.zeros(gathered, 1, 1))
        for i in range(0, columns, width):
            tile = simd.load_tile(gathered + (i * stride + c), stride, width, 1)
            target = transposed + (c * stride_of(columns, width) + i)
            simd.store_tile(target, stride_of(columns, width), simd.transpose(tile, width, 1))


@_jit
def add_gram(gathered, count, columns, matrix, fresh, ahead=None):
    """Add the Gram matrix and moments of `count` gathered rows to matrix, or overwrite a fresh one.

    What is below the diagonal means nothing.
    """
    width = tile_columns(gathered) * lanes(gathered)
    stride = stride_of(columns, lanes(gathered))
    n_steps, pending, fetched = _n_passes(gathered, columns) * count, 0, 0
    for column in range(0, columns, width):
        middle = column + _quarter_rows(gathered)
        above = middle - _rows_left(gathered)
        for row in range(0, above, tile_rows(gathered)):
            tile = simd.zeros(gathered, tile_rows(gathered), tile_columns(gathered))
            for i in range(count):
                if ahead is not None:
                    pending, fetched = _fetch(ahead, pending, fetched, n_steps)
                x = gathered + i * stride
                left = simd.broadcast_tile(x + row, 1, tile_rows(gathered), 1)
                right = simd.load_tile(x + column, 0, 1, tile_columns(gathered))
                tile = simd.add_product(tile, left, right)
            _put(matrix + (row * stride + column), stride, tile, fresh)
        tile = simd.zeros(gathered, _rows_left(gathered), tile_columns(gathered))
        moments = simd.zeros(gathered, 2, tile_columns(gathered))
        quarter = simd.zeros(
            gathered, _quarter_rows(gathered), _quarter_columns(gathered), _quarter_lanes(gathered)
        )
        for i in range(count):
            if ahead is not None:
                pending, fetched = _fetch(ahead, pending, fetched, n_steps)
            x = gathered + i * stride
            right = simd.load_tile(x + column, 0, 1, tile_columns(gathered))
            left = simd.broadcast_tile(x + above, 1, _rows_left(gathered), 1)
            tile = simd.add_product(tile, left, right)
            weights = simd.broadcast_tile(x + columns, 1, 2, 1)
            moments = simd.add_product(moments, weights, right)
            right = simd.load_tile(
                x + middle, 0, 1, _quarter_columns(gathered), _quarter_lanes(gathered)
            )
            left = simd.broadcast_tile(
                x + middle, 1, _quarter_rows(gathered), 1, _quarter_lanes(gathered)
            )
            quarter = simd.add_product(quarter, left, right)
        _put(matrix + (above * stride + column), stride, tile, fresh)
        _put(matrix + (middle * stride + middle), stride, quarter, fresh)
        _put(matrix + (columns * stride + column), stride, moments, fresh)


@_jit
def _n_passes(gathered, columns):
    n = 0
    for column in range(0, columns, tile_columns(gathered) * lanes(gathered)):
        n += (column + _quarter_rows(gathered)) // tile_rows(gathered) + 1
    return n


@_jit
def _fetch(ahead, pending, fetched, n_steps):
    """Fetch the next row ahead if it is due, when all are to be fetched in a number of steps."""
    pending += ahead.n_indices
    if pending >= n_steps:
        pending -= n_steps
        row = ahead.rows + np.int64(ahead.indices[fetched]) * ahead.length
        for c in range(0, ahead.length, simd.numbers_of_a_line(row)):
            simd.prefetch(row + c)
        fetched += 1
    return pending, fetched


@_jit
def _put(place, stride, tile, fresh):
    if not fresh:
        tile = simd.add(simd.load_like(tile, place, stride), tile)
    simd.store_tile(place, stride, tile)
