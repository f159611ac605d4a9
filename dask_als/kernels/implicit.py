"""Solve every row of one side for implicit feedback, with the other side fixed.

All pairs have a preference p with a confidence c = 1 + alpha |r|: p = 1 for a pair with a rating
r > 0 (a count of events, say), else p = 0; pairs without a rating have r = 0. With f the factors of
the fixed side's rows and G = Σ f fᵀ over ALL of them, a row gets

    u = (G + Σ alpha |r| f fᵀ + ridge I)⁻¹ Σ c p f,    ridge = factor_ridge (Σ c)^exponent

where the first two sums are over the rows it has ratings of: all other pairs are in G, which is
computed once for all rows, and Σ c is over all. Sources: Hu, Koren and Volinsky 2008,
"Collaborative filtering for implicit feedback datasets"; Rendle et al. 2021, "Revisiting the
performance of iALS on item recommendation benchmarks", for the ridge that grows with the row's
confidence. The row's squared error over all pairs follows from the solution,

    Σ c (p - u·f)² = Σ c p - u·x - ridge |u|²,    x the right-hand side

as the system says uᵀ(G + Σ alpha |r| f fᵀ)u = u·x - ridge |u|².

A rated row is gathered times √(alpha |r|), so that the Gram matrix of gathered rows is the weighted
one, and with the weight c p / √(alpha |r|), so that its first moment is x.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, njit, types

from dask_als.core.aligned import aligned_zeros
from dask_als.kernels import cholesky, gram, simd
from dask_als.kernels import least_squares as kernels
from dask_als.kernels.gram import size_of, stride_of
from dask_als.kernels.least_squares import Plan, compiled, digest_of_sources, given, result
from dask_als.kernels.simd import lanes, pointer

# A side's Gram matrix is the sum of those of so many rows each, in order, whatever the partitions.
ROWS_A_CHUNK = 4096

_jit = njit(nogil=True, error_model="numpy")


def solve_rows_implicit(
    indptr, indices, ratings, fixed_factors, fixed_gram, *, alpha, factor_ridge, exponent
):
    """Return the best factors of every row of a block, given the fixed side.

    Parameters
    ----------
    indptr, indices, ratings : arrays of int64 (n + 1,), int32 (nnz,), float32 (nnz,)
        The block's ratings as CSR. Indices are rows of the fixed side; they are not checked.
    fixed_factors : array (m, rank)
        The fixed side. Its dtype, float32 or float64, is that of the arithmetic and the result.
    fixed_gram : array of float64 (rank, rank)
        The Gram matrix of the fixed side, see `gram_of_side`.
    alpha : float
        What a rating of 1 adds to the confidence; positive.
    factor_ridge : float
        The regularization, divided by the residual precision.
    exponent : float
        How the regularization grows with a row's confidence; 0: not at all.

    Returns
    -------
    factors : array (n, rank)
        Zero for rows without ratings.
    squared_error : array of float64 (n,)
        The sum of c (p - prediction)² over ALL rows of the fixed side.
    confidence : array of float64 (n,)
        The sum of c over ALL rows of the fixed side.

    Raises
    ------
    TypeError
        If an array has another dtype or is not C-contiguous.
    ValueError
        If the arrays' lengths do not fit together.
    """
    dtype, rank, n = fixed_factors.dtype, fixed_factors.shape[1], len(indptr) - 1
    nnz = (int(indptr[-1]),)
    got = [array.shape for array in (indices, ratings, fixed_gram)]
    wanted = [nnz, nnz, (rank, rank)]
    if got != wanted:
        raise ValueError(f"arrays have shapes {got}; for these rows and ratings pass {wanted}")
    factors, squared_error = aligned_zeros((n, rank), dtype), np.zeros(n)
    ridge, confidence = np.zeros(n), np.full(n, float(len(fixed_factors)))
    plan, kernel = Plan.of(rank, dtype).primal_alone(), _kernel(dtype)
    lane_count = simd.lanes_of(dtype)
    shared = aligned_zeros((size_of(plan.columns, lane_count),), dtype)
    rows = shared[: plan.columns * stride_of(plan.columns, lane_count)].reshape(plan.columns, -1)
    rows[:rank, :rank] = fixed_gram
    fixed = fixed_factors, shared, _Weights(alpha, factor_ridge, exponent)
    results = ridge, confidence, factors, squared_error
    kernel(indptr, indices, ratings, *fixed, *results, plan, plan.memory(dtype))
    return factors, squared_error, confidence


class _Weights(NamedTuple):
    """Of a rating, and of squared factors."""

    alpha: float
    factor_ridge: float
    exponent: float


# --- the Gram matrix of a side ---


def grams_of_chunks(first, factors):
    """Return the Gram matrices of the chunks that lie within some rows of a side.

    Parameters
    ----------
    first : int
        The first row's number; chunk i has the rows from i * ROWS_A_CHUNK on.
    factors : array of float32 or float64 (n, rank)

    Returns
    -------
    dict of int to array of float64 (rank, rank)
        By the number of the chunk.
    """
    numbers = range(-(-first // ROWS_A_CHUNK), (first + len(factors)) // ROWS_A_CHUNK)
    starts = [number * ROWS_A_CHUNK - first for number in numbers]
    return {
        number: _gram_of_chunk(factors[start : start + ROWS_A_CHUNK])
        for number, start in zip(numbers, starts, strict=True)
    }


def gram_of_side(factors, known):
    """Return the Gram matrix of a side, summed in one order whatever the partitions.

    Parameters
    ----------
    factors : array of float32 or float64 (n, rank)
    known : dict of int to array of float64 (rank, rank)
        Those of the chunks that are known, see `grams_of_chunks`.

    Returns
    -------
    array of float64 (rank, rank)
    """
    total = np.zeros(2 * factors.shape[1:])
    for number, start in enumerate(range(0, len(factors), ROWS_A_CHUNK)):
        chunk = known.get(number)
        if chunk is None:
            chunk = _gram_of_chunk(factors[start : start + ROWS_A_CHUNK])
        total += chunk
    return total


def _gram_of_chunk(factors):
    rank = factors.shape[1]
    plan = Plan.of(rank, np.dtype(np.float64))
    lane_count = simd.lanes_of(np.dtype(np.float64))
    stride = stride_of(plan.columns, lane_count)
    rows = aligned_zeros((plan.chunk * plan.columns,), np.float64)
    weights = aligned_zeros((plan.chunk,), np.float64)
    matrix = aligned_zeros((size_of(plan.columns, lane_count),), np.float64)
    _gram_kernel(factors.dtype)(factors, rows, weights, matrix, plan)
    upper = np.triu(matrix[: rank * stride].reshape(rank, stride)[:, :rank])
    return upper + np.triu(upper, 1).T


# --- compilation ---


@cache
def _kernel(dtype):
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"factors are {dtype}; convert them to float32 or float64")
    sources = digest_of_sources(simd, gram, cholesky, kernels)

    def solve(
        indptr,
        indices,
        ratings,
        fixed_factors,
        shared,
        weights,
        ridge,
        confidence,
        factors,
        error,
        plan,
        memory,
    ):
        sources  # noqa: B018 - as in `kernels`
        block = _Block(
            pointer(indptr),
            pointer(indices),
            pointer(ratings),
            pointer(ridge),
            pointer(confidence),
            pointer(factors),
            pointer(error),
            indptr[len(error)],
        )
        fixed = _Fixed(pointer(fixed_factors), pointer(shared), weights)
        _solve_block(len(error), block, fixed, plan, kernels.pointers(memory))

    number, double = from_dtype(dtype), types.float64
    block = given(types.int64), given(types.int32), given(types.float32)
    weights = types.NamedUniTuple(double, len(_Weights._fields), _Weights)
    fixed = given(number, 2), given(number), weights
    results = result(double), result(double), result(number, 2), result(double)
    signature = types.void(*block, *fixed, *results, *kernels.workspace(number))
    return compiled(solve, f"solve_implicit_{dtype}", signature)


@cache
def _gram_kernel(dtype):
    sources = digest_of_sources(simd, gram, kernels)

    def add_rows(factors, rows, weights, matrix, plan):
        sources  # noqa: B018
        gathered = gram.Gathered(pointer(rows), pointer(weights))
        _add_rows(factors, gathered, pointer(matrix), plan)

    number, double = from_dtype(dtype), result(types.float64)
    plan, _ = kernels.workspace(number)
    signature = types.void(given(number, 2), double, double, double, plan)
    return compiled(add_rows, f"add_rows_{dtype}", signature)


class _Block(NamedTuple):
    """Pointers to what belongs to the solved rows."""

    indptr: Any
    indices: Any
    ratings: Any
    factor_ridge: Any
    confidence: Any
    factors: Any
    error: Any
    n_ratings: int


class _Fixed(NamedTuple):
    """Pointers to the fixed side's factors and Gram matrix, and the weights."""

    factors: Any
    gram: Any
    weights: _Weights


