import json

import numpy as np
import pytest
from data import generated, small_settings, write_csv

from dask_als.dataset import read_test_block
from dask_als.errors import InputError
from dask_als.executor import SerialExecutor
from dask_als.model import ALSModel
from dask_als.prepare import prepare
from dask_als.settings import CheckpointSettings, Columns, PrepareSettings
from dask_als.train import train
from dask_als.uncertainty import calibration

SERIAL = SerialExecutor()


def trained(tmp_path, **settings):
    source = write_csv(tmp_path / "ratings.csv", generated(60, 40, 1_200))
    dataset = prepare(
        str(source),
        str(tmp_path / "dataset"),
        SERIAL,
        columns=Columns(),
        settings=PrepareSettings(test_fraction=0.25, partitions=2),
    )
    checkpoints = CheckpointSettings(directory=str(tmp_path / "kept"))
    train(dataset, str(tmp_path / "m"), small_settings(**settings), SERIAL, checkpoints=checkpoints)
    return dataset, tmp_path / "m"


def test_intervals_are_those_of_the_samples(tmp_path):
    dataset, model = trained(tmp_path, method="gibbs", epochs=None, burn_in=3, samples=6)
    samples = [ALSModel.load(str(tmp_path / "kept" / f"sample-{n:05d}")) for n in range(4, 10)]
    alphas = [
        json.loads((tmp_path / "kept" / f"sample-{n:05d}" / "model.json").read_text())[
            "residual_precision"
        ]
        for n in range(4, 10)
    ]
    variance_of_ratings = np.mean([1 / alpha for alpha in alphas])
    within, deviations = [], []
    for number, partition in enumerate(dataset.users.partitions):
        block = read_test_block(dataset.path, number, partition)
        for user, item, rating in zip(
            block.row_of_rating, block.indices, block.ratings, strict=True
        ):
            predicted = [
                s.manifest.global_mean
                + s.users.state.bias[user]
                + s.items.state.bias[item]
                + s.users.state.factors[user] @ s.items.state.factors[item]
                for s in samples
            ]
            deviation = np.sqrt(np.var(predicted) + variance_of_ratings)
            within.append(abs(rating - np.mean(predicted)) <= 1.6448536 * deviation)
            deviations.append(deviation)
    found = calibration(str(model), dataset, SERIAL)
    assert found.level == 0.9
    assert found.coverage == pytest.approx(np.mean(within), abs=1e-12)
    assert found.deviation == pytest.approx(np.mean(deviations), rel=1e-5)


def test_a_model_without_samples_knows_no_intervals(tmp_path):
    dataset, model = trained(tmp_path)
    with pytest.raises(InputError, match="--method gibbs"):
        calibration(str(model), dataset, SERIAL)
