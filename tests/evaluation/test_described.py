"""Ratings of rows that only have attributes, in evaluations and in fold-in."""

from dataclasses import replace

import numpy as np
import pytest
from support.attributes import prepared_with_attributes
from support.data import read_state, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, USERS
from dask_als.data.prepare import prepare
from dask_als.evaluation.evaluate import evaluate
from dask_als.model.fold_in import fold_in
from dask_als.model.model import ALSModel
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

ALS = small_settings(dtype="float64", factor_regularization=1.0)
GIBBS = TrainSettings(method="gibbs", rank=4, burn_in=2, samples=3)


def cold_split(folder):
    """Return a dataset of which two items, with attributes, are held out altogether."""
    rng = np.random.default_rng(0)
    pairs = [(user, item) for user in range(20) for item in range(15) if rng.random() < 0.7]
    rows = [(user, item, 1 + (user * item) % 5) for user, item in pairs]
    train_rows = [row for row in rows if row[1] < 12]
    test_rows = [row for row in rows if row[1] >= 12]
    # Item 14 has no attributes.
    attributes = [(item, item % 4, "AB"[item % 2]) for item in range(14)]
    files = {
        "train": write_csv(folder / "train.csv", train_rows),
        "test": write_csv(folder / "test.csv", test_rows),
        "items": write_csv(folder / "items.csv", attributes, ("movieId", "year", "kind")),
    }
    dataset = prepare(
        str(files["train"]),
        str(folder / "dataset"),
        SerialExecutor(),
        test=str(files["test"]),
        attributes={ITEMS: str(files["items"])},
    )
    return dataset, test_rows


@pytest.mark.parametrize("settings", [ALS, GIBBS], ids=["als", "gibbs"])
def test_they_are_reported_apart(tmp_path, settings):
    dataset, rows = cold_split(tmp_path)
    path = str(tmp_path / "model")
    train(dataset, path, settings, SerialExecutor())
    found = evaluate(path, dataset, SerialExecutor(), EvaluateSettings(k=3))
    assert found.n_cold == len(rows)
    described = [row for row in rows if row[1] < 14]
    assert found.n_described == len(described)
    model = ALSModel.load(path)
    predicted = model.predict([row[0] for row in described], [row[1] for row in described])
    errors = np.array([row[2] for row in described]) - predicted
    expected = np.sqrt(np.mean(errors**2))
    assert found.errors["model"].rmse_described == pytest.approx(expected, rel=1e-5)
    assert found.errors["global mean"].rmse_described is not None
    own = model.evaluate(str(tmp_path / "test.csv"), k=3)
    assert own.n_described == len(described)
    assert own.errors["model"].rmse_described == pytest.approx(expected, rel=1e-5)


def test_without_attributes_none_is(tmp_path):
    dataset, _ = cold_split(tmp_path)
    path = str(tmp_path / "model")
    train(dataset, path, replace(ALS, attributes=False), SerialExecutor())
    found = evaluate(path, dataset, SerialExecutor(), EvaluateSettings(k=3))
    assert found.n_described == 0
    assert found.errors["model"].rmse_described is None


def folded(folder, dataset, settings):
    """Return the model, and biases and factors of items 12 and 14 folded in with a rating each."""
    path, out = str(folder / "model"), str(folder / "folded")
    train(dataset, path, settings, SerialExecutor())
    ratings = str(write_csv(folder / "new.csv", [(0, 12, 4), (1, 14, 4), (1, 2, 3)]))
    fold_in(ratings, path, out, SerialExecutor(), ITEMS)
    return path, *read_state(out, "items")


def test_fold_in_keeps_their_prior_means(tmp_path):
    dataset, _ = cold_split(tmp_path)
    path, bias, after = folded(tmp_path, dataset, ALS)
    before, (user_bias, users) = read_state(path, "items")[1], read_state(path, "users")
    mean, ridge = dataset.rating_mean, ALS.factor_regularization
    assert before[12].any()
    for user, item in ((0, 12), (1, 14)):
        prior = before[12] if item == 12 else 0 * before[12]
        f, error = users[user], 4 - mean - user_bias[user]
        expected_bias = (error - prior @ f) / (1 + ALS.bias_regularization)
        assert bias[item] == pytest.approx(expected_bias, abs=1e-6)
        left = error - expected_bias - prior @ f
        expected = prior + f * left / (ridge + f @ f)
        np.testing.assert_allclose(after[item], expected, atol=1e-6)


def test_fold_in_keeps_their_prior_means_in_a_model_of_samples(tmp_path):
    dataset, _ = cold_split(tmp_path)
    path, bias, after = folded(tmp_path, dataset, GIBBS)
    before, (user_bias, users) = read_state(path, "items")[1], read_state(path, "users")
    model = ALSModel.load(path)
    prior, precision = model.items.new_rows, model.manifest.residual_precision
    covariance = prior.root @ prior.root.T
    for user, item in ((0, 12), (1, 14)):
        expected = np.append(0, before[12]) if item == 12 else prior.mean
        a = np.append(1, users[user])
        error = 4 - dataset.rating_mean - user_bias[user] - a @ expected
        expected = expected + covariance @ a * error / (a @ covariance @ a + 1 / precision)
        np.testing.assert_allclose(np.append(bias[item], after[item]), expected, atol=1e-4)


def test_users_with_attributes_alone_get_recommendations_of_their_own(tmp_path):
    dataset = prepared_with_attributes(tmp_path)
    path = str(tmp_path / "model")
    train(dataset, path, ALS, SerialExecutor())
    model = ALSModel.load(path)
    cold = model.users.ids[model.users.counts == 0]
    described = dataset.attributes(USERS).matrix().counts[model.users.counts == 0] > 0
    lists = {tuple(model.recommend(user, k=30)["score"]) for user in cold[described]}
    assert len(lists) > 1
