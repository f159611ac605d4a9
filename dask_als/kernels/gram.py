"""Gram matrices of gathered rows.

Rows are gathered one behind the other, `columns` numbers each (their length rounded up to what
`cholesky` works on, with zeros), and their weights apart from them. Below the last row of a Gram
matrix are two rows of moments: the sums of the gathered rows times their weight, and of the rows as
they are.

A part of the matrix stays in registers while the rows stream by, and is added to the matrix when
they are through: float32 needs sums to be short before they are summed. Such a pass computes

- the square on the diagonal that belongs to a register's columns, and these columns' moments, or
- a tile of what is right of a square: some of its rows, and two or three registers of columns. Each
  of a row's numbers that is loaded is then multiplied two or three times, so that loading, which
  few processors do faster than multiplying, leaves room to bring rows to the cache.

A square on the diagonal is symmetric, so half of it is enough: x times x, times x rotated by one
lane, and so on, up to half of its lanes. As rotating takes a processor as long as multiplying, only
a few rotations are made, by distances that differ by all of these: of 16 lanes four suffice.

The first pass also gathers the rows, which costs next to nothing beside its arithmetic. Rows lie
anywhere in memory, so those that are gathered next are already brought to the cache, one after the
other and evenly over all passes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import njit, types
from numba.extending import overload, register_jitable

from dask_als.kernels import simd
from dask_als.kernels.simd import REGISTER_BYTES, lanes

# Rows of a tile, for float32 and float64: as many as a square has, if the processor can hold three
# columns of registers.
_tile_rows = simd.constant_by_dtype(
    *(min(REGISTER_BYTES // size, 8 if REGISTER_BYTES == 64 else 4) for size in (4, 8))
)

# So many rows earlier than it is used a row is gathered: what is just stored can't be loaded yet.
LEAD = 8

# To bring rows in the middle of a pass costs as much as a step or two.
_LEAST_STEPS = 20

_INLINE = {"nogil": True, "error_model": "numpy", "forceinline": True}
_jit = njit(nogil=True, error_model="numpy")
# What the passes are given would else go through memory: 6 % of the time at rank 64.
_inline = njit(**_INLINE)


@register_jitable
def stride_of(columns, lane_count):
    """Return how many numbers a row of a matrix takes."""
    return columns + lane_count


@register_jitable
def size_of(columns, lane_count):
    """Return how many numbers a matrix takes with its moments.

    The odd register keeps equal elements of successive matrices out of the same cache set.
    """
    return (columns + 2) * stride_of(columns, lane_count) + lane_count


# --- gathering ---


class Gathered(NamedTuple):
    """Pointers to gathered rows and to their weights: a buffer that fits the first-level cache."""

    rows: Any
    weights: Any


def gather(source, i, place, weight, sums):
    """Put row i of a source into its place in the buffer, and its weight; return new sums.

    In numba code. A source is a named tuple, and each kind overloads this and `bring`.
    """
    raise NotImplementedError


def bring(source, i):
    """Have what `gather` reads for row i of a source brought to the cache; in numba code."""
    raise NotImplementedError


def gathers(kind):
    """Return a decorator: the function, of the same arguments, gathers from sources of a kind."""

    def register(function):
        @overload(gather, jit_options=_INLINE)
        def of_kind(source, i, place, weight, sums):
            return function if getattr(source, "instance_class", None) is kind else None

        return function

    return register


def brings(kind):
    """Return a decorator: the function, of the same arguments, brings rows of sources of a kind."""

    def register(function):
        @overload(bring, jit_options=_INLINE)
        def of_kind(source, i):
            return function if getattr(source, "instance_class", None) is kind else None

        return function

    return register


@overload(gather)
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
    """Do what `copy_row` does, times the number that `scale` points to."""
    width = lanes(row)
    whole = length // width * width
    zero, scales = simd.zeros(row, 1, 1), simd.broadcast_tile(scale, 0, 1, 1)
    for c in range(0, whole, width):
        simd.store(place + c, simd.add_product(zero, scales, simd.load(row + c)))
    if whole < length:
        rest = simd.load_first(row + whole, length - whole)
        simd.store(place + whole, simd.add_product(zero, scales, rest))


@_inline
def bring_row(row, length):
    """Have a row brought to the cache."""
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
    """Write gathered rows' transpose elsewhere: `length` rows of `count` numbers, then zeros."""
    width = lanes(rows)
    for c in range(0, length, width):
        for i in range(count, columns):
            simd.store(rows + (i * stride + c), simd.zeros(rows, 1, 1))
        for i in range(0, columns, width):
            turned = simd.load_transposed(rows + (i * stride + c), stride, width, 1)
            simd.store_tile(transposed + (c * columns + i), columns, turned)


# --- rows that are gathered next ---


class Ahead(NamedTuple):
    """The first rows of a source, which are gathered next: no more than the buffer has now."""

    source: Any
    n_rows: int


class _Pace(NamedTuple):
    """How many rows are brought after how many steps, a step a row and pass; how many have been."""

    steps: int
    rows: int
    brought: int


