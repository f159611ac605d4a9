"""Draw bias and factors of every row of one side, with the other side fixed.

The model: a rating is Normal(mean + b + c + u·f, 1 / alpha), a row's bias Normal(0, 1 / gamma) and
its factors Normal(mu, Lambda⁻¹). A row with ratings r of N fixed rows, F (N x k) their factors and
c their biases, is drawn from its conditional distributions. With z standard normal numbers and
y = r - mean - c,

    b = (Σ y - (Σ F)·u_old) / n + z / √(alpha n),    n = N + gamma / alpha
    u = M⁻¹x + R⁻¹z / √alpha,    M = FᵀF + Lambda / alpha = RᵀR
    x = Fᵀ(y - b) + Lambda mu / alpha

The noise costs one addition between the substitutions with Rᵀ and R: w = R⁻ᵀx + z / √alpha. As
|w|² = uᵀM u, the row's squared error needs no second pass over its ratings:

    Σ (y - b - F u)² = Σ (y - b)² - 2 u·(x - Lambda mu / alpha) + |w|² - uᵀ Lambda u / alpha

A rating with a weight has the precision weight times alpha; see `least_squares` for what changes.

Source: Salakhutdinov and Mnih 2008, "Bayesian probabilistic matrix factorization using Markov chain
Monte Carlo"; biases as in `least_squares`. Every row is solved in the primal form.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from dask_als.core.aligned import aligned_zeros
from dask_als.kernels import batches, cholesky, parts, simd
from dask_als.kernels.attributes import products_with
from dask_als.kernels.cholesky import PANEL
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
from dask_als.kernels.ratings import (
    CSR_TYPES,
    Fixed,
    add_rated_rows,
    check_shapes,
    dot,
    weights_type,
)
from dask_als.kernels.simd import lanes, pointer
from dask_als.kernels.workspace import Buffers, Sizes, round_up, workspace_types

_jit = parts.part


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
    row_means=None,
    weights=None,
):
    """Return a draw of the bias and factors of every row of a block, given the fixed side.

    Parameters
    ----------
    indptr, indices, ratings : arrays of int64 (n + 1,), int32 (nnz,), float32 (nnz,)
        The block's ratings as CSR. Indices are rows of the fixed side; they are not checked.
    own_factors : array (n, rank)
        The rows' old factors, on which the biases depend. Their dtype, float32 or float64, is also
        the dtype of the fixed side, the arithmetic and the results.
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
    row_means : array (n, rank), optional
        What each row's prior mean has in addition to mu.
    weights : array of float32 (nnz,), optional
        The ratings' weights, finite and positive.

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
    """
    dtype, (n, rank), m = own_factors.dtype, own_factors.shape, len(fixed_bias)
    csr = indptr, indices, ratings
    check_shapes(
        n,
        csr,
        (own_factors, (n, rank)),
        (fixed_bias, (m,)),
        (fixed_factors, (m, rank)),
        (noise, (n, rank + 1)),
        (factor_mean, (rank,)),
        (factor_precision, (rank, rank)),
        *([] if row_means is None else [(row_means, (n, rank))]),
        *([] if weights is None else [(weights, ratings.shape)]),
    )
    kernel = kernel_of(dtype, weights is not None)
    results = np.zeros(n, dtype), aligned_zeros((n, rank), dtype), np.zeros(n)
    prior_matrix = factor_precision / residual_precision
    shared_target = (factor_precision * factor_mean).sum(axis=1) / residual_precision
    prior_target = shared_target.astype(dtype).reshape(1, rank)
    if row_means is not None:
        prior_target = products_with(row_means, prior_matrix) + prior_target
    block = *csr, weights, own_factors, noise, *results, int(indptr[-1])
    fixed = fixed_bias, fixed_factors, float(mean)
    prior = (
        np.pad(prior_matrix.astype(dtype), (0, _order(rank) - rank)),
        prior_target,
        int(row_means is not None) * rank,
        float(residual_precision),
        float(bias_precision),
    )
    sizes = Sizes.of(rank, dtype).primal_only()
    kernel(n, block, fixed, prior, *sizes.workspace(dtype))
    return results


# --- compilation ---


class _Block(NamedTuple):
    """Pointers to the arrays of the drawn rows."""

    indptr: Any
    indices: Any
    ratings: Any
    weights: Any
    own: Any
    noise: Any
    bias: Any
    factors: Any
    error: Any
    n_ratings: int


class _Prior(NamedTuple):
    """The rows' prior: Lambda / alpha padded to whole panels, Lambda mu / alpha, alpha, gamma.

    The target is one for all rows, or one a row: `target_step` is 0 or the rank.
    """

    matrix: Any
    target: Any
    target_step: int
    residual_precision: float
    bias_precision: float


class _Problem(NamedTuple):
    """What the steps of `batches.solve_in_batches` read and write."""

    block: _Block
    fixed: Fixed
    prior: _Prior


@made_once
def kernel_of(dtype, weighted=False):
    """Return the kernel for a dtype, compiled or from numba's cache on disk."""
    number = number_type(dtype)
    digest = digest_of_sources()

    def draw(n, block, fixed, prior, sizes, buffers, queues):
        digest  # noqa: B018 - see `compile_kernel`
        problem = _Problem(pointers(_Block, block), pointers(Fixed, fixed), pointers(_Prior, prior))
        batches.solve_in_batches(n, problem, sizes, pointers(Buffers, buffers), pointer(queues))

    double = types.float64
    own, noise = read_only(number, 2), read_only(number, 2)
    results = writable(number), writable(number, 2), writable(double)
    block = tuple_of(*CSR_TYPES, weights_type(weighted), own, noise, *results, types.int64)
    fixed = tuple_of(read_only(number), read_only(number, 2), double)
    prior = tuple_of(read_only(number, 2), read_only(number, 2), types.int64, double, double)
    name = "draw_weighted" if weighted else "draw"
    return compile_kernel(
        draw, name, dtype, types.int64, block, fixed, prior, *workspace_types(number)
    )


