"""Tests of weighted ratings in the kernels, against dense solutions that import nothing of ours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_problems import mixed_counts, problem
from support.weighted_rows import weighted_row

from dask_als.kernels import workspace
from dask_als.kernels.gibbs import draw_rows
from dask_als.kernels.least_squares import solve_rows, solve_rows_plain

DTYPES = [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)]


def weights_for(given_problem, seed=0):
    random = np.random.default_rng(seed)
    return np.exp(random.normal(0, 1.5, len(given_problem.ratings))).astype(np.float32)


def solved(given_problem, weights, solve=solve_rows):
    *arrays, mean, bias_ridge, factor_ridge = given_problem
    ridges = {"bias_ridge": bias_ridge, "factor_ridge": factor_ridge}
    return solve(*arrays, mean=mean, **ridges, weights=weights)


def oracle(given_problem, weights):
    """Solve every row densely in float64."""
    p = given_problem.astype(np.float64)
    n, rank = p.own_factors.shape
    bias, factors, error = np.zeros(n), np.zeros((n, rank)), np.zeros(n)
    for row in range(n):
        its = slice(p.indptr[row], p.indptr[row + 1])
        rated = p.indices[its]
        if not len(rated):
            continue
        y = p.ratings[its].astype(float) - p.mean - p.fixed_bias[rated]
        bias[row], factors[row], error[row] = weighted_row(
            y,
            p.fixed_factors[rated],
            weights[its].astype(float),
            p.own_factors[row],
            p.bias_ridge[row],
            p.factor_ridge[row],
        )
    return bias, factors, error


def assert_close(got, wanted, tolerance):
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * np.abs(w).max(initial=0))


@pytest.mark.parametrize("rank", [1, 2, 5, 16, 17, 33, 64, 129])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(np.float64, 1e-9, marks=pytest.mark.slow), (np.float32, 1e-3)],
)
def test_rows_agree_with_dense_solutions(rank, dtype, tolerance):
    given_problem = problem(mixed_counts(rank), rank, dtype)
    weights = weights_for(given_problem)
    wanted = oracle(given_problem, weights)
    assert_close(solved(given_problem, weights), wanted, tolerance)
    if dtype == np.float64:
        assert_close(solved(given_problem, weights, solve_rows_plain), wanted, tolerance)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(0, 90), max_size=30),
    rank=st.integers(1, 70),
    spread=st.sampled_from([0.0, 1.0, 5.0]),
    seed=st.integers(0, 1000),
)
def test_any_block_agrees_with_dense_solutions(counts, rank, spread, seed):
    given_problem = problem(counts, rank, seed=seed)
    normal = np.random.default_rng(seed).normal(size=len(given_problem.ratings))
    weights = np.exp(spread * normal).astype(np.float32)
    # Weights that differ by 10 orders of magnitude cost digits in any arithmetic.
    tolerance = 1e-9 if spread < 5 else 1e-6
    assert_close(solved(given_problem, weights), oracle(given_problem, weights), tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [5, 33, 129])
def test_weights_of_one_have_the_bits_of_none(dtype, rank):
    given_problem = problem(mixed_counts(rank), rank, dtype)
    ones = np.ones(len(given_problem.ratings), np.float32)
    pairs = zip(solved(given_problem, ones), solved(given_problem, None), strict=True)
    assert all(one.tobytes() == none.tobytes() for one, none in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [3, 33])
def test_a_whole_weight_repeats_a_rating(rank):
    once = problem([0, 1, 4, 9, 16, 40, 200], rank)
    times = np.random.default_rng(2).integers(1, 5, len(once.ratings))
    counts = np.add.reduceat(np.append(times, 0), once.indptr[:-1]) * (np.diff(once.indptr) > 0)
    repeated = once._replace(
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        indices=np.repeat(once.indices, times),
        ratings=np.repeat(once.ratings, times),
    )
    assert_close(solved(once, times.astype(np.float32)), solved(repeated, None), 1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_depend_neither_on_the_block_nor_on_the_batch(dtype, monkeypatch):
    whole = problem(mixed_counts(33), 33, dtype)
    weights = weights_for(whole)
    wanted = solved(whole, weights)
    chosen = np.arange(3, len(whole.own_factors))
    some = solved(whole.rows(chosen), weights[whole.indptr[3] :])
    assert all(s.tobytes() == w[3:].tobytes() for s, w in zip(some, wanted, strict=True))
    monkeypatch.setattr(workspace, "BATCHED_RANK", 0)
    monkeypatch.setattr(workspace, "DUAL_RANK", 1000)
    batched_primal = solved(whole, weights)
    monkeypatch.undo()
    monkeypatch.setattr(workspace, "DUAL_RANK", 1000)
    for single, batched in zip(batched_primal, solved(whole, weights), strict=True):
        assert single.tobytes() == batched.tobytes()


def drawn(given_problem, noise, weights):
    rank = given_problem.own_factors.shape[1]
    mean = np.linspace(-0.2, 0.3, rank)
    precision = 2 * np.eye(rank) + 0.1
    return draw_rows(
        *given_problem[:6],
        noise,
        mean=given_problem.mean,
        residual_precision=1.7,
        bias_precision=0.6,
        factor_mean=mean,
        factor_precision=precision,
        weights=weights,
    ), (mean, precision)


@pytest.mark.parametrize("rank", [5, 33, 129])
def test_draws_have_the_moments_of_the_weighted_posterior(rank):
    given_problem = problem(mixed_counts(rank), rank)
    n = len(given_problem.own_factors)
    noise = np.random.default_rng(1).normal(size=(n, rank + 1))
    weights = weights_for(given_problem)
    (bias, factors, error), (mean, precision) = drawn(given_problem, noise, weights)
    for row in range(n):
        its = slice(given_problem.indptr[row], given_problem.indptr[row + 1])
        rated, w = given_problem.indices[its], weights[its].astype(float)
        if not len(rated):
            continue
        fixed = given_problem.fixed_factors[rated]
        y = given_problem.ratings[its] - given_problem.mean - given_problem.fixed_bias[rated]
        total = 1.7 * w.sum() + 0.6
        expected = 1.7 * np.sum(w * (y - fixed @ given_problem.own_factors[row])) / total
        np.testing.assert_allclose(bias[row], expected + noise[row, -1] / np.sqrt(total), 1e-9)
        # u - E[u] = A^(-1/2) z: whitened by A, its length is that of the noise.
        matrix = 1.7 * (fixed.T * w) @ fixed + precision
        right = 1.7 * fixed.T @ (w * (y - bias[row])) + precision @ mean
        deviation = factors[row] - np.linalg.solve(matrix, right)
        length = deviation @ matrix @ deviation
        np.testing.assert_allclose(length, noise[row, :-1] @ noise[row, :-1], rtol=1e-8)
        residual = y - bias[row] - fixed @ factors[row]
        np.testing.assert_allclose(error[row], np.sum(w * residual**2), rtol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_draws_with_weights_of_one_have_the_bits_of_none(dtype):
    given_problem = problem(mixed_counts(33), 33, dtype)
    noise = np.random.default_rng(1).normal(size=(len(given_problem.own_factors), 34))
    ones = np.ones(len(given_problem.ratings), np.float32)
    with_ones, _ = drawn(given_problem, noise.astype(dtype), ones)
    with_none, _ = drawn(given_problem, noise.astype(dtype), None)
    pairs = zip(with_ones, with_none, strict=True)
    assert all(one.tobytes() == none.tobytes() for one, none in pairs)


def test_weights_of_another_length_are_refused():
    given_problem = problem([3, 4], 2)
    with pytest.raises(ValueError, match=r"shapes .*\(6,\).* pass .*\(7,\)"):
        solved(given_problem, np.ones(6, np.float32))
