"""Tests of the implicit kernel against loops over ALL pairs, which import nothing of ours."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernel_problems import mixed_counts

from dask_als.kernels import workspace
from dask_als.kernels.implicit import (
    ROWS_A_CHUNK,
    gram_of_side,
    grams_of_chunks,
    solve_rows_implicit,
)

RANKS = [
    *(1, 2, 5, 16, 17, 33, 64, 129),
    *(pytest.param(rank, marks=pytest.mark.slow) for rank in (100, 128, 257)),
]
DTYPES = [np.float32, pytest.param(np.float64, marks=pytest.mark.slow)]


class Problem(NamedTuple):
    """Arguments of `solve_rows_implicit`."""

    indptr: np.ndarray
    indices: np.ndarray
    ratings: np.ndarray
    fixed_factors: np.ndarray
    alpha: float
    factor_ridge: float
    exponent: float

    def solved(self):
        """Return (factors, squared_error, confidence)."""
        return solve_rows_implicit(
            *self[:4],
            gram_of_side(self.fixed_factors, {}),
            alpha=self.alpha,
            factor_ridge=self.factor_ridge,
            exponent=self.exponent,
        )


def problem(counts, rank, dtype=np.float64, *, n_fixed=700, alpha=1.5, exponent=0.3, seed=0):
    """Return a problem with the given numbers of ratings in its rows, from -1 to 5."""
    random = np.random.default_rng(seed)
    counts = np.minimum(counts, n_fixed).astype(np.int64)
    rated = [np.sort(random.permutation(n_fixed)[:n]) for n in counts]
    return Problem(
        indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        indices=np.concatenate([*rated, np.empty(0)]).astype(np.int32),
        ratings=(random.integers(-2, 11, counts.sum()) / 2).astype(np.float32),
        fixed_factors=random.normal(0, rank**-0.5, (n_fixed, rank)).astype(dtype),
        alpha=alpha,
        factor_ridge=0.1,
        exponent=exponent,
    )


def oracle(problem):
    """Solve every row from all pairs, rated or not, in float64."""
    fixed = problem.fixed_factors.astype(float)
    n_fixed, rank = fixed.shape
    n = len(problem.indptr) - 1
    factors, error, total = np.zeros((n, rank)), np.zeros(n), np.zeros(n)
    for row in range(n):
        confidence, preference = np.ones(n_fixed), np.zeros(n_fixed)
        for place in range(problem.indptr[row], problem.indptr[row + 1]):
            rating = float(problem.ratings[place])
            confidence[problem.indices[place]] = 1 + problem.alpha * abs(rating)
            preference[problem.indices[place]] = rating > 0
        left = fixed.T @ (confidence[:, None] * fixed)
        total[row] = confidence.sum()
        left += problem.factor_ridge * total[row] ** problem.exponent * np.eye(rank)
        factors[row] = np.linalg.solve(left, fixed.T @ (confidence * preference))
        error[row] = (confidence * (preference - fixed @ factors[row]) ** 2).sum()
    return factors, error, total


def assert_close(got, wanted, tolerance):
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance * np.abs(w).max(initial=0))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [pytest.param(np.float64, 1e-9, marks=pytest.mark.slow), (np.float32, 1e-4)],
)
def test_rows_agree_with_oracle(rank, dtype, tolerance):
    given_problem = problem(mixed_counts(rank), rank, dtype)
    factors, error, confidence = given_problem.solved()
    assert factors.dtype == dtype
    assert error.dtype == confidence.dtype == np.float64
    assert_close((factors, error, confidence), oracle(given_problem), tolerance)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 150), max_size=40),
    rank=st.integers(1, 70),
    alpha=st.sampled_from([1e-6, 0.3, 40.0, 1e6]),
    exponent=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_any_block_agrees_with_oracle(counts, rank, alpha, exponent, seed):
    given_problem = problem(counts, rank, alpha=alpha, exponent=exponent, seed=seed, n_fixed=200)
    assert_close(given_problem.solved(), oracle(given_problem), 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rank", [5, 33, 150])
def test_bits_do_not_depend_on_the_block(dtype, rank):
    whole = problem(mixed_counts(rank), rank, dtype)
    wanted = whole.solved()
    n = len(whole.indptr) - 1
    for rows in (range(1), range(1, 24), range(24, n)):
        start, stop = whole.indptr[rows.start], whole.indptr[rows.stop]
        part = whole._replace(
            indptr=whole.indptr[rows.start : rows.stop + 1] - start,
            indices=whole.indices[start:stop],
            ratings=whole.ratings[start:stop],
        )
        for got, all_rows in zip(part.solved(), wanted, strict=True):
            assert got.tobytes() == all_rows[rows.start : rows.stop].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_single_solves_have_the_bits_of_batched_ones(dtype, monkeypatch):
    given_problem = problem(mixed_counts(33), 33, dtype)
    batched = given_problem.solved()
    monkeypatch.setattr(workspace, "BATCHED_RANK", 0)
    for single, together in zip(given_problem.solved(), batched, strict=True):
        assert single.tobytes() == together.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 300, ROWS_A_CHUNK, 2 * ROWS_A_CHUNK + 77])
def test_the_gram_matrix_of_a_side(dtype, n):
    factors = np.random.default_rng(0).normal(size=(n, 19)).astype(dtype)
    wanted = factors.astype(float).T @ factors.astype(float)
    got = gram_of_side(factors, {})
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12 * n)
    np.testing.assert_array_equal(got, got.T)


@pytest.mark.parametrize("cuts", [[], [1], [4096, 8192], [100, 5000, 5001, 12288], [4095, 4097]])
def test_partitions_do_not_show_in_the_gram_matrix(cuts):
    factors = np.random.default_rng(0).normal(size=(13_000, 7)).astype(np.float32)
    edges = [0, *cuts, len(factors)]
    known = {}
    for start, stop in pairwise(edges):
        known |= grams_of_chunks(start, factors[start:stop])
    whole = gram_of_side(factors, {})
    assert known
    assert gram_of_side(factors, known).tobytes() == whole.tobytes()


def test_integer_factors_are_refused():
    given_problem = problem([3], 2)._replace(fixed_factors=np.zeros((700, 2), np.int64))
    with pytest.raises(TypeError, match="int64; convert them to float32 or float64"):
        given_problem.solved()


def test_lengths_that_do_not_fit_are_refused():
    given_problem = problem([3, 4], 2)
    with pytest.raises(ValueError, match=r"shapes .*\(6,\).* pass .*\(7,\)"):
        given_problem._replace(ratings=given_problem.ratings[1:]).solved()


@pytest.mark.parametrize("rank", [5, 33, 257])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ridge_draws_rows_to_their_means(rank, dtype):
    given = problem([0, 3, 40, 1, 0, 90], rank, dtype, exponent=0.0)
    means = np.random.default_rng(3).normal(0, rank**-0.5, (6, rank)).astype(dtype)
    found, error, _ = solve_rows_implicit(
        *given[:4],
        gram_of_side(given.fixed_factors, {}),
        alpha=given.alpha,
        factor_ridge=given.factor_ridge,
        exponent=0.0,
        row_means=means,
    )
    fixed, ridge = given.fixed_factors.astype(float), given.factor_ridge
    tolerance = 1e-9 if dtype == np.float64 else 2e-3
    for row in range(6):
        confidence, preference = np.ones(len(fixed)), np.zeros(len(fixed))
        its = slice(given.indptr[row], given.indptr[row + 1])
        confidence[given.indices[its]] += given.alpha * np.abs(given.ratings[its])
        preference[given.indices[its]] = given.ratings[its] > 0
        if its.start == its.stop:
            assert not found[row].any()
            continue
        matrix = (fixed.T * confidence) @ fixed + ridge * np.eye(rank)
        right = fixed.T @ (confidence * preference) + ridge * means[row]
        expected = np.linalg.solve(matrix, right)
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=tolerance)
        of_row = confidence @ (preference - fixed @ expected) ** 2
        assert error[row] == pytest.approx(of_row, rel=tolerance)
