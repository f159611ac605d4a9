import datetime
import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.core.side import USERS
from dask_als.data.clean import REJECTED_SCHEMA, clean
from dask_als.data.text_chunks import Raw
from dask_als.errors import InputError
from dask_als.settings.data import Columns

NO_USER, NO_ITEM = (f"{word} id is missing or unreadable" for word in ("user", "item"))
NO_TIME = "time is missing or unreadable"
NOT_FINITE, NO_RATING = "rating is not a finite number", "rating is missing"
INTEGERS = [getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)]


def cleaned(
    *, is_text=False, malformed=(), id_types=None, settings=Columns(), needs_time=True, **columns
):
    """Clean a block of columns; those that are not given are fine."""
    columns = {word: pa.array(values) for word, values in columns.items()}
    n = len(next(iter(columns.values())))
    fine = {"user": pa.array([1] * n), "item": pa.array([2] * n), "rating": pa.array([3.5] * n)}
    raw = Raw(pa.table({**fine, **columns}), list(malformed), is_text)
    return clean(raw, "some/file", id_types or {}, settings, needs_time=needs_time)


def of_csv(word, values, **options):
    """Clean a column of CSV text; return its usable values, and row and reason of the others."""
    binary = pa.array([v if v is None else v.encode() for v in values], pa.binary())
    return told_apart(cleaned(is_text=True, **{word: binary}, **options), word)


def told_apart(result, word):
    rejected = result.rejected.select(["row", "reason"]).to_pylist()
    return result.usable[word].to_pylist(), [tuple(row.values()) for row in rejected]


def test_rows_that_are_fine():
    result = cleaned(user=[5, 6], rating=[1, 2], time=[10, 11])
    assert result.usable.to_pydict() == {
        "user": [5, 6],
        "item": [2, 2],
        "rating": [1.0, 2.0],
        "time": [10.0, 11.0],
    }
    assert result.usable.schema.types == [pa.int64(), pa.int64(), pa.float32(), pa.float64()]
    assert result.rejected.num_rows == 0
    assert result.rejected.schema == REJECTED_SCHEMA


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["7", "-5", "0"], [7, -5, 0]),
        (["7", "007", "07"], ["7", "007", "07"]),
        (["0", "-0"], ["0", "-0"]),
        ([" 7", "x ", " y"], [" 7", "x ", " y"]),
        (["1.0", "2", "3."], [1, 2, 3]),
        ([" 7\t", "\u00a08"], [7, 8]),
        ([str(2**63 - 1), str(-(2**63))], [2**63 - 1, -(2**63)]),
        ([str(2**63 + 1), "1"], [2**63 + 1, 1]),
        ([str(2**64), "1"], [str(2**64), "1"]),
        ([str(2**63), "-1"], [str(2**63), "-1"]),
        (["9007199254740993", "1.0"], [9007199254740993, 1]),
        (["1.5", "2"], ["1.5", "2"]),
        (["007", "x"], ["007", "x"]),
        (["1e3", "2"], ["1e3", "2"]),
        (["0x1F", "2"], ["0x1F", "2"]),
        (["NA", "nan", "null", "None"], ["NA", "nan", "null", "None"]),
        (["é", "a\0b", '"', "a b"], ["é", "a\0b", '"', "a b"]),
    ],
)
def test_ids_of_text(values, expected):
    assert of_csv("user", values) == (expected, [])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary()])
def test_text_in_parquet_stays_text(kind):
    values = pa.array(["007", " 8 "], pa.string())
    values = (
        pa.array([v.encode() for v in values.to_pylist()], kind)
        if kind == pa.binary()
        else (values.cast(kind))
    )
    assert cleaned(user=values).usable["user"].to_pylist() == ["007", " 8 "]


@pytest.mark.parametrize("kind", INTEGERS)
def test_whole_numbers_of_any_width(kind):
    result = cleaned(user=pa.array([1, None, 100], kind), rating=pa.array([1, 2, 3], kind))
    assert told_apart(result, "user") == ([1, 100], [(1, NO_USER)])
    assert result.usable.schema.field("user").type == pa.int64()


