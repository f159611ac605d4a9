from dataclasses import replace

import numpy as np
import pytest
from support.data import small_settings
from support.made_blocks import block_with, state_of

from dask_als.core.blocks import block_of
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.core.superaccumulator import as_float
from dask_als.solvers.base import SolvedSide, held_out_error, join_parts, unsolved_part
from dask_als.solvers.least_squares import solve_part
from dask_als.solvers.objective import NO_SUMS

SETTINGS = small_settings(dtype="float64", residual_precision=0.5)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("scaling", ["plain", "count"])
def test_a_part_is_solved_by_the_equations(side, scaling):
    gammas, taus = {USERS: 1.0, ITEMS: 3.0}, {USERS: 0.7, ITEMS: 2.0}
    settings = replace(
        SETTINGS,
        factor_regularization=taus[USERS],
        item_bias_regularization=gammas[ITEMS],
        item_factor_regularization=taus[ITEMS],
        regularization_scaling=scaling,
    )
    block = block_with([3, 0, 9, 1], 12, start=2)
    own, fixed = state_of(1, 8), state_of(2, 12)
    part = solve_part(
        side, block, SolvedSide(own, NO_SUMS, 0.0), SolvedSide(fixed, NO_SUMS, 0.0), 3.0, settings
    )
    squared_error = squared_bias = squared_factors = 0.0
    for place, row in enumerate(block.rows):
        its = slice(*block.indptr[place : place + 2])
        factors, biases = fixed.factors[block.indices[its]], fixed.bias[block.indices[its]]
        y = block.ratings[its] - 3.0 - biases
        weight = max(1, len(y)) if scaling == "count" else 1
        lam, gamma, tau = 0.5, weight * gammas[side], weight * taus[side]
        bias = lam * (y - factors @ own.factors[row]).sum() / (lam * len(y) + gamma)
        left = lam * factors.T @ factors + tau * np.eye(4)
        solved = np.linalg.solve(left, lam * factors.T @ (y - bias))
        np.testing.assert_allclose(part.solution.factors[place], solved, atol=1e-12)
        assert part.solution.bias[place] == pytest.approx(bias, abs=1e-12)
        assert part.rated[place] == (len(y) > 0)
        squared_error += ((y - bias - factors @ solved) ** 2).sum()
        squared_bias += weight * bias**2
        squared_factors += weight * (solved**2).sum()
    assert as_float(part.sums.squared_error) == pytest.approx(squared_error, rel=1e-10)
    assert as_float(part.sums.squared_bias) == pytest.approx(squared_bias, rel=1e-10)
    assert as_float(part.sums.squared_factors) == pytest.approx(squared_factors, rel=1e-10)


def test_rows_without_ratings_and_without_regularization_are_zero():
    settings = replace(SETTINGS, bias_regularization=0.0, regularization_scaling="count")
    own = SolvedSide(state_of(3, 2), NO_SUMS, 0.0)
    fixed = SolvedSide(state_of(4, 9), NO_SUMS, 0.0)
    part = solve_part(USERS, block_with([0, 4], 9), own, fixed, 3.0, settings)
    assert part.solution.bias[0] == 0
    assert not part.solution.factors[0].any()


def test_joining_fills_in_the_mean_bias_of_rated_rows():
    counts = [2, 0, 4, 0, 1]
    own = SolvedSide(state_of(3, 5), NO_SUMS, 0.0)
    fixed = SolvedSide(state_of(4, 9), NO_SUMS, 0.0)
    whole = block_with(counts, 9)
    joined = join_parts([solve_part(USERS, whole, own, fixed, 3.0, SETTINGS)])
    rated = np.array(counts) > 0
    assert joined.mean_bias == pytest.approx(joined.solution.bias[rated].mean(), rel=1e-14)
    assert (joined.solution.bias[~rated] == joined.mean_bias).all()
    assert not joined.solution.factors[~rated].any()


def test_parts_do_not_show_in_the_joined_side():
    own = SolvedSide(state_of(3, 5), NO_SUMS, 0.0)
    fixed = SolvedSide(state_of(4, 9), NO_SUMS, 0.0)
    whole = block_with([2, 0, 4, 0, 1], 9)
    cut = whole.indptr[2]
    parts = [
        block_of(range(2), whole.row_of_rating[:cut], whole.indices[:cut], whole.ratings[:cut]),
        block_of(range(2, 5), whole.row_of_rating[cut:], whole.indices[cut:], whole.ratings[cut:]),
    ]
    one = join_parts([solve_part(USERS, whole, own, fixed, 3.0, SETTINGS)])
    two = join_parts([solve_part(USERS, part, own, fixed, 3.0, SETTINGS) for part in parts])
    assert one.solution.factors.tobytes() == two.solution.factors.tobytes()
    assert one.solution.bias.tobytes() == two.solution.bias.tobytes()
    assert (one.sums, one.mean_bias) == (two.sums, two.mean_bias)


def test_what_training_starts_from_counts_for_nothing():
    joined = join_parts([unsolved_part(state_of(5, 3))])
    assert joined.sums == NO_SUMS
    np.testing.assert_array_equal(joined.solution.bias, state_of(5, 3).bias)


def test_held_out_error():
    block = block_with([2, 3], 6, start=1)
    users, items = state_of(6, 4), state_of(7, 6)
    found = held_out_error(
        block, SolvedSide(users, NO_SUMS, 0.0), SolvedSide(items, NO_SUMS, 0.0), 3.0
    )
    expected = sum(
        (rating - 3.0 - users.bias[m] - items.bias[n] - users.factors[m] @ items.factors[n]) ** 2
        for m, n, rating in zip(block.row_of_rating, block.indices, block.ratings, strict=True)
    )
    assert as_float(found) == pytest.approx(expected, rel=1e-12)
