import csv
import math
import random
from itertools import pairwise

import numpy as np
import pytest
from distributed import Client, LocalCluster
from support.data import (
    MOVIELENS,
    content,
    generated,
    notebook_settings,
    read_state,
    small_settings,
    write_csv,
)
from support.oracle import Oracle

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core import table_files
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.prepare import prepare
from dask_als.errors import InputError, LeftOutWarning
from dask_als.model import files as model_files
from dask_als.model.model import ALSModel
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.training.start import random_start
from dask_als.training.task_graph import TaskGraph
from dask_als.training.train import train

SERIAL = SerialExecutor()


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    """Some ratings, as rows of (user, item, rating)."""
    return generated(n_users=60, n_items=90, n_ratings=1500, seed=3)


def made(tmp_path, rows, executor=SERIAL, **settings):
    source = tmp_path / "ratings.csv"
    write_csv(source, rows)
    path = str(tmp_path / "dataset")
    return prepare(str(source), path, executor, settings=PrepareSettings(**settings))


def history_of_the_notebooks_job(source, tmp_path):
    """Train as the notebook does; return the dataset and the figures of all epochs."""
    dataset = prepare(str(source), str(tmp_path / "dataset"), SERIAL)
    history = []
    train(
        dataset,
        str(tmp_path / "model"),
        notebook_settings(epochs=100),
        SERIAL,
        on_epoch=history.append,
    )
    assert model_files.read_history(str(tmp_path / "model")) == history
    return dataset, history


def test_the_objective_rises_in_every_epoch(tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(600, 2000, 30_000, seed=1))
    _, history = history_of_the_notebooks_job(source, tmp_path)
    assert all(after.objective > before.objective for before, after in pairwise(history))


@pytest.mark.skipif(MOVIELENS is None, reason="needs MovieLens' ml-latest-small")
def test_the_notebooks_job(tmp_path):
    """The training RMSE at the objectives that the notebook printed."""
    dataset, history = history_of_the_notebooks_job(MOVIELENS, tmp_path)
    objectives = [figures.objective for figures in history]
    assert all(after > before for before, after in pairwise(objectives))
    rmses = [figures.train_rmse for figures in history]
    assert np.interp(-17571.08, objectives, rmses) == pytest.approx(0.5816, abs=0.0012)
    assert np.interp(-17135.37, objectives, rmses) == pytest.approx(0.5751, abs=0.0006)
    assert objectives[-1] > -16_950
    assert dataset.n_ratings == 100_836


def movielens():
    with open(MOVIELENS) as file:
        return [
            (int(row["userId"]), int(row["movieId"]), float(row["rating"]))
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize(
    "rows_of",
    [
        lambda: generated(150, 300, 4000, seed=1),
        pytest.param(
            movielens,
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(MOVIELENS is None, reason="needs ml-latest-small"),
            ],
        ),
    ],
    ids=["generated", "movielens"],
)
def test_three_epochs_agree_with_the_oracle(tmp_path, rows_of):
    """From the same start, every bias, factor and figure."""
    rows = rows_of()
    dataset = made(tmp_path, rows)
    start = str(tmp_path / "start")
    train(dataset, start, notebook_settings(epochs=1, seed=9), SERIAL)

    oracle = Oracle(rows, rank=5, lam=1.0, gamma=1e-3, tau=5e-2)
    oracle.user_bias, oracle.user_factors = read_state(start, "users")
    oracle.item_bias, oracle.item_factors = read_state(start, "items")
    history = []
    train(
        dataset,
        str(tmp_path / "model"),
        notebook_settings(epochs=3),
        SERIAL,
        initial_model=start,
        on_epoch=history.append,
    )
    for figures in history:
        oracle.epoch()
        assert figures.objective == pytest.approx(oracle.objective(), rel=1e-9)
        assert figures.train_rmse == pytest.approx(oracle.rmse(), rel=1e-9)
    for side, bias, factors in (
        ("users", oracle.user_bias, oracle.user_factors),
        ("items", oracle.item_bias, oracle.item_factors),
    ):
        its_bias, its_factors = read_state(str(tmp_path / "model"), side)
        assert its_bias.keys() == bias.keys()
        worst = max(abs(its_bias[row] - bias[row]) for row in bias)
        assert worst < 1e-9
        worst = max(np.abs(its_factors[row] - factors[row]).max() for row in bias)
        assert worst < 1e-9


