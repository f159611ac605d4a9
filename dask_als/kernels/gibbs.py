"""Draw bias and factors of every row of one side, with the other side fixed.

The model: a rating is Normal(mean + b + c + u·f, 1 / alpha), a row's bias Normal(0, 1 / gamma) and
its factors Normal(mu, Lambda⁻¹). A row with ratings r of N fixed rows, F (N x k) their factors and
c their biases, is drawn from its conditional distributions. With z standard normal numbers and
y = r - mean - c,

    b = (Σ y - (Σ F)·u_old) / n + z / √(alpha n),    n = N + gamma / alpha
    u = M⁻¹x + R⁻¹z / √alpha,    M = FᵀF + Lambda / alpha = RᵀR
    x = Fᵀ(y - b) + Lambda mu / alpha

Between the substitutions with Rᵀ and R, w = R⁻ᵀx + z / √alpha, the noise is thus one addition. As
|w|² = uᵀM u, the row's squared error needs no second pass over its ratings:

    Σ (y - b - F u)² = Σ (y - b)² - 2 u·(x - Lambda mu / alpha) + |w|² - uᵀ Lambda u / alpha

Source: Salakhutdinov and Mnih 2008, "Bayesian probabilistic matrix factorization using Markov chain
Monte Carlo"; the biases as in `kernels`. Every row takes the primal form.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import from_dtype, njit, types
from numba.extending import register_jitable

from dask_als.core.aligned import aligned_zeros
from dask_als.kernels import cholesky, gram, simd
from dask_als.kernels import least_squares as kernels
from dask_als.kernels.cholesky import PANEL
from dask_als.kernels.gram import size_of, stride_of
from dask_als.kernels.least_squares import Plan, compiled, digest_of_sources, given, result
from dask_als.kernels.simd import lanes, pointer

_jit = njit(nogil=True, error_model="numpy")


def draw_rows(
    indptr,
    indices,
    ratings,
    own_factors,
    fixed_bias,
    fixed_factors,
    noise,
    *,
    mean,
    residual_precision,
    bias_precision,
    factor_mean,
    factor_precision,
):
    """Return a draw of the bias and factors of every row of a block, given the fixed side.

    Parameters
    ----------
    indptr, indices, ratings : arrays of int64 (n + 1,), int32 (nnz,), float32 (nnz,)
        The block's ratings as CSR. Indices are rows of the fixed side; they are not checked.
    own_factors : array (n, rank)
        The rows' factors before, on which the biases depend. Their dtype, float32 or float64, is
        that of the fixed side, of the arithmetic and of the result.
    fixed_bias, fixed_factors : arrays (m,), (m, rank)
        The fixed side.
    noise : array (n, rank + 1)
        Standard normal numbers, for the factors and, last, the bias.
    mean : float
        The global mean.
    residual_precision, bias_precision : float
        alpha and gamma.
    factor_mean, factor_precision : arrays of float64 (rank,), (rank, rank)
        mu and Lambda.

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
    """
    dtype, (n, rank) = own_factors.dtype, own_factors.shape
    block = indptr, indices, ratings, own_factors
    prior = factor_mean, factor_precision
    got = [array.shape for array in (*block, fixed_bias, fixed_factors, noise, *prior)]
    nnz, m = (int(indptr[-1]),), (len(fixed_bias),)
    wanted = [(n + 1,), nnz, nnz, (n, rank), m, (*m, rank), (n, rank + 1), (rank,), (rank, rank)]
    if got != wanted:
        raise ValueError(f"arrays have shapes {got}; for these rows and ratings pass {wanted}")
    results = np.zeros(n, dtype), aligned_zeros((n, rank), dtype), np.zeros(n)
    plan, kernel = Plan.of(rank, dtype).primal_alone(), _kernel(dtype)
    prior_matrix = factor_precision / residual_precision
    prior_target = (factor_precision * factor_mean).sum(axis=1) / residual_precision
    kernel(
        *block,
        fixed_bias,
        fixed_factors,
        noise,
        mean,
        residual_precision,
        bias_precision,
        np.pad(prior_matrix.astype(dtype), (0, _order(rank) - rank)),
        prior_target.astype(dtype),
        *results,
        plan,
        plan.memory(dtype),
    )
    return results


# --- compilation ---


@cache
def _kernel(dtype):
    """Return the kernel for a dtype, compiled or from numba's cache on disk, as in `kernels`."""
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"factors are {dtype}; convert them to float32 or float64")
    sources = digest_of_sources(simd, gram, cholesky, kernels)

    def draw(
        indptr,
        indices,
        ratings,
        own,
        fixed_bias,
        fixed_factors,
        noise,
        mean,
        residual_precision,
        bias_precision,
        prior_matrix,
        prior_target,
        bias,
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
            pointer(own),
            pointer(noise),
            pointer(bias),
            pointer(factors),
            pointer(error),
            indptr[len(bias)],
        )
        fixed = _Fixed(pointer(fixed_bias), pointer(fixed_factors), mean)
        drawn_from = _Prior(
            pointer(prior_matrix), pointer(prior_target), residual_precision, bias_precision
        )
        _draw_block(len(bias), block, fixed, drawn_from, plan, kernels.pointers(memory))

    number, double = from_dtype(dtype), types.float64
    signature = types.void(
        given(types.int64),
        given(types.int32),
        given(types.float32),
        given(number, 2),
        given(number),
        given(number, 2),
        given(number, 2),
        double,
        double,
        double,
        given(number, 2),
        given(number),
        result(number),
        result(number, 2),
        result(double),
        *kernels.workspace(number),
    )
    return compiled(draw, f"draw_{dtype}", signature)


