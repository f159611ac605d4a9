"""Solve every row of one side exactly, with the other side fixed: the work of a half-epoch.

A row with ratings r of N fixed rows, F (N x k) their factors and c their biases, gets

    y = r - mean - c
    b = (Σ y - (Σ F)·u_old) / (N + bias_ridge)
    u = (FᵀF + factor_ridge I)⁻¹ Fᵀ (y - b)

This is the primal form. With few ratings, N <= k/2, the dual form of the same solution is cheaper:
it has one unknown per rating instead of one per factor.

    a = (FFᵀ + factor_ridge I)⁻¹ (y - b),    u = Fᵀ a,    y - b - F u = factor_ridge a

If the ratings have weights w, the equations hold for rows and y - b that are multiplied by √w, so
that every squared error counts w times. In the bias, N, Σ y and Σ F become Σ w, Σ w y and Σ w F. A
kernel of its own is compiled for weights, so that ratings without them take no longer.

Both forms factor a Gram matrix of gathered rows (`gram`) plus a ridge (`cholesky`). Its moments are
Fᵀy and Σ F in the primal form, whose weights are y, and F u_old in the dual form, which gathers the
transpose of F and whose weights are u_old. Systems of the same size wait in a queue until there is
one for every lane of a register (`batches`).

A row's numbers are computed by the same operations in the same order, whatever the other rows, the
lane and the width of registers. So a row's result has the same bits in any block, on any thread.

Source: Koren, Bell and Volinsky 2009, "Matrix factorization techniques for recommender systems".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from dask_als.core.aligned import aligned_zeros
from dask_als.kernels import batches, gram, parts
from dask_als.kernels.compilation import (
    compile_kernel,
    digest_of_sources,
    made_once,
    number_type,
    pointers,
    read_only,
    tuple_of,
    writable,
)
from dask_als.kernels.gram import stride_of
from dask_als.kernels.nonnegative import solve_nonnegative
from dask_als.kernels.ratings import (
    CSR_TYPES,
    Fixed,
    add_rated_rows,
    check_shapes,
    dot,
    no_sums,
    rated_rows,
    rows_to_prefetch,
    scaled,
    scaled_by_weight,
    weights_type,
)
from dask_als.kernels.simd import lanes, pointer
from dask_als.kernels.workspace import Buffers, Sizes, workspace_types

_jit = parts.part


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
    weights=None,
    nonnegative=False,
):
    """Return the best bias and factors of every row of a block, given the fixed side.

    Parameters
    ----------
    indptr, indices, ratings : arrays of int64 (n + 1,), int32 (nnz,), float32 (nnz,)
        The block's ratings as CSR. Indices are rows of the fixed side; they are not checked.
    own_factors : array (n, rank)
        The rows' old factors, on which the biases depend. Their dtype, float32 or float64, is also
        the dtype of the fixed side, the arithmetic and the results.
    fixed_bias, fixed_factors : arrays (m,), (m, rank)
        The fixed side.
    mean : float
        The global mean.
    bias_ridge, factor_ridge : arrays of float64 (n,)
        The rows' regularization, divided by the residual precision.
    weights : array of float32 (nnz,), optional
        The ratings' weights, finite and positive.
    nonnegative : bool, optional
        Whether to return the best factors among those that are not negative.

    Returns
    -------
    bias, factors : arrays (n,), (n, rank)
        Zero for rows without ratings.
    squared_error : array of float64 (n,)
        The sum of squared differences between a row's ratings and their new predictions, each
        times its weight.

    Raises
    ------
    TypeError
        If an array has another dtype or is not C-contiguous.
    ValueError
        If the arrays' lengths do not fit together.

    Notes
    -----
    If `factor_ridge` is 0, a row's system may be singular. It then gets zeros for factors that are
    linear combinations of those before them.
    """
    dtype, (n, rank), m = own_factors.dtype, own_factors.shape, len(fixed_bias)
    csr = indptr, indices, ratings
    check_shapes(
        n,
        csr,
        (own_factors, (n, rank)),
        (fixed_bias, (m,)),
        (fixed_factors, (m, rank)),
        (bias_ridge, (n,)),
        (factor_ridge, (n,)),
        *([] if weights is None else [(weights, ratings.shape)]),
    )
    kernel = kernel_of(dtype, weights is not None, nonnegative)
    results = np.zeros(n, dtype), aligned_zeros((n, rank), dtype), np.zeros(n)
    block = *csr, weights, own_factors, bias_ridge, factor_ridge, *results, int(indptr[-1])
    sizes = Sizes.of(rank, dtype)
    if nonnegative:
        sizes = sizes.primal_only()
    kernel(n, block, (fixed_bias, fixed_factors, float(mean)), *sizes.workspace(dtype))
    return results


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
    weights=None,
):
    """Do what `solve_rows` does, row by row in NumPy and float64: slow and easy to verify."""
    bias, factors = np.zeros(len(own_factors), own_factors.dtype), np.zeros_like(own_factors)
    squared_error = np.zeros(len(own_factors))
    for row in np.flatnonzero(np.diff(indptr)):
        rated = indices[indptr[row] : indptr[row + 1]]
        fixed, bias_of_rated = (x[rated].astype(np.float64) for x in (fixed_factors, fixed_bias))
        y = ratings[indptr[row] : indptr[row + 1]].astype(np.float64) - mean - bias_of_rated
        w = np.ones(len(y))
        if weights is not None:
            w = weights[indptr[row] : indptr[row + 1]].astype(np.float64)
        predicted = (w @ fixed) @ own_factors[row]
        bias[row] = (w @ y - predicted) / (w.sum() + bias_ridge[row])
        target = y - bias[row]
        normal_matrix = (fixed.T * w) @ fixed + factor_ridge[row] * np.eye(fixed.shape[1])
        factors[row] = np.linalg.lstsq(normal_matrix, fixed.T @ (w * target), rcond=None)[0]
        squared_error[row] = np.sum(w * (target - fixed @ factors[row]) ** 2)
    return bias, factors, squared_error


# --- compilation ---


class _Block(NamedTuple):
    """Pointers to the arrays of the solved rows."""

    indptr: Any
    indices: Any
    ratings: Any
    weights: Any
    own: Any
    bias_ridge: Any
    factor_ridge: Any
    bias: Any
    factors: Any
    error: Any
    n_ratings: int


class _Problem(NamedTuple):
    """What the steps of `batches.solve_in_batches` read and write."""

    block: _Block
    fixed: Fixed


class _NonnegativeProblem(NamedTuple):
    """The same for factors that are not negative."""

    block: _Block
    fixed: Fixed


@made_once
def kernel_of(dtype, weighted=False, nonnegative=False):
    """Return the kernel for a dtype, compiled or from numba's cache on disk."""
    number = number_type(dtype)
    kind = _NonnegativeProblem if nonnegative else _Problem
    digest = digest_of_sources()

    def solve(n, block, fixed, sizes, buffers, queues):
        digest  # noqa: B018 - see `compile_kernel`
        problem = kind(pointers(_Block, block), pointers(Fixed, fixed))
        batches.solve_in_batches(n, problem, sizes, pointers(Buffers, buffers), pointer(queues))

    double = types.float64
    ridges = read_only(double), read_only(double)
    results = writable(number), writable(number, 2), writable(double)
    own = weights_type(weighted), read_only(number, 2)
    block = tuple_of(*CSR_TYPES, *own, *ridges, *results, types.int64)
    fixed = tuple_of(read_only(number), read_only(number, 2), double)
    name = "solve" + "_weighted" * weighted + "_nonnegative" * nonnegative
    return compile_kernel(solve, name, dtype, types.int64, block, fixed, *workspace_types(number))


