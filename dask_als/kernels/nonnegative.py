"""Solve rows for factors that are not negative: exact nonnegative least squares.

A row minimizes ½ uᵀA u - xᵀu over u >= 0, A the matrix of its system with the ridge. The solution
is the only u that satisfies the conditions of Karush, Kuhn and Tucker,

    u >= 0,    g = A u - x >= 0,    u_i g_i = 0 for every i.

Block principal pivoting guesses which factors are free and sets the others to zero. It solves the
free ones by Cholesky, then exchanges all factors that violate the conditions: free ones below zero,
others whose gradient is. If the number of violations does not fall in three rounds, only the last
of them is exchanged (Murty's rule), which cannot cycle. It can take many rounds, though, so after a
fixed number the row is solved by the active-set method of Lawson and Hanson: each of its steps
lowers the objective and leaves u >= 0, so it ends, too.

As u·g = 0, a row's squared error follows from its solution as it does without bounds. All of it is
float64 and row by row, so a row's bits do not depend on the other rows.

Sources: Portugal, Júdice and Vicente 1994, "A comparison of block pivoting and interior-point
algorithms for linear least squares problems with nonnegative variables"; Kim and Park 2011, "Fast
nonnegative matrix factorization"; Lawson and Hanson 1974, "Solving least squares problems".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dask_als.kernels import batches, parts
from dask_als.kernels.gram import size_of, stride_of
from dask_als.kernels.simd import lanes

# A violation below this part of the largest element of x is a rounding error.
_TOLERANCE = 1e-13
# A pivot below this part of its diagonal element is a rounding error; see `cholesky`.
_LEAST_PIVOT = 1e-14
# Rounds in which the number of violations need not fall, before Murty's rule.
_PATIENCE = 3

_jit = parts.part


class _System(NamedTuple):
    """A row's system in float64, and memory to solve it.

    `free` says which factors are free, `gradient` is A u - x; the rest is scratch memory.
    """

    matrix: Any
    right: Any
    free: Any
    solution: Any
    gradient: Any
    candidate: Any
    factor: Any
    scratch: Any
    places: Any


@_jit
def _empty_system(rank):
    return _System(
        np.empty((rank, rank)),
        np.empty(rank),
        np.zeros(rank, np.bool_),
        np.zeros(rank),
        np.empty(rank),
        np.empty(rank),
        np.empty((rank, rank)),
        np.empty(rank),
        np.empty(rank, np.int64),
    )


def extra_bytes(rank):
    """Return the bytes that a call allocates besides the kernel's buffers."""
    return (2 * rank + 7) * rank * 8


@_jit
def solve_nonnegative(block, batch, sizes, buffers):
    """Solve systems in the primal form; set the factors and squared errors of their rows."""
    columns, width, rank = batch.columns, lanes(batch.matrices), sizes.rank
    system = _empty_system(rank)
    for lane in range(batch.n_rows):
        row, matrix = batch.rows[lane], batch.matrices + lane * size_of(columns, width)
        target = matrix + columns * stride_of(columns, width)
        ridge = block.factor_ridge[row]
        for i in range(rank):
            system.right[i] = target[i]
            for j in range(i, rank):
                element = np.float64(matrix[i * stride_of(columns, width) + j])
                system.matrix[i, j] = system.matrix[j, i] = element
            system.matrix[i, i] += ridge
        solve_system(system)
        solution = buffers.solutions + lane * columns
        for i in range(rank):
            solution[i] = system.solution[i]
        batches.finish_primal(block, row, rank, solution, target)


@_jit
def solve_system(system):
    """Set the solution of a system."""
    rank = len(system.right)
    largest = 0.0
    for i in range(rank):
        largest = max(largest, abs(system.right[i]))
    tolerance = _TOLERANCE * largest
    if not _pivot(system, tolerance, 20 + 2 * rank):
        _active_set(system, tolerance, 20 + 10 * rank)


