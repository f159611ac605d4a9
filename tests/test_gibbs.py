import numpy as np
import pytest
from data import MOVIELENS, content, generated, small_settings, write_csv

from dask_als.executor import SerialExecutor
from dask_als.gibbs import PRIOR_ROWS, _gamma, _normal_wishart
from dask_als.model import ALSModel
from dask_als.model_files import read_manifest
from dask_als.prepare import prepare
from dask_als.settings import CheckpointSettings, Columns, PrepareSettings, TrainSettings
from dask_als.side import USERS
from dask_als.train import train

SETTINGS = small_settings(
    method="gibbs", epochs=None, burn_in=2, samples=3, factor_regularization=12.0
)


def prepared(tmp_path, name="dataset", partitions=1):
    source = write_csv(tmp_path / "ratings.csv", generated(40, 30, 600))
    settings = PrepareSettings(test_fraction=0.2, partitions=partitions)
    return prepare(
        str(source), str(tmp_path / name), SerialExecutor(), columns=Columns(), settings=settings
    )


def bits(model):
    return content(str(model)), read_manifest(str(model)).residual_precision


def test_partitions_do_not_show(tmp_path):
    results = []
    for partitions in (1, 2, 7):
        dataset = prepared(tmp_path, f"dataset-{partitions}", partitions)
        model = tmp_path / f"model-{partitions}"
        train(dataset, str(model), SETTINGS, SerialExecutor())
        results.append(bits(model))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("stop", [2, 4])
def test_a_resumed_training_comes_to_the_same_bits(tmp_path, stop):
    dataset = prepared(tmp_path, partitions=2)
    train(dataset, str(tmp_path / "whole"), SETTINGS, SerialExecutor())

    class Interrupted(Exception):
        pass

    def interrupt(figures):
        if figures.epoch == stop + 1:
            raise Interrupted

    directory = str(tmp_path / "checkpoints")
    with pytest.raises(Interrupted):
        train(
            dataset,
            str(tmp_path / "model"),
            SETTINGS,
            SerialExecutor(),
            checkpoints=CheckpointSettings(directory=directory, every=stop),
            on_epoch=interrupt,
        )
    train(
        dataset,
        str(tmp_path / "model"),
        SETTINGS,
        SerialExecutor(),
        checkpoints=CheckpointSettings(directory=directory, every=stop, resume=True),
    )
    assert bits(tmp_path / "model") == bits(tmp_path / "whole")


def test_the_model_predicts_the_mean_of_the_samples(tmp_path):
    dataset = prepared(tmp_path)
    checkpoints = CheckpointSettings(directory=str(tmp_path / "kept"))
    train(dataset, str(tmp_path / "model"), SETTINGS, SerialExecutor(), checkpoints=checkpoints)
    model = ALSModel.load(str(tmp_path / "model"), dataset.path)
    samples = [
        ALSModel.load(str(tmp_path / "kept" / f"sample-{epoch:05d}"), dataset.path)
        for epoch in (3, 4, 5)
    ]
    users, items = list(model.users.ids[:10]), list(model.items.ids[:10])
    expected = np.mean([sample.predict(users=users, items=items) for sample in samples], axis=0)
    found = model.predict(users=users, items=items)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    assert model.manifest.rank == 12
    assert model.rows(USERS).state.factors.shape[1] == 12


def test_a_gamma_draw_has_the_moments_of_the_posterior():
    rng = np.random.default_rng(0)
    draws = np.array([_gamma(rng, 18, 6.0) for _ in range(20_000)])
    # Gamma with shape 10 and rate 4.
    assert draws.mean() == pytest.approx(2.5, rel=0.01)
    assert draws.var() == pytest.approx(10 / 16, rel=0.05)


def test_a_normal_wishart_draw_has_the_moments_of_the_posterior():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(50, 3)) * [1.0, 2.0, 0.5] + [0.3, -0.2, 1.0]
    n, mean = len(rows), rows.mean(axis=0)
    drawn = [_normal_wishart(rng, n, rows.sum(axis=0), rows.T @ rows, 4.0) for _ in range(20_000)]
    means, precisions = (np.array(part) for part in zip(*drawn, strict=True))
    centred = rows - mean
    scale = np.linalg.inv(
        PRIOR_ROWS / 4.0 * np.eye(3) + centred.T @ centred + n / (n + 1) * np.outer(mean, mean)
    )
    freedom = 3 + PRIOR_ROWS + n
    np.testing.assert_allclose(precisions.mean(axis=0), freedom * scale, atol=0.005)
    diagonal = np.diag(scale)
    variance = freedom * (scale**2 + np.outer(diagonal, diagonal))
    np.testing.assert_allclose(precisions.var(axis=0), variance, rtol=0.06)
    np.testing.assert_allclose(means.mean(axis=0), n * mean / (n + 1), atol=0.003)
    covariance = np.linalg.inv(scale) / (freedom - 4) / (n + 1)
    np.testing.assert_allclose(np.cov(means.T), covariance, atol=2e-4)


@pytest.mark.slow
@pytest.mark.skipif(MOVIELENS is None, reason="needs ../shared/data/ml-latest-small")
def test_the_defaults_beat_least_squares(tmp_path):
    errors = []
    for seed in range(5):
        dataset = prepare(
            str(MOVIELENS),
            str(tmp_path / f"dataset-{seed}"),
            SerialExecutor(),
            columns=Columns(),
            settings=PrepareSettings(test_fraction=0.2, seed=seed),
        )
        model = tmp_path / f"model-{seed}"
        manifest = train(dataset, str(model), TrainSettings(method="gibbs"), SerialExecutor())
        errors.append(manifest.figures.test_rmse)
    assert np.mean(errors) <= 0.838
