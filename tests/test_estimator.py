import os

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client
from support.data import generated, write_csv

from dask_als import ALS, Columns, InputError, PrepareSettings
from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare

SETTINGS = {"rank": 3, "epochs": 2}


@pytest.fixture(scope="module")
def frame():
    return pd.DataFrame(generated(25, 30, 300, seed=4), columns=["userId", "movieId", "rating"])


@pytest.fixture(scope="module")
def expected(frame, client):
    """The factors of items that all inputs must lead to."""
    return ALS(**SETTINGS, client=client).fit(frame).items.state.factors


def test_a_path_of_ratings(frame, expected, client, tmp_path):
    source = write_csv(tmp_path / "r.csv", frame.itertuples(index=False))
    model = ALS(**SETTINGS, client=client).fit(source)
    np.testing.assert_array_equal(model.items.state.factors, expected)


def test_a_prepared_dataset(frame, expected, client, tmp_path):
    source = write_csv(tmp_path / "r.csv", frame.itertuples(index=False))
    prepare(str(source), str(tmp_path / "d"), SerialExecutor())
    model = ALS(**SETTINGS, client=client).fit(str(tmp_path / "d"))
    np.testing.assert_array_equal(model.items.state.factors, expected)
    assert model.dataset.path == str(tmp_path / "d")


@pytest.mark.filterwarnings("ignore:The inplace keyword in DataFrame")  # of Dask
def test_a_dask_data_frame(frame, expected, client):
    with client.as_current():
        model = ALS(**SETTINGS, client=client).fit(dd.from_pandas(frame, npartitions=3))
    np.testing.assert_array_equal(model.items.state.factors, expected)


def test_the_current_client_is_used(frame, expected, client):
    with Client(client.scheduler.address) as current:
        seen = []
        ALS(**SETTINGS).fit(frame, on_epoch=lambda _: seen.append(len(current.who_has())))
    assert max(seen) > 0


def test_without_a_cluster(frame, expected):
    """Threads of this process, for the call."""
    model = ALS(**SETTINGS).fit(frame)
    np.testing.assert_array_equal(model.items.state.factors, expected)
    with pytest.raises(ValueError, match="No clients found"):
        Client.current()


def test_the_model_needs_nothing_more(frame, client):
    model = ALS(**SETTINGS, client=client).fit(frame)
    user = frame["userId"][0]
    seen = set(frame["movieId"][frame["userId"] == user])
    assert not set(model.recommend(user, 30)["item_id"]) & seen
    assert len(model.history) == 2


def test_what_was_written_goes_with_the_model(frame, client, tmp_path):
    model = ALS(**SETTINGS, client=client, scratch=str(tmp_path)).fit(frame)
    assert len(os.listdir(tmp_path)) == 1
    del model
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_nothing(frame, client, tmp_path):
    als = ALS(**SETTINGS, client=client, scratch=str(tmp_path))
    with pytest.raises(InputError, match="no column 'userId'"):
        als.fit(frame.rename(columns={"userId": "who"}))
    assert os.listdir(tmp_path) == []
    with pytest.raises(InputError, match="ratings are a list"):
        als.fit([1, 2, 3])
    assert os.listdir(tmp_path) == []


def test_columns_and_split(frame, client):
    renamed = frame.rename(columns={"userId": "who", "movieId": "what", "rating": "stars"})
    model = ALS(**SETTINGS, client=client).fit(
        renamed,
        columns=Columns(user="who", item="what", rating="stars"),
        prepare_settings=PrepareSettings(test_fraction=0.25),
    )
    assert model.history[-1].test_rmse > 0


def test_settings_are_checked():
    with pytest.raises(InputError, match="rank is 0"):
        ALS(rank=0)
    with pytest.raises(InputError, match="dtype is 'float16'"):
        ALS(dtype="float16")
