"""New ratings are appended to a model's dataset, and training goes on from the model."""

import shutil
from dataclasses import replace

import pytest
from support.data import content, generated, small_settings, write_csv

from dask_als.core.executor import SerialExecutor
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.errors import InputError, JobError
from dask_als.model.manifest import read_manifest
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import TrainSettings
from dask_als.training import update as update_module
from dask_als.training.train import train
from dask_als.training.update import NewRatings, UpdateSettings, update

SERIAL = SerialExecutor()
ROWS = generated(60, 40, 1100)
SPLIT = PrepareSettings(test_fraction=0.1, duplicates="sum")
GIBBS = TrainSettings(method="gibbs", rank=2, burn_in=1, samples=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    write_csv(folder / "old.csv", ROWS[:900])
    write_csv(folder / "new.csv", [*ROWS[900:], (999, 888, 3.0)])
    dataset = prepare(str(folder / "old.csv"), str(folder / "d"), SERIAL, settings=SPLIT)
    train(dataset, str(folder / "m"), small_settings(), SERIAL)
    train(dataset, str(folder / "g"), GIBBS, SERIAL)
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy: the models' dataset is at another place than they say."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def updated(folder, new="new.csv", model="m", out="m2", **options):
    return update(
        str(folder / model),
        NewRatings(path=str(folder / new)),
        str(folder / out),
        SERIAL,
        dataset=str(folder / "d"),
        **options,
    )


def test_it_is_appending_and_training_on(folder, tmp_path):
    done = updated(folder)
    assert not done.was_appended
    once = tmp_path / "all"
    once.mkdir()
    for name in ("old", "new"):
        shutil.copy(folder / f"{name}.csv", once)
    both = prepare(str(once), str(tmp_path / "once"), SERIAL, settings=SPLIT)
    assert done.dataset.fingerprint == both.fingerprint
    start = str(folder / "m")
    train(both, str(tmp_path / "m2"), small_settings(epochs=3), SERIAL, initial_model=start)
    assert content(str(tmp_path / "m2")) == content(str(folder / "m2"))
    assert done.model.initial.users.new >= 1
    assert done.model.settings == small_settings(epochs=3)


def test_night_after_night(folder):
    first = updated(folder)
    write_csv(folder / "next.csv", [(999, item, 4.0) for _, item, _ in ROWS[:9]])
    second = updated(folder, "next.csv", "m2", "m3", settings=UpdateSettings(epochs=1))
    assert second.model.settings.epochs == 1
    assert [its.before for its in second.dataset.growth.appended][1] == first.dataset.fingerprint
    # From the first model, too: the dataset has grown out of its own.
    write_csv(folder / "third.csv", [(998, item, 4.0) for _, item, _ in ROWS[:9]])
    assert updated(folder, "third.csv", "m", "m4").model.initial.users.new >= 2


def test_gibbs_goes_on(folder):
    done = updated(folder, model="g", settings=UpdateSettings(epochs=1, samples=2))
    assert (done.model.settings.samples, done.model.settings.burn_in) == (2, 1)
    assert done.model.residual_precision is not None


def test_ratings_are_not_appended_twice(folder, monkeypatch):
    def lost(*args, **options):
        raise JobError("lost")

    monkeypatch.setattr(update_module, "train", lost)
    with pytest.raises(JobError):
        updated(folder)
    grown = open_dataset(str(folder / "d"))
    monkeypatch.undo()
    done = updated(folder)
    assert done.was_appended
    assert done.dataset == grown
    assert read_manifest(str(folder / "m2")).dataset["fingerprint"] == grown.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"new": "nothing.csv"}, "no file or folder at .*nothing.csv"),
        ({"model": "old.csv"}, "old.csv is not a model"),
        ({"out": "d"}, "d exists already"),
        ({"settings": UpdateSettings(samples=2)}, "samples is 2, but the model was trained with"),
    ],
)
def test_a_refusal_changes_nothing(folder, options, message):
    before = open_dataset(str(folder / "d"))
    with pytest.raises(InputError, match=message):
        updated(folder, **options)
    assert open_dataset(str(folder / "d")) == before
    assert not (folder / "m2").exists()


def test_a_dataset_that_is_not_its_own(folder, tmp_path):
    other = prepare(str(folder / "new.csv"), str(tmp_path / "other"), SERIAL)
    with pytest.raises(InputError, match=r"was not trained on .*other: their fingerprints differ"):
        update(
            str(folder / "m"),
            NewRatings(path=str(folder / "new.csv")),
            str(folder / "m2"),
            SERIAL,
            dataset=other.path,
        )


def test_a_dataset_that_was_moved(trained, folder):
    manifest = read_manifest(str(folder / "m"))
    lost = replace(manifest, dataset={**manifest.dataset, "path": str(folder / "gone")})
    with pytest.raises(InputError, match=r"is not at .*gone; name the place with --dataset"):
        update_module.dataset_to_update(str(folder / "m"), lost, None)


@pytest.mark.parametrize("values", [{"epochs": 0}, {"samples": 0}])
def test_settings_out_of_range(values):
    with pytest.raises(InputError, match="must be a whole number from 1"):
        UpdateSettings(**values)