def test_what_only_uint64_holds():
    result = cleaned(user=pa.array([1, 2**64 - 1], pa.uint64()))
    assert result.usable["user"].to_pylist() == [1, 2**64 - 1]


def test_ids_in_a_dictionary():
    values = pa.array(["x", None, "y", "x"]).dictionary_encode()
    assert told_apart(cleaned(item=values), "item") == (["x", "y", "x"], [(1, NO_ITEM)])
    assert cleaned(rating=pa.array([1.5, 2.0, 1.5]).dictionary_encode()).usable.num_rows == 3


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_ids_of_floats(kind):
    values = pa.array([1.0, np.nan, 2.5, None, np.inf, 2.0**60, -3.0], kind)
    usable, rejected = told_apart(cleaned(user=values), "user")
    assert usable == [1, -3]
    assert rejected == [(row, NO_USER) for row in (1, 2, 3, 4, 5)]


def test_no_ids_at_all():
    result = cleaned(user=pa.nulls(2))
    assert told_apart(result, "user") == ([], [(0, NO_USER), (1, NO_USER)])


def test_ids_that_are_missing_or_unreadable():
    values = pa.array([b"x", None, b"  ", b"\xff", b""], pa.binary())
    result = cleaned(is_text=True, user=values)
    undecodable = "user id is not UTF-8; give the --encoding of the file, such as latin-1"
    reasons = [NO_USER, NO_USER, undecodable, NO_USER]
    assert told_apart(result, "user") == (["x"], list(enumerate(reasons, start=1)))
    assert result.rejected["user"].to_pylist() == [None, "  ", r"\xff", ""]


def test_a_rejected_row_does_not_make_text_of_ids():
    result = cleaned(
        is_text=True,
        user=pa.array([b"1", b"total"]),
        rating=pa.array([b"3.5", b"many"]),
    )
    assert told_apart(result, "user") == ([1], [(1, NOT_FINITE)])


@pytest.mark.parametrize(
    ("values", "wanted", "expected"),
    [
        (["007", "8"], pa.string(), ["007", "8"]),
        (["7", "8"], pa.uint64(), [7, 8]),
        (["7", "8.0"], pa.int64(), [7, 8]),
        (["-7", "8"], pa.uint64(), ["-7", "8"]),
        (["x", "8"], pa.int64(), ["x", "8"]),
    ],
)
def test_ids_of_a_type_that_is_wanted(values, wanted, expected):
    assert of_csv("user", values, id_types={USERS: wanted}) == (expected, [])


def test_whole_numbers_become_text_where_it_is_wanted():
    assert cleaned(user=[7], id_types={USERS: pa.string()}).usable["user"].to_pylist() == ["7"]


@pytest.mark.parametrize(
    ("values", "expected", "rejected"),
    [
        (["1", "-2.5", "+1.5", "1e-2", ".5", "5."], [1, -2.5, 1.5, 0.01, 0.5, 5], []),
        (["1e400", "-1e400", "1e39", "1"], [1], [(row, NOT_FINITE) for row in (0, 1, 2)]),
        (["nan", "inf", "-Infinity", "1"], [1], [(row, NOT_FINITE) for row in (0, 1, 2)]),
        (["good", "1_0", "1,5,2", "0x1", "٣", "1"], [1], [(r, NOT_FINITE) for r in range(5)]),
        (["1", None, " ", " 2 "], [1, 2], [(1, NO_RATING), (2, NOT_FINITE)]),
        (["1e-400", "-0"], [0, 0], []),
    ],
)
def test_ratings_of_text(values, expected, rejected):
    usable, found = of_csv("rating", values)
    assert np.allclose(usable, expected)
    assert found == rejected


