import json

import numpy as np
import pytest
from support.data import generated, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.data.block_files import read_test_block
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.evaluation.calibration import calibration
from dask_als.evaluation.evaluate import evaluate
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.settings.training import CheckpointSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
# Of the standard Normal distribution, from a table.
HALF_WIDTHS = {0.5: 0.6744898, 0.8: 1.2815516, 0.9: 1.6448536, 0.95: 1.9599640}


def prepared(tmp_path, partitions=2):
    source = write_csv(tmp_path / "ratings.csv", generated(60, 40, 1_200))
    settings = PrepareSettings(test_fraction=0.25, partitions=partitions)
    return prepare(str(source), str(tmp_path / f"dataset-{partitions}"), SERIAL, settings=settings)


def trained(tmp_path, dataset, name="m", **settings):
    kept = CheckpointSettings(directory=str(tmp_path / f"kept-{name}"))
    model = str(tmp_path / name)
    train(dataset, model, small_settings(**settings), SERIAL, checkpoints=kept)
    return model


GIBBS = {"method": "gibbs", "epochs": None, "burn_in": 3, "samples": 6, "keep_samples": True}


def test_intervals_are_those_of_the_samples(tmp_path):
    dataset, model = prepared(tmp_path), str(tmp_path / "m")
    saved = [lambda epoch: epoch.save(str(tmp_path / f"at-{epoch.figures.epoch}")) and False]
    train(dataset, model, small_settings(**GIBBS), SERIAL, callbacks=saved)
    paths = [tmp_path / f"at-{n}" for n in range(4, 10)]
    samples = [ALSModel.load(str(path)) for path in paths]
    manifests = [json.loads((path / "model.json").read_text()) for path in paths]
    variance_of_ratings = np.mean([1 / its["residual_precision"] for its in manifests])
    surprises, deviations = [], []
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
            deviations.append(np.sqrt(np.var(predicted) + variance_of_ratings))
            surprises.append(abs(rating - np.mean(predicted)) / deviations[-1])
    found = calibration(model, dataset, SERIAL)
    assert {its.level: its.coverage for its in found.intervals} == {
        level: pytest.approx(np.mean(np.array(surprises) <= width), abs=1e-12)
        for level, width in HALF_WIDTHS.items()
    }
    assert found.deviation == pytest.approx(np.mean(deviations), rel=1e-5)


def test_partitions_do_not_show(tmp_path):
    found = []
    for partitions in (1, 2, 7):
        dataset = prepared(tmp_path, partitions)
        model = trained(tmp_path, dataset, f"m-{partitions}", **GIBBS)
        found.append(calibration(model, dataset, SERIAL))
    assert found[0] == found[1] == found[2]


def test_a_model_of_samples_is_evaluated_with_its_calibration(tmp_path):
    dataset = prepared(tmp_path)
    model, plain = (
        trained(tmp_path, dataset, **GIBBS),
        trained(tmp_path, dataset, "plain"),
    )
    evaluation = evaluate(model, dataset, SERIAL, EvaluateSettings())
    assert evaluation.calibration == calibration(model, dataset, SERIAL)
    # What the history says of the running average is what its model does.
    shown = ALSModel.load(model).history[-1].test_rmse
    assert evaluation.errors["model"].rmse == pytest.approx(shown, rel=1e-6)
    assert evaluate(plain, dataset, SERIAL, EvaluateSettings()).calibration is None


def test_a_model_without_samples_knows_no_intervals(tmp_path):
    dataset = prepared(tmp_path)
    with pytest.raises(InputError, match="--method gibbs"):
        calibration(trained(tmp_path, dataset), dataset, SERIAL)
