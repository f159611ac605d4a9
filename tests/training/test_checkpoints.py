import os
import tempfile
from contextlib import contextmanager

import pytest
from support.data import content, generated, small_settings, write_csv

from dask_als.core import output_lock
from dask_als.core.executor import SerialExecutor
from dask_als.core.ownership import IN_USE, marked_json
from dask_als.data.prepare import prepare
from dask_als.errors import InputError
from dask_als.model.model import ALSModel
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import CheckpointSettings
from dask_als.training.checkpoints import (
    check_writable,
    checkpoint_path,
    complete_checkpoints,
    remove_checkpoints,
)
from dask_als.training.train import train

SERIAL = SerialExecutor()
EPOCHS = 7


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    source = write_csv(directory / "r.csv", generated(40, 50, 900))
    settings = PrepareSettings(test_fraction=0.2, partitions=2)
    return prepare(str(source), str(directory / "d"), SERIAL, settings=settings)


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("undisturbed") / "m")
    train(dataset, path, small_settings(epochs=EPOCHS), SERIAL)
    return content(path)


def kept(directory):
    """Return the names in a checkpoint directory, except that of its lock."""
    return sorted(name for name in os.listdir(directory) if name != output_lock.NAME)


class Stop(Exception):
    """Interrupts a training."""


def interrupted(dataset, tmp_path, *, at, epochs=EPOCHS, **changes):
    """Train with checkpoints until an epoch has ended."""

    def stop(figures):
        if figures.epoch == at:
            raise Stop

    with pytest.raises(Stop):
        train(
            dataset,
            str(tmp_path / "m"),
            small_settings(epochs=epochs),
            SERIAL,
            checkpoints=CheckpointSettings(directory=str(tmp_path / "c"), **changes),
            on_epoch=stop,
        )


def resumed(dataset, tmp_path, settings=None, **changes):
    """Resume a training; return the content of the model and the epochs that were trained."""
    seen = []
    train(
        dataset,
        str(tmp_path / "m"),
        settings or small_settings(epochs=EPOCHS),
        SERIAL,
        checkpoints=CheckpointSettings(directory=str(tmp_path / "c"), resume=True, **changes),
        on_epoch=lambda figures: seen.append(figures.epoch),
    )
    return content(str(tmp_path / "m")), seen


@pytest.mark.parametrize("every", [1, 2, 3, EPOCHS, 100])
def test_checkpoints_change_nothing(dataset, undisturbed, tmp_path, every):
    checkpoints = CheckpointSettings(directory=str(tmp_path / "c"), every=every)
    path = str(tmp_path / "m")
    train(dataset, path, small_settings(epochs=EPOCHS), SERIAL, checkpoints=checkpoints)
    assert content(path) == undisturbed


@pytest.mark.parametrize(("at", "first"), [(1, 1), (2, 1), (3, 3), (5, 5), (7, 7)])
def test_a_resumed_training_has_the_same_bits(dataset, undisturbed, tmp_path, at, first):
    interrupted(dataset, tmp_path, at=at, every=2)
    found, seen = resumed(dataset, tmp_path, every=2)
    assert found == undisturbed
    assert seen == list(range(first, EPOCHS + 1))


def test_a_resumed_training_may_have_another_interval(dataset, undisturbed, tmp_path):
    interrupted(dataset, tmp_path, at=4, every=2)
    found, seen = resumed(dataset, tmp_path, every=5)
    assert found == undisturbed
    assert seen == [3, 4, 5, 6, 7]


def test_without_a_checkpoint_training_starts_anew(dataset, undisturbed, tmp_path):
    found, seen = resumed(dataset, tmp_path)
    assert found == undisturbed
    assert seen == list(range(1, EPOCHS + 1))


def test_a_resumed_training_may_have_more_epochs(dataset, undisturbed, tmp_path):
    interrupted(dataset, tmp_path, at=5, epochs=6, every=2)
    assert resumed(dataset, tmp_path)[0] == undisturbed


def test_a_checkpoint_of_the_last_epoch_is_the_model(dataset, tmp_path):
    interrupted(dataset, tmp_path, at=5, every=2)
    found, seen = resumed(dataset, tmp_path, small_settings(epochs=4))
    assert seen == []
    whole = str(tmp_path / "whole")
    train(dataset, whole, small_settings(epochs=4), SERIAL)
    assert found == content(whole)


def test_a_checkpoint_is_a_model(dataset, tmp_path):
    interrupted(dataset, tmp_path, at=6, every=2)
    (_, newest) = complete_checkpoints(str(tmp_path / "c"))
    model = ALSModel.load(newest)
    assert len(model.history) == 4
    assert len(model.recommend(model.users.ids[0], 3)) == 3


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_checkpoints_are_kept(dataset, tmp_path, keep):
    interrupted(dataset, tmp_path, at=6, every=1, keep=keep)
    assert kept(tmp_path / "c") == [f"epoch-0000{n}" for n in range(6 - keep, 6)]


def test_checkpoints_by_the_clock(dataset, undisturbed, tmp_path):
    interrupted(dataset, tmp_path, at=3, every=100, minutes=1e-9)
    assert kept(tmp_path / "c") == ["epoch-00001", "epoch-00002"]
    assert resumed(dataset, tmp_path, every=100)[0] == undisturbed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank": 5}, "other settings: rank was 4 and is 5"),
        ({"seed": 3, "dtype": "float64"}, "dtype was 'float32' and is 'float64', seed was 0"),
        ({"epochs": 3}, "past the last of 3 epochs"),
    ],
)
def test_other_settings_are_refused(dataset, tmp_path, changes, reason):
    interrupted(dataset, tmp_path, at=5, every=2)
    with pytest.raises(InputError, match=reason):
        resumed(dataset, tmp_path, small_settings(**{"epochs": EPOCHS, **changes}))
    assert not (tmp_path / "m").exists()