@_jit
def _order(rank):
    """Return the order of the matrices that are factored: whole panels."""
    return round_up(rank, PANEL)


@_jit
def _target(prior, row):
    """Return the part of a row's right-hand side that is the prior's."""
    return prior.target + row * prior.target_step


# --- the steps of a batch ---


def _form(problem, row, sizes, buffers, matrix, columns, primal):
    """Set the row's bias, the error Σ(y - b)², the matrix FᵀF and, below it, x."""
    block, prior, rank = problem.block, problem.prior, sizes.rank
    stride = stride_of(columns, lanes(matrix))
    total, total_square, count = add_rated_rows(block, row, problem.fixed, sizes, buffers, matrix)
    target = matrix + columns * stride
    sum_factors = target + stride
    predicted = dot(sum_factors, block.own + row * rank, rank)
    n = count + prior.bias_precision / prior.residual_precision
    noise = block.noise[row * (rank + 1) + rank] / np.sqrt(prior.residual_precision * n)
    block.bias[row] = (total - predicted) / n + noise
    bias = block.bias[row]
    prior_target = _target(prior, row)
    for c in range(rank):
        target[c] += prior_target[c] - bias * sum_factors[c]
    bias_64 = np.float64(bias)
    block.error[row] = total_square - 2 * bias_64 * total + count * bias_64 * bias_64


def _draw(problem, batch, sizes, buffers, primal):
    """Draw the factors of rows from their systems and complete their squared errors."""
    block, prior, rank, columns = problem.block, problem.prior, sizes.rank, batch.columns
    width = lanes(batch.matrices)
    if sizes.primal_lanes == 1:
        _draw_single(block, batch, prior, rank, buffers)
    else:
        _draw_batch(block, batch, prior, rank, buffers)
    for lane in range(batch.n_rows):
        start = lane * size_of(columns, width) + columns * stride_of(columns, width)
        solution, quadratic = buffers.solutions + lane * columns, buffers.scratch[lane]
        _finish(block, batch.rows[lane], prior, rank, solution, batch.matrices + start, quadratic)


@_jit
def _draw_batch(block, batch, prior, rank, buffers):
    columns, width, order = batch.columns, lanes(batch.matrices), _order(rank)
    batches.clear_unused(batch)
    cholesky.pack(batch.matrices, columns, order, buffers.panels, buffers.packed)
    _add_prior(prior.matrix, order, buffers.panels, columns)
    cholesky.factor_batch(buffers.panels, columns, order, simd.zeros(buffers.panels, 1, 1))
    cholesky.forward_batch(buffers.panels, columns, order, buffers.packed)
    for lane in range(batch.n_rows):
        _add_noise(block, batch.rows[lane], prior, rank, buffers.packed + lane, width)
    cholesky.backward_batch(buffers.panels, columns, order, buffers.packed)
    simd.store(buffers.scratch, _quadratic_form(prior.matrix, order, buffers.packed))
    cholesky.unpack(buffers.packed, columns, buffers.solutions)


@_jit
def _add_prior(prior, order, panels, columns):
    """Add the prior's matrix to the upper triangles of all packed matrices."""
    width = lanes(panels)
    for column in range(0, order, PANEL):
        panel = panels + column * columns * width
        for row in range(column + PANEL):
            place = panel + row * PANEL * width
            elements = simd.broadcast_tile(prior + (row * order + column), 0, 1, PANEL)
            simd.store_tile(place, 0, simd.add(simd.load_tile(place, 0, 1, PANEL), elements))


@_jit
def _quadratic_form(prior, order, x):
    """Return xᵀPx of all packed x, P the prior's matrix."""
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
def _draw_single(block, batch, prior, rank, buffers):
    matrix, columns, order = batch.matrices, batch.columns, _order(rank)
    stride = stride_of(columns, lanes(matrix))
    right_side = matrix + columns * stride
    for i in range(rank):
        for c in range(rank):
            matrix[i * stride + c] += prior.matrix[i * order + c]
    for c in range(columns):
        buffers.solutions[c] = right_side[c]
    cholesky.factor_single(matrix, columns, 0, buffers.scratch)
    cholesky.forward_single(matrix, columns, buffers.solutions)
    _add_noise(block, batch.rows[0], prior, rank, buffers.solutions, 1)
    cholesky.backward_single(matrix, columns, buffers.solutions)
    quadratic = 0.0
    for i in range(rank):
        product = dot(prior.matrix + i * order, buffers.solutions, rank)
        quadratic += product * buffers.solutions[i]
    buffers.scratch[0] = quadratic


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
    from_prior = 2 * dot(_target(prior, row), factors, rank) - quadratic
    block.error[row] += from_prior - 2 * dot(factors, x, rank)
    block.error[row] = simd.greatest(0.0, block.error[row])


batches.register_steps(_Problem, queue_with=batches.only_queue, form_with=_form, solve_with=_draw)
