"""Solve every row of one side exactly, with the other side fixed: the work of a half-epoch.

The equations
-------------
A row with ratings r of N fixed rows, F (N x k) their factors and c their biases, gets

    y = r - mean - c
    b = (Σ y - (Σ F)·u_old) / (N + bias_ridge)
    u = (FᵀF + factor_ridge I)⁻¹ Fᵀ (y - b)

A row with few ratings, N <= k/2, is cheaper in its dual form, with one unknown a rating instead of one a factor:

    a = (FFᵀ + factor_ridge I)⁻¹ (y - b),    u = Fᵀ a,    y - b - F u = factor_ridge a

Either form is a Gram matrix of gathered numbers plus a ridge, so both share everything between.

The machine
-----------
1. Gather. The fixed rows that a row rated are copied to a contiguous buffer, at most `chunk` of them at a time, with two
   more columns: y and 1 (or, in the dual form, which gathers the transpose, u_old).
2. Gram. A tile of the Gram matrix stays in registers while the buffer streams by; only tiles that touch the upper triangle
   are computed. The tiles on the diagonal take the two more columns along, which yields Fᵀy and Σ F (or F u_old).
   The tile of a chunk is added to the matrix only when the chunk is through, so float32 sums are short.
3. Cholesky. Rows with systems of the same size wait in a queue until there is one for each lane of a register; then
   they are interleaved, so that an array element becomes a register, and factored side by side. Larger systems than
   `SIDE_BY_SIDE_RANK` would not fit the cache that way; they are factored alone, with the tiles of step 2.

Every number is computed by the same operations in the same order whatever the other rows, the lane, and the width
of registers, which makes results reproducible bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, types

from dask_als import simd
from dask_als.simd import REGISTER_BYTES, lanes, pointer

SIDE_BY_SIDE_RANK = 160
"""Largest system factored with others side by side."""

PANEL = 4
"""Columns of the interleaved triangular factor that lie together, and rows and columns of its tiles."""

_GRAM_TILE = {64: ((16, 1), (8, 2)), 32: ((4, 2), (4, 2)), 16: ((4, 2), (4, 2))}[REGISTER_BYTES]
"""Rows and columns of registers in a tile of the Gram matrix, for float32 and float64: what the registers hold."""

_gram_rows = simd.constant_by_dtype(_GRAM_TILE[0][0], _GRAM_TILE[1][0])
_gram_columns = simd.constant_by_dtype(_GRAM_TILE[0][1], _GRAM_TILE[1][1])
_PANEL_STEP = PANEL if REGISTER_BYTES == 64 else PANEL // 2
_lane_groups = simd.constant_by_dtype(max(1, REGISTER_BYTES // 4 // PANEL), max(1, REGISTER_BYTES // 8 // PANEL))
_lane_group = simd.constant_by_dtype(min(PANEL, REGISTER_BYTES // 4), min(PANEL, REGISTER_BYTES // 8))

_jit = njit(nogil=True, error_model="numpy")
_jit_cached = njit(nogil=True, error_model="numpy", cache=True)


def solve_rows(
    indptr, indices, ratings, own_factors, fixed_bias, fixed_factors, *, mean, bias_ridge, factor_ridge
):
    """Return the best bias and factors of every row of a block, given the fixed side.

    Parameters
    ----------
    indptr, indices, ratings : arrays of int64 (n + 1,), int32 (nnz,), float32 (nnz,)
        The block's ratings as CSR; indices are rows of the fixed side and are not checked.
    own_factors : array (n, rank)
        The rows' factors before; with them the bias is computed. Their dtype, float32 or float64, is that of
        all arithmetic and of the results.
    fixed_bias, fixed_factors : arrays (m,), (m, rank)
        The fixed side.
    mean : float
        The global mean.
    bias_ridge, factor_ridge : arrays of float64 (n,)
        What is added to the normal equations of a row: the regularization over the residual precision.

    Returns
    -------
    bias, factors : arrays (n,), (n, rank)
        Zero for rows without ratings.
    squared_error : array of float64 (n,)
        Sum of squared differences between a row's ratings and what the new bias and factors predict.

    Notes
    -----
    With `factor_ridge` 0 a system may be singular. The squares of its pivots are kept above the rounding error of the
    largest diagonal element, so results are finite; directions without data get about no weight.

    Rows are independent: a row's results have the same bits whatever other rows are in the block.
    """
    dtype = own_factors.dtype
    n, rank = own_factors.shape
    bias, factors, squared_error = np.zeros(n, dtype), np.zeros((n, rank), dtype), np.zeros(n)
    plan = Plan.of(rank, dtype)
    _compiled(dtype)(
        indptr,
        indices,
        ratings,
        own_factors,
        fixed_bias,
        fixed_factors,
        mean,
        bias_ridge,
        factor_ridge,
        bias,
        factors,
        squared_error,
        plan,
        plan.workspace(dtype),
    )
    return bias, factors, squared_error


def solve_rows_plain(
    indptr, indices, ratings, own_factors, fixed_bias, fixed_factors, *, mean, bias_ridge, factor_ridge
):
    """Do what `solve_rows` does, a row at a time in NumPy and float64: slow and easy to believe."""
    n, rank = own_factors.shape
    bias = np.zeros(n, own_factors.dtype)
    factors = np.zeros_like(own_factors)
    squared_error = np.zeros(n)
    for row in np.flatnonzero(np.diff(indptr)):
        rated = indices[indptr[row] : indptr[row + 1]]
        fixed = fixed_factors[rated].astype(np.float64)
        y = ratings[indptr[row] : indptr[row + 1]] - mean - fixed_bias[rated].astype(np.float64)
        bias[row] = (y.sum() - fixed.sum(axis=0) @ own_factors[row]) / (len(y) + bias_ridge[row])
        target = y - bias[row]
        normal = fixed.T @ fixed + factor_ridge[row] * np.eye(rank)
        factors[row] = np.linalg.lstsq(normal, fixed.T @ target, rcond=None)[0]
        squared_error[row] = np.sum((target - fixed @ factors[row]) ** 2)
    return bias, factors, squared_error


# --- sizes and memory ---


class Plan(NamedTuple):
    """The sizes that follow from a rank and a dtype. Queue 0, 1, … hold dual systems of growing size, the last primal ones."""

    rank: int
    columns: int
    """Unknowns of a primal system, rounded up to whole tiles."""
    chunk: int
    """Most ratings gathered at a time for the primal form."""
    dual_limit: int
    """Most ratings of a row in dual form."""
    tile: int
    """Numbers in a row of a Gram tile; queue q holds dual systems of (q + 1) * tile unknowns."""
    queues: int
    primal_lanes: int
    """Primal systems that are factored side by side: one or a register's lanes."""

    @classmethod
    def of(cls, rank, dtype):
        """Plan for a rank and a dtype."""
        width = _width(dtype)
        tile = width * _GRAM_TILE[dtype == np.float64][1]
        dual_limit = min(rank // 2, SIDE_BY_SIDE_RANK)
        return cls(
            rank=rank,
            columns=_round_up(rank, tile),
            chunk=max(16, min(256, 16384 // (rank + 16))),
            dual_limit=dual_limit,
            tile=tile,
            queues=_round_up(dual_limit, tile) // tile + 1,
            primal_lanes=width if rank <= SIDE_BY_SIDE_RANK else 1,
        )

    def workspace(self, dtype):
        """Return memory for one run of the kernel."""
        width = _width(dtype)
        dual_columns = [(queue + 1) * self.tile for queue in range(self.queues - 1)]
        side_by_side = max(dual_columns + [self.columns] * (self.primal_lanes > 1), default=1)
        gathered = _aligned_zeros((max(dual_columns + [self.chunk]), self.columns + width), dtype)
        gathered[:, self.columns + 1] = 1
        return Workspace(
            gathered=gathered.reshape(-1),
            transposed=_aligned_zeros(_round_up(self.rank, width) * (max(dual_columns, default=0) + width), dtype),
            matrices=_aligned_zeros(
                width * sum(_matrix_size(columns, width) for columns in dual_columns)
                + self.primal_lanes * _matrix_size(self.columns, width),
                dtype,
            ),
            panels=_aligned_zeros(side_by_side**2 * width, dtype),
            interleaved=_aligned_zeros(side_by_side * width, dtype),
            unknowns=_aligned_zeros(max(self.columns, side_by_side * width), dtype),
            scratch=_aligned_zeros(256, dtype),
        )


class Workspace(NamedTuple):
    """Memory of one run of the kernel, all aligned to cache lines."""

    gathered: np.ndarray
    transposed: np.ndarray
    matrices: np.ndarray
    panels: np.ndarray
    interleaved: np.ndarray
    unknowns: np.ndarray
    scratch: np.ndarray


def _width(dtype):
    return REGISTER_BYTES // np.dtype(dtype).itemsize


def _round_up(number, multiple):
    return -(-number // multiple) * multiple


def _matrix_size(columns, width):
    """Return the numbers that a Gram matrix takes with its two rows of moments.

    One register more keeps equal elements of neighbouring matrices out of the same cache set.
    """
    return (columns + 2) * (columns + width) + width


def _aligned_zeros(shape, dtype):
    size = int(np.prod(shape))
    memory = np.zeros(size + 64, dtype)
    start = (-memory.ctypes.data % 64) // memory.itemsize
    return memory[start : start + size].reshape(shape)


# --- compilation ---


def _compiled(dtype):
    """Return the compiled kernel for a dtype; one signature each, so read-only arrays compile nothing new."""
    kernel, number = (_solve_float32, types.float32) if dtype == np.float32 else (_solve_float64, types.float64)
    if not kernel.nopython_signatures:

        def given(dtype, ndim):
            return types.Array(dtype, ndim, "C", readonly=True, aligned=False)

        result, result_2d = types.Array(number, 1, "C"), types.Array(number, 2, "C")
        ridge = given(types.float64, 1)
        kernel.compile(
            types.void(
                given(types.int64, 1),
                given(types.int32, 1),
                given(types.float32, 1),
                given(number, 2),
                given(number, 1),
                given(number, 2),
                types.float64,
                ridge,
                ridge,
                result,
                result_2d,
                types.Array(types.float64, 1, "C"),
                types.NamedUniTuple(types.intp, len(Plan._fields), Plan),
                types.NamedUniTuple(result, len(Workspace._fields), Workspace),
            )
        )
        kernel.disable_compile()
    return kernel


# Two functions, so that processes that compile for both dtypes at once write different cache files.


@_jit_cached
def _solve_float32(
    indptr, indices, ratings, own, fixed_bias, fixed, mean, bias_ridge, factor_ridge, bias, factors, error, plan, work
):
    block = _block(indptr, indices, ratings, own, bias_ridge, factor_ridge, bias, factors, error)
    _solve_block(len(bias), block, _Fixed(pointer(fixed_bias), pointer(fixed), mean), plan, _memory(work))


@_jit_cached
def _solve_float64(
    indptr, indices, ratings, own, fixed_bias, fixed, mean, bias_ridge, factor_ridge, bias, factors, error, plan, work
):
    block = _block(indptr, indices, ratings, own, bias_ridge, factor_ridge, bias, factors, error)
    _solve_block(len(bias), block, _Fixed(pointer(fixed_bias), pointer(fixed), mean), plan, _memory(work))


class _Block(NamedTuple):
    """Pointers to what belongs to the solved rows, given and wanted."""

    indptr: object
    indices: object
    ratings: object
    own: object
    bias_ridge: object
    factor_ridge: object
    bias: object
    factors: object
    error: object


class _Fixed(NamedTuple):
    """Pointers to the fixed side, and the global mean."""

    bias: object
    factors: object
    mean: float


@_jit
def _block(indptr, indices, ratings, own, bias_ridge, factor_ridge, bias, factors, error):
    return _Block(
        pointer(indptr),
        pointer(indices),
        pointer(ratings),
        pointer(own),
        pointer(bias_ridge),
        pointer(factor_ridge),
        pointer(bias),
        pointer(factors),
        pointer(error),
    )


@_jit
def _memory(work):
    return Workspace(
        pointer(work.gathered),
        pointer(work.transposed),
        pointer(work.matrices),
        pointer(work.panels),
        pointer(work.interleaved),
        pointer(work.unknowns),
        pointer(work.scratch),
    )


# --- a block, row by row ---


@_jit
def _solve_block(n, block, fixed, plan, memory):
    """Form the system of every row; whenever a queue is full, solve the systems that wait there."""
    primal = plan.queues - 1
    columns = np.arange(1, plan.queues + 1) * plan.tile
    capacity = np.full(plan.queues, lanes(memory.matrices))
    columns[primal], capacity[primal] = plan.columns, plan.primal_lanes
    starts = np.zeros(plan.queues, np.int64)
    for queue in range(primal):
        starts[queue + 1] = starts[queue] + capacity[queue] * _matrix_numbers(memory.matrices, columns[queue])
    waiting = np.zeros((plan.queues, lanes(memory.matrices)), np.int64)
    filled = np.zeros(plan.queues, np.int64)

    for row in range(n):
        count = block.indptr[row + 1] - block.indptr[row]
        if count == 0:
            continue
        queue = (count - 1) // plan.tile if count <= plan.dual_limit else primal
        place = starts[queue] + filled[queue] * _matrix_numbers(memory.matrices, columns[queue])
        if queue == primal:
            _form_primal(block, row, fixed, plan, memory, memory.matrices + place)
        else:
            _form_dual(block, row, fixed, plan, memory, memory.matrices + place, columns[queue])
        waiting[queue, filled[queue]] = row
        filled[queue] += 1
        if filled[queue] == capacity[queue]:
            _solve_waiting(block, waiting[queue], filled[queue], fixed, plan, memory, starts[queue], columns[queue], queue == primal)
            filled[queue] = 0
    for queue in range(plan.queues):
        if filled[queue] > 0:
            _solve_waiting(block, waiting[queue], filled[queue], fixed, plan, memory, starts[queue], columns[queue], queue == primal)


@_jit
def _matrix_numbers(like, columns):
    return (columns + 2) * (columns + lanes(like)) + lanes(like)


@_jit
def _solve_waiting(block, rows, count, fixed, plan, memory, start, columns, primal):
    """Solve `count` rows' systems of equal size and set the rows' factors and squared errors."""
    matrices = memory.matrices + start
    width = lanes(matrices)
    if primal and plan.primal_lanes == 1:
        _factor_alone(matrices, columns, block.factor_ridge[rows[0]], memory.scratch)
        _solve_alone(matrices, columns, memory.unknowns)
    else:
        size = _matrix_numbers(matrices, columns)
        for i in range(count * size, width * size):
            matrices[i] = 0
        for lane in range(width):
            memory.scratch[lane] = block.factor_ridge[rows[lane]] if lane < count else 1
        order = -(-plan.rank // PANEL) * PANEL if primal else columns
        _interleave(matrices, columns, order, memory.panels, memory.interleaved)
        _factor_side_by_side(memory.panels, columns, order, simd.load(memory.scratch))
        _solve_side_by_side(memory.panels, columns, order, memory.interleaved)
        _separate(memory.interleaved, columns, memory.unknowns)
    for lane in range(count):
        unknowns = memory.unknowns + lane * columns
        if primal:
            target = matrices + (lane * _matrix_numbers(matrices, columns) + columns * (columns + width))
            _finish_primal(block, rows[lane], plan.rank, unknowns, target)
        else:
            _finish_dual(block, rows[lane], fixed, plan.rank, unknowns)


# --- the two forms of a row's system ---


@_jit
def _form_primal(block, row, fixed, plan, memory, matrix):
    """Set the row's bias and fill matrix with FᵀF and, in the row below it, Fᵀ(y - b); keep Σ(y - b)² as its error."""
    gathered, columns, rank = memory.gathered, plan.columns, plan.rank
    stride = columns + lanes(gathered)
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    total = 0.0
    total_square = 0.0
    for first in range(0, count, plan.chunk):
        size = min(plan.chunk, count - first)
        indices = block.indices + (start + first)
        _gather(indices, size, fixed.factors, rank, gathered, stride)
        y = gathered + columns
        sums = _residuals(indices, block.ratings + (start + first), size, fixed, y, stride)
        total += sums[0]
        total_square += sums[1]
        _gram(gathered, size, columns, matrix, first == 0)
    target = matrix + columns * stride
    sum_factors = target + stride
    predicted = _dot(sum_factors, block.own + row * rank, rank)
    block.bias[row] = (total - predicted) / (count + block.bias_ridge[row])
    bias = block.bias[row]
    for c in range(columns):
        target[c] -= bias * sum_factors[c]
    block.error[row] = total_square - 2 * np.float64(bias) * total + count * np.float64(bias) ** 2


@_jit
def _finish_primal(block, row, rank, unknowns, target):
    """Set the row's factors, and its squared error from Σ(y - b - F u)² = Σ(y - b)² - u·Fᵀ(y - b) - factor_ridge |u|²."""
    factors = block.factors + row * rank
    for c in range(rank):
        factors[c] = unknowns[c]
    explained = _dot(factors, target, rank) + block.factor_ridge[row] * _dot(factors, factors, rank)
    block.error[row] = max(0.0, block.error[row] - explained)


@_jit
def _form_dual(block, row, fixed, plan, memory, matrix, columns):
    """Set the row's bias and fill matrix with FFᵀ and, in the row below it, y - b."""
    gathered, transposed, rank, width = memory.gathered, memory.transposed, plan.rank, lanes(memory.gathered)
    stride = plan.columns + width
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    _gather(block.indices + start, count, fixed.factors, rank, gathered, stride)
    y = gathered + plan.columns
    total, _ = _residuals(block.indices + start, block.ratings + start, count, fixed, y, stride)
    _transpose(gathered, count, stride, rank, transposed, columns)
    own = block.own + row * rank
    for c in range(rank):
        transposed[c * (columns + width) + columns] = own[c]
    _gram(transposed, rank, columns, matrix, True)
    target = matrix + columns * (columns + width)
    predicted = 0.0
    for i in range(count):
        predicted += target[i]
    block.bias[row] = (total - predicted) / (count + block.bias_ridge[row])
    bias = block.bias[row]
    for i in range(columns):
        target[i] = y[i * stride] - bias if i < count else 0


@_jit
def _finish_dual(block, row, fixed, rank, unknowns):
    """Set the row's factors Fᵀa, and its squared error from y - b - F u = factor_ridge a."""
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    factors = block.factors + row * rank
    for i in range(count):
        rated = fixed.factors + np.int64(block.indices[start + i]) * rank
        for c in range(rank):
            factors[c] += unknowns[i] * rated[c]
    block.error[row] = block.factor_ridge[row] ** 2 * _dot(unknowns, unknowns, count)


@_jit
def _residuals(indices, ratings, count, fixed, y, stride):
    """Set y = ratings - mean - fixed bias, `stride` numbers apart; return Σ y and Σ y²."""
    total = 0.0
    total_square = 0.0
    for i in range(count):
        residual = ratings[i] - fixed.mean - fixed.bias[indices[i]]
        y[i * stride] = residual
        total += residual
        total_square += residual * residual
    return total, total_square


@_jit
def _dot(a, b, count):
    """Return a·b, summed in float64 in four parts."""
    s0 = s1 = s2 = s3 = 0.0
    whole = count // 4 * 4
    for i in range(0, whole, 4):
        s0 += np.float64(a[i]) * np.float64(b[i])
        s1 += np.float64(a[i + 1]) * np.float64(b[i + 1])
        s2 += np.float64(a[i + 2]) * np.float64(b[i + 2])
        s3 += np.float64(a[i + 3]) * np.float64(b[i + 3])
    for i in range(whole, count):
        s0 += np.float64(a[i]) * np.float64(b[i])
    return (s0 + s1) + (s2 + s3)


# --- gather and Gram ---


@_jit
def _gather(indices, count, factors, rank, gathered, stride):
    """Copy the indexed rows of factors, zeros behind them up to a whole register."""
    width = lanes(factors)
    whole = rank // width * width
    for i in range(count):
        source = factors + np.int64(indices[i]) * rank
        target = gathered + i * stride
        for c in range(0, whole, width):
            simd.store(target + c, simd.load(source + c))
        if whole < rank:
            simd.store(target + whole, simd.load_first(source + whole, rank - whole))


@_jit
def _transpose(gathered, count, stride, rank, transposed, columns):
    """Transpose gathered rows, zeros in the place of rows from count to columns."""
    width = lanes(gathered)
    for c in range(0, rank, width):
        for i in range(count, columns):
            simd.store(gathered + (i * stride + c), simd.zeros(gathered, 1, 1))
        for i in range(0, columns, width):
            tile = simd.load_tile(gathered + (i * stride + c), stride, width, 1)
            target = transposed + (c * (columns + width) + i)
            simd.store_tile(target, columns + width, simd.transpose(tile, width, 1))


@_jit
def _gram(gathered, count, columns, matrix, fresh):
    """Add XᵀX of count gathered rows X to matrix, and in two rows below it the two more columns' products with X.

    `fresh` overwrites matrix instead. Below the diagonal only what shares a tile with it is right.
    """
    tile_rows, tile_columns = _gram_rows(gathered), _gram_columns(gathered)
    tile_width = tile_columns * lanes(gathered)
    stride = columns + lanes(gathered)
    for column in range(0, columns, tile_width):
        diagonal = column + tile_width - tile_rows
        for row in range(0, diagonal, tile_rows):
            tile = simd.zeros(gathered, tile_rows, tile_columns)
            for x in range(0, count * stride, stride):
                left = simd.broadcast_tile(gathered + (x + row), 1, tile_rows, 1)
                right = simd.load_tile(gathered + (x + column), 0, 1, tile_columns)
                tile = simd.add_product(tile, left, right)
            _put(matrix + (row * stride + column), stride, tile, fresh)
        tile = simd.zeros(gathered, tile_rows, tile_columns)
        moments = simd.zeros(gathered, 2, tile_columns)
        for x in range(0, count * stride, stride):
            right = simd.load_tile(gathered + (x + column), 0, 1, tile_columns)
            tile = simd.add_product(tile, simd.broadcast_tile(gathered + (x + diagonal), 1, tile_rows, 1), right)
            moments = simd.add_product(moments, simd.broadcast_tile(gathered + (x + columns), 1, 2, 1), right)
        _put(matrix + (diagonal * stride + column), stride, tile, fresh)
        _put(matrix + (columns * stride + column), stride, moments, fresh)


@_jit
def _put(matrix, stride, tile, fresh):
    if not fresh:
        tile = simd.add(simd.load_like(tile, matrix, stride), tile)
    simd.store_tile(matrix, stride, tile)


# --- systems side by side: every register holds one element of as many systems as it has lanes ---
#
# The factor U, with UᵀU the matrix, is stored in panels of PANEL columns; in a panel, row follows row.


@_jit
def _interleave(matrices, columns, order, panels, x):
    """Set panels and x to the matrices' upper triangles and right-hand sides."""
    width = lanes(matrices)
    stride, size, span = columns + width, _matrix_numbers(matrices, columns), columns * PANEL * width
    for row in range(order):
        for column in range(row // width * width, columns, width):
            tile = simd.load_tile(matrices + (row * stride + column), size, width, 1)
            place = column // PANEL * span + (row * PANEL + column % PANEL) * width
            simd.store_tile(
                panels + place, span, simd.transpose(tile, _lane_groups(matrices), _lane_group(matrices))
            )
    for column in range(0, columns, width):
        tile = simd.load_tile(matrices + (columns * stride + column), size, width, 1)
        simd.store_tile(x + column * width, width, simd.transpose(tile, width, 1))


@_jit
def _separate(x, columns, unknowns):
    """Set unknowns to the solutions that were interleaved in x, one after the other."""
    width = lanes(x)
    for column in range(0, columns, width):
        tile = simd.load_tile(x + column * width, width, width, 1)
        simd.store_tile(unknowns + column, columns, simd.transpose(tile, width, 1))


@_jit
def _factor_side_by_side(panels, columns, order, ridge):
    """Overwrite the matrices in panels, plus ridge on their diagonals, with their Cholesky factors U."""
    width = lanes(panels)
    row_step, span = PANEL * width, columns * PANEL * width
    floor = _add_ridge(panels, order, span, ridge)
    for right in range(0, order // PANEL):
        right_panel = panels + right * span
        for left in range(right):
            left_panel = panels + left * span
            factor = simd.load_tile(left_panel + left * PANEL * row_step, row_step, PANEL, PANEL)
            for part in range(0, row_step, _PANEL_STEP * width):
                place = right_panel + (left * PANEL * row_step + part)
                tile = simd.load_tile(place, row_step, PANEL, _PANEL_STEP)
                for p in range(0, left * PANEL * row_step, row_step):
                    column = simd.load_tile(left_panel + p, width, PANEL, 1)
                    row = simd.load_tile(right_panel + (p + part), 0, 1, _PANEL_STEP)
                    tile = simd.subtract_product(tile, column, row)
                simd.store_tile(place, row_step, simd.solve_transposed(factor, tile))
        place = right_panel + right * PANEL * row_step
        tile = simd.load_tile(place, row_step, PANEL, PANEL)
        for p in range(0, right * PANEL * row_step, row_step):
            column = simd.load_tile(right_panel + p, width, PANEL, 1)
            row = simd.load_tile(right_panel + p, 0, 1, PANEL)
            tile = simd.subtract_product(tile, column, row)
        simd.store_tile(place, row_step, simd.cholesky(tile, floor))


@_jit
def _add_ridge(panels, order, span, ridge):
    """Add ridge to the diagonals; return the least squares of pivots that are more than rounding errors."""
    largest = simd.repeat(simd.smallest(panels))
    for i in range(order):
        place = panels + (i // PANEL * span + (i * PANEL + i % PANEL) * lanes(panels))
        diagonal = simd.add(simd.load(place), ridge)
        simd.store(place, diagonal)
        largest = simd.maximum(largest, diagonal)
    return simd.multiply(largest, simd.repeat(simd.epsilon(panels)))


@_jit
def _solve_side_by_side(panels, columns, order, x):
    """Overwrite the right-hand sides x with the solutions of UᵀU x."""
    width = lanes(panels)
    row_step, span = PANEL * width, columns * PANEL * width
    for right in range(order // PANEL):
        panel = panels + right * span
        part = x + right * row_step
        tile = simd.load_tile(part, width, PANEL, 1)
        for p in range(right * PANEL):
            column = simd.load_tile(panel + p * row_step, width, PANEL, 1)
            tile = simd.subtract_product(tile, column, simd.load(x + p * width))
        factor = simd.load_tile(panel + right * PANEL * row_step, row_step, PANEL, PANEL)
        simd.store_tile(part, width, simd.solve_transposed(factor, tile))
    for right in range(order // PANEL - 1, -1, -1):
        panel = panels + right * span
        part = x + right * row_step
        factor = simd.load_tile(panel + right * PANEL * row_step, row_step, PANEL, PANEL)
        solved = simd.solve(factor, simd.load_tile(part, width, PANEL, 1))
        simd.store_tile(part, width, solved)
        for p in range(right * PANEL):
            row = simd.load_tile(panel + p * row_step, 0, 1, PANEL)
            rest = simd.load(x + p * width)
            simd.store(x + p * width, simd.subtract_product_reversed(rest, row, solved))


# --- one large system ---


@_jit
def _factor_alone(u, columns, ridge, block):
    """Overwrite the upper triangle of a matrix, plus ridge on its diagonal, with its Cholesky factor U."""
    tile_rows, tile_columns = _gram_rows(u), _gram_columns(u)
    tile_width = tile_columns * lanes(u)
    stride = columns + lanes(u)
    largest = simd.smallest(u)
    for i in range(columns):
        u[i * stride + i] += ridge
        largest = max(largest, u[i * stride + i])
    for row in range(0, columns, tile_rows):
        for column in range(row // tile_width * tile_width, columns, tile_width):
            place = u + (row * stride + column)
            tile = simd.load_tile(place, stride, tile_rows, tile_columns)
            for p in range(0, row * stride, stride):
                left = simd.broadcast_tile(u + (p + row), 1, tile_rows, 1)
                tile = simd.subtract_product(tile, left, simd.load_tile(u + (p + column), 0, 1, tile_columns))
            if column <= row:
                simd.store_tile(place, stride, tile)
                _factor_diagonal_block(u + row * (stride + 1), stride, largest * simd.epsilon(u), block)
            factor = simd.broadcast_tile(block, tile_rows, tile_rows, tile_rows)
            simd.store_tile(place, stride, simd.solve_transposed(factor, tile))
        for i in range(tile_rows):
            u[(row + i) * (stride + 1)] = block[i * (tile_rows + 1)]


@_jit
def _factor_diagonal_block(u, stride, floor, block):
    """Set block to the Cholesky factor of a tile's worth of u, with the reciprocals of its diagonal."""
    size = _gram_rows(u)
    for i in range(size):
        for j in range(i, size):
            block[i * size + j] = u[i * stride + j]
    for p in range(size):
        pivot = simd.reciprocal_sqrt(max(block[p * size + p], floor))
        block[p * size + p] = pivot
        for j in range(p + 1, size):
            block[p * size + j] *= pivot
        for i in range(p + 1, size):
            factor = block[p * size + i]
            for j in range(i, size):
                block[i * size + j] = simd.multiply_subtract(factor, block[p * size + j], block[i * size + j])


@_jit
def _solve_alone(u, columns, x):
    """Set x to the solution for the right-hand side in the row below the factor U."""
    width = lanes(u)
    stride = columns + width
    for c in range(columns):
        x[c] = u[columns * stride + c]
    for block in range(0, columns, width):
        for p in range(block, block + width):
            x[p] *= u[p * (stride + 1)]
            for j in range(p + 1, block + width):
                x[j] = simd.multiply_subtract(u[p * stride + j], x[p], x[j])
        solved = simd.broadcast_tile(x + block, 1, 1, width)
        for column in range(block + width, columns, width):
            rows = simd.load_tile(u + (block * stride + column), stride, width, 1)
            simd.store(x + column, simd.subtract_product(simd.load(x + column), solved, rows))
    for block in range(columns - width, -1, -width):
        for p in range(block + width - 1, block - 1, -1):
            x[p] *= u[p * (stride + 1)]
            for i in range(block, p):
                x[i] = simd.multiply_subtract(u[i * stride + p], x[p], x[i])
        solved = simd.broadcast_tile(x + block, 1, width, 1)
        for row in range(0, block, width):
            rows = simd.load_tile(u + (row * stride + block), stride, width, 1)
            transposed = simd.transpose(rows, 1, width)
            simd.store(x + row, simd.subtract_product_reversed(simd.load(x + row), transposed, solved))