# --- weighted rows ---


class _Weighted(NamedTuple):
    """The fixed rows of consecutive ratings: pointers to them and to the ratings."""

    indices: Any
    ratings: Any
    factors: Any
    alpha: float
    rank: int


@_jit
def _weighted_rows(block, position, fixed, plan):
    """Return the rows of the ratings from a position on, as a source for `gram`.

    Their sums are Σ alpha |r| and Σ c p.
    """
    indices, ratings = block.indices + position, block.ratings + position
    return _Weighted(indices, ratings, fixed.factors, fixed.weights.alpha, plan.rank)


@gram.gathers(_Weighted)
def _gather_weighted(source, i, place, weight, sums):
    rating = source.ratings[i]
    added = source.alpha * abs(rating)
    root = math.sqrt(added)
    wanted = 1 + added if rating > 0 else 0.0
    row = source.factors + np.int64(source.indices[i]) * source.rank
    weight[0] = root
    gram.copy_row_scaled(row, source.rank, place, weight)
    weight[0] = wanted / root if wanted > 0 else 0.0
    return sums[0] + added, sums[1] + wanted


@gram.brings(_Weighted)
def _bring_weighted(source, i):
    row = source.factors + np.int64(source.indices[i]) * source.rank
    gram.bring_row(row, source.rank)