@_inline
def _pace(ahead, n_steps):
    """Return the pace that spreads the rows ahead over all steps."""
    n_rows = 1 if ahead is None else max(1, ahead.n_rows)
    rows = max(1, _LEAST_STEPS * n_rows // n_steps)
    return _Pace(max(1, rows * n_steps // n_rows), rows, 0)


@_inline
def _bring_next(ahead, pace):
    """Bring the next rows ahead, if there are any left."""
    if ahead is None:
        return pace
    end = min(pace.brought + pace.rows, ahead.n_rows)
    for i in range(pace.brought, end):
        bring(ahead.source, i)
    return _Pace(pace.steps, pace.rows, end)


# --- the matrix ---


@_inline
def add_gram(gathered, count, columns, matrix, fresh, source=None, sums=None, ahead=None):
    """Add the Gram matrix and moments of `count` rows to matrix, or overwrite a fresh one.

    The rows are first gathered from the source, unless it is None: then they are there already.
    Returned are the sums after the last of them. What is below the diagonal means nothing.
    """
    rows, pace = (gathered, count, columns), _pace(ahead, _n_passes(matrix, columns) * count)
    sums, pace = _add_square(rows, 0, matrix, fresh, source, sums, ahead, pace)
    for column in range(lanes(matrix), columns, lanes(matrix)):
        _, pace = _add_square(rows, column, matrix, fresh, None, None, ahead, pace)
    for column in range(0, columns, lanes(matrix)):
        pace = _add_right_of_square(rows, column, matrix, fresh, ahead, pace)
    return sums


@_inline
def _n_passes(matrix, columns):
    n = columns // lanes(matrix)
    passes = n
    for right in range(1, n):
        passes += 1 if right == 1 else lanes(matrix) // _tile_rows(matrix) * ((right + 2) // 3)
    return passes


@_inline
def _add_square(rows, column, matrix, fresh, source, sums, ahead, pace):
    """Add the square on the diagonal from a column on, and the moments of its columns."""
    gathered, count, columns = rows
    start, weights = gathered
    products = simd.zeros(matrix, 1, simd.n_distances(matrix))
    weighted, plain = simd.zeros(matrix, 1, 1), simd.zeros(matrix, 1, 1)
    for i in range(min(count, LEAD)):
        sums = gather(source, i, start + i * columns, weights + i, sums)
    for first in range(0, count, pace.steps):
        pace = _bring_next(ahead, pace)
        for i in range(first, min(first + pace.steps, count)):
            later = i + LEAD
            if source is not None and later < count:
                sums = gather(source, later, start + later * columns, weights + later, sums)
            x = simd.load(start + (i * columns + column))
            products = simd.add_products_of_lanes(products, x)
            weighted = simd.add_product(weighted, simd.broadcast_rows(weighted, weights + i), x)
            plain = simd.add(plain, x)  # not times 1: that would take a multiplier
    stride, square = stride_of(columns, lanes(matrix)), simd.square_of_products(products)
    _put(matrix + (column * stride + column), stride, square, fresh)
    _put(matrix + (columns * stride + column), stride, weighted, fresh)
    _put(matrix + ((columns + 1) * stride + column), stride, plain, fresh)
    return sums, pace


@_inline
def _add_right_of_square(rows, square, matrix, fresh, ahead, pace):
    """Add what is right of a square, in as few tiles as possible."""
    _, _, columns = rows
    width = lanes(matrix)
    if columns - square == 2 * width:
        tile = simd.zeros(matrix, lanes(matrix), 1)
        return _add_tile(tile, rows, square, square + width, matrix, fresh, ahead, pace)
    for row in range(square, square + width, _tile_rows(matrix)):
        column = square + width
        while column < columns:
            if (columns - column) // width % 3 == 0:
                tile = simd.zeros(matrix, _tile_rows(matrix), 3)
                pace = _add_tile(tile, rows, row, column, matrix, fresh, ahead, pace)
                column += 3 * width
            else:
                tile = simd.zeros(matrix, _tile_rows(matrix), 2)
                pace = _add_tile(tile, rows, row, column, matrix, fresh, ahead, pace)
                column += 2 * width
    return pace


@_inline
def _add_tile(tile, rows, row, column, matrix, fresh, ahead, pace):
    """Add the tile that starts at a row and a column; it is given as zeros."""
    gathered, count, columns = rows
    stride = stride_of(columns, lanes(matrix))
    for first in range(0, count, pace.steps):
        pace = _bring_next(ahead, pace)
        for i in range(first, min(first + pace.steps, count)):
            x = gathered.rows + i * columns
            left, right = simd.broadcast_rows(tile, x + row), simd.load_columns(tile, x + column)
            tile = simd.add_product(tile, left, right)
    _put(matrix + (row * stride + column), stride, tile, fresh)
    return pace


@_jit
def _put(place, stride, tile, fresh):
    if not fresh:
        tile = simd.add(simd.load_like(tile, place, stride), tile)
    simd.store_tile(place, stride, tile)
