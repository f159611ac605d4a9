"""Tests of factors >= 0: the conditions of Karush, Kuhn and Tucker in every row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_problems import mixed_counts, problem
from support.weighted_rows import system_of_row, violation

from dask_als.core.jit import compiled
from dask_als.kernels import nonnegative
from dask_als.kernels.implicit import gram_of_side, solve_rows_implicit
from dask_als.kernels.least_squares import solve_rows

DTYPES = [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)]


def solved(given_problem, weights=None):
    *arrays, mean, bias_ridge, factor_ridge = given_problem
    ridges = {"bias_ridge": bias_ridge, "factor_ridge": factor_ridge}
    return solve_rows(*arrays, mean=mean, **ridges, weights=weights, nonnegative=True)


def assert_kkt(given_problem, weights, result, tolerance):
    """Check conditions and squared error of every row, from scratch and in float64."""
    p = given_problem.astype(np.float64)
    bias, factors, error = (part.astype(np.float64) for part in result)
    for row in range(len(p.own_factors)):
        its = slice(p.indptr[row], p.indptr[row + 1])
        rated = p.indices[its]
        if not len(rated):
            assert not factors[row].any()
            continue
        w = np.ones(len(rated)) if weights is None else weights[its].astype(float)
        fixed, y = p.fixed_factors[rated], p.ratings[its] - p.mean - p.fixed_bias[rated]
        matrix, right = system_of_row(y, fixed, w, bias[row], p.factor_ridge[row])
        assert violation(matrix, right, factors[row]) <= tolerance
        residual = y - bias[row] - fixed @ factors[row]
        # The kernel subtracts what is explained, so digits of small errors cancel.
        wanted, explained = np.sum(w * residual**2), np.sum(w * (y - bias[row]) ** 2)
        np.testing.assert_allclose(error[row], wanted, rtol=0, atol=10 * tolerance * explained)


@pytest.mark.parametrize("rank", [1, 5, 17, 64, 129])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(np.float64, 1e-11, marks=pytest.mark.slow), (np.float32, 1e-3)],
)
def test_rows_satisfy_the_conditions(rank, dtype, tolerance):
    given_problem = problem(mixed_counts(rank), rank, dtype)
    result = solved(given_problem)
    assert (result[1] > 0).any()
    assert (result[1] == 0).any()
    assert_kkt(given_problem, None, result, tolerance)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 90), max_size=20),
    rank=st.integers(1, 40),
    ridge=st.sampled_from([1e-6, 0.05, 10.0]),
    seed=st.integers(0, 1000),
)
def test_any_block_satisfies_the_conditions(counts, rank, ridge, seed):
    given_problem = problem(counts, rank, ridge=ridge, seed=seed)
    weights = np.random.default_rng(seed).uniform(0.1, 3, len(given_problem.ratings))
    weights = weights.astype(np.float32)
    assert_kkt(given_problem, weights, solved(given_problem, weights), 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_do_not_depend_on_the_block(dtype):
    whole = problem(mixed_counts(33), 33, dtype)
    wanted = solved(whole)
    some = solved(whole.rows(np.arange(3, len(whole.own_factors))))
    assert all(s.tobytes() == w[3:].tobytes() for s, w in zip(some, wanted, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_implicit_rows_satisfy_the_conditions(dtype):
    random = np.random.default_rng(0)
    n_fixed, rank, alpha, ridge = 200, 12, 1.5, 0.1
    counts = np.array([0, 1, 7, 30, 120, 0, 3])
    rated = [np.sort(random.permutation(n_fixed)[:n]) for n in counts]
    ratings = (random.integers(-2, 11, counts.sum()) / 2).astype(np.float32)
    fixed = random.normal(0, rank**-0.5, (n_fixed, rank)).astype(dtype)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    factors, error, _ = solve_rows_implicit(
        indptr,
        np.concatenate(rated).astype(np.int32),
        ratings,
        fixed,
        gram_of_side(fixed, {}),
        alpha=alpha,
        factor_ridge=ridge,
        exponent=0.0,
        nonnegative=True,
    )
    tolerance = 1e-11 if dtype == np.float64 else 1e-3
    dense = fixed.astype(float)
    for row in np.flatnonzero(counts):
        confidence, preference = np.ones(n_fixed), np.zeros(n_fixed)
        its = ratings[indptr[row] : indptr[row + 1]].astype(float)
        confidence[rated[row]] += alpha * np.abs(its)
        preference[rated[row]] = its > 0
        matrix, right = system_of_row(preference, dense, confidence, 0.0, ridge)
        u = factors[row].astype(float)
        assert violation(matrix, right, u) <= tolerance
        wanted = np.sum(confidence * (preference - dense @ u) ** 2)
        np.testing.assert_allclose(error[row], wanted, rtol=10 * tolerance)


@compiled
def _by_both_methods(matrix, right, most_rounds):
    """Solve a system by pivoting, if it takes few rounds, and by the active-set method."""
    solutions = np.zeros((2, len(right)))
    system = nonnegative._empty_system(len(right))
    system.matrix[:], system.right[:] = matrix, right
    tolerance = 1e-13 * np.abs(right).max()
    has_ended = nonnegative._pivot(system, tolerance, most_rounds)
    solutions[0] = system.solution
    nonnegative._active_set(system, tolerance, 1000)
    solutions[1] = system.solution
    return has_ended, solutions


@settings(max_examples=60, deadline=None)
@given(rank=st.integers(1, 30), rows=st.integers(1, 60), seed=st.integers(0, 10_000))
def test_the_fallback_has_the_same_solution(rank, rows, seed):
    random = np.random.default_rng(seed)
    # Correlated columns make many exchanges.
    design = random.normal(size=(rows, rank)) + 2 * random.normal(size=(rows, 1))
    matrix = design.T @ design + 0.1 * np.eye(rank)
    right = design.T @ random.normal(size=rows)
    has_ended, (pivoted, stepped) = _by_both_methods(matrix, right, 80)
    assert has_ended
    assert violation(matrix, right, pivoted) <= 1e-9
    assert violation(matrix, right, stepped) <= 1e-9
    np.testing.assert_allclose(pivoted, stepped, atol=1e-8 * max(1, np.abs(pivoted).max()))


@settings(max_examples=40, deadline=None)
@given(rank=st.integers(2, 12), seed=st.integers(0, 10_000))
def test_a_singular_system_has_a_solution(rank, seed):
    random = np.random.default_rng(seed)
    design = random.integers(-2, 3, (rank - 1, rank)).astype(float)
    matrix, right = design.T @ design, design.T @ random.normal(size=rank - 1)
    if not right.any():
        return
    system = _solved_system(matrix, right)
    assert violation(matrix, right, system) <= 1e-6


@compiled
def _solved_system(matrix, right):
    system = nonnegative._empty_system(len(right))
    system.matrix[:], system.right[:] = matrix, right
    nonnegative.solve_system(system)
    return system.solution