# --- a block, row by row ---


@_jit
def _solve_block(n, block, fixed, plan, memory):
    """Form the system of every row; solve as many together as are factored side by side."""
    size = size_of(plan.columns, lanes(memory.matrices))
    waiting = np.zeros(plan.primal_lanes, np.int64)
    filled = 0
    for row in range(n):
        if block.indptr[row + 1] == block.indptr[row]:
            continue
        _form(block, row, fixed, plan, memory, memory.matrices + filled * size)
        waiting[filled] = row
        filled += 1
        if filled == plan.primal_lanes:
            kernels.solve_primal(block, waiting, plan, memory, memory.matrices)
            filled = 0
    if filled > 0:
        kernels.solve_primal(block, waiting[:filled], plan, memory, memory.matrices)


@_jit
def _form(block, row, fixed, plan, memory, matrix):
    """Set the row's matrix with the right-hand side below, its ridge, and Σ c p as its error."""
    gathered, columns = kernels.gathered_rows(memory), plan.columns
    width = lanes(matrix)
    stride = stride_of(columns, width)
    for i in range(0, (columns + 2) * stride, width):
        simd.store(matrix + i, simd.load(fixed.gram + i))
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    sums = block.confidence[row], 0.0
    for first in range(0, count, plan.chunk):
        size = min(plan.chunk, count - first)
        source = _weighted_rows(block, start + first, fixed, plan)
        coming, n_coming = kernels.ratings_ahead(block, start + first, size, plan)
        ahead = gram.Ahead(_weighted_rows(block, coming, fixed, plan), n_coming)
        sums = gram.add_gram(gathered, size, columns, matrix, False, source, sums, ahead)
    block.confidence[row], block.error[row] = sums
    growth = block.confidence[row] ** fixed.weights.exponent
    block.factor_ridge[row] = fixed.weights.factor_ridge * growth


@_jit
def _add_rows(factors, gathered, matrix, plan):
    """Set matrix to the Gram matrix of rows."""
    n, rank = factors.shape
    for first in range(0, n, plan.chunk):
        size = min(plan.chunk, n - first)
        for i in range(size):
            for c in range(rank):
                gathered.rows[i * plan.columns + c] = factors[first + i, c]
        gram.add_gram(gathered, size, plan.columns, matrix, first == 0)