# --- the steps of a batch ---


def _queue_of(problem, row, sizes):
    """Return the queue of a row's system: by size in the dual form, else the last one."""
    block = problem.block
    count = block.indptr[row + 1] - block.indptr[row]
    dual = count <= sizes.dual_limit and block.factor_ridge[row] > 0
    return (count - 1) // sizes.width if dual else sizes.queues - 1


def _form(problem, row, sizes, buffers, matrix, columns, primal):
    if primal:
        _form_primal(problem.block, row, problem.fixed, sizes, buffers, matrix)
    else:
        _form_dual(problem.block, row, problem.fixed, sizes, buffers, matrix, columns)


def _form_of_nonnegative(problem, row, sizes, buffers, matrix, columns, primal):
    _form_primal(problem.block, row, problem.fixed, sizes, buffers, matrix)


def _solve_of_nonnegative(problem, batch, sizes, buffers, primal):
    solve_nonnegative(problem.block, batch, sizes, buffers)


def _solve(problem, batch, sizes, buffers, primal):
    if primal:
        batches.solve_primal(problem.block, batch, sizes, buffers)
    else:
        _solve_dual(problem.block, batch, problem.fixed, sizes, buffers)


# --- the primal form ---


@_jit
def _form_primal(block, row, fixed, sizes, buffers, matrix):
    """Set the row's bias, the error Σ(y - b)², the matrix FᵀF and, below it, Fᵀ(y - b)."""
    columns, rank = sizes.columns, sizes.rank
    stride = stride_of(columns, lanes(matrix))
    total, total_square, count = add_rated_rows(block, row, fixed, sizes, buffers, matrix)
    target = matrix + columns * stride
    sum_factors = target + stride
    predicted = dot(sum_factors, block.own + row * rank, rank)
    block.bias[row] = (total - predicted) / (count + block.bias_ridge[row])
    bias = block.bias[row]
    for c in range(columns):
        target[c] -= bias * sum_factors[c]
    bias_64 = np.float64(bias)
    block.error[row] = total_square - 2 * bias_64 * total + count * bias_64 * bias_64


