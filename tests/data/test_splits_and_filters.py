"""A test source, the split by time, and least numbers of ratings, against plain Python."""

import json
from pathlib import Path

import pytest
import support.prepare_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.data.split import first_test_time, unit_of_times
from dask_als.errors import InputError
from dask_als.settings.data import Columns, PrepareSettings

SERIAL = SerialExecutor()
HEADER = "userId,movieId,rating,timestamp\n"


def write(path, records, header=HEADER):
    text = header + "".join(",".join(map(str, record)) + "\n" for record in records)
    path.write_text(text)
    return str(path)


def made(tmp_path, records, *, test=None, columns=Columns(), header=HEADER, **options):
    source = write(tmp_path / "ratings.csv", records, header)
    own = None if test is None else write(tmp_path / "test.csv", test, header)
    return prepare(
        source, str(tmp_path / "d"), SERIAL, columns=columns, settings=PrepareSettings(**options),
        test=own,
    )  # fmt: skip


def core_of(pairs, least_user, least_item):
    """Drop users and items one at a time until none has too few."""
    pairs = set(pairs)
    while True:
        for place, least in ((0, least_user), (1, least_item)):
            ids = [pair[place] for pair in pairs]
            few = next((id_ for id_ in ids if ids.count(id_) < least), None)
            if few is not None:
                pairs = {pair for pair in pairs if pair[place] != few}
                break
        else:
            return pairs


@settings(max_examples=40)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60),
    least_user=st.integers(1, 5),
    least_item=st.integers(1, 5),
    partitions=st.integers(1, 4),
)
def test_a_core_is_what_is_left(tmp_path_factory, pairs, least_user, least_item, partitions):
    tmp_path = tmp_path_factory.mktemp("core")
    records = [(*pair, 1 + number % 5, number) for number, pair in enumerate(pairs)]
    expected = core_of(pairs, least_user, least_item)
    options = {"least_user_ratings": least_user, "least_item_ratings": least_item}
    if not expected:
        with pytest.raises(InputError, match=r"is left; use smaller --least-user-ratings"):
            made(tmp_path, records, partitions=partitions, **options)
        return
    dataset = made(tmp_path, records, partitions=partitions, **options)
    found = oracle.written(dataset.path)
    assert found.by_user.keys() == expected
    assert found.users == sorted({user for user, _ in expected})
    assert found.items == sorted({item for _, item in expected})
    counts = dataset.source
    if max(least_user, least_item) > 1:
        assert counts["filtered"] == len([pair for pair in pairs if pair not in expected])
        assert counts["filtered_users"] == len({user for user, _ in pairs}) - len(found.users)
        assert counts["filtered_items"] == len({item for _, item in pairs}) - len(found.items)


def test_a_test_source_is_held_out(tmp_path):
    records = [(1, 1, 1, 1), (1, 2, 2, 1), (2, 1, 3, 1), (2, 1, 4, 2)]
    test = [(1, 2, 5, 9), (2, 9, 4, 9), (7, 1, 1, 9), (7, 1, 2, 9)]
    dataset = made(tmp_path, records, test=test, partitions=2)
    found = oracle.written(dataset.path)
    assert found.by_user == {(1, 1): 1, (2, 1): 4}
    assert found.test == {(1, 2): 5, (2, 9): 4, (7, 1): 2}
    assert (found.users, found.items) == ([1, 2, 7], [1, 2, 9])
    counts = dataset.source
    # A pair of both sources is held out; its training rating counts as a duplicate.
    assert (counts["rows"], counts["train"], counts["test"], counts["duplicates"]) == (8, 2, 3, 3)
    # Items 2 and 9 and user 7 have no training ratings.
    assert counts["cold"] == 3
    assert dataset.split == {"kind": "own"}


def test_a_test_source_does_not_count_in_a_filter(tmp_path):
    records = [(user, item, 1, 1) for user in (1, 2) for item in (1, 2)] + [(3, 1, 1, 1)]
    dataset = made(tmp_path, records, test=[(3, 2, 5, 1), (3, 9, 5, 1)], least_user_ratings=2)
    found = oracle.written(dataset.path)
    assert (found.users, found.items) == ([1, 2, 3], [1, 2, 9])
    assert len(found.by_user) == 4
    assert len(found.test) == 2
    assert (dataset.source["filtered"], dataset.source["cold"]) == (1, 2)