def test_other_data_are_refused(dataset, tmp_path):
    interrupted(dataset, tmp_path, at=5, every=2)
    source = write_csv(tmp_path / "r.csv", generated(40, 50, 900, seed=8))
    other = prepare(str(source), str(tmp_path / "d"), SERIAL)
    with pytest.raises(InputError, match=r"epoch-00004 belongs to other data"):
        resumed(other, tmp_path)


def test_checkpoints_of_an_earlier_training(dataset, undisturbed, tmp_path):
    """Neither are they resumed from, nor are they removed, unless the user asks for it."""
    interrupted(dataset, tmp_path, at=5, every=2)
    checkpoints = CheckpointSettings(directory=str(tmp_path / "c"), every=3)
    arguments = (dataset, str(tmp_path / "m"), small_settings(epochs=EPOCHS), SERIAL)
    with pytest.raises(InputError, match="give --resume to continue it, or --overwrite"):
        train(*arguments, checkpoints=checkpoints)
    assert len(kept(tmp_path / "c")) == 2
    train(*arguments, checkpoints=checkpoints, overwrite=True)
    assert content(str(tmp_path / "m")) == undisturbed
    assert kept(tmp_path / "c") == ["epoch-00003", "epoch-00006"]


def test_another_directory_named_like_a_checkpoint_is_refused(dataset, tmp_path):
    """Training would fail once it needs the name, so it is refused before it begins."""
    interrupted(dataset, tmp_path, at=5, every=2)
    (tmp_path / "c" / "epoch-00008").mkdir()
    (tmp_path / "c" / "epoch-00008" / "mine").touch()
    with pytest.raises(InputError, match="epoch-00008 holds something else"):
        resumed(dataset, tmp_path, every=2)
    assert (tmp_path / "c" / "epoch-00008" / "mine").exists()


def test_a_checkpoint_that_is_the_initial_model_is_not_removed(dataset, tmp_path):
    interrupted(dataset, tmp_path, at=5, every=2)
    first = complete_checkpoints(str(tmp_path / "c"))[-1]
    with pytest.raises(InputError, match="epoch-00004 is an input, so it is not replaced"):
        train(
            dataset,
            str(tmp_path / "m"),
            small_settings(epochs=EPOCHS),
            SERIAL,
            initial_model=first,
            checkpoints=CheckpointSettings(directory=str(tmp_path / "c")),
            overwrite=True,
        )
    assert os.path.exists(first)


def test_a_missing_directory_has_no_checkpoints(tmp_path):
    assert complete_checkpoints(str(tmp_path / "no")) == []
    remove_checkpoints(str(tmp_path / "no"), keep=1)
    assert checkpoint_path("c", 7) == "c/epoch-00007"


def test_two_trainings_with_the_same_checkpoints(dataset, undisturbed, tmp_path):
    """The second is refused, and harms neither the first nor its checkpoints."""
    folder, refused = str(tmp_path / "c"), []

    def second(figures):
        if figures.epoch == 4:
            for changes in ({"resume": True}, {"resume": False}):
                with pytest.raises(InputError, match=rf"^{folder} is in use by run .*; wait until"):
                    train(
                        dataset,
                        str(tmp_path / "second"),
                        small_settings(epochs=EPOCHS),
                        SERIAL,
                        checkpoints=CheckpointSettings(directory=folder, every=2, **changes),
                        overwrite=True,
                    )
                refused.append(kept(folder))

    checkpoints = CheckpointSettings(directory=folder, every=2)
    settings = small_settings(epochs=EPOCHS)
    model = str(tmp_path / "m")
    train(dataset, model, settings, SERIAL, checkpoints=checkpoints, on_epoch=second)
    assert refused == [["epoch-00002"]] * 2 or refused == [["epoch-00002", "epoch-00004"]] * 2
    assert content(model) == undisturbed
    assert not (tmp_path / "second").exists()
    # The lock ends with the training.
    train(dataset, model, settings, SERIAL, checkpoints=checkpoints, overwrite=True)


def test_a_killed_training_does_not_lock_its_checkpoints(dataset, undisturbed, tmp_path):
    interrupted(dataset, tmp_path, at=5, every=2)
    (tmp_path / "c" / output_lock.NAME).write_text(marked_json(IN_USE, {"run_id": "killed"}))
    assert resumed(dataset, tmp_path, every=2)[0] == undisturbed


@pytest.mark.parametrize("where", ["under a file", "a file", "/proc"])
def test_a_directory_that_cannot_be_written_is_refused_before_training(dataset, tmp_path, where):
    """Even if the training is too short to write a checkpoint."""
    (tmp_path / "file").touch()
    directories = {"under a file": f"{tmp_path}/file/c", "a file": f"{tmp_path}/file"}
    directory, trained = directories.get(where, f"{where}/c"), []
    with pytest.raises(InputError, match=rf"^{directory} cannot be written: "):
        train(
            dataset,
            str(tmp_path / "m"),
            small_settings(epochs=1),
            SERIAL,
            checkpoints=CheckpointSettings(directory=directory),
            on_epoch=trained.append,
        )
    assert trained == []
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_that_has_become_read_only_is_refused():
    """Its lock can still be opened, so that alone does not tell."""
    with tempfile.TemporaryDirectory() as directory:
        check_writable(directory)
        assert os.listdir(directory) == []
        os.chmod(directory, 0o555)
        with ordinary_user(), pytest.raises(InputError, match=rf"^{directory} cannot be written: "):
            check_writable(directory)


@contextmanager
def ordinary_user():
    """Give up the rights of root for the block, as root may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