@pytest.mark.parametrize("scaling", ["plain", "count"])
def test_centred_training_agrees_with_the_oracle(tmp_path, ratings, scaling):
    dataset = made(tmp_path, ratings)
    settings = small_settings(
        epochs=2, dtype="float64", center=True, regularization_scaling=scaling
    )
    start, path = str(tmp_path / "start"), str(tmp_path / "model")
    train(dataset, start, small_settings(epochs=1, dtype="float64"), SERIAL)
    manifest = train(dataset, path, settings, SERIAL, initial_model=start)
    oracle = Oracle(
        ratings,
        rank=settings.rank,
        lam=settings.residual_precision,
        gamma=settings.bias_regularization,
        tau=settings.factor_regularization,
        mean=math.fsum(rating for _, _, rating in ratings) / len(ratings),
        by_count=scaling == "count",
    )
    oracle.user_bias, oracle.user_factors = read_state(start, "users")
    oracle.item_bias, oracle.item_factors = read_state(start, "items")
    oracle.epoch()
    oracle.epoch()
    its_bias, _ = read_state(path, "users")
    assert its_bias == pytest.approx(oracle.user_bias, abs=1e-9)
    assert manifest.figures.objective == pytest.approx(oracle.objective(), rel=1e-9)


@pytest.fixture(scope="module")
def bits(tmp_path_factory, ratings):
    """The content of the model that is trained without Dask on one partition."""
    directory = tmp_path_factory.mktemp("bits")
    dataset = made(directory, ratings, test_fraction=0.2)
    train(dataset, str(directory / "model"), small_settings(), SERIAL)
    return content(str(directory / "model"))


@pytest.mark.parametrize("partitions", [1, 2, 7])
@pytest.mark.parametrize("shuffled", [False, True])
def test_bits_do_not_depend_on_partitions_or_order(tmp_path, ratings, bits, partitions, shuffled):
    rows = list(ratings)
    if shuffled:
        random.Random(0).shuffle(rows)
    dataset = made(tmp_path, rows, test_fraction=0.2, partitions=partitions)
    train(dataset, str(tmp_path / "model"), small_settings(), SERIAL)
    assert len(dataset.users.partitions) == partitions
    assert content(str(tmp_path / "model")) == bits


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_bits_do_not_depend_on_workers(tmp_path, ratings, bits, workers):
    """Workers in processes of their own."""
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", memory_limit=None
        ) as cluster,
        Client(cluster) as client,
    ):
        executor = DaskExecutor(client)
        for partitions in (1, 2, 7):
            directory = tmp_path / str(partitions)
            directory.mkdir()
            dataset = made(directory, ratings, executor, test_fraction=0.2, partitions=partitions)
            train(dataset, str(directory / "model"), small_settings(), executor)
            assert content(str(directory / "model")) == bits


