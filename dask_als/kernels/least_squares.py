"""Solve every row of one side exactly, with the other side fixed: the work of a half-epoch.

A row with ratings r of N fixed rows, F (N x k) their factors and c their biases, gets

    y = r - mean - c
    b = (Σ y - (Σ F)·u_old) / (N + bias_ridge)
    u = (FᵀF + factor_ridge I)⁻¹ Fᵀ (y - b)

This is the primal form. With few ratings, N <= k/2, the dual form of the same solution is cheaper,
as it has an unknown for each rating instead of each factor:

    a = (FFᵀ + factor_ridge I)⁻¹ (y - b),    u = Fᵀ a,    y - b - F u = factor_ridge a

Either way there is a Gram matrix of gathered rows (`gram`) plus a ridge to factor (`cholesky`). Its
moments are Fᵀy and Σ F in the primal form, whose weights are y, and F u_old in the dual form,
which gathers the transpose of F and whose weights are u_old. Rows whose systems have the same size
wait in a queue until there is one for each lane of a register.

A number is computed by the same operations in the same order, whatever the other rows, the lane and
the width of registers. A row's result thus has the same bits in any block, on any thread.
"""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, njit, types
from numba.extending import register_jitable

from dask_als.core import jit
from dask_als.core.aligned import aligned_zeros
from dask_als.kernels import cholesky, gram, simd
from dask_als.kernels.gram import size_of, stride_of
from dask_als.kernels.simd import lanes, pointer

# The largest systems factored side by side; larger ones would not fit the cache together.
SIDE_BY_SIDE_RANK = 128

# The least rank at which the dual form pays.
DUAL_RANK = 24

# What gathered rows may take: many processors' first-level cache is no larger.
_GATHERED_BYTES = 32 * 1024

_jit = njit(nogil=True, error_model="numpy")


def solve_rows(
    indptr,
    indices,
    ratings,
    own_factors,
    fixed_bias,
    fixed_factors,
    *,
    mean,
    bias_ridge,
    factor_ridge,
):
    """Return the best bias and factors of every row of a block, given the fixed side.

    Parameters
    ----------
    indptr, indices, ratings : arrays of int64 (n + 1,), int32 (nnz,), float32 (nnz,)
        The block's ratings as CSR. Indices are rows of the fixed side; they are not checked.
    own_factors : array (n, rank)
        The rows' factors before, on which the biases depend. Their dtype, float32 or float64, is
        that of the fixed side, of the arithmetic and of the result.
    fixed_bias, fixed_factors : arrays (m,), (m, rank)
        The fixed side.
    mean : float
        The global mean.
    bias_ridge, factor_ridge : arrays of float64 (n,)
        The rows' regularization, divided by the residual precision.

    Returns
    -------
    bias, factors : arrays (n,), (n, rank)
        Zero for rows without ratings.
    squared_error : array of float64 (n,)
        The sum of squared differences between a row's ratings and their new predictions.

    Raises
    ------
    TypeError
        If an array has another dtype or is not C-contiguous.
    ValueError
        If the arrays' lengths do not fit together.

    Notes
    -----
    If `factor_ridge` is 0, a row's system may be singular. It is then solved with zeros for factors
    that add nothing to those before them.
    """
    dtype = own_factors.dtype
    n, rank = own_factors.shape
    bias, factors, squared_error = np.zeros(n, dtype), aligned_zeros((n, rank), dtype), np.zeros(n)
    block = indptr, indices, ratings, own_factors
    ridges = bias_ridge, factor_ridge
    got = [array.shape for array in (*block, fixed_bias, fixed_factors, *ridges)]
    nnz, m = (int(indptr[-1]),), (len(fixed_bias),)
    wanted = [(n + 1,), nnz, nnz, (n, rank), m, (*m, rank), (n,), (n,)]
    if got != wanted:
        raise ValueError(f"arrays have shapes {got}; for these rows and ratings pass {wanted}")
    results = bias, factors, squared_error
    plan, kernel = Plan.of(rank, dtype), _kernel(dtype)
    kernel(*block, fixed_bias, fixed_factors, mean, *ridges, *results, plan, plan.memory(dtype))
    return bias, factors, squared_error


