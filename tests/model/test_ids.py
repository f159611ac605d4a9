import numpy as np
import pandas as pd
import pytest

from dask_als.errors import InputError, UnknownIdWarning
from dask_als.model.ids import checked_ids, is_single, listed, report_unknown

WHOLE = np.dtype(np.int64)
TEXT = pd.Index(["a"]).dtype


@pytest.mark.parametrize(
    "ids",
    [
        [1, 2],
        (1, 2),
        np.array([1, 2], np.int32),
        np.array([1.0, 2.0]),
        [np.int64(1), 2.0],
        pd.Series([1, 2], index=[7, 7], dtype="Int64"),
        pd.Series([1, 2], dtype="category"),
        pd.Index([1, 2], dtype="uint8"),
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_whole_numbers(ids):
    assert checked_ids(ids, WHOLE, "user").tolist() == [1, 2]


@pytest.mark.parametrize(
    "ids",
    [
        ["1", "b"],
        np.array(["1", "b"]),
        pd.Series(["1", "b"]),
        pd.Series(["1", "b"], dtype=object),
        pd.Series(["1", "b"], dtype="category"),
    ],
)
def test_text(ids):
    found = checked_ids(ids, TEXT, "item")
    assert found.tolist() == ["1", "b"]


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (["1"], "'1' is of type str; user ids of this model are whole numbers"),
        ([1, "x"], "'x' is of type str"),
        ([1.5], "1.5 is of type float"),
        ([True], "True is of type bool"),
        (np.array([True]), "True is of type bool"),
        ([1, None], "an id is missing"),
        ([np.nan], "an id is missing"),
        (pd.Series([1, pd.NA], dtype="Int64"), "an id is missing"),
        ([b"1"], "is of type bytes"),
        (pd.Series(["1"], dtype="category"), "'1' is of type str"),
    ],
)
def test_nothing_else_is_a_whole_number(ids, reason):
    with pytest.raises(InputError, match=reason):
        checked_ids(ids, WHOLE, "user")


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([1], "1 is of type int; user ids of this model are text"),
        (np.array([1]), "1 is of type int"),
        (["a", None], "an id is missing"),
        (pd.Series(["a", np.nan]), "an id is missing"),
        ([b"a"], "is of type bytes"),
    ],
)
def test_nothing_else_is_text(ids, reason):
    with pytest.raises(InputError, match=reason):
        checked_ids(ids, TEXT, "user")


def test_one_id_or_several():
    assert [is_single(ids) for ids in ("ab", 1, np.int64(1), np.array(1))] == [True] * 4
    assert [is_single(ids) for ids in ([1], ("a",), np.array([1]), pd.Series([1]))] == [False] * 4
    assert listed(np.array(3)) == [3]
    assert type(listed(np.int64(3))[0]) is int
    assert listed("ab") == ["ab"]


def test_unknown_ids_are_reported_as_asked():
    ids, is_unknown = pd.Index([4, 5, 6]), np.array([False, True, True])
    report_unknown(ids, is_unknown, "user", "ignore")
    report_unknown(ids, np.zeros(3, bool), "user", "error")
    with pytest.warns(UnknownIdWarning, match="^2 of 3 user ids are not in the model, .* 5; "):
        report_unknown(ids, is_unknown, "user", "warn")
    with pytest.raises(InputError, match=r"^2 of 3 user ids"):
        report_unknown(ids, is_unknown, "user", "error")
    with pytest.raises(InputError, match="unknown is 'no'"):
        report_unknown(ids, is_unknown, "user", "no")
