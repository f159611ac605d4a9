import pytest
from support.data import content, generated, small_settings, write_csv

from dask_als import ALS, ALSModel
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.errors import InputError, WorkersLostError
from dask_als.model import files as model_files
from dask_als.settings.data import PrepareSettings
from dask_als.settings.training import CheckpointSettings, StopSettings
from dask_als.training.early_stopping import best_epoch, reason_to_stop
from dask_als.training.train import train

SERIAL = SerialExecutor()
# Little regularization: the held-out RMSE falls for some epochs and rises after.
OVERFITTING = small_settings(
    rank=2, epochs=40, factor_regularization=2.0, bias_regularization=1.0, dtype="float64"
)


class Stop(Exception):
    """Interrupts a training."""


def figures(*values):
    """Return figures of epochs with these pairs of objective and held-out RMSE."""
    return [EpochFigures(n, value, 1.0, test, 0.1) for n, (value, test) in enumerate(values, 1)]


def test_a_flat_objective_ends_training():
    history = figures((-1000.0, None), (-900.0, None), (-899.95, None))
    assert reason_to_stop(history, StopSettings(flat=1e-4)) is not None
    assert reason_to_stop(history, StopSettings(flat=1e-5)) is None
    assert reason_to_stop(history[:2], StopSettings(flat=1e-4)) is None
    assert reason_to_stop(history[:1], StopSettings(flat=1e-4)) is None
    assert reason_to_stop([], StopSettings(flat=1e-4)) is None


def test_patience_counts_epochs_since_the_best():
    history = figures((-5.0, 0.9), (-4.0, 0.8), (-3.0, 0.8), (-2.0, 0.85))
    assert best_epoch(history).epoch == 2
    assert reason_to_stop(history, StopSettings(patience=2)) == (
        "no better held-out RMSE since epoch 2"
    )
    assert reason_to_stop(history, StopSettings(patience=3)) is None
    assert reason_to_stop(history, StopSettings()) is None
    assert reason_to_stop([], StopSettings(patience=1)) is None


@pytest.mark.parametrize("wrong", [{"flat": 0.0}, {"flat": float("nan")}, {"patience": 0}])
def test_settings_out_of_range(wrong):
    with pytest.raises(InputError):
        StopSettings(**wrong)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    directory = tmp_path_factory.mktemp("stopping")
    source = write_csv(directory / "r.csv", generated(100, 60, 2500, seed=2))
    settings = PrepareSettings(test_fraction=0.2, partitions=2)
    return prepare(str(source), str(directory / "d"), SERIAL, settings=settings)


@pytest.fixture(scope="module")
def history_of_all(dataset, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("all") / "m")
    train(dataset, path, OVERFITTING, SERIAL)
    return model_files.read_history(path)


def trained_to(dataset, path, epochs):
    """Return biases and factors after a plain training of so many epochs."""
    settings = small_settings(**{**OVERFITTING.to_json(), "epochs": epochs})
    train(dataset, path, settings, SERIAL)
    return content(path)[0]


@pytest.mark.parametrize("every", [1, 2, 3, 100])
def test_the_best_epochs_model_is_kept(dataset, history_of_all, tmp_path, every):
    """Across checkpoints as well, the model has the bits of a training that ended at that epoch."""
    best = best_epoch(history_of_all).epoch
    assert 1 < best < 30
    path = str(tmp_path / "m")
    manifest = train(
        dataset,
        path,
        OVERFITTING,
        SERIAL,
        stopping=StopSettings(patience=4),
        checkpoints=CheckpointSettings(directory=str(tmp_path / "c"), every=every),
    )
    history = model_files.read_history(path)
    assert len(history) == best + 4
    assert manifest.figures.epoch == best
    assert content(path)[0] == trained_to(dataset, str(tmp_path / "plain"), best)
    assert not ALSModel.load(path).manifest.figures.test_rmse > min(f.test_rmse for f in history)


