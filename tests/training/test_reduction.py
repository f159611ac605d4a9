"""Samples that are reduced while training runs, and the compact model that they become."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster
from support.data import content, generated, small_settings, write_csv

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.data.prepare import prepare
from dask_als.errors import InputError, WorkersLostError
from dask_als.model.fold_in import fold_in
from dask_als.model.manifest import read_manifest
from dask_als.model.model import ALSModel
from dask_als.settings import reduction
from dask_als.settings.data import PrepareSettings
from dask_als.settings.reduction import Schedule
from dask_als.settings.training import CheckpointSettings, TrainSettings
from dask_als.training.train import train

SERIAL = SerialExecutor()
SETTINGS = small_settings(
    method="gibbs", epochs=None, burn_in=2, samples=7, factor_regularization=12.0
)


@pytest.fixture(autouse=True)
def small_working_rank(monkeypatch):
    """Two samples are reduced at once, to rank 8."""
    monkeypatch.setattr(reduction, "_LEAST_WORKING_RANK", 8)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    source = str(write_csv(folder / "r.csv", generated(60, 40, 1200)))
    return {
        partitions: prepare(
            source,
            str(folder / f"d{partitions}"),
            SERIAL,
            settings=PrepareSettings(test_fraction=0.2, partitions=partitions),
        )
        for partitions in (1, 2, 7)
    }


def everything(model):
    """All that a compact model says, with the priors of new rows."""
    manifest = read_manifest(str(model))
    priors = [pq.read_table(model / f"new_{side.name}.parquet").to_pydict() for side in SIDES]
    return content(str(model)), manifest.residual_precision, manifest.compact, priors


def trained(dataset, model, settings=SETTINGS, executor=SERIAL, **options):
    train(dataset, str(model), settings, executor, **options)
    return everything(model)


def kept_in(folder, **changes):
    return CheckpointSettings(directory=str(folder), **changes)


@pytest.fixture(scope="module")
def whole(datasets, tmp_path_factory):
    """The default model, and what it says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reduction, "_LEAST_WORKING_RANK", 8)
        model = tmp_path_factory.mktemp("whole") / "m"
        return model, trained(datasets[1], model)


def test_it_is_a_model_of_the_given_rank(whole, datasets, tmp_path):
    model, _ = whole
    manifest = read_manifest(str(model))
    assert (manifest.rank, manifest.samples, manifest.compact.samples) == (4, 1, 7)
    assert not manifest.knows_deviations
    settings = replace(SETTINGS, model_rank=3)
    train(datasets[1], str(tmp_path / "m"), settings, SERIAL)
    loaded = ALSModel.load(str(tmp_path / "m"))
    assert loaded.manifest.rank == 3
    assert loaded.users.state.factors.shape == (len(loaded.users.ids), 3)


