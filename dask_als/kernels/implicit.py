"""Solve every row of one side for implicit feedback, with the other side fixed.

Every pair of a user and an item has a preference p with a confidence c = 1 + alpha |r|. A rating
r > 0 (a count of events, say) gives p = 1, all else p = 0; pairs without a rating have r = 0. With
f the factors of the fixed side's rows and G = Σ f fᵀ over ALL of them, a row gets

    u = (G + Σ alpha |r| f fᵀ + ridge I)⁻¹ Σ c p f,    ridge = factor_ridge (Σ c)^exponent

The first two sums are over the fixed rows that it has ratings of; Σ c is over all. G accounts for
all other pairs and is computed once for all rows. Sources: Hu, Koren and Volinsky 2008,
"Collaborative filtering for implicit feedback datasets"; Rendle et al. 2021, "Revisiting the
performance of iALS on item recommendation benchmarks", for the ridge that grows with the row's
confidence. The row's squared error over all pairs follows from the solution,

    Σ c (p - u·f)² = Σ c p - u·x - ridge |u|²,    x the right-hand side

because the system implies uᵀ(G + Σ alpha |r| f fᵀ)u = u·x - ridge |u|². With a prior mean m of the
row, the ridge draws u to m: x has ridge m in addition, and the squared error 2 ridge u·m.

A rated row is multiplied by √(alpha |r|) as it is gathered, so that the Gram matrix of the gathered
rows is the weighted one. Its weight is c p / √(alpha |r|), so that the first moment is x.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from dask_als.core.aligned import aligned_zeros
from dask_als.kernels import batches, gram, parts, simd
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
from dask_als.kernels.gram import size_of, stride_of
from dask_als.kernels.nonnegative import solve_nonnegative
from dask_als.kernels.ratings import (
    CSR_TYPES,
    check_shapes,
    dot,
    ratings_to_prefetch,
    row_buffer,
)
from dask_als.kernels.simd import lanes, pointer
from dask_als.kernels.workspace import Buffers, Sizes, sizes_type, workspace_types

# A side's Gram matrix is summed in chunks of this many rows, in order, whatever the partitions.
ROWS_A_CHUNK = 4096

_jit = parts.part


def solve_rows_implicit(
    indptr,
    indices,
    ratings,
    fixed_factors,
    fixed_gram,
    *,
    alpha,
    factor_ridge,
    exponent,
    row_means=None,
    n_fixed=None,
    nonnegative=False,
):
    """Return the best factors of every row of a block, given the fixed side.

    Parameters
    ----------
    indptr, indices, ratings : arrays of int64 (n + 1,), int32 (nnz,), float32 (nnz,)
        The block's ratings as CSR. Indices are rows of the fixed side; they are not checked.
    fixed_factors : array (m, rank)
        The fixed side, at least the rows that have ratings. Its dtype, float32 or float64, is that
        of the arithmetic and the result.
    fixed_gram : array of float64 (rank, rank)
        The Gram matrix of the whole fixed side, see `gram_of_side`.
    alpha : float
        What a rating of 1 adds to the confidence; positive.
    factor_ridge : float
        The regularization, divided by the residual precision.
    exponent : float
        The power of a row's confidence that multiplies its regularization; 0: none.
    row_means : array (n, rank), optional
        Where the ridge draws each row's factors to, instead of 0.
    n_fixed : int, optional
        The rows of the whole fixed side; without it, those of `fixed_factors`.
    nonnegative : bool, optional
        Whether to return the best factors among those that are not negative.

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
    csr = indptr, indices, ratings
    with_means = [] if row_means is None else [(row_means, (n, rank))]
    check_shapes(n, csr, (fixed_gram, (rank, rank)), *with_means)
    kernel = kernel_of(dtype, nonnegative)
    factors, squared_error = aligned_zeros((n, rank), dtype), np.zeros(n)
    n_fixed = len(fixed_factors) if n_fixed is None else n_fixed
    ridge, confidence = np.zeros(n), np.full(n, float(n_fixed))
    sizes, lane_count = Sizes.of(rank, dtype).primal_only(), simd.lanes_of(dtype)
    shared = aligned_zeros((size_of(sizes.columns, lane_count),), dtype)
    rows = shared[: sizes.columns * stride_of(sizes.columns, lane_count)]
    rows.reshape(sizes.columns, -1)[:rank, :rank] = fixed_gram
    means = factors if row_means is None else row_means
    step = int(row_means is not None) * rank
    results = confidence, factors, squared_error
    block = *csr, ridge, *results, means, np.zeros(n), step, int(indptr[-1])
    fixed = fixed_factors, shared, float(alpha), float(factor_ridge), float(exponent)
    kernel(n, block, fixed, *sizes.workspace(dtype))
    return factors, squared_error, confidence


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
        The Gram matrices of chunks that are computed already; see `grams_of_chunks`.

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


