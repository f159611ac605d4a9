import numpy as np
import pytest
from data import generated, small_settings, write_csv
from oracle import Oracle

from dask_als.cluster import DaskExecutor
from dask_als.evaluate import baselines
from dask_als.executor import SerialExecutor
from dask_als.model import ALSModel
from dask_als.prepare import prepare
from dask_als.settings import PrepareSettings
from dask_als.storage import read_parquet
from dask_als.train import train

SERIAL = SerialExecutor()
SETTINGS = small_settings(dtype="float64")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluate")
    source = write_csv(directory / "r.csv", generated(60, 50, 1500, seed=6))
    settings = PrepareSettings(test_fraction=0.2, partitions=2)
    return prepare(str(source), str(directory / "d"), SERIAL, settings=settings)


def rows_of(dataset, directory):
    tables = [read_parquet(f"{dataset.path}/{directory}/part-{n:05d}.parquet") for n in (0, 1)]
    return [
        row for table in tables for row in zip(*(c.to_pylist() for c in table.columns), strict=True)
    ]


def test_baselines(dataset):
    """The global mean, and biases from the oracle's loops with factors of 0."""
    train_rows, test_rows = rows_of(dataset, "by_user"), rows_of(dataset, "test")
    ratings = np.array([rating for _, _, rating in test_rows])
    mean = np.mean([rating for _, _, rating in train_rows])
    oracle = Oracle(
        train_rows,
        rank=1,
        lam=SETTINGS.residual_precision,
        gamma=SETTINGS.bias_regularization,
        tau=SETTINGS.factor_regularization,
        mean=mean,
    )
    oracle.user_factors = {user: np.zeros(1) for user in oracle.by_user}
    oracle.item_factors = {item: np.zeros(1) for item in oracle.by_item}
    for _ in range(15):
        oracle.epoch()
    cold = {
        side: np.mean(list(bias.values()))
        for side, bias in (("user", oracle.user_bias), ("item", oracle.item_bias))
    }
    predicted = np.array(
        [
            mean
            + oracle.user_bias.get(user, cold["user"])
            + oracle.item_bias.get(item, cold["item"])
            for user, item, _ in test_rows
        ]
    )
    found = baselines(dataset, SETTINGS, SERIAL)
    assert found.global_mean == pytest.approx(np.sqrt(((ratings - mean) ** 2).mean()), rel=1e-12)
    assert found.biases == pytest.approx(np.sqrt(((ratings - predicted) ** 2).mean()), rel=1e-9)


def test_they_do_not_take_another_trainings_results_for_theirs(dataset, client, tmp_path):
    """On one cluster, after training: Dask knows tasks by their keys."""
    executor = DaskExecutor(client)
    train(dataset, str(tmp_path / "m"), SETTINGS, executor)
    assert baselines(dataset, SETTINGS, executor) == baselines(dataset, SETTINGS, SERIAL)
    assert ALSModel.load(str(tmp_path / "m")).history[-1].test_rmse is not None
