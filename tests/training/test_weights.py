"""Tests of training on ratings with weights, against an oracle that repeats or weighs them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from support.data import bits, read_state, small_settings, write_csv
from support.weighted_data import HEADER, WEIGHTED, prepared_with, weighted_rows
from support.weighted_rows import weighted_row

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, USERS
from dask_als.data.block_files import read_block, read_test_block
from dask_als.errors import InputError
from dask_als.estimator import ALS
from dask_als.evaluation.baselines import baselines
from dask_als.evaluation.evaluate import evaluate
from dask_als.model.fold_in import fold_in
from dask_als.model.model import ALSModel
from dask_als.planning.memory import memory_of_a_worker
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.settings.training import CheckpointSettings
from dask_als.training.train import train
from dask_als.tuning.folds import count_folds, split_into_folds

GIBBS = small_settings(
    method="gibbs", epochs=None, burn_in=2, samples=3, factor_regularization=12.0
)
METHODS = {
    "als": small_settings(epochs=5),
    "count": small_settings(epochs=5, regularization_scaling="count"),
    "implicit": small_settings(epochs=5, feedback="implicit", frequency_exponent=0.5),
    "gibbs": GIBBS,
    "row-priors": small_settings(epochs=5, implicit_attributes="both"),
}
EACH_METHOD = pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
SERIAL = SerialExecutor()


@EACH_METHOD
def test_partitions_do_not_show(tmp_path, settings):
    results = []
    for partitions in (1, 2, 7):
        name = f"dataset-{partitions}"
        dataset = prepared_with(
            tmp_path, weighted_rows(), name, partitions=partitions, half_life=300
        )
        train(dataset, str(tmp_path / f"model-{partitions}"), settings, SERIAL)
        results.append(bits(tmp_path / f"model-{partitions}"))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("settings", [METHODS["als"], GIBBS], ids=["als", "gibbs"])
def test_a_resumed_training_comes_to_the_same_bits(tmp_path, settings):
    class Interrupted(Exception):
        pass

    def interrupt(figures):
        if figures.epoch == 3:
            raise Interrupted

    dataset = prepared_with(tmp_path, weighted_rows(), partitions=2)
    train(dataset, str(tmp_path / "whole"), settings, SERIAL)
    checkpoints = CheckpointSettings(directory=str(tmp_path / "checkpoints"), every=2)
    model = str(tmp_path / "model")
    with pytest.raises(Interrupted):
        train(dataset, model, settings, SERIAL, checkpoints=checkpoints, on_epoch=interrupt)
    checkpoints = replace(checkpoints, resume=True)
    train(dataset, model, settings, SERIAL, checkpoints=checkpoints)
    assert bits(model) == bits(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_show(tmp_path, workers):
    alone = prepared_with(tmp_path, weighted_rows())
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": None}
    with (
        LocalCluster(n_workers=workers, **options) as cluster,
        Client(cluster) as client,
    ):
        dataset = prepared_with(tmp_path, weighted_rows(), "dataset-3", partitions=3)
        for name in ("als", "gibbs"):
            train(alone, str(tmp_path / f"{name}-serial"), METHODS[name], SERIAL)
            train(dataset, str(tmp_path / name), METHODS[name], DaskExecutor(client))
            assert bits(tmp_path / name) == bits(tmp_path / f"{name}-serial")


@EACH_METHOD
def test_weights_of_one_have_the_bits_of_none(tmp_path, settings):
    rows = weighted_rows(weights=np.ones(660))
    weighted = prepared_with(tmp_path, rows)
    plain = prepared_with(tmp_path, rows, "plain", columns=Columns())
    assert weighted.weights is not None
    assert plain.weights is None
    models = []
    for dataset, name in ((weighted, "weighted-model"), (plain, "plain-model")):
        train(dataset, str(tmp_path / name), settings, SERIAL)
        states, history, mean, _, _ = bits(tmp_path / name)[0]
        models.append((states, history, mean))
    assert models[0] == models[1]
    if settings.feedback == "explicit":
        found = [
            evaluate(str(tmp_path / f"{name}-model"), dataset, SERIAL, EvaluateSettings())
            for dataset, name in ((weighted, "weighted"), (plain, "plain"))
        ]
        assert found[0].errors == found[1].errors
        assert found[0].ranking == found[1].ranking


def ratings_of(dataset):
    """Return all training ratings: user, item, rating, weight."""
    blocks = [
        read_block(dataset.path, USERS, number, part)
        for number, part in enumerate(dataset.users.partitions)
    ]
    return (
        np.concatenate([block.row_of_rating for block in blocks]),
        np.concatenate([block.indices for block in blocks]),
        np.concatenate([block.ratings for block in blocks]).astype(float),
        np.concatenate([block.weights for block in blocks]).astype(float),
    )


def oracle_epoch(ratings, mean, sides, settings):
    """Train an epoch row by row; return objective and weighted RMSE."""
    users, items, values, weights = ratings
    by_count = settings.regularization_scaling == "count"
    lam = settings.residual_precision
    gamma, tau = settings.bias_regularization, settings.factor_regularization
    penalty = error = 0.0
    for own, other, rows, columns in ((*sides, users, items), (*sides[::-1], items, users)):
        error = 0.0
        for row in range(len(own[0])):
            its = rows == row
            if not its.any():
                continue
            w, rated = weights[its], columns[its]
            scale = w.sum() if by_count else 1.0
            y = values[its] - mean - other[0][rated]
            own[0][row], own[1][row], squared = weighted_row(
                y, other[1][rated], w, own[1][row], gamma / lam * scale, tau / lam * scale
            )
            error += squared
            penalty += scale * (gamma * own[0][row] ** 2 + tau * own[1][row] @ own[1][row])
    return -0.5 * (lam * error + penalty), np.sqrt(error / weights.sum())


@pytest.mark.slow
@pytest.mark.parametrize("scaling", ["plain", "count"])
def test_training_agrees_with_dense_solutions(tmp_path, scaling):
    settings = small_settings(epochs=3, dtype="float64", regularization_scaling=scaling)
    rows = weighted_rows()
    dataset = prepared_with(tmp_path, rows, partitions=2, test_fraction=0)
    train(dataset, str(tmp_path / "start"), replace(settings, epochs=1), SERIAL)
    model = ALSModel.load(str(tmp_path / "start"))
    sides = [
        [state.bias.copy(), state.factors.copy()]
        for state in (model.users.state, model.items.state)
    ]
    initial = str(tmp_path / "start")
    train(dataset, str(tmp_path / "model"), settings, SERIAL, initial_model=initial)
    ratings = ratings_of(dataset)
    mean = np.average(ratings[2], weights=ratings[3])
    trained = ALSModel.load(str(tmp_path / "model"))
    for figures in trained.history:
        objective, rmse = oracle_epoch(ratings, mean, sides, settings)
        assert figures.objective == pytest.approx(objective, rel=1e-9)
        assert figures.train_rmse == pytest.approx(rmse, rel=1e-9)
    for state, (bias, factors) in zip(
        (trained.users.state, trained.items.state), sides, strict=True
    ):
        np.testing.assert_allclose(state.bias, bias, atol=1e-9)
        np.testing.assert_allclose(state.factors, factors, atol=1e-9)


def test_held_out_errors_are_weighted(tmp_path):
    dataset = prepared_with(tmp_path, weighted_rows(), partitions=2)
    model = str(tmp_path / "model")
    train(dataset, model, METHODS["als"], SERIAL)
    loaded = ALSModel.load(model)
    errors, weights, values = [], [], []
    for number, part in enumerate(dataset.users.partitions):
        block = read_test_block(dataset.path, number, part)
        predicted = loaded.scores(block.row_of_rating, block.indices)
        errors.append(block.ratings - predicted)
        weights.append(block.weights.astype(float))
        values.append(block.ratings.astype(float))
    error, weight = np.concatenate(errors), np.concatenate(weights)
    rmse = np.sqrt(np.average(error**2, weights=weight))
    found = evaluate(model, dataset, SERIAL, EvaluateSettings()).errors
    assert found["model"].rmse == pytest.approx(rmse, rel=1e-9)
    assert loaded.history[-1].test_rmse == pytest.approx(rmse, rel=1e-9)
    mae = np.average(np.abs(error), weights=weight)
    assert found["model"].mae == pytest.approx(mae, rel=1e-9)
    of_mean = np.average((np.concatenate(values) - dataset.rating_mean) ** 2, weights=weight)
    its = baselines(dataset, METHODS["als"], SERIAL)
    assert its.global_mean == pytest.approx(np.sqrt(of_mean), rel=1e-9)
    assert its.global_mean == found["global mean"].rmse


def test_implicit_confidence_is_multiplied(tmp_path):
    rows = [(u, i, 1.0, t, 2.0) for u, i, _, t, _ in weighted_rows()]
    twice = [(u, i, 2.0, t, 1.0) for u, i, _, t, _ in rows]
    settings, models = METHODS["implicit"], []
    for name, its in (("weighted", rows), ("twice", twice)):
        dataset = prepared_with(tmp_path, its, f"data-{name}")
        train(dataset, str(tmp_path / name), settings, SERIAL)
        models.append(bits(tmp_path / name)[0][0])
    assert models[0] == models[1]


@pytest.mark.slow
def test_folding_in_uses_the_weights_of_the_given_ratings(tmp_path):
    rows = weighted_rows()
    dataset = prepared_with(tmp_path, rows, test_fraction=0)
    model, settings = str(tmp_path / "model"), small_settings(dtype="float64")
    train(dataset, model, settings, SERIAL)
    loaded = ALSModel.load(model)
    new = [("new", item, 2.0 + n % 3, 1, 0.5 + n) for n, item in enumerate(loaded.items.ids[:6])]
    source = write_csv(tmp_path / "new.csv", new, HEADER)
    fold_in(str(source), model, str(tmp_path / "folded"), SERIAL, USERS, columns=WEIGHTED)
    bias, factors = (values["new"] for values in read_state(tmp_path / "folded", "users"))
    items = loaded.items.state
    wanted = weighted_row(
        np.array([row[2] for row in new]) - loaded.manifest.global_mean - items.bias[:6],
        items.factors[:6],
        np.array([row[4] for row in new]),
        np.zeros(settings.rank),
        settings.bias_regularization,
        settings.factor_regularization,
    )
    assert bias == pytest.approx(wanted[0], rel=1e-9)
    np.testing.assert_allclose(factors, wanted[1], rtol=1e-9)
    weights = {row[1]: row[4] for row in new}
    in_memory = loaded.fold_in({row[1]: row[2] for row in reversed(new)}, weights=weights)
    assert in_memory.bias == bias
    np.testing.assert_array_equal(in_memory.factors, factors)


def test_folding_in_refuses_other_weights(tmp_path):
    dataset = prepared_with(tmp_path, weighted_rows(), test_fraction=0)
    train(dataset, str(tmp_path / "model"), METHODS["als"], SERIAL)
    model = ALSModel.load(str(tmp_path / "model"))
    one, other = model.items.ids[:2]
    for wrong in (0, -1, float("nan"), float("inf"), 1e40):
        with pytest.raises(InputError, match="weights must be finite numbers above 0"):
            model.fold_in({one: 3.0}, weights={one: wrong})
    with pytest.raises(InputError, match="a weight and no rating"):
        model.fold_in({one: 3.0}, weights={other: 1.0})
    alike = model.fold_in({one: 3.0, other: 4.0}, weights={one: 1.0})
    assert alike.bias == model.fold_in({one: 3.0, other: 4.0}).bias


@pytest.mark.slow
def test_parts_of_an_explanation_add_up(tmp_path):
    settings = small_settings(dtype="float64", regularization_scaling="count")
    dataset = prepared_with(tmp_path, weighted_rows(), test_fraction=0)
    train(dataset, str(tmp_path / "model"), settings, SERIAL)
    model = ALSModel.load(str(tmp_path / "model"))
    explained = model.explain(model.users.ids[0], model.items.ids[3])
    its = model.ratings_of(USERS, 0)
    # The user as the next half-epoch would solve it.
    own = model.users.state[0:1]
    solved = model.solver.solve(USERS, its.rated, its.ratings, own, its.weights)
    product = solved.factors[0] @ model.items.state.factors[3]
    assert explained["part"].sum() == pytest.approx(product, rel=1e-9)


def test_folds_have_their_share_of_the_weights(tmp_path):
    dataset = prepared_with(tmp_path, weighted_rows(), partitions=2)
    folds = split_into_folds(dataset, SERIAL, folds=3, seed=0)
    total = dataset.weights.train
    for fold in folds:
        held_out = sum(block.weights.sum(dtype=float) for block in fold.held_out.values())
        assert fold.dataset.weights.test == pytest.approx(held_out, rel=1e-12)
        assert fold.dataset.weights.train == pytest.approx(total - held_out, rel=1e-12)
        blocks = fold.blocks[ITEMS]
        values = np.concatenate([block.ratings for block in blocks])
        weights = np.concatenate([block.weights for block in blocks])
        mean = np.average(values.astype(float), weights=weights)
        assert fold.dataset.rating_mean == pytest.approx(mean, rel=1e-9)
    block = read_block(dataset.path, USERS, 0, dataset.users.partitions[0])
    assert sum(n for n, _, _ in count_folds(block, 3, 0)) == len(block.ratings)


def test_frames_have_weights(tmp_path):
    rows = weighted_rows()
    frame = pd.DataFrame(rows, columns=["userId", "movieId", "rating", "timestamp", "w"])
    model = ALS(rank=4, epochs=2, seed=1).fit(
        frame,
        columns=Columns(weight="w"),
        prepare_settings=PrepareSettings(half_life=100),
    )
    assert model.dataset.weights.newest_time == frame["timestamp"].max()
    plain = ALS(rank=4, epochs=2, seed=1).fit(frame)
    assert plain.dataset.weights is None
    assert not np.array_equal(plain.users.state.factors, model.users.state.factors)


def test_a_plan_knows_the_memory_of_weights(tmp_path):
    weighted = prepared_with(tmp_path, weighted_rows())
    plain = prepared_with(tmp_path, weighted_rows(), "plain", columns=Columns())
    blocks = [
        memory_of_a_worker(dataset, METHODS["als"], SERIAL.shape).blocks
        for dataset in (weighted, plain)
    ]
    stored = 2 * plain.n_ratings + plain.n_test
    assert blocks[0] - blocks[1] == 4 * stored
