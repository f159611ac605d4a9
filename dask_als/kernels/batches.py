"""The loop over a block's rows: form systems, and solve them in batches of equal size."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.extending import overload

from dask_als.kernels import cholesky, parts, simd
from dask_als.kernels.gram import size_of, stride_of
from dask_als.kernels.ratings import dot
from dask_als.kernels.simd import lanes
from dask_als.kernels.workspace import (
    CAPACITY,
    COLUMNS,
    FILLED,
    LENGTH,
    START,
    WAITING,
    round_up,
)

_jit = parts.part


class Batch(NamedTuple):
    """Pointers to the rows and to the matrices of systems of equal size, to be solved together."""

    rows: Any
    n_rows: int
    matrices: Any
    columns: int  # of each matrix


def queue_of(problem, row, sizes):
    """Return the queue of a row's system. For numba code only; see `register_steps`."""
    raise NotImplementedError


def form(problem, row, sizes, buffers, matrix, columns, primal):
    """Set the matrix of a row's system. For numba code only; see `register_steps`."""
    raise NotImplementedError


def solve(problem, batch, sizes, buffers, primal):
    """Solve a batch of systems. For numba code only; see `register_steps`."""
    raise NotImplementedError


def register_steps(kind, *, queue_with, form_with, solve_with):
    """Implement `queue_of`, `form` and `solve` for a class of problems.

    Functions that are passed as arguments would keep numba from caching a kernel on disk.

    Parameters
    ----------
    kind : type
        A named tuple of pointers with a field `block`.
    queue_with, form_with, solve_with : functions
        They take the arguments of `queue_of`, `form` and `solve`.
    """

    @overload(queue_of, jit_options=parts.OPTIONS)
    def _queue_of_kind(problem, row, sizes):
        return queue_with if getattr(problem, "instance_class", None) is kind else None

    @overload(form, jit_options=parts.OPTIONS)
    def _form_kind(problem, row, sizes, buffers, matrix, columns, primal):
        return form_with if getattr(problem, "instance_class", None) is kind else None

    @overload(solve, jit_options=parts.OPTIONS)
    def _solve_kind(problem, batch, sizes, buffers, primal):
        return solve_with if getattr(problem, "instance_class", None) is kind else None


@_jit
def solve_in_batches(n, problem, sizes, buffers, queues):
    """Form the system of every row that has ratings; solve a queue's systems when it is full.

    Parameters
    ----------
    n : int
        Rows of the block.
    problem : named tuple
        Its class has steps, see `register_steps`.
    sizes, buffers : Sizes, Buffers
    queues : pointer
        See `workspace.empty_queues`.
    """
    indptr, step = problem.block.indptr, WAITING + lanes(buffers.matrices)
    for row in range(n):
        if indptr[row + 1] == indptr[row]:
            continue
        number = queue_of(problem, row, sizes)
        queue = queues + number * step
        matrix = buffers.matrices + (queue[START] + queue[FILLED] * queue[LENGTH])
        form(problem, row, sizes, buffers, matrix, queue[COLUMNS], number == sizes.queues - 1)
        queue[WAITING + queue[FILLED]] = row
        queue[FILLED] += 1
        if queue[FILLED] == queue[CAPACITY]:
            _solve_waiting(problem, queue, sizes, buffers, number == sizes.queues - 1)
    for number in range(sizes.queues):
        queue = queues + number * step
        if queue[FILLED] > 0:
            _solve_waiting(problem, queue, sizes, buffers, number == sizes.queues - 1)


@_jit
def _solve_waiting(problem, queue, sizes, buffers, primal):
    """Solve the systems of a queue, which is empty then."""
    matrices = buffers.matrices + queue[START]
    batch = Batch(queue + WAITING, queue[FILLED], matrices, queue[COLUMNS])
    solve(problem, batch, sizes, buffers, primal)
    queue[FILLED] = 0


def only_queue(problem, row, sizes):
    """Return the queue of a kernel that solves every row in the primal form."""
    return 0


@_jit
def solve_primal(block, batch, sizes, buffers):
    """Solve systems in the primal form and set the factors and squared errors of their rows."""
    columns, width = batch.columns, lanes(batch.matrices)
    if sizes.primal_lanes == 1:
        _solve_single(block.factor_ridge[batch.rows[0]], buffers, batch.matrices, columns)
    else:
        solve_batch(block.factor_ridge, batch, buffers, round_up(sizes.rank, cholesky.PANEL))
    for lane in range(batch.n_rows):
        start = lane * size_of(columns, width) + columns * stride_of(columns, width)
        solution = buffers.solutions + lane * columns
        finish_primal(block, batch.rows[lane], sizes.rank, solution, batch.matrices + start)


@_jit
def solve_batch(factor_ridge, batch, buffers, order):
    """Solve ridge systems of some order together; write the solutions one after the other."""
    columns = batch.columns
    clear_unused(batch)
    for lane in range(lanes(batch.matrices)):
        buffers.scratch[lane] = factor_ridge[batch.rows[lane]] if lane < batch.n_rows else 1
    cholesky.pack(batch.matrices, columns, order, buffers.panels, buffers.packed)
    cholesky.factor_batch(buffers.panels, columns, order, simd.load(buffers.scratch))
    cholesky.forward_batch(buffers.panels, columns, order, buffers.packed)
    cholesky.backward_batch(buffers.panels, columns, order, buffers.packed)
    cholesky.unpack(buffers.packed, columns, buffers.solutions)


@_jit
def clear_unused(batch):
    """Set the matrices of a batch's lanes without a row to zero."""
    width = lanes(batch.matrices)
    size = size_of(batch.columns, width)
    for i in range(batch.n_rows * size, width * size):
        batch.matrices[i] = 0


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
    block.error[row] = simd.greatest(0.0, block.error[row] - explained - penalty)
