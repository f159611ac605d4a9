from dataclasses import replace

import pytest
from distributed import Client, LocalCluster
from support.data import bits, prepared, small_settings

from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.core.executor import SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.errors import InputError
from dask_als.planning.calibration import Speed
from dask_als.planning.duration import epoch_seconds
from dask_als.planning.memory import memory_of_a_worker
from dask_als.settings.training import CheckpointSettings, TrainSettings
from dask_als.training.train import train

GIBBS = small_settings(
    method="gibbs",
    epochs=None,
    burn_in=2,
    samples=3,
    factor_regularization=12.0,
    implicit_attributes="both",
)

ALS = small_settings(epochs=5, implicit_attributes="both")


@pytest.mark.parametrize(
    "sides", [*(pytest.param(s, marks=pytest.mark.slow) for s in ("users", "items")), "both"]
)
@pytest.mark.parametrize("settings", [GIBBS, ALS], ids=["gibbs", "als"])
def test_partitions_do_not_show(tmp_path, settings, sides):
    settings = replace(settings, implicit_attributes=sides)
    results = []
    for partitions in (1, 2, 7):
        dataset = prepared(tmp_path, f"dataset-{partitions}", partitions)
        model = tmp_path / f"model-{partitions}"
        train(dataset, str(model), settings, SerialExecutor())
        results.append(bits(model))
    assert results[0] == results[1] == results[2]


def test_each_choice_of_sides_comes_to_its_own_model(tmp_path):
    dataset, found = prepared(tmp_path), []
    for sides in ("none", "users", "items", "both"):
        settings = replace(GIBBS, implicit_attributes=sides)
        train(dataset, str(tmp_path / sides), settings, SerialExecutor())
        found.append(bits(tmp_path / sides))
    assert all(one[0][0] != other[0][0] for i, one in enumerate(found) for other in found[:i])


class Interrupted(Exception):
    pass


def interrupted_after(dataset, tmp_path, settings, checkpoints, last):
    def interrupt(figures):
        if figures.epoch == last:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(
            dataset,
            str(tmp_path / "model"),
            settings,
            SerialExecutor(),
            checkpoints=checkpoints,
            on_epoch=interrupt,
        )


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("stop", [2, 4])
@pytest.mark.parametrize("settings", [GIBBS, ALS], ids=["gibbs", "als"])
def test_a_resumed_training_comes_to_the_same_bits(tmp_path, settings, stop, dtype):
    dataset, settings = prepared(tmp_path, partitions=2), replace(settings, dtype=dtype)
    train(dataset, str(tmp_path / "whole"), settings, SerialExecutor())
    checkpoints = CheckpointSettings(directory=str(tmp_path / "checkpoints"), every=stop)
    interrupted_after(dataset, tmp_path, settings, checkpoints, stop + 1)
    train(
        dataset,
        str(tmp_path / "model"),
        settings,
        SerialExecutor(),
        checkpoints=replace(checkpoints, resume=True),
    )
    assert bits(tmp_path / "model") == bits(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_show(tmp_path, workers):
    train(prepared(tmp_path), str(tmp_path / "serial"), GIBBS, SerialExecutor())
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=":0", memory_limit=None
        ) as cluster,
        Client(cluster) as client,
    ):
        for partitions in (1, 3):
            dataset = prepared(tmp_path, f"dataset-{partitions}", partitions)
            model = tmp_path / f"model-{partitions}"
            train(dataset, str(model), GIBBS, DaskExecutor(client))
            assert bits(model) == bits(tmp_path / "serial")


@pytest.mark.parametrize("what", ["means", "weights"])
def test_a_damaged_checkpoint_is_told(tmp_path, what):
    dataset = prepared(tmp_path)
    checkpoints = CheckpointSettings(directory=str(tmp_path / "checkpoints"), every=2)
    interrupted_after(dataset, tmp_path, GIBBS, checkpoints, 3)
    file = tmp_path / f"checkpoints/epoch-00002/attributes-items-{what}/part-00000.arrow"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=f"attributes-items-{what}"):
        train(
            dataset,
            str(tmp_path / "model"),
            GIBBS,
            SerialExecutor(),
            checkpoints=replace(checkpoints, resume=True),
        )


def test_a_checkpoint_of_other_sides_is_not_used(tmp_path):
    dataset = prepared(tmp_path)
    checkpoints = CheckpointSettings(directory=str(tmp_path / "checkpoints"), every=2)
    interrupted_after(dataset, tmp_path, GIBBS, checkpoints, 3)
    with pytest.raises(InputError, match="implicit-attributes was 'both' and is 'items'"):
        train(
            dataset,
            str(tmp_path / "model"),
            replace(GIBBS, implicit_attributes="items"),
            SerialExecutor(),
            checkpoints=replace(checkpoints, resume=True),
        )


def test_checkpoints_without_attributes_are_as_before(tmp_path):
    dataset, settings = prepared(tmp_path), replace(GIBBS, implicit_attributes="none")
    checkpoints = CheckpointSettings(directory=str(tmp_path / "checkpoints"), every=2)
    interrupted_after(dataset, tmp_path, settings, checkpoints, 3)
    names = {path.name for path in (tmp_path / "checkpoints/epoch-00002").iterdir()}
    assert names == {"users", "items", "history.jsonl", "model.json"}
    train(
        dataset,
        str(tmp_path / "model"),
        settings,
        SerialExecutor(),
        checkpoints=replace(checkpoints, resume=True),
    )
    train(dataset, str(tmp_path / "whole"), settings, SerialExecutor())
    assert bits(tmp_path / "model") == bits(tmp_path / "whole")


@pytest.mark.parametrize(
    ("n_users", "n_items", "expected"),
    [(100, 800, (ITEMS, USERS)), (100, 801, (ITEMS,)), (801, 100, (USERS,)), (5, 5, SIDES)],
)
def test_auto_takes_sides_without_too_many_attributes(n_users, n_items, expected):
    settings = TrainSettings(implicit_attributes="auto")
    found = settings.sides_with_attributes({USERS: n_users, ITEMS: n_items})
    assert set(found) == set(expected)


def test_row_priors_have_no_weights_by_count():
    with pytest.raises(InputError, match="implicit-attributes is 'both'; it must be none"):
        TrainSettings(regularization_scaling="count", implicit_attributes="both")


def test_a_plan_knows_their_memory_and_time(tmp_path):
    dataset, shape = prepared(tmp_path), SerialExecutor().shape
    speed = Speed(flops={"users": 1e9, "items": 1e9}, test_ratings=1e9)
    without = replace(GIBBS, implicit_attributes="none")
    one = replace(GIBBS, implicit_attributes="items")
    states, seconds = [], []
    for settings in (without, one, GIBBS):
        states.append(memory_of_a_worker(dataset, settings, shape).states)
        seconds.append(epoch_seconds(dataset, settings, shape, speed))
    assert states[0] < states[1] < states[2]
    assert seconds[0] < seconds[1] < seconds[2]


def test_row_priors_have_no_weights_by_frequency():
    with pytest.raises(InputError, match="implicit-attributes is 'items'; it must be none"):
        TrainSettings(feedback="implicit", frequency_exponent=0.5, implicit_attributes="items")
