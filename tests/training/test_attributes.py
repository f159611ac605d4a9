from dataclasses import replace

import numpy as np
import pytest
from distributed import Client, LocalCluster
from support.attributes import COLD_ITEMS, COLD_USERS, prepared_with_attributes
from support.data import bits, small_settings

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.errors import InputError
from dask_als.model.model import ALSModel
from dask_als.planning.memory import memory_of_a_worker
from dask_als.settings.training import CheckpointSettings
from dask_als.training.train import train

GIBBS = small_settings(
    method="gibbs", epochs=None, burn_in=2, samples=3, factor_regularization=12.0
)
ALS = small_settings(epochs=5, factor_regularization=1.0)
IMPLICIT = small_settings(epochs=5, feedback="implicit", center=False)
METHODS = {"gibbs": GIBBS, "als": ALS, "implicit": IMPLICIT}
BOTH = {
    f"{name}-{word}": replace(settings, implicit_attributes=word)
    for name, settings in METHODS.items()
    for word in ("none", "both")
}


def cases(settings):
    return pytest.mark.parametrize("settings", settings.values(), ids=settings.keys())


@cases(BOTH)
def test_partitions_do_not_show(tmp_path, settings):
    results = []
    for partitions in (1, 2, 7):
        dataset = prepared_with_attributes(tmp_path, f"dataset-{partitions}", partitions)
        model = tmp_path / f"model-{partitions}"
        train(dataset, str(model), settings, SerialExecutor())
        results.append(bits(model))
    assert results[0] == results[1] == results[2]


@cases(METHODS)
def test_attributes_show(tmp_path, settings):
    dataset = prepared_with_attributes(tmp_path)
    train(dataset, str(tmp_path / "with"), settings, SerialExecutor())
    train(dataset, str(tmp_path / "without"), replace(settings, attributes=False), SerialExecutor())
    assert bits(tmp_path / "with")[0][0] != bits(tmp_path / "without")[0][0]


class Interrupted(Exception):
    pass


@cases(BOTH)
def test_a_resumed_training_comes_to_the_same_bits(tmp_path, settings):
    dataset = prepared_with_attributes(tmp_path, partitions=2)
    train(dataset, str(tmp_path / "whole"), settings, SerialExecutor())
    checkpoints = CheckpointSettings(directory=str(tmp_path / "checkpoints"), every=2)

    def interrupt(figures):
        if figures.epoch == 3:
            raise Interrupted

    def run(checkpoints, **options):
        model = str(tmp_path / "model")
        train(dataset, model, settings, SerialExecutor(), checkpoints=checkpoints, **options)

    with pytest.raises(Interrupted):
        run(checkpoints, on_epoch=interrupt)
    run(replace(checkpoints, resume=True))
    assert bits(tmp_path / "model") == bits(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_show(tmp_path, workers):
    datasets = [prepared_with_attributes(tmp_path, f"dataset-{n}", n) for n in (1, 3)]
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", memory_limit=None
        ) as cluster,
        Client(cluster) as client,
    ):
        for name, settings in METHODS.items():
            settings = replace(settings, implicit_attributes="items")
            train(datasets[0], str(tmp_path / name), settings, SerialExecutor())
            for number, dataset in enumerate(datasets):
                model = tmp_path / f"{name}-{number}"
                train(dataset, str(model), settings, DaskExecutor(client))
                assert bits(model) == bits(tmp_path / name)


@cases(METHODS)
def test_cold_rows_are_predicted_from_their_attributes(tmp_path, settings):
    dataset = prepared_with_attributes(tmp_path)
    train(dataset, str(tmp_path / "model"), settings, SerialExecutor())
    model = ALSModel.load(str(tmp_path / "model"))
    for side, least in ((USERS, COLD_USERS), (ITEMS, COLD_ITEMS)):
        rows = model.rows(side)
        cold = rows.counts == 0
        has_any = dataset.attributes(side).matrix().counts > 0
        assert (cold & has_any).sum() >= least - 1
        assert rows.state.factors[cold & has_any].any(axis=1).all()
        assert not rows.state.factors[cold & ~has_any].any()
        np.testing.assert_allclose(rows.state.bias[cold], rows.mean_bias, rtol=1e-6)
    user = model.users.ids[0]
    best = model.recommend(user, k=dataset.items.n_rows)
    assert set(model.items.ids[model.items.counts == 0]) <= set(best["item_id"])


def test_cold_rows_of_least_squares_are_the_weighted_attributes(tmp_path):
    """The prior means are linear in the attributes, and those of cold rows are their factors."""
    dataset = prepared_with_attributes(tmp_path)
    settings = replace(ALS, dtype="float64")
    train(dataset, str(tmp_path / "model"), settings, SerialExecutor())
    rows = ALSModel.load(str(tmp_path / "model")).rows(ITEMS)
    matrix = dataset.attributes(ITEMS).matrix()
    described = (rows.counts == 0) & (matrix.counts > 0)
    x = np.column_stack([np.ones(matrix.n_rows), matrix.dense()])[described]
    factors = rows.state.factors[described]
    weights = np.linalg.lstsq(x, factors, rcond=None)[0]
    np.testing.assert_allclose(x @ weights, factors, atol=1e-12)


def test_attributes_need_equal_weights(tmp_path):
    dataset = prepared_with_attributes(tmp_path)
    settings = replace(ALS, regularization_scaling="count")
    with pytest.raises(InputError, match="--regularization-scaling count; give --no-attributes"):
        train(dataset, str(tmp_path / "model"), settings, SerialExecutor())
    settings = replace(settings, attributes=False)
    train(dataset, str(tmp_path / "model"), settings, SerialExecutor())


def test_the_rows_of_all_sides_stay_in_the_order_of_ids(tmp_path):
    dataset = prepared_with_attributes(tmp_path)
    for side in SIDES:
        ids = dataset.read_rows(side)["id"].to_pylist()
        assert ids == sorted(ids)


def test_a_plan_knows_their_memory(tmp_path):
    dataset, shape = prepared_with_attributes(tmp_path), SerialExecutor().shape
    settings = [replace(GIBBS, attributes=False), GIBBS, replace(GIBBS, implicit_attributes="both")]
    states = [memory_of_a_worker(dataset, each, shape).states for each in settings]
    assert states[0] < states[1] < states[2]
