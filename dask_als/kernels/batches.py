"""The loop over a block's rows: form systems, and solve them in batches of equal size."""

from __future__ import annotations

import numpy as np
from numba import njit
from numba.extending import overload

from dask_als.kernels import cholesky, simd
from dask_als.kernels.gram import size_of, stride_of
from dask_als.kernels.ratings import dot
from dask_als.kernels.simd import lanes
from dask_als.kernels.workspace import round_up

_jit = njit(nogil=True, error_model="numpy")


def queue_of(problem, row, sizes):
    """Return the queue of a row's system. For numba code only; see `register_steps`."""
    raise NotImplementedError


def form(problem, row, sizes, buffers, matrix, columns, primal):
    """Set the matrix of a row's system. For numba code only; see `register_steps`."""
    raise NotImplementedError


def solve(problem, rows, sizes, buffers, matrices, columns, primal):
    """Solve a batch of systems of equal size. For numba code only; see `register_steps`."""
    raise NotImplementedError


def register_steps(kind, *, queue_with, form_with, solve_with):
    """Implement `queue_of`, `form` and `solve` for a class of problems.

    Functions that are passed as arguments would keep numba from caching a kernel on disk.

    Parameters
    ----------
    kind : type
        A named tuple of pointers with a field `block`.
    queue_with, form_with, solve_with : compiled functions
        They take the arguments of `queue_of`, `form` and `solve`.
    """

    @overload(queue_of)
    def _queue_of_kind(problem, row, sizes):
        if getattr(problem, "instance_class", None) is kind:
            return lambda problem, row, sizes: queue_with(problem, row, sizes)
        return None

    @overload(form)
    def _form_kind(problem, row, sizes, buffers, matrix, columns, primal):
        if getattr(problem, "instance_class", None) is kind:
            return lambda problem, row, sizes, buffers, matrix, columns, primal: form_with(
                problem, row, sizes, buffers, matrix, columns, primal
            )
        return None

    @overload(solve)
    def _solve_kind(problem, rows, sizes, buffers, matrices, columns, primal):
        if getattr(problem, "instance_class", None) is kind:
            return lambda problem, rows, sizes, buffers, matrices, columns, primal: solve_with(
                problem, rows, sizes, buffers, matrices, columns, primal
            )
        return None


@_jit
def solve_in_batches(n, problem, sizes, buffers):
    """Form the system of every row that has ratings; solve a queue's systems when it is full.

    Parameters
    ----------
    n : int
        Rows of the block.
    problem : named tuple
        Its class has steps, see `register_steps`.
    sizes, buffers : Sizes, Buffers
    """
    indptr = problem.block.indptr
    lane_count, last = lanes(buffers.matrices), sizes.queues - 1
    columns = np.arange(1, sizes.queues + 1) * sizes.width
    capacity = np.full(sizes.queues, lane_count)
    columns[last], capacity[last] = sizes.columns, sizes.primal_lanes
    lengths = size_of(columns, lane_count)
    starts = np.cumsum(capacity * lengths) - capacity * lengths
    waiting = np.zeros((sizes.queues, lane_count), np.int64)
    filled = np.zeros(sizes.queues, np.int64)

    for row in range(n):
        if indptr[row + 1] == indptr[row]:
            continue
        queue = queue_of(problem, row, sizes)
        matrix = buffers.matrices + (starts[queue] + filled[queue] * lengths[queue])
        form(problem, row, sizes, buffers, matrix, columns[queue], queue == last)
        waiting[queue, filled[queue]] = row
        filled[queue] += 1
        if filled[queue] == capacity[queue]:
            rows, matrices = waiting[queue, : filled[queue]], buffers.matrices + starts[queue]
            solve(problem, rows, sizes, buffers, matrices, columns[queue], queue == last)
            filled[queue] = 0
    for queue in range(sizes.queues):
        if filled[queue] > 0:
            rows, matrices = waiting[queue, : filled[queue]], buffers.matrices + starts[queue]
            solve(problem, rows, sizes, buffers, matrices, columns[queue], queue == last)


@_jit
def only_queue(problem, row, sizes):
    """Return the queue of a kernel that solves every row in the primal form."""
    return 0


@_jit
def solve_primal(block, rows, sizes, buffers, matrices):
    """Solve systems in the primal form and set the factors and squared errors of their rows."""
    columns, lane_count = sizes.columns, lanes(matrices)
    if sizes.primal_lanes == 1:
        _solve_single(block.factor_ridge[rows[0]], buffers, matrices, columns)
    else:
        order = round_up(sizes.rank, cholesky.PANEL)
        solve_batch(block.factor_ridge, rows, buffers, matrices, columns, order)
    for lane in range(len(rows)):
        start = lane * size_of(columns, lane_count) + columns * stride_of(columns, lane_count)
        solution = buffers.solutions + lane * columns
        finish_primal(block, rows[lane], sizes.rank, solution, matrices + start)


@_jit
def solve_batch(factor_ridge, rows, buffers, matrices, columns, order):
    """Solve ridge systems of equal size together; write the solutions one after the other."""
    lane_count = lanes(matrices)
    clear_unused(len(rows), matrices, columns)
    for lane in range(lane_count):
        buffers.scratch[lane] = factor_ridge[rows[lane]] if lane < len(rows) else 1
    cholesky.pack(matrices, columns, order, buffers.panels, buffers.packed)
    cholesky.factor_batch(buffers.panels, columns, order, simd.load(buffers.scratch))
    cholesky.forward_batch(buffers.panels, columns, order, buffers.packed)
    cholesky.backward_batch(buffers.panels, columns, order, buffers.packed)
    cholesky.unpack(buffers.packed, columns, buffers.solutions)


@_jit
def clear_unused(n_rows, matrices, columns):
    """Set the matrices of a batch's lanes without a row to zero."""
    size = size_of(columns, lanes(matrices))
    for i in range(n_rows * size, lanes(matrices) * size):
        matrices[i] = 0


@_jit
def _solve_single(factor_ridge, buffers, matrix, columns):
    right_side = matrix + columns * stride_of(columns, lanes(matrix))
    for c in range(columns):
        buffers.solutions[c] = right_side[c]
    buffers.scratch[0] = factor_ridge
    cholesky.factor_single(matrix, columns, buffers.scratch[0], buffers.scratch)
    cholesky.forward_single(matrix, columns, buffers.solutions)
    cholesky.backward_single(matrix, columns, buffers.solutions)


@_jit
def finish_primal(block, row, rank, solution, target):
    """Set the row's factors and squared error.

    With target = Fᵀ(y - b), Σ(y - b - F u)² = Σ(y - b)² - u·target - factor_ridge |u|².
    """
    factors = block.factors + row * rank
    for c in range(rank):
        factors[c] = solution[c]
    explained = dot(factors, target, rank)
    penalty = block.factor_ridge[row] * dot(factors, factors, rank)
    block.error[row] = max(0.0, block.error[row] - explained - penalty)