def solve_rows_plain(
    indptr,
    indices,
    ratings,
    own_factors,
    fixed_bias,
    fixed_factors,
    *,
    mean,
    bias_ridge,
    factor_ridge,
):
    """Do what `solve_rows` does, row by row in NumPy and float64: slow, and easy to believe."""
    bias, factors = np.zeros(len(own_factors), own_factors.dtype), np.zeros_like(own_factors)
    squared_error = np.zeros(len(own_factors))
    for row in np.flatnonzero(np.diff(indptr)):
        rated = indices[indptr[row] : indptr[row + 1]]
        fixed = fixed_factors[rated].astype(np.float64)
        y = ratings[indptr[row] : indptr[row + 1]] - mean - fixed_bias[rated].astype(np.float64)
        predicted = fixed.sum(axis=0) @ own_factors[row]
        bias[row] = (y.sum() - predicted) / (len(y) + bias_ridge[row])
        target = y - bias[row]
        normal_matrix = fixed.T @ fixed + factor_ridge[row] * np.eye(fixed.shape[1])
        factors[row] = np.linalg.lstsq(normal_matrix, fixed.T @ target, rcond=None)[0]
        squared_error[row] = np.sum((target - fixed @ factors[row]) ** 2)
    return bias, factors, squared_error


# --- sizes and memory ---


