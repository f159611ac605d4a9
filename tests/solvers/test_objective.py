import numpy as np
import pytest
from support.data import small_settings

from dask_als.core.blocks import Factors
from dask_als.core.superaccumulator import as_float
from dask_als.solvers.objective import NO_SUMS, objective, rmse, sums_of


def random_rows(seed, n=50):
    rng = np.random.default_rng(seed)
    state = Factors(rng.normal(size=n), rng.normal(size=(n, 4)))
    return state, rng.random(n), rng.integers(1, 9, n)


def test_sums_of_rows():
    state, error, weights = random_rows(0)
    sums = sums_of(state, error, weights)
    squared_factors = (weights[:, None] * state.factors**2).sum()
    assert as_float(sums.squared_error) == pytest.approx(error.sum(), rel=1e-14)
    assert as_float(sums.squared_bias) == pytest.approx((weights * state.bias**2).sum(), rel=1e-14)
    assert as_float(sums.squared_factors) == pytest.approx(squared_factors, rel=1e-14)


@pytest.mark.parametrize("cut", [1, 13, 49])
def test_sums_of_parts_add_up_to_the_same_bits(cut):
    state, error, weights = random_rows(1)
    first = sums_of(state[:cut], error[:cut], weights[:cut])
    last = sums_of(state[cut:], error[cut:], weights[cut:])
    assert first + last + NO_SUMS == sums_of(state, error, weights)


@pytest.mark.parametrize("first", ["users", "items"])
def test_the_objective_is_that_of_the_notebook(first):
    """With a regularization of its own for each side, and weights of rows."""
    users, user_error, user_weights = random_rows(2)
    items, item_error, item_weights = random_rows(3)
    settings = small_settings(
        residual_precision=0.7,
        bias_regularization=0.3,
        item_bias_regularization=0.4,
        factor_regularization=0.2,
        user_factor_regularization=0.1,
        first=first,
    )
    last_error = item_error if first == "users" else user_error
    expected = (
        -0.5 * 0.7 * last_error.sum()
        - 0.5 * 0.3 * (user_weights * users.bias**2).sum()
        - 0.5 * 0.4 * (item_weights * items.bias**2).sum()
        - 0.5 * 0.1 * (user_weights[:, None] * users.factors**2).sum()
        - 0.5 * 0.2 * (item_weights[:, None] * items.factors**2).sum()
    )
    sides = [sums_of(users, user_error, user_weights), sums_of(items, item_error, item_weights)]
    found = objective(*(sides if first == "users" else sides[::-1]), settings)
    assert found == pytest.approx(expected, rel=1e-13)


def test_rmse_of_errors_worked_out_by_hand():
    errors = np.array([3.0, 1.0, -2.0, 1.0, 1.0])  # squares: 9 + 1 + 4 + 1 + 1 = 16
    state = Factors(np.zeros(5), np.zeros((5, 2)))
    squared_error = sums_of(state, errors**2, np.ones(5)).squared_error
    assert rmse(squared_error, 4) == 2.0
    assert rmse(squared_error, 16) == 1.0


def test_objective_worked_out_by_hand():
    users = Factors(np.array([1.0, -2.0]), np.array([[1.0, 0.0], [2.0, 1.0]]))
    items = Factors(np.array([3.0]), np.array([[1.0, -1.0]]))
    # Biases: 1 + 4 of users, 9 of items. Factors: 1 + 5 of users, 2 of items. Squared error: 6.
    settings = small_settings(
        residual_precision=2.0, bias_regularization=0.5, factor_regularization=0.25
    )
    stale = sums_of(users, np.array([100.0, 100.0]), np.ones(2))
    current = sums_of(items, np.array([6.0]), np.ones(1))
    assert objective(stale, current, settings) == -0.5 * (2 * 6 + 0.5 * 14 + 0.25 * 8)
    assert objective(stale, current, settings) == -10.5
