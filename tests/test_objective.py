import numpy as np
import pytest
from data import small_settings

from dask_als.blocks import State
from dask_als.exact_sum import as_float
from dask_als.objective import NO_SUMS, objective, rmse, sums_of


def random_sums(seed, n=50):
    rng = np.random.default_rng(seed)
    state = State(rng.normal(size=n), rng.normal(size=(n, 4)))
    return state, rng.random(n)


def test_sums_of_rows():
    state, error = random_sums(0)
    sums = sums_of(state, error)
    assert as_float(sums.squared_error) == pytest.approx(error.sum(), rel=1e-14)
    assert as_float(sums.squared_bias) == pytest.approx((state.bias**2).sum(), rel=1e-14)
    assert as_float(sums.squared_factors) == pytest.approx((state.factors**2).sum(), rel=1e-14)


@pytest.mark.parametrize("cut", [1, 13, 49])
def test_sums_of_parts_add_up_to_the_same_bits(cut):
    state, error = random_sums(1)
    parts = sums_of(state[:cut], error[:cut]) + sums_of(state[cut:], error[cut:])
    assert parts + NO_SUMS == sums_of(state, error)


def test_the_objective_is_that_of_the_notebook():
    (users, user_error), (items, item_error) = random_sums(2), random_sums(3)
    settings = small_settings(
        residual_precision=0.7, bias_regularization=0.3, factor_regularization=0.2
    )
    expected = (
        -0.5 * 0.7 * item_error.sum()
        - 0.5 * 0.3 * ((users.bias**2).sum() + (items.bias**2).sum())
        - 0.5 * 0.2 * ((users.factors**2).sum() + (items.factors**2).sum())
    )
    found = objective(sums_of(users, user_error), sums_of(items, item_error), settings)
    assert found == pytest.approx(expected, rel=1e-13)


def test_rmse():
    state, error = random_sums(4)
    assert rmse(sums_of(state, error).squared_error, 20) == pytest.approx(np.sqrt(error.sum() / 20))
