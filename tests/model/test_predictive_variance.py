"""Standard deviations, against what the samples that were kept predict, each by itself."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from pyarrow import parquet
from support.data import generated, small_settings, write_csv

from dask_als import ALS
from dask_als.cli.main import cli
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model.model import ALSModel
from dask_als.model.recommend import recommend
from dask_als.settings.data import PrepareSettings
from dask_als.settings.evaluation import RecommendSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
UNKNOWN = 987_654


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset, a model of samples, and the samples with their residual precisions."""
    directory = tmp_path_factory.mktemp("samples")
    source = write_csv(directory / "ratings.csv", generated(50, 40, 900, seed=2))
    settings = PrepareSettings(partitions=3, test_fraction=0.1)
    dataset = prepare(str(source), str(directory / "d"), SERIAL, settings=settings)
    gibbs = small_settings(method="gibbs", epochs=None, burn_in=2, samples=5, keep_samples=True)
    model = str(directory / "m")
    paths = {epoch: str(directory / f"at-{epoch}") for epoch in range(3, 8)}

    def save(epoch):
        if epoch.figures.epoch in paths:
            epoch.save(paths[epoch.figures.epoch])

    train(dataset, model, gibbs, SERIAL, callbacks=[save])
    samples = [ALSModel.load(path, dataset.path) for path in paths.values()]
    return dataset, model, samples


def by_hand(samples, users, items):
    """The standard deviation of ratings, from each sample's own prediction and precision."""
    predicted = [sample.predict(users=users, items=items, unknown="ignore") for sample in samples]
    precisions = [sample.manifest.residual_precision for sample in samples]
    return np.sqrt(np.var(predicted, axis=0) + np.mean([1 / alpha for alpha in precisions]))


def test_predictions(made):
    _, path, samples = made
    model = ALSModel.load(path)
    users = [*model.users.ids[:20], UNKNOWN, UNKNOWN, model.users.ids[0]]
    items = [*model.items.ids[:20], UNKNOWN, model.items.ids[0], UNKNOWN]
    predicted, deviations = model.predict(users=users, items=items, std=True, unknown="ignore")
    np.testing.assert_array_equal(
        predicted, model.predict(users=users, items=items, unknown="ignore")
    )
    np.testing.assert_allclose(deviations, by_hand(samples, users, items), rtol=1e-5)
    assert np.ptp(deviations) > 1e-3
    one = model.predict(users=users[0], items=items[0], std=True)
    assert one == (predicted[0], deviations[0])
    assert all(type(value) is float for value in one)


def test_one_list(made):
    dataset, path, samples = made
    model = ALSModel.load(path, dataset.path)
    for user in (model.users.ids[3], UNKNOWN):
        frame = model.recommend(user, k=6, std=True, unknown="ignore")
        assert list(frame.columns) == ["rank", "item_id", "score", "std"]
        expected = by_hand(samples, user, frame["item_id"].to_numpy())
        np.testing.assert_allclose(frame["std"], expected, rtol=1e-5)
        pd.testing.assert_frame_equal(
            frame.drop(columns="std"), model.recommend(user, k=6, unknown="ignore")
        )


@pytest.mark.parametrize("side", SIDES, ids=["users", "items"])
def test_all_lists(made, side, tmp_path):
    dataset, path, samples = made
    ids = [*ALSModel.load(path).rows(side).ids, UNKNOWN, UNKNOWN + 1]
    exclude = ALSModel.load(path).rows(side.other).ids[:5].tolist()
    found = {}
    for std in (False, True):
        settings = RecommendSettings(side=side.name, k=4, rows_at_once=7, std=std)
        out = tmp_path / str(std)
        recommend(path, dataset, str(out), SERIAL, settings, only=ids, exclude=exclude)
        tables = [parquet.read_table(part).to_pandas() for part in sorted(out.glob("part-*"))]
        found[std] = pd.concat(tables, ignore_index=True)
    pairs = {its: found[True][f"{its.singular}_id"].tolist() for its in SIDES}
    assert {UNKNOWN, UNKNOWN + 1} < set(pairs[side])
    expected = by_hand(samples, pairs[USERS], pairs[ITEMS])
    np.testing.assert_allclose(found[True]["std"], expected, rtol=1e-5)
    pd.testing.assert_frame_equal(found[True].drop(columns="std"), found[False])


def test_a_saved_model_keeps_them(made, tmp_path):
    _, path, _ = made
    model = ALSModel.load(path)
    model.save(str(tmp_path / "copy"))
    pairs = {"users": model.users.ids[:9].tolist(), "items": model.items.ids[:9].tolist()}
    copied = ALSModel.load(str(tmp_path / "copy")).predict(**pairs, std=True)
    np.testing.assert_array_equal(copied, model.predict(**pairs, std=True))


def test_a_model_without_samples_has_none(made, tmp_path):
    dataset, _, samples = made
    model, user = samples[0], samples[0].users.ids[0]
    with pytest.raises(InputError, match="method='gibbs'"):
        model.predict(user, model.items.ids[0], std=True)
    with pytest.raises(InputError, match="method='gibbs'"):
        model.recommend(user, std=True)
    model.save(str(tmp_path / "m"))
    settings = RecommendSettings(std=True)
    with pytest.raises(InputError, match="--method gibbs"):
        recommend(str(tmp_path / "m"), dataset, str(tmp_path / "out"), SERIAL, settings)
    assert not (tmp_path / "out").exists()
    assert json.loads((tmp_path / "m" / "model.json").read_text())["samples"] == 1


def test_the_command(made):
    _, path, _ = made
    model = ALSModel.load(path)
    user = model.users.ids[3]
    arguments = ["recommend", path, model.manifest.dataset["path"], "--to", str(user), "-k", "3"]
    ended = CliRunner().invoke(cli, [*arguments, "--std", "--json"], catch_exceptions=False)
    assert ended.exit_code == 0
    shown = json.loads(ended.stdout)
    frame = model.recommend(user, k=3, std=True)
    assert [row["std"] for row in shown] == pytest.approx(frame["std"].tolist(), rel=1e-9)
    without = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    assert all("std" not in row for row in json.loads(without.stdout))


def test_fit_gives_a_model_that_knows_them(client):
    ratings = pd.DataFrame(generated(30, 20, 300), columns=["userId", "movieId", "rating"])
    als = ALS(method="gibbs", rank=2, burn_in=1, samples=3, keep_samples=True, client=client)
    assert als.epochs == 4
    model = als.fit(ratings)
    predicted, std = model.predict(ratings["userId"], ratings["movieId"], std=True)
    assert predicted.shape == std.shape == (len(ratings),)
    assert (std > 1 / np.sqrt(model.manifest.residual_precision)).all()