@pytest.mark.parametrize("partitions", [2, 7])
def test_partitions_do_not_show(whole, datasets, tmp_path, partitions):
    assert trained(datasets[partitions], tmp_path / "m") == whole[1]


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_workers_do_not_show(whole, datasets, tmp_path, n_workers):
    with (
        LocalCluster(
            processes=False,
            n_workers=n_workers,
            threads_per_worker=2,
            dashboard_address=":0",
            host="127.0.0.1",
            protocol="tcp",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert trained(datasets[7], tmp_path / "m", executor=DaskExecutor(client)) == whole[1]


class Interrupted(Exception):
    pass


def interrupted(dataset, folder, at, settings=SETTINGS, every=3):
    def stop(figures):
        if figures.epoch == at:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(
            dataset,
            str(folder / "none"),
            settings,
            SERIAL,
            checkpoints=kept_in(folder / "c", every=every),
            on_epoch=stop,
        )


@pytest.mark.parametrize(
    "at",
    [pytest.param(at, marks=[] if at in (3, 6) else [pytest.mark.slow]) for at in range(2, 10)],
)
def test_a_resumed_training_comes_to_the_same_bits(whole, datasets, tmp_path, at):
    interrupted(datasets[2], tmp_path, at)
    checkpoints = kept_in(tmp_path / "c", every=3, resume=True)
    assert trained(datasets[2], tmp_path / "m", checkpoints=checkpoints) == whole[1]


def test_lost_workers_do_not_show(whole, datasets, tmp_path):
    """Twice, the second time after a reduction that the last checkpoint does not know."""

    losses = []

    def lose(figures):
        if figures.epoch in {5, 8} - set(losses):
            losses.append(figures.epoch)
            raise WorkersLostError("lost")

    checkpoints = kept_in(tmp_path / "c", every=3)
    found = trained(datasets[2], tmp_path / "m", checkpoints=checkpoints, on_epoch=lose)
    assert losses == [5, 8]
    assert found == whole[1]


def test_more_samples_later_come_to_the_same_bits(whole, datasets, tmp_path):
    for samples in (3, 7):
        settings = replace(SETTINGS, samples=samples, epochs=None)
        checkpoints = kept_in(tmp_path / "c", every=2, resume=True)
        found = trained(datasets[1], tmp_path / f"m{samples}", settings, checkpoints=checkpoints)
    # The settings say 7 samples in both.
    assert found == whole[1]


def test_samples_that_were_all_kept_can_be_reduced_later(whole, datasets, tmp_path):
    """As earlier releases kept them."""
    interrupted(datasets[1], tmp_path, 8, replace(SETTINGS, keep_samples=True))
    assert len(list((tmp_path / "c").glob("sample-*"))) == 6
    checkpoints = kept_in(tmp_path / "c", every=3, resume=True)
    assert trained(datasets[1], tmp_path / "m", checkpoints=checkpoints) == whole[1]


def test_samples_that_were_reduced_cannot_be_kept(datasets, tmp_path):
    interrupted(datasets[1], tmp_path, 8)
    checkpoints = kept_in(tmp_path / "c", every=3, resume=True)
    with pytest.raises(InputError, match="keep-samples was False and is True"):
        train(
            datasets[1],
            str(tmp_path / "m"),
            replace(SETTINGS, keep_samples=True),
            SERIAL,
            checkpoints=checkpoints,
        )
    with pytest.raises(InputError, match="model-rank was None and is 3"):
        train(
            datasets[1],
            str(tmp_path / "m"),
            replace(SETTINGS, model_rank=3),
            SERIAL,
            checkpoints=checkpoints,
        )


@pytest.mark.slow
def test_the_number_of_samples_does_not_set_the_disk(datasets, tmp_path):
    most = {}
    for samples in (12, 24):
        folder = tmp_path / str(samples)
        folder.mkdir()
        counts = []

        def count(figures, folder=folder, counts=counts):
            counts.append(len([*folder.glob("c/sample-*"), *folder.glob("c/reduction-*")]))

        settings = replace(SETTINGS, samples=samples, epochs=None)
        train(
            datasets[1],
            str(folder / "m"),
            settings,
            SERIAL,
            checkpoints=kept_in(folder / "c", every=3),
            on_epoch=count,
        )
        most[samples] = max(counts)
    assert most[12] == most[24] <= 6


def test_nothing_of_others_is_removed(datasets, tmp_path):
    """A name like a sample's that is not ours stops the training before it starts."""
    strange = tmp_path / "c" / "sample-00001"
    strange.mkdir(parents=True)
    (strange / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="sample-00001"):
        train(
            datasets[1], str(tmp_path / "m"), SETTINGS, SERIAL, checkpoints=kept_in(tmp_path / "c")
        )
    assert (strange / "mine.txt").read_text() == "mine"


def predictions(model):
    loaded = ALSModel.load(str(model))
    users = np.repeat(loaded.users.ids, len(loaded.items.ids))
    items = np.tile(loaded.items.ids, len(loaded.users.ids))
    return loaded.predict(users, items)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_at_the_rank_of_all_samples_nothing_is_lost(datasets, tmp_path, dtype):
    """Rank 28 of 7 samples: the working rank is 56."""
    settings = replace(SETTINGS, dtype=dtype)
    train(datasets[2], str(tmp_path / "all"), replace(settings, keep_samples=True), SERIAL)
    train(datasets[2], str(tmp_path / "m"), replace(settings, model_rank=28), SERIAL)
    tolerance = 2e-5 if dtype == "float32" else 1e-8
    np.testing.assert_allclose(
        predictions(tmp_path / "m"), predictions(tmp_path / "all"), atol=tolerance
    )
    manifests = [read_manifest(str(tmp_path / name)) for name in ("m", "all")]
    assert manifests[0].residual_precision == manifests[1].residual_precision
    for side in SIDES:
        assert manifests[0].side(side).mean_bias == manifests[1].side(side).mean_bias
    assert manifests[0].compact.distance < tolerance


def test_what_is_lost_is_at_most_what_it_says(whole, datasets, tmp_path):
    train(datasets[1], str(tmp_path / "all"), replace(SETTINGS, keep_samples=True), SERIAL)
    difference = predictions(whole[0]) - predictions(tmp_path / "all")
    root_mean_square = float(np.sqrt(np.mean(difference**2)))
    assert 0 < root_mean_square <= read_manifest(str(whole[0])).compact.distance


def test_one_sample(datasets, tmp_path):
    settings = replace(SETTINGS, samples=1, epochs=None)
    train(datasets[1], str(tmp_path / "m"), settings, SERIAL)
    train(datasets[1], str(tmp_path / "all"), replace(settings, keep_samples=True), SERIAL)
    np.testing.assert_allclose(
        predictions(tmp_path / "m"), predictions(tmp_path / "all"), atol=2e-5
    )


def test_a_schedule_follows_from_the_settings():
    schedule = Schedule(replace(SETTINGS, model_rank=6))  # Working rank 12: three of rank 4.
    assert schedule.batch == 3
    assert list(schedule.reductions(9)) == [5, 8]
    assert [schedule.last(epoch) for epoch in (1, 4, 5, 7, 8)] == [None, None, 5, 5, 8]
    assert [list(schedule.waiting(epoch)) for epoch in (2, 4, 5, 7)] == [[], [3, 4], [], [6, 7]]
    everything_kept = Schedule(replace(SETTINGS, keep_samples=True))
    assert list(everything_kept.reductions(9)) == []
    assert list(everything_kept.waiting(5)) == [3, 4, 5]
    assert Schedule(TrainSettings(method="gibbs", rank=500)).batch == 2


def test_a_model_has_one_rank_or_all_samples():
    with pytest.raises(InputError, match="model-rank is 8; it must be left out with keep-samples"):
        TrainSettings(method="gibbs", model_rank=8, keep_samples=True)
    with pytest.raises(InputError, match="model-rank is 0"):
        TrainSettings(method="gibbs", model_rank=0)


# --- what a compact model is used for ---


@pytest.fixture
def model(whole, datasets):
    return ALSModel.load(str(whole[0]), datasets[1].path)


def test_it_is_saved_as_it_was_loaded(whole, model, tmp_path):
    model.save(str(tmp_path / "again"))
    assert everything(tmp_path / "again") == whole[1]


def test_training_can_start_from_it(whole, datasets, tmp_path):
    settings = small_settings(rank=4, epochs=1)
    start = str(whole[0])
    train(datasets[1], str(tmp_path / "m"), settings, SERIAL, initial_model=start)
    # The leading columns of the decomposition, which a lower rank takes, are a model, too.
    lower = replace(settings, rank=3)
    train(datasets[1], str(tmp_path / "n"), lower, SERIAL, initial_model=start)
    higher = replace(settings, rank=5)
    with pytest.raises(InputError, match="rank 4, the settings say 5"):
        train(datasets[1], str(tmp_path / "o"), higher, SERIAL, initial_model=start)


def test_a_damaged_prior_is_refused(datasets, tmp_path):
    train(datasets[1], str(tmp_path / "m"), SETTINGS, SERIAL)
    path = tmp_path / "m" / "new_users.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"new_users\.parquet"):
        ALSModel.load(str(tmp_path / "m"))


def test_a_prediction_is_explained(model):
    user = model.users.ids[3]
    rated = model.rated_items(user)
    item = next(one for one in model.items.ids if one not in set(rated["item_id"]))
    found = model.explain(user, item)
    folded = model.fold_in(dict(zip(rated["item_id"], rated["rating"], strict=True)))
    assert found.attrs["score"] == pytest.approx(folded.scores[model.items.row(item)], abs=1e-4)
    expected = model.items.state.factors[model.items.row(item)] @ model.users.new_rows.mean[1:]
    assert found["part"].sum() + expected == pytest.approx(found.attrs["product"], abs=1e-6)
    # One rating that changes moves the prediction by its weight; the bias as well, a little.
    assert found["weight"].abs().max() < 1


def test_folding_in_a_file_gives_what_folding_in_a_row_gives(whole, model, tmp_path):
    ratings = {model.items.ids[n]: float(1 + n % 5) for n in range(9)}
    new = write_csv(tmp_path / "n.csv", [(9001, item, rating) for item, rating in ratings.items()])
    out = tmp_path / "out"
    assert fold_in(str(new), str(whole[0]), str(out), SERIAL, USERS).rows == 1
    written, expected = ALSModel.load(str(out)), model.fold_in(ratings)
    row = written.users.row(9001)
    np.testing.assert_array_equal(written.users.state.factors[row], expected.factors)
    assert written.users.state.bias[row] == pytest.approx(expected.bias)
    # What was folded in can be folded into again, and explained.
    np.testing.assert_array_equal(written.fold_in(ratings).factors, expected.factors)
    assert len(written.explain(9001, model.items.ids[20])) == 9
    items = dict.fromkeys(model.users.ids[:5], 4.0)
    assert np.isfinite(model.fold_in_item(items).factors).all()


@pytest.mark.slow
def test_left_out_users_are_predicted_as_well_as_trained_ones(tmp_path):
    """Better than with the weights of the settings, and almost as if they had been trained."""
    rows = generated(400, 120, 16_000, seed=5)
    rng = np.random.default_rng(0)
    is_test = rng.random(len(rows)) < 0.25
    left_out = {user for user, _, _ in rows if user % 5 == 0}
    seen = [row for row, test in zip(rows, is_test, strict=True) if not test]
    test = [row for row, test in zip(rows, is_test, strict=True) if test and row[0] in left_out]
    settings = TrainSettings(method="gibbs", rank=8, burn_in=10, samples=20)
    models = {}
    for name, some in {
        "all": seen,
        "rest": [row for row in seen if row[0] not in left_out],
    }.items():
        source = str(write_csv(tmp_path / f"{name}.csv", some))
        train(
            prepare(source, str(tmp_path / f"d-{name}"), SERIAL),
            str(tmp_path / name),
            settings,
            SERIAL,
        )
        models[name] = ALSModel.load(str(tmp_path / name))
    rest = models["rest"]
    plain = ALSModel(
        rest.manifest,
        replace(rest.users, new_rows=None),
        replace(rest.items, new_rows=None),
        rest.history,
        None,
    )
    known = set(rest.items.ids)
    test = [row for row in test if row[1] in known]

    def folded(model):
        scores = {}
        for user in {user for user, _, _ in test}:
            own = {item: rating for one, item, rating in seen if one == user and item in known}
            scores[user] = model.fold_in(own).scores
        return rmse([scores[user][model.items.row(item)] for user, item, _ in test])

    def rmse(predicted):
        return float(np.sqrt(np.mean((np.array(predicted) - [r for *_, r in test]) ** 2)))

    users, items, _ = zip(*test, strict=True)
    as_trained = rmse(models["all"].predict(list(users), list(items)))
    assert folded(rest) < folded(plain)
    assert folded(rest) < 1.02 * as_trained


def test_the_manifest_is_plain_json(whole):
    manifest = json.loads((whole[0] / "model.json").read_text())
    assert manifest["compact"]["samples"] == 7
    assert {"new_users.parquet", "new_items.parquet"} <= set(manifest["files"])
    assert read_manifest(str(whole[0])).side(ITEMS).new_rows_crc32 is not None
