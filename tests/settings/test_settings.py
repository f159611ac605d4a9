import dataclasses

import pytest

from dask_als.core.side import ITEMS, USERS
from dask_als.errors import InputError
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import Regularization, TrainSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rank", 0),
        ("rank", -1),
        ("rank", 2.5),
        ("rank", True),
        ("epochs", 0),
        ("seed", -1),
        ("seed", 2**63),
        ("residual_precision", 0.0),
        ("residual_precision", float("nan")),
        ("bias_regularization", -0.1),
        ("factor_regularization", float("inf")),
        ("user_bias_regularization", -1.0),
        ("item_factor_regularization", float("nan")),
        ("regularization_scaling", "rank"),
        ("dtype", "float16"),
        ("first", "films"),
    ],
)
def test_train_settings_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=rf"^{name.replace('_', '-')} is {value!r}; it must be "):
        TrainSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("test_fraction", 1.0),
        ("test_fraction", -0.1),
        ("test_fraction", float("nan")),
        ("split", "first"),
        ("duplicates", "first"),
        ("partitions", 0),
        ("partitions", 2**15),
        ("seed", -1),
    ],
)
def test_prepare_settings_out_of_range_are_named(name, value):
    with pytest.raises(InputError, match=rf"^{name.replace('_', '-')} is {value!r}; it must be "):
        PrepareSettings(**{name: value})


def test_zero_regularization_is_allowed():
    TrainSettings(bias_regularization=0.0, factor_regularization=0.0)


def test_regularization_by_count_is_not_for_implicit_feedback():
    with pytest.raises(InputError, match=r"^regularization-scaling is 'count'; it must be plain"):
        TrainSettings(regularization_scaling="count", feedback="implicit")


def test_a_side_has_its_own_regularization_or_the_common_one():
    settings = TrainSettings(
        bias_regularization=1.0,
        factor_regularization=2.0,
        user_factor_regularization=0.0,
        item_bias_regularization=4.0,
    )
    assert settings.regularization(USERS) == Regularization(1.0, 0.0, by_count=False)
    assert settings.regularization(ITEMS) == Regularization(4.0, 2.0, by_count=False)
    by_count = dataclasses.replace(settings, regularization_scaling="count")
    assert by_count.regularization(ITEMS).by_count


def test_settings_make_the_trip_through_json():
    settings = TrainSettings(rank=3, dtype="float64")
    assert TrainSettings(**settings.to_json()) == settings


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainSettings().rank = 3


def test_a_split_is_told_only_if_there_is_one():
    assert PrepareSettings().split_json() is None
    assert PrepareSettings(test_fraction=0.1, split="latest", seed=4).split_json() == {
        "kind": "latest",
        "test_fraction": 0.1,
        "seed": 4,
    }


def test_columns_find_the_time_if_it_is_there():
    there = ("userId", "movieId", "rating")
    assert Columns().within(there).time is None
    assert Columns().within((*there, "timestamp")).time == "timestamp"
    assert Columns(time="when").within((*there, "timestamp")).time == "when"


def test_columns_must_differ():
    with pytest.raises(InputError, match="distinct"):
        Columns(user="movieId")