@pytest.mark.parametrize(("seconds", "graphs"), [(60.0, range(3, 5)), (0.0, range(30, 33))])
def test_short_epochs_are_submitted_together(tmp_path, ratings, monkeypatch, seconds, graphs):
    """Graphs of 30 epochs and of writing; the first epoch is submitted alone, to time it."""
    monkeypatch.setattr("dask_als.training.pacing._SECONDS_PER_BATCH", seconds)
    dataset = made(tmp_path, ratings)
    with (
        LocalCluster(1, 1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        path = str(tmp_path / "model")
        train(dataset, path, small_settings(epochs=30), DaskExecutor(client))
        events = [event for _, event in client.get_events("scheduler")]
    assert sum(event.get("action") == "update-graph" for event in events) in graphs
    assert [figures.epoch for figures in model_files.read_history(path)] == list(range(1, 31))


def test_swapping_the_sides_swaps_the_model(tmp_path, ratings):
    """Exchange users and items and solve items first: the same numbers on the other side."""
    dataset = made(tmp_path, ratings)
    start = str(tmp_path / "start")
    train(dataset, start, small_settings(epochs=1), SERIAL)
    train(dataset, str(tmp_path / "model"), small_settings(), SERIAL, initial_model=start)

    swapped = prepare(
        str(tmp_path / "ratings.csv"),
        str(tmp_path / "swapped"),
        SERIAL,
        columns=Columns(user="movieId", item="userId"),
    )
    swapped_start = tmp_path / "swapped-start"
    exchange_sides(start, str(swapped_start))
    train(
        swapped,
        str(tmp_path / "swapped-model"),
        small_settings(first="items"),
        SERIAL,
        initial_model=str(swapped_start),
    )
    model = ALSModel.load(str(tmp_path / "model"))
    other = ALSModel.load(str(tmp_path / "swapped-model"))
    for side in SIDES:
        np.testing.assert_array_equal(
            model.rows(side).state.factors, other.rows(side.other).state.factors
        )
        np.testing.assert_array_equal(
            model.rows(side).state.bias, other.rows(side.other).state.bias
        )
    assert [f.objective for f in model.history] == [f.objective for f in other.history]


def exchange_sides(path, target):
    model = ALSModel.load(path)
    manifest = model.manifest
    users, items = (
        type(model.users)(side, other.ids, other.counts, other.state, other.mean_bias)
        for side, other in ((USERS, model.items), (ITEMS, model.users))
    )
    swapped = type(manifest)(**{**vars(manifest), "users": manifest.items, "items": manifest.users})
    with pytest.warns(LeftOutWarning, match="without training ratings"):
        ALSModel(swapped, users, items, model.history, None).save(target)


def test_float32_stays_near_float64(tmp_path, ratings):
    dataset = made(tmp_path, ratings, test_fraction=0.2)
    last = {}
    for dtype in ("float32", "float64"):
        graph = TaskGraph(dataset, small_settings(dtype=dtype), SERIAL)
        *_, epoch = graph.segment(random_start, range(1, 4))
        last[dtype] = epoch.figures
        assert epoch.sides[USERS].whole.solution.factors.dtype == dtype
    assert last["float32"].train_rmse == pytest.approx(last["float64"].train_rmse, abs=1e-4)
    assert last["float32"].test_rmse == pytest.approx(last["float64"].test_rmse, abs=1e-4)


def test_rows_without_training_ratings_get_the_mean_bias(tmp_path):
    """An item with held-out ratings only has the mean bias and zero factors; RMSEs stay finite."""
    rows = [(user, item, 1.0 + (user + item) % 5) for user in range(8) for item in range(6)]
    rows.append((0, 99, 5.0))
    for seed in range(200):
        (tmp_path / str(seed)).mkdir()
        dataset = made(tmp_path / str(seed), rows, test_fraction=0.3, seed=seed)
        if dataset.read_rows(ITEMS).column("count")[6].as_py() == 0:
            break
    train(dataset, str(tmp_path / "model"), small_settings(center=False), SERIAL)
    model = ALSModel.load(str(tmp_path / "model"))
    rated = model.items.counts > 0
    assert not rated[6]
    assert model.items.state.bias[6] == np.float32(model.items.state.bias[rated].mean())
    assert not model.items.state.factors[6].any()
    assert all(math.isfinite(figures.test_rmse) for figures in model.history)


def test_test_rmse_is_that_of_the_predictions(tmp_path, ratings):
    dataset = made(tmp_path, ratings, test_fraction=0.25, partitions=3)
    path = str(tmp_path / "model")
    train(dataset, path, small_settings(dtype="float64"), SERIAL)
    model = ALSModel.load(path)
    held_out = set()
    for number in range(3):
        table = table_files.read_parquet(f"{dataset.path}/test/part-{number:05d}.parquet")
        held_out |= {
            (model.users.ids[user], model.items.ids[item], rating)
            for user, item, rating in zip(*(c.to_pylist() for c in table.columns), strict=True)
        }
    assert len(held_out) == dataset.n_test > 200
    users, items, values = zip(*held_out, strict=True)
    errors = np.array(values) - model.predict(users, items)
    assert model.history[-1].test_rmse == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-12)


def test_a_model_of_another_rank_is_no_start(tmp_path, ratings):
    other = made(tmp_path, ratings[:700])
    path = str(tmp_path / "model")
    train(other, path, small_settings(epochs=1), SERIAL)
    with pytest.raises(InputError, match="rank 4, the settings say 3"):
        train(other, str(tmp_path / "m2"), small_settings(rank=3), SERIAL, initial_model=path)
    assert not (tmp_path / "m2").exists()


def test_an_existing_model_is_replaced_only_if_asked(tmp_path, ratings):
    dataset = made(tmp_path, ratings)
    path = str(tmp_path / "model")
    train(dataset, path, small_settings(epochs=1), SERIAL)
    before = content(path)
    with pytest.raises(InputError, match="--overwrite"):
        train(dataset, path, small_settings(epochs=2), SERIAL)
    assert content(path) == before
    train(dataset, path, small_settings(epochs=2), SERIAL, overwrite=True)
    assert content(path) != before


def test_a_failure_leaves_nothing_half_written(tmp_path, ratings):
    dataset = made(tmp_path, ratings)

    def stop(figures):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train(dataset, str(tmp_path / "model"), small_settings(), SERIAL, on_epoch=stop)
    assert {path.name for path in tmp_path.iterdir()} == {"dataset", "ratings.csv"}