@_jit
def _pivot(system, tolerance, most_rounds):
    """Solve a system by block principal pivoting; tell whether it ended."""
    rank = len(system.right)
    free, candidate = system.free, system.candidate
    for i in range(rank):
        free[i] = system.right[i] > 0
    least, patience = rank + 1, _PATIENCE
    for _ in range(most_rounds):
        _solve_free(system)
        _set_gradient(system, candidate)
        violations, last = 0, 0
        for i in range(rank):
            if _is_violated(system, i, tolerance):
                violations, last = violations + 1, i
        if violations == 0:
            for i in range(rank):
                # Not max: what is not a number has to stay so, to be noticed.
                system.solution[i] = 0.0 if candidate[i] < 0 else candidate[i]
            return True
        if violations < least:
            least, patience = violations, _PATIENCE
        else:
            patience -= 1
        for i in range(rank):
            is_exchanged = i == last if patience < 0 else _is_violated(system, i, tolerance)
            if is_exchanged:
                free[i] = not free[i]
    return False


@_jit
def _is_violated(system, i, tolerance):
    if system.free[i]:
        return system.candidate[i] * system.matrix[i, i] < -tolerance
    return system.gradient[i] < -tolerance


@_jit
def _active_set(system, tolerance, most_steps):
    """Solve a system by the method of Lawson and Hanson."""
    rank = len(system.right)
    free, u, candidate, gradient = system.free, system.solution, system.candidate, system.gradient
    for i in range(rank):
        free[i], u[i] = False, 0.0
    _set_gradient(system, u)
    for _ in range(most_steps):
        entering, least = -1, -tolerance
        for i in range(rank):
            if not free[i] and gradient[i] < least:
                entering, least = i, gradient[i]
        if entering < 0:
            return
        free[entering] = True
        _solve_free(system)
        if candidate[entering] <= 0:
            # A rounding error: its gradient is not below zero, up to the last digits.
            free[entering] = False
            gradient[entering] = 0.0
            continue
        while _step_back(system):
            _solve_free(system)
        for i in range(rank):
            u[i] = candidate[i]
        _set_gradient(system, u)


@_jit
def _step_back(system):
    """Go towards the candidate as far as u stays >= 0, fix what became zero; False: all the way."""
    free, u, candidate = system.free, system.solution, system.candidate
    length, blocking = 1.0, -1
    for i in range(len(u)):
        if free[i] and candidate[i] <= 0:
            part = u[i] / (u[i] - candidate[i]) if u[i] > 0 else 0.0
            if blocking < 0 or part < length:
                length, blocking = part, i
    if blocking < 0:
        return False
    for i in range(len(u)):
        if free[i]:
            u[i] = max(0.0, u[i] + length * (candidate[i] - u[i]))
    u[blocking] = 0.0
    free[blocking] = False
    return True


@_jit
def _set_gradient(system, u):
    """Set the gradient A u - x."""
    rank = len(u)
    gradient = system.gradient
    for j in range(rank):
        gradient[j] = -system.right[j]
    for i in range(rank):
        if u[i] != 0:
            row = system.matrix[i]
            for j in range(rank):
                gradient[j] += u[i] * row[j]


@_jit
def _solve_free(system):
    """Set the candidate to the solution for the free factors, and to zero for the others."""
    rank = len(system.right)
    places, factor, candidate = system.places, system.factor, system.candidate
    n = 0
    for i in range(rank):
        candidate[i] = 0.0
        if system.free[i]:
            places[n] = i
            n += 1
    for i in range(n):
        row = system.matrix[places[i]]
        for j in range(i, n):
            factor[i, j] = row[places[j]]
    x = system.scratch
    for i in range(n):
        x[i] = system.right[places[i]]
    # The factor is U with UᵀU = A; its diagonal holds reciprocals, zero for a negligible pivot.
    for p in range(n):
        pivot = factor[p, p]
        is_sound = pivot > _LEAST_PIVOT * system.matrix[places[p], places[p]]
        reciprocal = 1 / np.sqrt(pivot) if is_sound else 0.0
        factor[p, p] = reciprocal
        for j in range(p + 1, n):
            factor[p, j] *= reciprocal
        x[p] *= reciprocal
        for i in range(p + 1, n):
            left = factor[p, i]
            x[i] -= left * x[p]
            for j in range(i, n):
                factor[i, j] -= left * factor[p, j]
    for p in range(n - 1, -1, -1):
        value = x[p]
        for j in range(p + 1, n):
            value -= factor[p, j] * x[j]
        x[p] = value * factor[p, p]
    for i in range(n):
        candidate[places[i]] = x[i]