class _Block(NamedTuple):
    """Pointers to what belongs to the drawn rows."""

    indptr: Any
    indices: Any
    ratings: Any
    own: Any
    noise: Any
    bias: Any
    factors: Any
    error: Any
    n_ratings: int


class _Fixed(NamedTuple):
    """Pointers to the fixed side, and the global mean."""

    bias: Any
    factors: Any
    mean: float


class _Prior(NamedTuple):
    """What rows are drawn from: Lambda / alpha, with zeros up to whole panels, and the rest."""

    matrix: Any
    target: Any
    residual_precision: float
    bias_precision: float


@register_jitable
def _order(rank):
    """Return how many rows of a matrix are factored."""
    return -(-rank // PANEL) * PANEL


# --- a block, row by row ---


@_jit
def _draw_block(n, block, fixed, prior, plan, memory):
    """Form the system of every row; draw as many together as are factored side by side."""
    size = size_of(plan.columns, lanes(memory.matrices))
    waiting = np.zeros(plan.primal_lanes, np.int64)
    filled = 0
    for row in range(n):
        if block.indptr[row + 1] == block.indptr[row]:
            continue
        _form(block, row, fixed, prior, plan, memory, memory.matrices + filled * size)
        waiting[filled] = row
        filled += 1
        if filled == plan.primal_lanes:
            _draw_rows(block, waiting, prior, plan, memory)
            filled = 0
    if filled > 0:
        _draw_rows(block, waiting[:filled], prior, plan, memory)


@_jit
def _form(block, row, fixed, prior, plan, memory, matrix):
    """Set the row's bias, its error so far, Σ(y - b)², and its matrix FᵀF with x below."""
    gathered, columns, rank = kernels.gathered_rows(memory), plan.columns, plan.rank
    stride = stride_of(columns, lanes(matrix))
    start, count = block.indptr[row], block.indptr[row + 1] - block.indptr[row]
    sums = 0.0, 0.0
    for first in range(0, count, plan.chunk):
        size = min(plan.chunk, count - first)
        source = kernels.rated_rows(block, start + first, fixed, plan)
        ahead = kernels.rated_rows_ahead(block, start + first, size, fixed, plan)
        sums = gram.add_gram(gathered, size, columns, matrix, first == 0, source, sums, ahead)
    total, total_square = sums
    target = matrix + columns * stride
    sum_factors = target + stride
    predicted = kernels.dot(sum_factors, block.own + row * rank, rank)
    n = count + prior.bias_precision / prior.residual_precision
    noise = block.noise[row * (rank + 1) + rank] / np.sqrt(prior.residual_precision * n)
    block.bias[row] = (total - predicted) / n + noise
    bias = block.bias[row]
    for c in range(rank):
        target[c] += prior.target[c] - bias * sum_factors[c]
    bias_64 = np.float64(bias)
    block.error[row] = total_square - 2 * bias_64 * total + count * bias_64 * bias_64


@_jit
def _draw_rows(block, rows, prior, plan, memory):
    """Draw the factors of rows from their systems and complete their squared errors."""
    columns, rank, width = plan.columns, plan.rank, lanes(memory.matrices)
    if plan.primal_lanes == 1:
        _draw_alone(block, rows[0], prior, rank, memory, columns)
    else:
        _draw_side_by_side(block, rows, prior, rank, memory, columns)
    for lane in range(len(rows)):
        start = lane * size_of(columns, width) + columns * stride_of(columns, width)
        solution = memory.solutions + lane * columns
        quadratic = memory.scratch[lane]
        _finish(block, rows[lane], prior, rank, solution, memory.matrices + start, quadratic)


@_jit
def _draw_side_by_side(block, rows, prior, rank, memory, columns):
    width, size = lanes(memory.matrices), size_of(columns, lanes(memory.matrices))
    order = _order(rank)
    for i in range(len(rows) * size, width * size):  # lanes without a row: a zero matrix
        memory.matrices[i] = 0
    cholesky.interleave(memory.matrices, columns, order, memory.panels, memory.interleaved)
    _add_prior(prior.matrix, order, memory.panels, columns)
    cholesky.factor_side_by_side(memory.panels, columns, order, simd.zeros(memory.panels, 1, 1))
    cholesky.forward_side_by_side(memory.panels, columns, order, memory.interleaved)
    for lane in range(len(rows)):
        _add_noise(block, rows[lane], prior, rank, memory.interleaved + lane, width)
    cholesky.backward_side_by_side(memory.panels, columns, order, memory.interleaved)
    simd.store(memory.scratch, _quadratic_form(prior.matrix, order, memory.interleaved))
    cholesky.separate(memory.interleaved, columns, memory.solutions)


@_jit
def _add_prior(prior, order, panels, columns):
    """Add the prior's matrix to the upper triangles of all interleaved matrices."""
    width = lanes(panels)
    for column in range(0, order, PANEL):
        panel = panels + column * columns * width
        for row in range(column + PANEL):
            place = panel + row * PANEL * width
            elements = simd.broadcast_tile(prior + (row * order + column), 0, 1, PANEL)
            simd.store_tile(place, 0, simd.add(simd.load_tile(place, 0, 1, PANEL), elements))


@_jit
def _quadratic_form(prior, order, x):
    """Return xᵀPx of all interleaved x, P the prior's matrix."""
    width = lanes(x)
    total = simd.zeros(x, 1, 1)
    for column in range(0, order, PANEL):
        product = simd.zeros(x, 1, PANEL)
        for row in range(order):
            elements = simd.broadcast_tile(prior + (row * order + column), 0, 1, PANEL)
            product = simd.add_product(product, simd.load(x + row * width), elements)
        rest = simd.load_tile(x + column * width, width, PANEL, 1)
        total = simd.add_product(total, product, rest)
    return total


@_jit
def _draw_alone(block, row, prior, rank, memory, columns):
    right_side = memory.matrices + columns * stride_of(columns, lanes(memory.matrices))
    stride = stride_of(columns, lanes(memory.matrices))
    order = _order(rank)
    for i in range(rank):
        for c in range(rank):
            memory.matrices[i * stride + c] += prior.matrix[i * order + c]
    for c in range(columns):
        memory.solutions[c] = right_side[c]
    cholesky.factor_alone(memory.matrices, columns, 0, memory.scratch)
    cholesky.forward_alone(memory.matrices, columns, memory.solutions)
    _add_noise(block, row, prior, rank, memory.solutions, 1)
    cholesky.backward_alone(memory.matrices, columns, memory.solutions)
    quadratic = 0.0
    for i in range(rank):
        product = kernels.dot(prior.matrix + i * order, memory.solutions, rank)
        quadratic += product * memory.solutions[i]
    memory.scratch[0] = quadratic


@_jit
def _add_noise(block, row, prior, rank, w, step):
    """Add a row's noise to w, whose elements are `step` apart, and |w|² to its squared error."""
    noise = block.noise + row * (rank + 1)
    scale = 1 / np.sqrt(prior.residual_precision)
    square = 0.0
    for c in range(rank):
        w[c * step] += scale * noise[c]
        square += np.float64(w[c * step]) ** 2
    block.error[row] += square


@_jit
def _finish(block, row, prior, rank, solution, x, quadratic):
    """Set the row's factors and complete its squared error; `quadratic` is uᵀ Lambda u / alpha."""
    factors = block.factors + row * rank
    for c in range(rank):
        factors[c] = solution[c]
    from_prior = 2 * kernels.dot(prior.target, factors, rank) - quadratic
    block.error[row] += from_prior - 2 * kernels.dot(factors, x, rank)
    block.error[row] = max(0.0, block.error[row])