def test_a_test_source_without_times(tmp_path):
    train = write(tmp_path / "train.csv", [(1, 1, 1, 5), (1, 2, 3, 5)])
    test = write(tmp_path / "test.csv", [(1, 3, 2)], "userId,movieId,rating\n")
    dataset = prepare(train, str(tmp_path / "d"), SERIAL, test=test)
    assert dataset.n_test == 1


@pytest.mark.parametrize(
    ("test", "options", "message"),
    [
        ([(1, 1, 1, 1)], {"test_fraction": 0.5}, "leave out --test-fraction and --split"),
        ([], {}, "test.csv has no usable rating; it has no rows"),
        ([(1, 1, 1, 1)], {}, "no rating is left to train on; .* give another --test"),
        ([(1, 1, 2, 1)], {"duplicates": "error"}, "1 ratings repeat a pair"),
        (None, {"split": "own"}, "the split 'own' needs a test source; give --test"),
    ],
)
def test_a_test_source_that_cannot_be_used(tmp_path, test, options, message):
    with pytest.raises(InputError, match=message):
        made(tmp_path, [(1, 1, 1, 1)], test=test, **options)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("times", "test_from", "held_out"),
    [
        ([1_500_000_000, 1_577_836_799, 1_577_836_800], "2020-01-01", 1),
        ([1_500_000_000_000, 1_577_836_799_999, 1_577_836_800_000], "2020-01-01", 1),
        ([1_577_836_799, 1_577_836_800, 1_577_840_400], "2020-01-01T01:00:00+00:00", 1),
        (["2019-12-31", "2020-01-01", "2020-01-02T10:00:00Z"], "2020-01-01", 2),
        (["1969-12-31", "1970-01-02", "2020-01-02"], "1970-01-01", 2),
        ([1, 2, 3], "2", 2),
        ([1.5, 2.5, 3.5], "2.75", 1),
    ],
)
def test_all_ratings_from_a_time_on(tmp_path, times, test_from, held_out):
    records = [(1, number, 3, time) for number, time in enumerate(times)]
    dataset = made(tmp_path, records, split="time", test_from=test_from)
    found = oracle.written(dataset.path)
    assert found.test.keys() == {(1, n) for n in range(3 - held_out, 3)}
    assert dataset.split == {"kind": "time", "test_from": test_from}
    assert dataset.source["cold"] == held_out


def test_units_of_times():
    assert unit_of_times(2e9)[0] == "seconds"
    assert unit_of_times(2e12)[0] == "milliseconds"
    assert unit_of_times(2e15)[0] == "microseconds"
    assert unit_of_times(2e18)[0] == "nanoseconds"
    assert first_test_time("2001-09-09T01:46:40+00:00", 2e9) == 1e9
    assert first_test_time("2001-09-09T03:46:40+02:00", 2e12) == 1e12
    assert first_test_time("1e9", 2e18) == 1e9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "time"}, "test-from is None; it must be a date like 2024-06-30"),
        ({"split": "time", "test_from": "soon"}, "test-from is 'soon'; it must be a date"),
        ({"split": "time", "test_from": "nan"}, "test-from is 'nan'"),
        ({"test_from": "2020-01-01"}, "left out, or given with the split 'time'"),
        ({"split": "time", "test_from": "3", "test_fraction": 0.1}, "test-fraction is 0.1"),
        ({"split": "time", "test_from": "2030-01-01"}, "use an earlier --test-from"),
        ({"split": "time", "test_from": "0"}, "no rating is left .* use a later --test-from"),
        ({"least_user_ratings": 0}, "least-user-ratings is 0; it must be a whole number from 1"),
    ],
)
def test_a_split_that_cannot_be_made(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        made(tmp_path, [(1, 1, 1, 1_500_000_000)], **options)
    assert not (tmp_path / "d").exists()


def test_a_split_by_time_needs_times(tmp_path):
    header = "userId,movieId,rating\n"
    with pytest.raises(InputError, match=r"the split 'time' needs a time column; .*--time-col"):
        made(tmp_path, [(1, 1, 1)], header=header, split="time", test_from="2020-01-01")


def test_times_are_kept_only_if_something_depends_on_them(tmp_path):
    records = [(1, 1, 1, 1), (1, 2, 2, "never")]
    dataset = made(tmp_path, records, duplicates="mean")
    assert dataset.source["rejected"] == 0
    assert not Path(dataset.path, "kept").exists()
    assert json.loads(Path(dataset.path, "manifest.json").read_text())["growth"]["times"] == []