@given(st.lists(st.floats() | st.floats(width=32).map(lambda x: round(x, 2)), min_size=1))
def test_bad_neighbours_do_not_change_a_rating(values):
    texts = [repr(value) for value in values]
    alone = [of_csv("rating", [text]) for text in texts]
    together, _ = of_csv("rating", [*texts, "bad"])
    assert [value for usable, _ in alone for value in usable] == together


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([Decimal("3.50"), None]), [3.5]),
        (pa.array([True, None]), [1.0]),
        (pa.array(["3.5", "x"]), [3.5]),
        (pa.array(np.array([3.5, np.nan], np.float16)), [3.5]),
        (pa.array([1e300, 3.5]), [3.5]),
        (pa.array([3, None], pa.uint8()), [3.0]),
    ],
)
def test_ratings_of_any_type(values, expected):
    result = cleaned(rating=values)
    assert result.usable["rating"].to_pylist() == expected
    assert result.rejected.num_rows == 1


@pytest.mark.parametrize(
    ("values", "expected", "rejected"),
    [
        (["964982703", "1.5", "-1"], [964982703, 1.5, -1], []),
        (["1970-01-02", "1970-01-01T00:00:01Z"], [86_400e6, 1e6], []),
        (["1970-01-01 02:00:00+02:00", "1970-01-01"], [0, 0], []),
        (["1970-01-01T00:00:00.123456789", "9999-01-01"], [123456, 253370764800e6], []),
        (["now", "today", "soon", "1e400", "5"], [5], [(row, NO_TIME) for row in range(4)]),
        ([None, " ", "nan", "5"], [5], [(row, NO_TIME) for row in range(3)]),
    ],
)
def test_times_of_text(values, expected, rejected):
    assert of_csv("time", values) == (expected, rejected)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([datetime.datetime(1970, 1, 1, 0, 0, 1), None], pa.timestamp("ns")),
        pa.array([datetime.datetime(1970, 1, 1, 0, 0, 1), None], pa.timestamp("s", "UTC")),
        pa.array([1_000_000, None], pa.uint64()),
        pa.array([1e6, np.nan]),
        pa.array(["1970-01-01T00:00:01", "no"]),
    ],
)
def test_times_of_any_type(values):
    assert told_apart(cleaned(time=values), "time") == ([1e6], [(1, NO_TIME)])


def test_dates():
    days = pa.array([datetime.date(1970, 1, 2)])
    assert cleaned(time=days).usable["time"].to_pylist() == [86_400e6]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": [{"id": 1}]}, "ids of type struct"),
        ({"item": [[1]]}, "ids of type list"),
        ({"user": [True]}, "ids of type bool"),
        ({"rating": [[1.5]]}, "ratings of type list"),
        ({"rating": [datetime.date(2020, 1, 1)]}, "ratings of type date32"),
        ({"time": [{"at": 1}]}, "times of type struct"),
        ({"time": [datetime.timedelta(1)]}, "times of type duration"),
    ],
)
def test_types_that_cannot_be_used(columns, message):
    with pytest.raises(InputError, match=message):
        cleaned(**columns)


def test_rejected_rows_are_shown_as_they_were():
    result = cleaned(
        is_text=True,
        user=pa.array([b"1", None, b"2", b"3"]),
        rating=pa.array([b"1", b"bad", b"x" * 1000, b"1"]),
        time=pa.array([b"5", b"6", b"7", b"never"]),
        malformed=[(1, "2 columns instead of 4: a,b"), (3, "5 columns instead of 4: …")],
    )
    assert result.rejected.to_pydict() == {
        "file": ["some/file"] * 5,
        "row": [1, 2, 3, 4, 5],
        "user": [None, None, None, "2", "3"],
        "item": [None, "2", None, "2", "2"],
        "rating": [None, "bad", None, "x" * 200, "1"],
        "time": [None, "6", None, "7", "never"],
        "reason": [
            "2 columns instead of 4: a,b",
            NO_USER,
            "5 columns instead of 4: …",
            NOT_FINITE,
            NO_TIME,
        ],
    }
    assert result.usable["user"].to_pylist() == [1]