# --- the dual form ---


@_jit
def _form_dual(block, row, fixed, sizes, buffers, matrix, columns):
    """Set the row's bias, the matrix FFᵀ and, below it, y - b."""
    rows, y, rank = buffers.gathered, buffers.weights, sizes.rank
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    source = rated_rows(block, start, fixed, sizes, buffers)
    sums = no_sums(block.weights, count)
    for i in range(count):
        sums = gram.gather(source, i, rows + i * sizes.columns, y + i, sums)
    total, _, total_weight = sums
    gram.transpose(rows, count, sizes.columns, rank, buffers.transposed, columns)
    transposed = gram.Gathered(buffers.transposed, block.own + row * rank, None)
    ahead = rows_to_prefetch(block, start, count, fixed, sizes, buffers)
    gram.add_gram(gram.Update(transposed, rank, columns, matrix, True, ahead), None, None)
    target = matrix + columns * stride_of(columns, lanes(matrix))
    predicted = 0.0
    for i in range(count):
        predicted += scaled(target[i], block.weights, buffers.roots, i)
    block.bias[row] = (total - predicted) / (total_weight + block.bias_ridge[row])
    bias = block.bias[row]
    for i in range(count):
        target[i] = y[i] - scaled(bias, block.weights, buffers.roots, i)


@_jit
def _solve_dual(block, batch, fixed, sizes, buffers):
    """Solve dual systems of equal size and set the factors and squared errors of their rows."""
    batches.solve_batch(block.factor_ridge, batch, buffers, batch.columns)
    for lane in range(batch.n_rows):
        solution = buffers.solutions + lane * batch.columns
        _finish_dual(block, batch.rows[lane], fixed, sizes.rank, solution, buffers.scratch)


@_jit
def _finish_dual(block, row, fixed, rank, solution, scratch):
    """Set the row's factors and squared error."""
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    factors = block.factors + row * rank
    for i in range(count):
        rated = fixed.factors + np.int64(block.indices[start + i]) * rank
        part = scaled_by_weight(solution[i], block.weights, start + i, scratch)
        for c in range(rank):
            factors[c] += part * rated[c]
    block.error[row] = block.factor_ridge[row] ** 2 * dot(solution, solution, count)


batches.register_steps(_Problem, queue_with=_queue_of, form_with=_form, solve_with=_solve)
batches.register_steps(
    _NonnegativeProblem,
    queue_with=batches.only_queue,
    form_with=_form_of_nonnegative,
    solve_with=_solve_of_nonnegative,
)