def rows_outside_chunks(first, factors):
    """Return the rows that are in no chunk of `grams_of_chunks`, by the number of their chunk.

    Parameters are those of `grams_of_chunks`.

    Returns
    -------
    dict of int to array (n, rank)
    """
    last = first + len(factors)
    begins = min(last, -(-first // ROWS_A_CHUNK) * ROWS_A_CHUNK)
    ends = max(begins, last // ROWS_A_CHUNK * ROWS_A_CHUNK)
    found = {first // ROWS_A_CHUNK: factors[: begins - first]}
    if ends < last:
        found[ends // ROWS_A_CHUNK] = factors[ends - first :]
    return {number: rows for number, rows in found.items() if len(rows)}


def grams_of_complete_chunks(outside):
    """Join rows that are outside the chunks of several parts.

    Parameters
    ----------
    outside : list of dict
        See `rows_outside_chunks`; of consecutive parts in order.

    Returns
    -------
    grams : dict of int to array of float64 (rank, rank)
        Of the chunks that are complete now.
    outside : dict of int to array (n, rank)
        The rows of the other chunks.
    """
    pieces: dict[int, list[Any]] = {}
    for rows_by_chunk in outside:
        for number, rows in rows_by_chunk.items():
            pieces.setdefault(number, []).append(rows)
    joined = {number: np.concatenate(rows) for number, rows in pieces.items()}
    complete = {number for number, rows in joined.items() if len(rows) == ROWS_A_CHUNK}
    grams = {number: _gram_of_chunk(joined.pop(number)) for number in complete}
    return grams, joined


def gram_of_chunks(grams, last):
    """Return what `gram_of_side` does.

    Parameters
    ----------
    grams : dict of int to array of float64 (rank, rank)
        The Gram matrices of all complete chunks.
    last : dict of int to array (n, rank)
        The rows of the last chunk, if it is not complete.
    """
    grams = grams | {number: _gram_of_chunk(rows) for number, rows in last.items()}
    total = np.zeros_like(grams[0])
    for number in range(len(grams)):
        total += grams[number]
    return total


def _gram_of_chunk(factors):
    rank = factors.shape[1]
    sizes = Sizes.of(rank, np.dtype(np.float64))
    lane_count = simd.lanes_of(np.dtype(np.float64))
    stride = stride_of(sizes.columns, lane_count)
    rows = aligned_zeros((sizes.chunk * sizes.columns,), np.float64)
    weights = aligned_zeros((sizes.chunk,), np.float64)
    matrix = aligned_zeros((size_of(sizes.columns, lane_count),), np.float64)
    gram_kernel_of(factors.dtype)(factors, rows, weights, matrix, sizes)
    upper = np.triu(matrix[: rank * stride].reshape(rank, stride)[:, :rank])
    return upper + np.triu(upper, 1).T


# --- compilation ---


class _Block(NamedTuple):
    """Pointers to the arrays of the solved rows; `mean_step` is the rank, or 0 without means."""

    indptr: Any
    indices: Any
    ratings: Any
    factor_ridge: Any
    confidence: Any
    factors: Any
    error: Any
    means: Any
    preference: Any
    mean_step: int
    n_ratings: int


class _Fixed(NamedTuple):
    """Pointers to the fixed side's factors and Gram matrix, and the regularization."""

    factors: Any
    gram: Any
    alpha: float
    factor_ridge: float
    exponent: float


class _Problem(NamedTuple):
    """What the steps of `batches.solve_in_batches` read and write."""

    block: _Block
    fixed: _Fixed


class _NonnegativeProblem(NamedTuple):
    """The same for factors that are not negative."""

    block: _Block
    fixed: _Fixed


@made_once
def kernel_of(dtype, nonnegative=False):
    """Return the kernel for a dtype, compiled or from numba's cache on disk."""
    number = number_type(dtype)
    kind = _NonnegativeProblem if nonnegative else _Problem
    digest = digest_of_sources()

    def solve(n, block, fixed, sizes, buffers, queues):
        digest  # noqa: B018 - see `compile_kernel`
        problem = kind(pointers(_Block, block), pointers(_Fixed, fixed))
        batches.solve_in_batches(n, problem, sizes, pointers(Buffers, buffers), pointer(queues))

    double = types.float64
    results = writable(double), writable(double), writable(number, 2), writable(double)
    means = read_only(number, 2), writable(double)
    block = tuple_of(*CSR_TYPES, *results, *means, types.int64, types.int64)
    fixed = tuple_of(read_only(number, 2), read_only(number), double, double, double)
    name = "solve_implicit" + "_nonnegative" * nonnegative
    return compile_kernel(solve, name, dtype, types.int64, block, fixed, *workspace_types(number))


@made_once
def gram_kernel_of(dtype):
    """Return the kernel for the Gram matrix of rows of a dtype, compiled or from the cache."""
    number, output = number_type(dtype), writable(types.float64)
    digest = digest_of_sources()

    def add_rows(factors, rows, weights, matrix, sizes):
        digest  # noqa: B018 - see `compile_kernel`
        gathered = gram.Gathered(pointer(rows), pointer(weights), None)
        _add_rows(factors, gathered, pointer(matrix), sizes)

    arguments = read_only(number, 2), output, output, output, sizes_type()
    return compile_kernel(add_rows, "add_rows", dtype, *arguments)


# --- weighted rows ---


class _Weighted(NamedTuple):
    """The fixed rows of consecutive ratings: pointers to them and to the ratings."""

    indices: Any
    ratings: Any
    factors: Any
    alpha: float
    rank: int


@_jit
def _weighted_rows(block, position, fixed, sizes):
    """Return the rows of the ratings from a position on, as a source for `gram`.

    Their sums are Σ alpha |r| and Σ c p.
    """
    indices, ratings = block.indices + position, block.ratings + position
    return _Weighted(indices, ratings, fixed.factors, fixed.alpha, sizes.rank)


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


def _prefetch_weighted(source, i):
    row = source.factors + np.int64(source.indices[i]) * source.rank
    gram.prefetch_row(row, source.rank)


gram.register_source(_Weighted, gather_with=_gather_weighted, prefetch_with=_prefetch_weighted)


# --- the steps of a batch ---


def _form(problem, row, sizes, buffers, matrix, columns, primal):
    """Set the row's matrix with the right-hand side below, the ridge, and Σ c p as the error."""
    block, fixed, gathered = problem.block, problem.fixed, row_buffer(buffers, None)
    width = lanes(matrix)
    stride = stride_of(columns, width)
    for i in range(0, (columns + 2) * stride, width):
        simd.store(matrix + i, simd.load(fixed.gram + i))
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    sums = block.confidence[row], 0.0
    for first in range(0, count, sizes.chunk):
        size = simd.least(sizes.chunk, count - first)
        source = _weighted_rows(block, start + first, fixed, sizes)
        position, n_ahead = ratings_to_prefetch(block, start + first, size, sizes)
        ahead = gram.Ahead(_weighted_rows(block, position, fixed, sizes), n_ahead)
        update = gram.Update(gathered, size, columns, matrix, False, ahead)
        sums = gram.add_gram(update, source, sums)
    block.confidence[row], block.error[row] = sums
    growth = block.confidence[row] ** fixed.exponent
    block.factor_ridge[row] = fixed.factor_ridge * growth
    block.preference[row] = block.error[row]
    target = matrix + columns * stride
    for c in range(block.mean_step):
        target[c] += block.factor_ridge[row] * block.means[row * block.mean_step + c]


def _solve(problem, batch, sizes, buffers, primal):
    block, columns = problem.block, batch.columns
    batches.solve_primal(block, batch, sizes, buffers)
    rank, width = block.mean_step, lanes(batch.matrices)
    if not rank:
        return
    for lane in range(batch.n_rows):
        row = batch.rows[lane]
        start = lane * size_of(columns, width) + columns * stride_of(columns, width)
        factors = block.factors + row * rank
        explained = dot(factors, batch.matrices + start, rank)
        drawn = 2 * dot(factors, block.means + row * rank, rank) - dot(factors, factors, rank)
        error = block.preference[row] - explained + block.factor_ridge[row] * drawn
        block.error[row] = simd.greatest(0.0, error)


def _solve_of_nonnegative(problem, batch, sizes, buffers, primal):
    solve_nonnegative(problem.block, batch, sizes, buffers)


@_jit
def _add_rows(factors, gathered, matrix, sizes):
    """Set matrix to the Gram matrix of rows."""
    n, rank = factors.shape
    for first in range(0, n, sizes.chunk):
        size = simd.least(sizes.chunk, n - first)
        for i in range(size):
            for c in range(rank):
                gathered.rows[i * sizes.columns + c] = factors[first + i, c]
        update = gram.Update(gathered, size, sizes.columns, matrix, first == 0, None)
        gram.add_gram(update, None, None)


batches.register_steps(_Problem, queue_with=batches.only_queue, form_with=_form, solve_with=_solve)
batches.register_steps(
    _NonnegativeProblem,
    queue_with=batches.only_queue,
    form_with=_form,
    solve_with=_solve_of_nonnegative,
)