NO_NUMBER = "user id is no whole number"


@pytest.mark.parametrize(
    ("values", "expected", "rejected"),
    [
        (["007", " 8", "9.0"], [7, 8, 9], []),
        (["7", "x", "1.5"], [7], [(1, NO_NUMBER), (2, NO_NUMBER)]),
        ([str(2**64 - 1), "7"], [2**64 - 1, 7], []),
        ([str(2**64), "7", "1" + "0" * 30], [7], [(0, NO_NUMBER), (2, NO_NUMBER)]),
    ],
)
def test_ids_that_must_be_numbers(values, expected, rejected):
    assert of_csv("user", values, settings=Columns(id_type="int")) == (expected, rejected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([Decimal(7), Decimal(-5)], pa.decimal128(38, 0)), [7, -5]),
        (pa.array([Decimal("7.00")], pa.decimal128(10, 2)), [7]),
        (pa.array([Decimal(2**64 - 1)], pa.decimal128(38, 0)), [2**64 - 1]),
        (pa.array([Decimal(2**70), Decimal(7)], pa.decimal256(60, 0)), [str(2**70), "7"]),
        (
            pa.array([uuid.UUID(int=7).bytes, uuid.UUID(int=2**128 - 5).bytes], pa.uuid()),
            [str(uuid.UUID(int=7)), str(uuid.UUID(int=2**128 - 5))],
        ),
        (pa.array([b"abcd"], pa.binary(4)), ["abcd"]),
    ],
)
def test_ids_of_databases(values, expected):
    assert told_apart(cleaned(user=values), "user") == (expected, [])


def test_databases_ids_that_are_missing():
    uuids = pa.array([None, uuid.UUID(int=1).bytes], pa.uuid())
    assert told_apart(cleaned(user=uuids), "user") == ([str(uuid.UUID(int=1))], [(0, NO_USER)])
    decimals = pa.array([None, Decimal("1.5"), Decimal(2)], pa.decimal128(10, 1))
    assert told_apart(cleaned(user=decimals), "user") == ([2], [(0, NO_USER), (1, NO_USER)])


def test_a_decimal_comma():
    comma = Columns(decimal=",")
    found = of_csv("rating", ["3,5", "4", "1.000", "-0,5"], settings=comma)
    assert found == ([3.5, 4, -0.5], [(2, NOT_FINITE)])
    with pytest.raises(InputError, match=r"some/file has the rating '3,5': give --decimal ,"):
        of_csv("rating", ["4", "3,5"])


SECOND = 1e6


@pytest.mark.parametrize(
    ("time_format", "values", "expected"),
    [
        ("seconds", ["10", "1.5"], [10 * SECOND, 1.5 * SECOND]),
        ("milliseconds", ["10000", "1500"], [10 * SECOND, 1.5 * SECOND]),
        ("iso", ["1970-01-01T00:00:01Z", "19700101"], [SECOND, 0]),
        ("dd/mm/yyyy", ["02/01/1970", "03/01/1970"], [86_400 * SECOND, 172_800 * SECOND]),
        ("mm/dd/yyyy hh:mm", ["01/02/1970 00:01"], [86_460 * SECOND]),
        ("%d.%m.%Y %H:%M:%S", ["01.01.1970 00:00:02"], [2 * SECOND]),
    ],
)
def test_times_of_a_format(time_format, values, expected):
    settings = Columns(time_format=time_format)
    usable, rejected = of_csv("time", [*values, "no"], settings=settings)
    assert (usable, rejected) == (expected, [(len(values), NO_TIME)])


def test_a_time_that_is_not_needed_rejects_nothing():
    result = cleaned(time=pa.array(["2024-01-01", "24/12/2023", None]), needs_time=False)
    assert result.usable["time"].to_pylist()[1:] == [-np.inf, -np.inf]
    assert (result.n_untimed, result.rejected.num_rows) == (2, 0)
