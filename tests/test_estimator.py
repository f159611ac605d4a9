import asyncio
import copy
import os
import pickle
import re

import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from distributed import Client
from support.data import generated, write_csv

from dask_als import ALS, Columns, InputError, PrepareSettings, RejectedRowsWarning, fitting
from dask_als.cluster import checks
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


FORMS = {
    "a path as text": lambda frame, path: str(path),
    "a path": lambda frame, path: path,
    "polars": lambda frame, path: pl.from_pandas(frame),
    "arrow": lambda frame, path: pa.Table.from_pandas(frame),
    "categories": lambda frame, path: frame.astype({"userId": "category"}),
    "an array": lambda frame, path: frame.to_numpy(),
    "a matrix": lambda frame, path: scipy.sparse.csr_matrix(
        (frame["rating"], (frame["userId"], frame["movieId"]))
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_model(frame, expected, client, tmp_path, form):
    path = write_csv(tmp_path / "r.csv", frame.itertuples(index=False))
    model = ALS(**SETTINGS, client=client, scratch=tmp_path).fit(FORMS[form](frame, path))
    np.testing.assert_array_equal(model.items.state.factors, expected)
    assert model.items.ids.dtype == np.int64


def test_a_matrix_with_ids(frame, expected, client):
    users, items = np.unique(frame["userId"]), np.unique(frame["movieId"])
    matrix = scipy.sparse.coo_matrix(
        (
            frame["rating"],
            (np.searchsorted(users, frame["userId"]), np.searchsorted(items, frame["movieId"])),
        )
    )
    als = ALS(**SETTINGS, client=client)
    model = als.fit(matrix, user_ids=[f"u{user:03}" for user in users], item_ids=items)
    np.testing.assert_array_equal(model.items.state.factors, expected)
    assert model.users.ids[0] == f"u{users[0]:03}"


def test_a_dask_frame_with_many_unknown_categories(client):
    frame = pd.DataFrame(
        {
            "userId": [f"u{n % 400}" for n in range(2000)],
            "movieId": [n * 7 % 61 for n in range(2000)],
            "rating": [1.0 + n % 5 for n in range(2000)],
        }
    )
    parts = dd.from_pandas(frame, npartitions=3)
    parts["userId"] = parts["userId"].astype("category")
    assert not parts["userId"].cat.known
    emptied = parts[parts["rating"] > 0].repartition(npartitions=2).clear_divisions()
    model = ALS(**SETTINGS, client=client).fit(emptied)
    right = ALS(**SETTINGS, client=client).fit(frame)
    np.testing.assert_array_equal(model.items.state.factors, right.items.state.factors)
    with pytest.raises(InputError, match="the ratings have no rows"):
        ALS(**SETTINGS, client=client).fit(parts[parts["rating"] > 9])


def test_rejected_rows_are_counted(frame, client):
    bad = frame.astype({"userId": "Int64"})
    bad.loc[::3, "rating"] = np.nan
    bad.loc[1::3, "userId"] = pd.NA
    with pytest.warns(RejectedRowsWarning) as warned:
        model = ALS(**SETTINGS, client=client).fit(bad)
    n_bad = len(frame) - model.dataset.n_ratings
    assert n_bad == 200
    assert str(warned[0].message) == (
        "200 of 300 rows are not usable and were left out; the first is row 1: rating is missing"
    )
    assert warned[0].filename == __file__


def test_errors_speak_python(frame, client, tmp_path):
    als = ALS(**SETTINGS, client=client, scratch=tmp_path)
    path = write_csv(tmp_path / "r.csv", frame.itertuples(index=False), ("user", "item", "rating"))
    bad = frame.assign(rating=[[1.0]] * len(frame))
    attempts = [
        lambda: als.fit(frame.rename(columns={"userId": "user_id"})),
        lambda: als.fit(path),
        lambda: als.fit(bad),
        lambda: als.fit(frame.iloc[:0]),
        lambda: als.fit(pd.concat([frame, frame]), prepare_settings=STRICT),
        lambda: ALS(factor_regularization=-1),
        lambda: ALS(method="gibbs", feedback="implicit"),
        lambda: ALS(feedback="implicit", regularization_scaling="count"),
    ]
    for attempt in attempts:
        with pytest.raises(InputError) as error:
            attempt()
        message = str(error.value)
        assert "--" not in message
        assert "dask-als-" not in message  # a temporary directory
        assert not re.search(r"\b(factor|regularization|frequency)-", message)


STRICT = PrepareSettings(duplicates="error")


@pytest.mark.parametrize("given", ["a closed client", "an address", "an asynchronous client"])
def test_clients_that_cannot_be_used(frame, client, given):
    if given == "an address":
        with pytest.raises(InputError, match=r"client is a str; pass a distributed.Client"):
            ALS(**SETTINGS, client=client.scheduler.address).fit(frame)
        return
    if given == "a closed client":
        closed = Client(client.scheduler.address, set_as_default=False)
        closed.close()
        with pytest.raises(InputError, match="the client is closed; pass one that is connected"):
            ALS(**SETTINGS, client=closed).fit(frame)
        return

    async def fit():
        async with Client(client.scheduler.address, asynchronous=True):
            ALS(**SETTINGS).fit(frame)

    with pytest.raises(InputError, match="the client is asynchronous, and fit waits"):
        asyncio.run(fit())


def test_a_scratch_directory_that_is_not_there(frame, tmp_path):
    with pytest.raises(InputError, match=r"scratch is '.*none': No such file or directory"):
        ALS(**SETTINGS, scratch=tmp_path / "none").fit(frame)


def test_the_workers_of_a_client_are_guarded_once(frame, client, monkeypatch):
    guarded, checked = [], []
    monkeypatch.setattr(fitting, "guard", lambda client, tell: guarded.append(client))
    monkeypatch.setattr(fitting, "check_builds", checked.append)
    with Client(client.scheduler.address, set_as_default=False) as own:
        for _ in range(2):
            ALS(**SETTINGS, client=own).fit(frame)
        assert guarded == [own]
        assert checked == [own, own]


def test_a_worker_of_another_build_is_refused(frame, client, monkeypatch):
    monkeypatch.setattr(checks, "differences", lambda here, there: "other sources")
    with pytest.raises(InputError, match="so it would compute other bits"):
        ALS(**SETTINGS, client=client).fit(frame)


def test_parameters_as_scikit_learn_has_them(client):
    als = ALS(rank=np.int64(3), factor_regularization=np.float32(2), client=client)
    params = als.get_params()
    assert type(als.rank) is int
    assert (params["rank"], params["client"], params["scratch"]) == (3, client, None)
    assert params["epochs"] is None  # as it was given: the default depends on the method
    assert als.set_params(method="gibbs", burn_in=2, samples=3) is als
    assert (als.epochs, als.rank, als.method) == (5, 3, "gibbs")
    with pytest.raises(InputError, match="ALS has no setting 'k'; it has rank"):
        als.set_params(k=3)
    with pytest.raises(InputError, match="rank is 0"):
        als.set_params(seed=5, rank=0)
    assert als.seed == 0


def test_clones():
    """What `sklearn.base.clone` does, in both of its ways."""
    als = ALS(epochs=4, method="als", scratch="x")
    by_hook = als.__sklearn_clone__()
    params = als.get_params(deep=False)
    by_hand = type(als)(**copy.deepcopy(params))
    for clone in (by_hook, by_hand):
        assert clone is not als
        assert clone == als
        assert all(clone.get_params()[name] is params[name] for name in params)


def test_a_model_of_fit_is_pickled_with_its_ratings(frame, client):
    model = ALS(**SETTINGS, client=client).fit(frame)
    user = frame["userId"][0]
    expected = model.recommend(user, 5)
    pickled = pickle.dumps(model)
    del model
    pd.testing.assert_frame_equal(pickle.loads(pickled).recommend(user, 5), expected)
