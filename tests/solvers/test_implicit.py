"""Training on implicit feedback, against plain loops over all pairs."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.data import content, generated, read_state, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import CheckpointSettings, TrainSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
SETTINGS = small_settings(
    feedback="implicit",
    residual_precision=0.5,
    factor_regularization=0.3,
    item_factor_regularization=0.8,
    confidence=2.0,
    frequency_exponent=0.4,
)

BOTH_TYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", 1e-5), pytest.param("float64", 1e-9, marks=pytest.mark.slow)],
)


class Oracle:
    """Ratings in a plain dictionary by pair; every sum is over all pairs."""

    def __init__(self, rows, settings):
        self.ratings = {(user, item): rating for user, item, rating in rows}
        self.lam = settings.residual_precision
        self.tau = {
            "user": settings.factor_regularization,
            "item": settings.item_factor_regularization,
        }
        self.alpha, self.nu = settings.confidence, settings.frequency_exponent

    def confidence(self, user, item):
        return 1 + self.alpha * abs(self.ratings.get((user, item), 0.0))

    def preference(self, user, item):
        return 1.0 if self.ratings.get((user, item), 0.0) > 0 else 0.0

    def epoch(self, users, items):
        for user in users:
            pairs = [((user, item), items[item]) for item in items]
            users[user] = self.solved(pairs, self.tau["user"])
        for item in items:
            pairs = [((user, item), users[user]) for user in users]
            items[item] = self.solved(pairs, self.tau["item"])

    def weight(self, pairs, tau):
        return tau * sum(self.confidence(*pair) for pair in pairs) ** self.nu

    def solved(self, pairs, tau):
        left = self.weight([pair for pair, _ in pairs], tau) * np.eye(len(pairs[0][1]))
        right = np.zeros(len(left))
        for pair, fixed in pairs:
            left += self.lam * self.confidence(*pair) * np.outer(fixed, fixed)
            right += self.lam * self.confidence(*pair) * self.preference(*pair) * fixed
        return np.linalg.solve(left, right)

    def squared_error(self, users, items):
        return math.fsum(
            self.confidence(user, item)
            * (self.preference(user, item) - float(users[user] @ items[item])) ** 2
            for user in users
            for item in items
        )

    def objective(self, users, items):
        value = self.lam * self.squared_error(users, items)
        for user in users:
            value += self.weight([(user, item) for item in items], self.tau["user"]) * float(
                users[user] @ users[user]
            )
        for item in items:
            value += self.weight([(user, item) for user in users], self.tau["item"]) * float(
                items[item] @ items[item]
            )
        return -0.5 * value

    def rmse(self, users, items):
        total = math.fsum(self.confidence(user, item) for user in users for item in items)
        return math.sqrt(self.squared_error(users, items) / total)


@pytest.fixture(scope="module")
def rows():
    """Events by (user, item, count), one of them a dislike."""
    (first, *others) = generated(n_users=40, n_items=50, n_ratings=500, seed=3)
    return [(*first[:2], -2.0), *others]


def made(tmp_path, rows, **settings):
    source, path = write_csv(tmp_path / "ratings.csv", rows), tmp_path / "dataset"
    return prepare(
        str(source), str(path), SERIAL, settings=PrepareSettings(**settings), overwrite=True
    )


@BOTH_TYPES
def test_epochs_agree_with_the_oracle(tmp_path, rows, dtype, tolerance):
    dataset, history = made(tmp_path, rows), []
    start, path = str(tmp_path / "start"), str(tmp_path / "model")
    train(dataset, start, small_settings(feedback="implicit", dtype=dtype, epochs=1), SERIAL)
    (_, users), (_, items) = read_state(start, "users"), read_state(start, "items")
    settings = replace(SETTINGS, dtype=dtype)
    train(dataset, path, settings, SERIAL, initial_model=start, on_epoch=history.append)
    oracle = Oracle(rows, SETTINGS)
    for figures in history:
        oracle.epoch(users, items)
        assert figures.objective == pytest.approx(oracle.objective(users, items), rel=tolerance)
        assert figures.train_rmse == pytest.approx(oracle.rmse(users, items), rel=tolerance)
    assert [figures.objective for figures in history] == sorted(f.objective for f in history)
    for side, wanted in (("users", users), ("items", items)):
        bias, factors = read_state(path, side)
        assert factors.keys() == wanted.keys()
        assert not any(bias.values())
        assert max(np.abs(factors[row] - wanted[row]).max() for row in wanted) < tolerance


@BOTH_TYPES
def test_held_out_error_is_of_preferences(tmp_path, rows, dtype, tolerance):
    dataset = made(tmp_path, rows, test_fraction=0.3)
    settings = replace(SETTINGS, dtype=dtype)
    manifest = train(dataset, str(tmp_path / "model"), settings, SERIAL)
    model = ALSModel.load(str(tmp_path / "model"))
    assert manifest.global_mean == 0
    seen = {
        (user, item)
        for user in model.users.ids
        for item in model.recommend(user, k=len(model.items.ids))["item_id"]
    }
    held_out = [(user, item, rating) for user, item, rating in rows if (user, item) in seen]
    assert len(held_out) == dataset.n_test
    users, items, ratings = zip(*held_out, strict=True)
    predicted = model.predict(users=list(users), items=list(items))
    wanted = np.sqrt(np.mean(((np.array(ratings) > 0) - predicted) ** 2))
    assert manifest.figures.test_rmse == pytest.approx(wanted, rel=tolerance)


def test_partitions_and_a_resumed_training_do_not_show(tmp_path, rows):
    settings = small_settings(feedback="implicit", epochs=4)
    contents = []
    for number, partitions in enumerate([1, 2, 7]):
        dataset = made(tmp_path, rows, test_fraction=0.1, partitions=partitions)
        path = str(tmp_path / f"model-{number}")
        train(dataset, path, settings, SERIAL)
        contents.append(content(path))
    checkpoints = CheckpointSettings(directory=str(tmp_path / "kept"), every=2, resume=True)
    half = small_settings(feedback="implicit", epochs=3)
    train(dataset, str(tmp_path / "half"), half, SERIAL, checkpoints=checkpoints)
    train(dataset, str(tmp_path / "whole"), settings, SERIAL, checkpoints=checkpoints)
    contents.append(content(str(tmp_path / "whole")))
    assert all(other == contents[0] for other in contents)


@BOTH_TYPES
def test_folding_in_gives_what_the_half_epoch_gives(tmp_path, rows, dtype, tolerance):
    dataset = made(tmp_path, rows)
    path = str(tmp_path / "model")
    settings = small_settings(feedback="implicit", dtype=dtype, first="items")
    train(dataset, path, settings, SERIAL)
    model = ALSModel.load(path)
    user = rows[0][0]
    folded = model.fold_in({item: rating for its, item, rating in rows if its == user})
    row = model.users.row(user)
    np.testing.assert_allclose(folded.factors, model.users.state.factors[row], atol=tolerance)
    assert folded.bias == 0


def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match="confidence is 0"):
        TrainSettings(feedback="implicit", confidence=0)
    with pytest.raises(InputError, match="frequency-exponent is -1"):
        TrainSettings(feedback="implicit", frequency_exponent=-1)
    with pytest.raises(InputError, match="explicit or implicit"):
        TrainSettings(feedback="likes")
