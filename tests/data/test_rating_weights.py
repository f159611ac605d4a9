"""Tests of the weights of ratings: a column of the source, their decay, and merged ratings."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.data import write_csv
from support.weighted_data import FIRST, HEADER, WEIGHTED, prepared_with, weighted_rows

from dask_als.core.executor import SerialExecutor
from dask_als.data.dataset import open_dataset
from dask_als.data.one_rating import one_rating_per_pair
from dask_als.data.prepare import append, prepare
from dask_als.data.rating_weights import LEAST_WEIGHT, Decay
from dask_als.errors import InputError
from dask_als.settings.data import Columns, PrepareSettings

DAY = 86_400


def stored(dataset, directory="by_user"):
    """Return the stored ratings with ids, read without the package, sorted by pair."""
    paths = sorted((dataset / directory).glob("*.parquet"))
    frame = pd.concat([pq.read_table(path).to_pandas() for path in paths])
    for side in ("user", "item"):
        ids = pq.read_table(dataset / f"{side}s.parquet")["id"].to_numpy()
        frame[side] = ids[frame[side]]
    return frame.sort_values(["user", "item"]).reset_index(drop=True)


def test_the_column_is_stored_by_user_and_by_item(tmp_path):
    rows = weighted_rows()
    dataset = prepared_with(tmp_path, rows, partitions=3)
    train, test = stored(tmp_path / "dataset"), stored(tmp_path / "dataset", "test")
    pd.testing.assert_frame_equal(train, stored(tmp_path / "dataset", "by_item"))
    # The last of several rows of a pair, by time.
    frame = pd.DataFrame(rows, columns=["user", "item", "rating", "time", "weight"])
    last = frame.sort_values("time", kind="stable").groupby(["user", "item"]).last()
    both = pd.concat([train, test]).set_index(["user", "item"]).sort_index()
    assert (both["weight"] == last["weight"]).all()
    assert dataset.weights.train == pytest.approx(train["weight"].sum(), rel=1e-12)
    assert dataset.weights.test == pytest.approx(test["weight"].sum(), rel=1e-12)
    mean = np.average(train["rating"], weights=train["weight"])
    assert dataset.rating_mean == pytest.approx(mean, rel=1e-12)


def test_without_weights_there_is_no_column(tmp_path):
    dataset = prepared_with(tmp_path, weighted_rows(), columns=Columns())
    assert dataset.weights is None
    schema = pq.read_schema(tmp_path / "dataset/by_user/part-00000.parquet")
    assert schema.names == ["user", "item", "rating"]
    assert dataset.train_weight == dataset.n_ratings


@pytest.mark.parametrize("split", [{}, {"test_fraction": 0.2}, {"test_fraction": 0}])
def test_age_counts_from_the_newest_training_rating(tmp_path, split):
    rows = weighted_rows()
    by_time = {"split": "time", "test_from": str(FIRST + 300 * DAY), "test_fraction": 0}
    dataset = prepared_with(tmp_path, rows, half_life=90, duplicates="last", **(split or by_time))
    frame = pd.DataFrame(rows, columns=["user", "item", "rating", "time", "weight"])
    last = frame.sort_values("time", kind="stable").groupby(["user", "item"]).last()
    train = stored(tmp_path / "dataset").set_index(["user", "item"])
    of_train = last.loc[train.index]
    newest = of_train["time"].max()
    assert dataset.weights.newest_time == newest
    wanted = of_train["weight"] * 2.0 ** (-(newest - of_train["time"]) / (90 * DAY))
    np.testing.assert_allclose(train["weight"], wanted, rtol=1e-6)
    if dataset.n_test:
        test = stored(tmp_path / "dataset", "test").set_index(["user", "item"])
        of_test = last.loc[test.index]
        age = np.maximum(newest - of_test["time"], 0)
        wanted = of_test["weight"] * 2.0 ** (-age / (90 * DAY))
        np.testing.assert_allclose(test["weight"], wanted, rtol=1e-6)


@pytest.mark.parametrize("factor", [1, 10**3, 10**6])
def test_a_day_is_one_in_any_unit(factor):
    newest = 1_600_000_000 * factor
    decay = Decay.of_days(newest, 10, newest)
    times = newest - np.array([0, 10, 20, -5]) * DAY * factor
    np.testing.assert_allclose(decay.of(times), [1, 0.5, 0.25, 1])


def test_the_oldest_rating_still_counts(tmp_path):
    rows = [(1, 1, 3.0, 10**9, 1.0), (2, 1, 4.0, 1, 1.0)]
    prepared_with(tmp_path, rows, half_life=0.001, test_fraction=0)
    assert stored(tmp_path / "dataset")["weight"].tolist() == [1, float(LEAST_WEIGHT)]


@pytest.mark.parametrize("partitions", [2, 7])
@pytest.mark.parametrize("duplicates", ["last", "mean", "sum"])
def test_partitions_and_pieces_do_not_show(tmp_path, duplicates, partitions):
    rows = weighted_rows()
    settings = {"duplicates": duplicates, "half_life": 200}
    one = prepared_with(tmp_path, rows, "one", **settings)
    assert prepared_with(tmp_path, rows[:250], "pieces", partitions=2, **settings).weights
    rest = write_csv(tmp_path / "rest.csv", rows[250:], HEADER)
    grown = PrepareSettings(test_fraction=0.2, partitions=partitions, **settings)
    pieces = append(str(rest), str(tmp_path / "pieces"), SerialExecutor(), settings=grown)
    assert (pieces.fingerprint, pieces.weights) == (one.fingerprint, one.weights)
    pd.testing.assert_frame_equal(stored(tmp_path / "one"), stored(tmp_path / "pieces"))
    assert open_dataset(one.path) == one


def test_an_own_test_source_has_weights(tmp_path):
    rows = weighted_rows()
    test = write_csv(tmp_path / "test.csv", rows[:100], HEADER)
    source = write_csv(tmp_path / "train.csv", rows[50:], HEADER)
    settings = PrepareSettings(half_life=100, partitions=2)
    path = str(tmp_path / "dataset")
    executor = SerialExecutor()
    dataset = prepare(
        str(source), path, executor, columns=WEIGHTED, settings=settings, test=str(test)
    )
    more = write_csv(tmp_path / "more.csv", [(999, 1, 3.0, FIRST + 500 * DAY, 2.0)], HEADER)
    grown = append(str(more), path, executor)
    assert grown.weights.newest_time == FIRST + 500 * DAY
    assert grown.weights.train < dataset.weights.train + 2
    every = write_csv(
        tmp_path / "every.csv", [*rows[50:], (999, 1, 3.0, FIRST + 500 * DAY, 2.0)], HEADER
    )
    again = prepare(
        str(every),
        str(tmp_path / "again"),
        executor,
        columns=WEIGHTED,
        settings=settings,
        test=str(test),
    )
    assert (again.fingerprint, again.weights) == (grown.fingerprint, grown.weights)


@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 2),
            st.floats(-5, 5, width=32),
            st.floats(0.125, 8, width=32),
        ),
        min_size=1,
        max_size=20,
    ),
    seed=st.integers(0, 100),
)
def test_merged_weights(rows, seed):
    names = ["user", "item", "rating", "weight"]
    columns = dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))
    for side in names[:2]:
        columns[side] = columns[side].astype(np.int32)
    for name in names[2:]:
        columns[name] = columns[name].astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(rows))
    groups = pd.DataFrame(columns).groupby(["user", "item"])
    for rule in ("mean", "sum"):
        settings = PrepareSettings(duplicates=rule)
        merged = one_rating_per_pair(columns, settings).columns
        shuffled = one_rating_per_pair({n: v[order] for n, v in columns.items()}, settings).columns
        assert all(merged[name].tobytes() == shuffled[name].tobytes() for name in names)
        for place, (_, its) in enumerate(groups):
            rating, weight = (its[name].to_numpy(float) for name in ("rating", "weight"))
            if rule == "mean":
                wanted = np.average(rating, weights=weight), weight.mean()
            else:
                sizes = np.abs(rating) if rating.any() else np.ones(len(its))
                wanted = rating.sum(), np.average(weight, weights=sizes)
            found = merged["rating"][place], merged["weight"][place]
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
        ones = one_rating_per_pair({**columns, "weight": np.ones_like(columns["rating"])}, settings)
        without = {name: values for name, values in columns.items() if name != "weight"}
        plain = one_rating_per_pair(without, settings)
        assert ones.columns["rating"].tobytes() == plain.columns["rating"].tobytes()
        assert (ones.columns["weight"] == 1).all()


@pytest.mark.parametrize("value", ["-1", "inf", "nan", "heavy", "1e+39"])
def test_a_wrong_weight_is_told(tmp_path, value):
    rows = [(1, 1, 3.0, 1, 1.0), (1, 2, 3.0, 1, value)]
    with pytest.raises(InputError, match=f"weight '?{re.escape(value)}'?.* finite numbers above 0"):
        prepared_with(tmp_path, rows, test_fraction=0)
    assert not (tmp_path / "dataset").exists()


def test_rows_without_weight_are_rejected_and_counted(tmp_path):
    rows = [(1, 1, 3.0, 1, 1.0), (1, 2, 3.0, 1, 0), (2, 1, 2.0, 1, ""), (2, 2, 2.0, 1, 1e-44)]
    dataset = prepared_with(tmp_path, rows, test_fraction=0)
    assert dataset.source["rejected"] == 2
    rejected = pq.read_table(tmp_path / "dataset/rejected.parquet").to_pylist()
    assert [row["reason"] for row in rejected] == ["weight is 0", "weight is missing"]
    assert stored(tmp_path / "dataset")["weight"].tolist() == [1, float(LEAST_WEIGHT)]


def test_decay_needs_times(tmp_path):
    source = write_csv(tmp_path / "r.csv", [(1, 1, 3.0)])
    with pytest.raises(InputError, match="half-life is 30 days and needs a time column"):
        prepare(
            str(source),
            str(tmp_path / "dataset"),
            SerialExecutor(),
            settings=PrepareSettings(half_life=30),
        )
    rows = [(1, 1, 3.0, 100, 1.0), (1, 2, 3.0, "", 1.0)]
    dataset = prepared_with(tmp_path, rows, half_life=30, test_fraction=0)
    assert (dataset.n_ratings, dataset.source["rejected"]) == (1, 1)


@pytest.mark.parametrize("days", [0, -1, float("inf"), float("nan")])
def test_a_half_life_is_positive(days):
    with pytest.raises(InputError, match="half-life"):
        PrepareSettings(half_life=days)


def test_weights_are_appended_to_weights_alone(tmp_path):
    rows = weighted_rows()
    prepared_with(tmp_path, rows[:100], "plain", columns=Columns())
    more = write_csv(tmp_path / "more.csv", rows[100:], HEADER)
    with pytest.raises(InputError, match=r"--weight-col is weight, .* prepared without weights"):
        append(str(more), str(tmp_path / "plain"), SerialExecutor(), columns=WEIGHTED)
    weighted = prepared_with(tmp_path, rows[:100], "weighted")
    bare = write_csv(tmp_path / "bare.csv", [row[:4] for row in rows[100:]], HEADER[:4])
    with pytest.raises(InputError, match="no column 'weight' for the weight"):
        append(str(bare), weighted.path, SerialExecutor())
    grown = append(str(more), weighted.path, SerialExecutor(), columns=replace(WEIGHTED))
    assert grown.weights.train > weighted.weights.train