class Plan(NamedTuple):
    """Sizes that follow from the rank and the dtype.

    Queue q holds dual systems of (q + 1) * width columns; the last queue holds the primal ones.
    """

    rank: int
    columns: int  # of a primal system: the rank rounded up to whole tiles
    chunk: int  # most rows gathered at a time in the primal form
    dual_limit: int  # most ratings of a row in the dual form
    width: int  # numbers in a row of a tile
    queues: int
    primal_lanes: int  # primal systems factored together

    @classmethod
    def of(cls, rank, dtype):
        """Return the sizes for a rank and a dtype."""
        width = cholesky.tile_width(dtype)
        dual_limit = min(rank // 2, SIDE_BY_SIDE_RANK) if rank >= DUAL_RANK else 0
        return cls(
            rank=rank,
            columns=_round_up(rank, width),
            chunk=max(16, min(128, _GATHERED_BYTES // np.dtype(dtype).itemsize // (rank + 16))),
            dual_limit=dual_limit,
            width=width,
            queues=_round_up(dual_limit, width) // width + 1,
            primal_lanes=simd.lanes_of(dtype) if rank <= SIDE_BY_SIDE_RANK else 1,
        )

    def primal_alone(self):
        """Return the plan that solves every row in the primal form."""
        return self._replace(dual_limit=0, queues=1)

    def memory(self, dtype):
        """Return what the kernel works in."""
        lane_count = simd.lanes_of(dtype)
        dual = [(queue + 1) * self.width for queue in range(self.queues - 1)]
        together = dual + [self.columns] * (self.primal_lanes > 1)
        together_max, dual_max = max(together, default=0), max(dual, default=0)

        matrices = lane_count * sum(size_of(columns, lane_count) for columns in dual)
        matrices += self.primal_lanes * size_of(self.columns, lane_count)
        rows = max(self.chunk, dual_max)
        return Memory(
            gathered=aligned_zeros((rows * self.columns,), dtype),
            weights=aligned_zeros((rows,), dtype),
            transposed=aligned_zeros((_round_up(self.rank, lane_count) * dual_max,), dtype),
            matrices=aligned_zeros((matrices,), dtype),
            panels=aligned_zeros((together_max**2 * lane_count,), dtype),
            interleaved=aligned_zeros((together_max * lane_count,), dtype),
            solutions=aligned_zeros((max(self.columns, together_max * lane_count),), dtype),
            scratch=aligned_zeros((16 * 17,), dtype),
        )


class Memory(NamedTuple):
    """What the kernel works in: arrays outside of it, pointers inside."""

    gathered: Any
    weights: Any
    transposed: Any
    matrices: Any
    panels: Any
    interleaved: Any
    solutions: Any
    scratch: Any


@register_jitable
def _round_up(number, multiple):
    return -(-number // multiple) * multiple


# --- compilation ---


@cache
def _kernel(dtype):
    """Return the kernel for a dtype, compiled or from numba's cache on disk.

    Its one signature takes read-only and unaligned arrays too, so it never compiles again. Its
    files in the cache bear the dtype, lest processes overwrite each other's.
    """
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"factors are {dtype}; convert them to float32 or float64")
    sources = digest_of_sources(simd, gram, cholesky)

    def solve(
        indptr,
        indices,
        ratings,
        own,
        fixed_bias,
        fixed_factors,
        mean,
        bias_ridge,
        factor_ridge,
        bias,
        factors,
        error,
        plan,
        memory,
    ):
        sources  # noqa: B018 - numba's cache compares closures, but not functions that are called
        block = _Block(
            pointer(indptr),
            pointer(indices),
            pointer(ratings),
            pointer(own),
            pointer(bias_ridge),
            pointer(factor_ridge),
            pointer(bias),
            pointer(factors),
            pointer(error),
            indptr[len(bias)],
        )
        fixed = _Fixed(pointer(fixed_bias), pointer(fixed_factors), mean)
        _solve_block(len(bias), block, fixed, plan, pointers(memory))

    return compiled(solve, f"solve_{dtype}", _signature(from_dtype(dtype)))


def compiled(function, name, signature):
    """Return a function compiled for its one signature, or taken from numba's cache on disk."""
    function.__qualname__ = name
    kernel = jit.compiled(function)
    kernel.compile(signature)
    kernel.disable_compile()
    return kernel


def digest_of_sources(*modules):
    """Return a digest of the sources of modules: what a kernel in numba's cache was made of."""
    return hashlib.sha256("".join(map(inspect.getsource, modules)).encode()).hexdigest()


def given(number, ndim=1):
    """Return numba's type of an array that is read."""
    return types.Array(number, ndim, "C", readonly=True, aligned=False)


def result(number, ndim=1):
    """Return numba's type of an array that is written."""
    return types.Array(number, ndim, "C")


def _signature(number):
    block = given(types.int64), given(types.int32), given(types.float32), given(number, 2)
    fixed = given(number), given(number, 2), types.float64
    ridges = given(types.float64), given(types.float64)
    results = result(number), result(number, 2), result(types.float64)
    return types.void(*block, *fixed, *ridges, *results, *workspace(number))


def workspace(number):
    """Return numba's types of a plan and of its memory."""
    plan = types.NamedUniTuple(types.int64, len(Plan._fields), Plan)
    return plan, types.NamedUniTuple(result(number), len(Memory._fields), Memory)


class _Block(NamedTuple):
    """Pointers to what belongs to the solved rows."""

    indptr: Any
    indices: Any
    ratings: Any
    own: Any
    bias_ridge: Any
    factor_ridge: Any
    bias: Any
    factors: Any
    error: Any
    n_ratings: int


class _Fixed(NamedTuple):
    """Pointers to the fixed side, and the global mean."""

    bias: Any
    factors: Any
    mean: float


@_jit
def pointers(memory):
    """Return pointers to the arrays."""
    return Memory(
        pointer(memory.gathered),
        pointer(memory.weights),
        pointer(memory.transposed),
        pointer(memory.matrices),
        pointer(memory.panels),
        pointer(memory.interleaved),
        pointer(memory.solutions),
        pointer(memory.scratch),
    )


# --- a block, row by row ---


@_jit
def _solve_block(n, block, fixed, plan, memory):
    """Form the system of every row; whenever a queue is full, solve the systems in it."""
    lane_count, primal = lanes(memory.matrices), plan.queues - 1
    columns = np.arange(1, plan.queues + 1) * plan.width
    capacity = np.full(plan.queues, lane_count)
    columns[primal], capacity[primal] = plan.columns, plan.primal_lanes
    sizes = size_of(columns, lane_count)
    starts = np.cumsum(capacity * sizes) - capacity * sizes
    waiting = np.zeros((plan.queues, lane_count), np.int64)
    filled = np.zeros(plan.queues, np.int64)

    for row in range(n):
        count = block.indptr[row + 1] - block.indptr[row]
        if count == 0:
            continue
        dual = count <= plan.dual_limit and block.factor_ridge[row] > 0
        queue = (count - 1) // plan.width if dual else primal
        matrix = memory.matrices + (starts[queue] + filled[queue] * sizes[queue])
        if queue == primal:
            _form_primal(block, row, fixed, plan, memory, matrix)
        else:
            _form_dual(block, row, fixed, plan, memory, matrix, columns[queue])
        waiting[queue, filled[queue]] = row
        filled[queue] += 1
        if filled[queue] == capacity[queue]:
            rows, matrices = waiting[queue, : filled[queue]], memory.matrices + starts[queue]
            _solve_queue(
                block, rows, fixed, plan, memory, matrices, columns[queue], queue == primal
            )
            filled[queue] = 0
    for queue in range(plan.queues):
        if filled[queue] > 0:
            rows, matrices = waiting[queue, : filled[queue]], memory.matrices + starts[queue]
            _solve_queue(
                block, rows, fixed, plan, memory, matrices, columns[queue], queue == primal
            )


@_jit
def _solve_queue(block, rows, fixed, plan, memory, matrices, columns, primal):
    """Solve systems of equal size and set the factors and squared errors of their rows."""
    if primal:
        solve_primal(block, rows, plan, memory, matrices)
    else:
        _solve_dual(block, rows, fixed, plan, memory, matrices, columns)


@_jit
def solve_primal(block, rows, plan, memory, matrices):
    """Solve systems in the primal form and set the factors and squared errors of their rows."""
    columns, lane_count = plan.columns, lanes(matrices)
    if plan.primal_lanes == 1:
        _solve_alone(block.factor_ridge[rows[0]], memory, matrices, columns)
    else:
        order = _round_up(plan.rank, cholesky.PANEL)
        _solve_side_by_side(block.factor_ridge, rows, memory, matrices, columns, order)
    for lane in range(len(rows)):
        start = lane * size_of(columns, lane_count) + columns * stride_of(columns, lane_count)
        solution = memory.solutions + lane * columns
        _finish_primal(block, rows[lane], plan.rank, solution, matrices + start)


@_jit
def _solve_dual(block, rows, fixed, plan, memory, matrices, columns):
    """Solve dual systems of equal size and set the factors and squared errors of their rows."""
    _solve_side_by_side(block.factor_ridge, rows, memory, matrices, columns, columns)
    for lane in range(len(rows)):
        solution = memory.solutions + lane * columns
        _finish_dual(block, rows[lane], fixed, plan.rank, solution)


@_jit
def _solve_side_by_side(factor_ridge, rows, memory, matrices, columns, order):
    lane_count = lanes(matrices)
    size = size_of(columns, lane_count)
    for i in range(len(rows) * size, lane_count * size):  # lanes without a row: a zero matrix
        matrices[i] = 0
    for lane in range(lane_count):
        memory.scratch[lane] = factor_ridge[rows[lane]] if lane < len(rows) else 1
    cholesky.interleave(matrices, columns, order, memory.panels, memory.interleaved)
    cholesky.factor_side_by_side(memory.panels, columns, order, simd.load(memory.scratch))
    cholesky.forward_side_by_side(memory.panels, columns, order, memory.interleaved)
    cholesky.backward_side_by_side(memory.panels, columns, order, memory.interleaved)
    cholesky.separate(memory.interleaved, columns, memory.solutions)


@_jit
def _solve_alone(factor_ridge, memory, matrix, columns):
    right_side = matrix + columns * stride_of(columns, lanes(matrix))
    for c in range(columns):
        memory.solutions[c] = right_side[c]
    memory.scratch[0] = factor_ridge
    cholesky.factor_alone(matrix, columns, memory.scratch[0], memory.scratch)
    cholesky.forward_alone(matrix, columns, memory.solutions)
    cholesky.backward_alone(matrix, columns, memory.solutions)


# --- rated rows ---


class _Rated(NamedTuple):
    """The fixed rows of consecutive ratings: pointers to them and to the ratings."""

    indices: Any
    ratings: Any
    fixed: Any
    rank: int


@_jit
def rated_rows(block, position, fixed, plan):
    """Return the rows of the ratings from a position on, as a source for `gram`.

    Their weight is y = rating - mean - fixed bias; their sums are Σ y and Σ y².
    """
    indices, ratings = block.indices + position, block.ratings + position
    return _Rated(indices, ratings, fixed, plan.rank)


@_jit
def gathered_rows(memory):
    """Return where `gram` gathers rows and their weights."""
    return gram.Gathered(memory.gathered, memory.weights)


@_jit
def ratings_ahead(block, position, size, plan):
    """Return the position and number of ratings ahead: what is worked on a whole chunk later.

    If their rows are brought while `size` ratings from a position on are worked on, then those of
    any chunk are there when it begins.
    """
    ahead = min(position + plan.chunk, block.n_ratings)
    return ahead, min(size, block.n_ratings - ahead)


@_jit
def rated_rows_ahead(block, position, size, fixed, plan):
    """Return the rows that are to be brought while `size` ratings are worked on."""
    ahead, count = ratings_ahead(block, position, size, plan)
    return gram.Ahead(rated_rows(block, ahead, fixed, plan), count)


@gram.gathers(_Rated)
def _gather_rated(source, i, place, weight, sums):
    index = np.int64(source.indices[i])
    gram.copy_row(source.fixed.factors + index * source.rank, source.rank, place)
    y = source.ratings[i] - source.fixed.mean - source.fixed.bias[index]
    weight[0] = y
    return sums[0] + y, sums[1] + y * y


@gram.brings(_Rated)
def _bring_rated(source, i):
    index = np.int64(source.indices[i])
    simd.prefetch(source.fixed.bias + index)
    gram.bring_row(source.fixed.factors + index * source.rank, source.rank)


# --- the primal form ---


@_jit
def _form_primal(block, row, fixed, plan, memory, matrix):
    """Set the row's bias, its error so far, Σ(y - b)², and its matrix FᵀF with Fᵀ(y - b) below."""
    gathered, columns, rank = gathered_rows(memory), plan.columns, plan.rank
    stride = stride_of(columns, lanes(matrix))
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    sums = 0.0, 0.0
    for first in range(0, count, plan.chunk):
        size = min(plan.chunk, count - first)
        source = rated_rows(block, start + first, fixed, plan)
        ahead = rated_rows_ahead(block, start + first, size, fixed, plan)
        sums = gram.add_gram(gathered, size, columns, matrix, first == 0, source, sums, ahead)
    total, total_square = sums
    target = matrix + columns * stride
    sum_factors = target + stride
    predicted = dot(sum_factors, block.own + row * rank, rank)
    block.bias[row] = (total - predicted) / (count + block.bias_ridge[row])
    bias = block.bias[row]
    for c in range(columns):
        target[c] -= bias * sum_factors[c]
    bias_64 = np.float64(bias)
    block.error[row] = total_square - 2 * bias_64 * total + count * bias_64 * bias_64


@_jit
def _finish_primal(block, row, rank, solution, target):
    """Set the row's factors and squared error.

    With target = Fᵀ(y - b), Σ(y - b - F u)² = Σ(y - b)² - u·target - factor_ridge |u|².
    """
    factors = block.factors + row * rank
    for c in range(rank):
        factors[c] = solution[c]
    explained = dot(factors, target, rank)
    penalty = block.factor_ridge[row] * dot(factors, factors, rank)
    block.error[row] = max(0.0, block.error[row] - explained - penalty)


# --- the dual form ---


@_jit
def _form_dual(block, row, fixed, plan, memory, matrix, columns):
    """Set the row's bias and its matrix FFᵀ with y - b below."""
    rows, y, rank = memory.gathered, memory.weights, plan.rank
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    source, sums = rated_rows(block, start, fixed, plan), (0.0, 0.0)
    for i in range(count):
        sums = gram.gather(source, i, rows + i * plan.columns, y + i, sums)
    total = sums[0]
    gram.transpose(rows, count, plan.columns, rank, memory.transposed, columns)
    transposed = gram.Gathered(memory.transposed, block.own + row * rank)
    ahead = rated_rows_ahead(block, start, count, fixed, plan)
    gram.add_gram(transposed, rank, columns, matrix, True, None, None, ahead)
    target = matrix + columns * stride_of(columns, lanes(matrix))
    predicted = 0.0
    for i in range(count):
        predicted += target[i]
    block.bias[row] = (total - predicted) / (count + block.bias_ridge[row])
    bias = block.bias[row]
    for i in range(count):
        target[i] = y[i] - bias


@_jit
def _finish_dual(block, row, fixed, rank, solution):
    """Set the row's factors and squared error."""
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    factors = block.factors + row * rank
    for i in range(count):
        rated = fixed.factors + np.int64(block.indices[start + i]) * rank
        for c in range(rank):
            factors[c] += solution[i] * rated[c]
    block.error[row] = block.factor_ridge[row] ** 2 * dot(solution, solution, count)


# --- sums ---


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
