"""Gram matrices of gathered rows.

Gathered rows are consecutive in a buffer. Each takes `columns` numbers: its length rounded up to
whole tiles of `cholesky`, padded with zeros. A second buffer holds their weights. Below the last
row of a Gram matrix are two rows of moments: the weighted and the plain sum of the gathered rows.
Where the rows of ratings with weights were multiplied by roots, the latter sum has the roots, too.

A pass over the rows keeps a part of the matrix in registers and adds it to the matrix in memory at
the end, because long sums lose digits in float32. One pass computes either

- the syrk of a diagonal tile (the square that belongs to one register's columns) together with
  these columns' moments, or
- a tile to the right of a diagonal tile: some of its rows by two or three registers of columns.
  Each loaded number is then multiplied two or three times. Few processors load faster than they
  multiply, so this leaves time to prefetch.

A diagonal tile is symmetric, so half of it suffices: x times x, times x rotated by one lane, and so
on, up to half of the lanes. A rotation takes as long as a multiplication. So there are only a few
rotations, chosen so that their differences give every distance: four suffice for 16 lanes.

The first pass also gathers the rows, at almost no cost beside its arithmetic. The rows are
scattered in memory, so all passes together prefetch the rows of the next call, at an even pace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from dask_als.kernels import parts, simd
from dask_als.kernels.simd.tile import REGISTER_BYTES, lanes

# Rows of a tile, for float32 and float64: as many as a diagonal tile has, unless three columns of
# registers would not fit the processor.
_tile_rows = simd.constant_by_dtype(
    *(min(REGISTER_BYTES // size, 8 if REGISTER_BYTES == 64 else 4) for size in (4, 8))
)

# A row is gathered this many rows before it is used: a load waits for a store right before it.
LEAD = 8

# The minimum number of steps between prefetches, each of which costs as much as a step or two.
_LEAST_STEPS = 20

_INLINE = parts.INLINE
_jit = parts.part
# Without inlining, the arguments of a pass go through memory: 6 % of the time at rank 64.
_inline = parts.inline_part


@_jit
def stride_of(columns, lane_count):
    """Return the distance in numbers between the rows of a matrix."""
    return columns + lane_count


@_jit
def size_of(columns, lane_count):
    """Return the length in numbers of a matrix with its moments.

    The odd register keeps equal elements of successive matrices out of the same cache set.
    """
    return (columns + 2) * stride_of(columns, lane_count) + lane_count


# --- gathering ---


class Gathered(NamedTuple):
    """Pointers to gathered rows and to their weights: buffers that fit the first-level cache."""

    rows: Any
    weights: Any
    roots: Any  # what the rows were multiplied by, if the ratings have weights; else None


def gather(source, i, place, weight, sums):
    """Copy row i of a source to its place in the buffer, set its weight, return the new sums.

    For numba code only. A source is a named tuple; `register_source` implements this for its class.
    """
    raise NotImplementedError


def prefetch(source, i):
    """Prefetch what `gather` reads for row i of a source. For numba code only."""
    raise NotImplementedError


def register_source(kind, *, gather_with, prefetch_with):
    """Implement `gather` and `prefetch` for a class of sources.

    Parameters
    ----------
    kind : type
        A named tuple.
    gather_with, prefetch_with : functions
        They take the arguments of `gather` and of `prefetch`.
    """

    @overload(gather, jit_options=_INLINE)
    def _gather_of_kind(source, i, place, weight, sums):
        return gather_with if getattr(source, "instance_class", None) is kind else None

    @overload(prefetch, jit_options=_INLINE)
    def _prefetch_of_kind(source, i):
        return prefetch_with if getattr(source, "instance_class", None) is kind else None


@overload(gather, jit_options=_INLINE)
def _gather_nothing(source, i, place, weight, sums):
    is_none = isinstance(source, types.NoneType)
    return (lambda source, i, place, weight, sums: sums) if is_none else None


@_inline
def copy_row(row, length, place):
    """Copy a row to the buffer, with zeros up to a whole register."""
    width = lanes(row)
    whole, c = length // width * width, 0
    while c + 4 * width <= whole:
        simd.store(place + c, simd.load_tile(row + c, 0, 1, 4))
        c += 4 * width
    while c < whole:
        simd.store(place + c, simd.load(row + c))
        c += width
    if whole < length:
        simd.store(place + whole, simd.load_first(row + whole, length - whole))


@_inline
def copy_row_scaled(row, length, place, scale):
    """Copy a row as `copy_row` does, times the number at `scale`."""
    width = lanes(row)
    whole = length // width * width
    zero, scales = simd.zeros(row, 1, 1), simd.broadcast_tile(scale, 0, 1, 1)
    for c in range(0, whole, width):
        simd.store(place + c, simd.add_product(zero, scales, simd.load(row + c)))
    if whole < length:
        rest = simd.load_first(row + whole, length - whole)
        simd.store(place + whole, simd.add_product(zero, scales, rest))


@_inline
def prefetch_row(row, length):
    """Prefetch a row."""
    line, c = simd.numbers_of_a_line(row), 0
    while c + 4 * line <= length:
        simd.prefetch(row + c)
        simd.prefetch(row + (c + line))
        simd.prefetch(row + (c + 2 * line))
        simd.prefetch(row + (c + 3 * line))
        c += 4 * line
    while c < length:
        simd.prefetch(row + c)
        c += line


@_jit
def transpose(rows, count, stride, length, transposed, columns):
    """Write the transpose of gathered rows: `length` rows of `count` numbers, padded with zeros."""
    width = lanes(rows)
    for c in range(0, length, width):
        for i in range(count, columns):
            simd.store(rows + (i * stride + c), simd.zeros(rows, 1, 1))
        for i in range(0, columns, width):
            turned = simd.load_transposed(rows + (i * stride + c), stride, width, 1)
            simd.store_tile(transposed + (c * columns + i), columns, turned)


# --- prefetching ---


class Ahead(NamedTuple):
    """The first rows of a source, to be prefetched: at most as many as are gathered now."""

    source: Any
    n_rows: int


class _Pace(NamedTuple):
    """Prefetch `rows` rows every `steps` steps; a step is one row in one pass."""

    steps: int
    rows: int
    done: int  # rows prefetched so far


@_inline
def _pace(ahead, n_steps):
    """Return the pace that spreads the rows to prefetch over all steps."""
    n_rows = 1 if ahead is None else simd.greatest(1, ahead.n_rows)
    rows = simd.greatest(1, _LEAST_STEPS * n_rows // n_steps)
    return _Pace(simd.greatest(1, rows * n_steps // n_rows), rows, 0)


@_inline
def _prefetch_next(ahead, pace):
    """Prefetch the next rows, if any are left."""
    if ahead is None:
        return pace
    end = simd.least(pace.done + pace.rows, ahead.n_rows)
    for i in range(pace.done, end):
        prefetch(ahead.source, i)
    return _Pace(pace.steps, pace.rows, end)


# --- the matrix ---


class Update(NamedTuple):
    """One update of a Gram matrix and its moments by gathered rows."""

    gathered: Gathered
    count: int  # type: ignore[assignment]  # rows; numba needs no tuple.count
    columns: int  # of the matrix and of a row
    matrix: Any
    overwrite: bool  # instead of adding
    ahead: Any  # the rows to prefetch meanwhile, or None


@_inline
def add_gram(update, source, sums):
    """Update a Gram matrix and its moments; entries below the diagonal are undefined.

    Parameters
    ----------
    update : Update
    source : named tuple or None
        The source of the rows; without it, the buffer must hold them already.
    sums
        The initial sums for `gather`; None without a source.

    Returns
    -------
    sums
        After the last row.
    """
    matrix, columns = update.matrix, update.columns
    pace = _pace(update.ahead, _n_passes(matrix, columns) * update.count)
    # Not a literal, for which numba would compile the function once more.
    sums, pace = _syrk_diagonal_tile(update, np.int64(0), source, sums, pace)
    for column in range(lanes(matrix), columns, lanes(matrix)):
        _, pace = _syrk_diagonal_tile(update, column, None, None, pace)
    for column in range(0, columns, lanes(matrix)):
        pace = _update_right(update, column, pace)
    return sums


@_inline
def _n_passes(matrix, columns):
    n = columns // lanes(matrix)
    passes = n
    for right in range(1, n):
        passes += 1 if right == 1 else lanes(matrix) // _tile_rows(matrix) * ((right + 2) // 3)
    return passes


@_inline
def _syrk_diagonal_tile(update, column, source, sums, pace):
    """Update the diagonal tile that starts at a column, and the moments of its columns."""
    count, columns, matrix = update.count, update.columns, update.matrix
    start, weights, roots = update.gathered
    products = simd.zeros(matrix, 1, simd.n_distances(matrix))
    weighted, plain = simd.zeros(matrix, 1, 1), simd.zeros(matrix, 1, 1)
    for i in range(simd.least(count, LEAD)):
        sums = gather(source, i, start + i * columns, weights + i, sums)
    for first in range(0, count, pace.steps):
        pace = _prefetch_next(update.ahead, pace)
        for i in range(first, simd.least(first + pace.steps, count)):
            later = i + LEAD
            if source is not None and later < count:
                sums = gather(source, later, start + later * columns, weights + later, sums)
            x = simd.load(start + (i * columns + column))
            products = simd.add_products_of_lanes(products, x)
            weighted = simd.add_product(weighted, simd.broadcast_rows(weighted, weights + i), x)
            plain = _add_row(plain, roots, i, x)
    stride, tile = stride_of(columns, lanes(matrix)), simd.square_of_products(products)
    _put(matrix + (column * stride + column), stride, tile, update.overwrite)
    _put(matrix + (columns * stride + column), stride, weighted, update.overwrite)
    _put(matrix + ((columns + 1) * stride + column), stride, plain, update.overwrite)
    return sums, pace


@_inline
def _add_row(total, roots, i, x):
    """Add part of row i, times its root if it has one, to the second moment."""
    if roots is None:
        return simd.add(total, x)  # a product with 1 would occupy a multiplier
    return simd.add_product(total, simd.broadcast_rows(total, roots + i), x)


@_inline
def _update_right(update, diagonal, pace):
    """Update everything to the right of a diagonal tile, in as few tiles as possible."""
    matrix, columns = update.matrix, update.columns
    width = lanes(matrix)
    if columns - diagonal == 2 * width:
        tile = simd.zeros(matrix, lanes(matrix), 1)
        return _update_tile(tile, update, diagonal, diagonal + width, pace)
    for row in range(diagonal, diagonal + width, _tile_rows(matrix)):
        column = diagonal + width
        while column < columns:
            if (columns - column) // width % 3 == 0:
                tile = simd.zeros(matrix, _tile_rows(matrix), 3)
                pace = _update_tile(tile, update, row, column, pace)
                column += 3 * width
            else:
                tile = simd.zeros(matrix, _tile_rows(matrix), 2)
                pace = _update_tile(tile, update, row, column, pace)
                column += 2 * width
    return pace


@_inline
def _update_tile(tile, update, row, column, pace):
    """Update the tile that starts at a row and a column; `tile` has its shape and is zero."""
    count, columns, matrix = update.count, update.columns, update.matrix
    stride = stride_of(columns, lanes(matrix))
    for first in range(0, count, pace.steps):
        pace = _prefetch_next(update.ahead, pace)
        for i in range(first, simd.least(first + pace.steps, count)):
            x = update.gathered.rows + i * columns
            left, right = simd.broadcast_rows(tile, x + row), simd.load_columns(tile, x + column)
            tile = simd.add_product(tile, left, right)
    _put(matrix + (row * stride + column), stride, tile, update.overwrite)
    return pace


@_jit
def _put(place, stride, tile, overwrite):
    if not overwrite:
        tile = simd.add(simd.load_like(tile, place, stride), tile)
    simd.store_tile(place, stride, tile)