@pytest.mark.parametrize("at", [*(pytest.param(at, marks=pytest.mark.slow) for at in (1, 5)), 3])
@pytest.mark.parametrize("patience", [4, None])
def test_a_resumed_training_stops_alike(dataset, history_of_all, tmp_path, at, patience):
    stopping = StopSettings(patience=patience, flat=1e-6)
    undisturbed, path = str(tmp_path / "undisturbed"), str(tmp_path / "m")
    train(dataset, undisturbed, OVERFITTING, SERIAL, stopping=stopping)

    def interrupt(epoch):
        if epoch.figures.epoch == best_epoch(history_of_all).epoch + at - 3:
            raise Stop

    directory = str(tmp_path / "c")
    with pytest.raises(Stop):
        train(
            dataset,
            path,
            OVERFITTING,
            SERIAL,
            stopping=stopping,
            checkpoints=CheckpointSettings(directory=directory, every=2),
            callbacks=[interrupt],
        )
    checkpoints = CheckpointSettings(directory=directory, every=2, resume=True)
    train(dataset, path, OVERFITTING, SERIAL, stopping=stopping, checkpoints=checkpoints)
    assert content(path) == content(undisturbed)


def test_patience_is_refused_if_the_best_model_was_not_kept(dataset, tmp_path):
    directory, path = str(tmp_path / "c"), str(tmp_path / "m")
    fewer = small_settings(**{**OVERFITTING.to_json(), "epochs": 5})
    checkpoints = CheckpointSettings(directory=directory, every=2)
    train(dataset, path, fewer, SERIAL, checkpoints=checkpoints)
    with pytest.raises(InputError, match="without --patience"):
        train(
            dataset,
            str(tmp_path / "other"),
            OVERFITTING,
            SERIAL,
            stopping=StopSettings(patience=2),
            checkpoints=CheckpointSettings(directory=directory, resume=True),
        )


def test_patience_needs_held_out_ratings(tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(20, 20, 100))
    dataset = prepare(str(source), str(tmp_path / "d"), SERIAL)
    with pytest.raises(InputError, match="test-fraction"):
        train(
            dataset,
            str(tmp_path / "m"),
            small_settings(),
            SERIAL,
            stopping=StopSettings(patience=2),
        )
    assert not (tmp_path / "m").exists()


def test_a_callback_sees_every_epoch_and_saves_its_model(dataset, tmp_path):
    seen = []

    def look(epoch):
        assert epoch.history[-1] == epoch.figures
        seen.append(epoch.figures.epoch)
        if epoch.figures.epoch == 2:
            epoch.save(str(tmp_path / "second"))

    train(dataset, str(tmp_path / "m"), small_settings(epochs=4), SERIAL, callbacks=[look])
    assert seen == [1, 2, 3, 4]
    train(dataset, str(tmp_path / "two"), small_settings(epochs=2), SERIAL)
    assert content(str(tmp_path / "second"))[:2] == content(str(tmp_path / "two"))[:2]


def test_a_true_answer_of_a_callback_ends_training(dataset, tmp_path):
    seen = []
    manifest = train(
        dataset,
        str(tmp_path / "m"),
        small_settings(epochs=9),
        SERIAL,
        callbacks=[lambda epoch: epoch.figures.epoch == 3, lambda epoch: seen.append(epoch)],
    )
    assert manifest.figures.epoch == 3
    assert len(seen) == 3


def test_epochs_trained_again_keep_the_best(dataset, history_of_all, tmp_path):
    """When workers are lost after the best epoch, training is rewound to before it."""
    best = best_epoch(history_of_all).epoch
    lost = []

    def lose(epoch):
        if epoch.figures.epoch == best + 1 and not lost:
            lost.append(epoch)
            raise WorkersLostError("lost")

    path = str(tmp_path / "m")
    stopping = StopSettings(patience=4)
    train(dataset, path, OVERFITTING, SERIAL, stopping=stopping, callbacks=[lose])
    assert lost
    assert content(path)[0] == trained_to(dataset, str(tmp_path / "plain"), best)


def test_fit_takes_callbacks_and_stopping(tmp_path):
    source = write_csv(tmp_path / "r.csv", generated(30, 30, 300))
    model = ALS(rank=2, epochs=9).fit(source, callbacks=[lambda epoch: epoch.figures.epoch == 2])
    assert len(model.history) == 2
    model = ALS(rank=2, epochs=300).fit(source, stopping=StopSettings(flat=1e-3))
    assert 2 < len(model.history) < 300
