import numpy as np
import pytest
from support.data import generated, notebook_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model.explain import contributions
from dask_als.model.model import ALSModel
from dask_als.training.train import train

SERIAL = SerialExecutor()


def test_parts_add_up_to_the_product_of_factors():
    """With u from the normal equations, and each part from one rating alone."""
    draw = np.random.default_rng(0)
    rated, residuals, target = draw.normal(size=(9, 4)), draw.normal(size=9), draw.normal(size=4)
    matrix = rated.T @ rated + 0.7 * np.eye(4)
    weights, parts = contributions(rated, residuals, target, ridge=0.7)
    assert parts.sum() == pytest.approx(np.linalg.solve(matrix, rated.T @ residuals) @ target)
    for n in range(9):
        alone = np.zeros(9)
        alone[n] = residuals[n]
        u = np.linalg.solve(matrix, rated.T @ alone)
        assert parts[n] == pytest.approx(u @ target)
        assert weights[n] * residuals[n] == pytest.approx(parts[n])


@pytest.fixture(scope="module", params=["plain", "count"])
def model(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("explain")
    source = write_csv(directory / "r.csv", generated(30, 30, 400, seed=3))
    dataset = prepare(str(source), str(directory / "d"), SERIAL)
    settings = notebook_settings(
        rank=3, epochs=3, regularization_scaling=request.param, user_factor_regularization=0.5
    )
    train(dataset, str(directory / "m"), settings, SERIAL)
    return ALSModel.load(str(directory / "m"))


def test_a_prediction_of_a_model(model):
    """Against one half-epoch of the user by hand."""
    settings, mean = model.settings, model.manifest.global_mean
    user = model.users.ids[4]
    mine = model.rated_items(user)
    rows = model.items.rows(mine["item_id"])
    f, c = model.items.state.factors[rows], model.items.state.bias[rows]
    rating = mine["rating"].to_numpy()
    weight = len(rows) if settings.regularization_scaling == "count" else 1
    old = model.users.state.factors[4]
    b = (rating - mean - c - f @ old).sum() / (len(rows) + weight * settings.bias_regularization)
    matrix = f.T @ f + weight * settings.user_factor_regularization * np.eye(3)
    u = np.linalg.solve(matrix, f.T @ (rating - mean - b - c))
    item = next(one for one in model.items.ids if one not in set(mine["item_id"]))
    target = model.items.row(item)
    found = model.explain(user, item)
    assert found.attrs["product"] == pytest.approx(u @ model.items.state.factors[target], rel=1e-9)
    assert found.attrs["score"] == pytest.approx(
        mean + b + model.items.state.bias[target] + found.attrs["product"], rel=1e-9
    )
    assert found["part"].sum() == pytest.approx(found.attrs["product"], rel=1e-9)
    assert found["part"].abs().is_monotonic_decreasing
    ratings = dict(zip(mine["item_id"], mine["rating"], strict=True))
    assert dict(zip(found["item_id"], found["rating"], strict=True)) == ratings


def test_what_is_not_known(model):
    with pytest.raises(InputError, match="user -1 is not in the model"):
        model.explain(-1, model.items.ids[0])
    with pytest.raises(InputError, match="item -1 is not in the model"):
        model.explain(model.users.ids[0], -1)
