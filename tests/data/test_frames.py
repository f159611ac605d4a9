"""The same ratings in every form that people have them in are the same table."""

import decimal

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from dask_als.data.frames import MatrixIds, columns_of_table, table_of
from dask_als.errors import InputError
from dask_als.settings.data import Columns

FRAME = pd.DataFrame(
    {"userId": [3, 1, 3, 2], "movieId": [10, 10, 20, 30], "rating": [1.0, 2.5, 3.0, 4.0]}
)
ROWS = list(FRAME.itertuples(index=False, name=None))
VALUES = FRAME.to_numpy()


def rows_of(table):
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


FORMS = {
    "pandas": FRAME,
    "an index of its own": FRAME.set_index(pd.Index(["a", "a", "b", "c"])),
    "ids in the index": FRAME.set_index(["userId", "movieId"]),
    "category": FRAME.astype({"userId": "category", "movieId": "category"}),
    "sparse": FRAME.astype({"rating": pd.SparseDtype(float, 1.0)}),
    "nullable": FRAME.astype({"userId": "Int64", "rating": "Float64"}),
    "arrow types": FRAME.convert_dtypes(dtype_backend="pyarrow").astype({"rating": float}),
    "polars": pl.from_pandas(FRAME),
    "polars, lazy": pl.from_pandas(FRAME).lazy(),
    "arrow": pa.Table.from_pandas(FRAME),
    "array": VALUES,
    "array of objects": VALUES.astype(object),
    "structured array": FRAME.to_records(index=False).view(np.ndarray),
    "tuple": (FRAME["userId"], FRAME["movieId"].tolist(), VALUES[:, 2]),
    "tuple of polars": tuple(pl.from_pandas(FRAME).get_columns()),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    table = table_of(FORMS[form], Columns())
    assert table.column_names == ["user", "item", "rating"]
    assert rows_of(table) == ROWS


def test_a_relation_of_duckdb():
    with duckdb.connect() as connection:
        relation = connection.sql("select 3 as userId, 'x' as movieId, 0.5 as rating")
        assert rows_of(table_of(relation, Columns())) == [(3, "x", 0.5)]


def test_matrices():
    matrix = scipy.sparse.coo_matrix((VALUES[:, 2], (FRAME["userId"], FRAME["movieId"])))
    for form in (matrix, matrix.tocsr(), matrix.tocsc(), scipy.sparse.csr_array(matrix)):
        assert sorted(rows_of(table_of(form, Columns()))) == sorted(ROWS)
    ids = MatrixIds([f"u{n}" for n in range(4)], np.arange(31) * 2)
    named = rows_of(table_of(matrix, Columns(), ids))
    assert named == [(f"u{user}", 2 * item, rating) for user, item, rating in ROWS]
    with pytest.raises(InputError, match="user_ids has 2 ids, and the matrix has 4 users"):
        table_of(matrix, Columns(), MatrixIds(users=[1, 2]))
    with pytest.raises(InputError, match="for a sparse matrix alone"):
        table_of(FRAME, Columns(), MatrixIds(users=[1, 2]))


def test_times_and_events():
    timed = FRAME.assign(timestamp=[4, 3, 2, 1])
    table = table_of(timed, Columns())
    assert columns_of_table(table.column_names, Columns(id_type="text")) == Columns(
        user="user", item="item", rating="rating", time="time", id_type="text"
    )
    assert table_of(timed, Columns(no_time=True)).column_names == ["user", "item", "rating"]
    assert table_of(timed.to_numpy(), Columns())["time"].to_pylist() == [4, 3, 2, 1]
    events = table_of(VALUES[:, :2], Columns())
    assert columns_of_table(events.column_names, Columns()).rating is None


def test_labels_that_are_not_text():
    frame = FRAME.set_axis([0, 1, 2], axis=1)
    assert rows_of(table_of(frame, Columns(user=0, item=1, rating=2))) == ROWS
    assert rows_of(table_of(FRAME, Columns(user=0, item=1, rating=2))) == ROWS  # positions


def test_columns_of_several_types_become_text():
    ids = pd.Series([1, "b", 2.0, None], dtype=object)
    table = table_of(FRAME.assign(userId=ids), Columns())
    assert table["user"].to_pylist() == ["1", "b", "2", None]


def test_decimals_stay():
    column = [decimal.Decimal(n) for n in range(4)]
    assert table_of(FRAME.assign(userId=column), Columns())["user"].to_pylist() == column


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        (FRAME.rename(columns={"userId": "who"}), "no column 'userId' for the user; they have who"),
        (pl.DataFrame({"a": [1]}), "no column 'userId'"),
        (pd.concat([FRAME, FRAME[["rating"]]], axis=1), "several columns 'rating'"),
        ([1, 2, 3], "ratings are a list; give a path"),
        (np.arange(3), r"an array of shape \(3,\)"),
        (np.ones((3, 5)), "ratings have 5 columns"),
        ((FRAME["userId"], [1, 2]), "different lengths"),
        (None, "ratings are a NoneType"),
    ],
)
def test_what_is_no_table_of_ratings(ratings, reason):
    with pytest.raises(InputError, match=reason):
        table_of(ratings, Columns())


@given(
    st.lists(
        st.tuples(
            st.integers(-(2**53), 2**53),
            st.text(max_size=4),
            st.floats(allow_nan=False, width=32),
        ),
        min_size=1,
    )
)
def test_no_value_changes(rows):
    frame = pd.DataFrame(rows, columns=["userId", "movieId", "rating"])
    for form in (frame, frame.astype({"movieId": "category"}), pl.from_pandas(frame)):
        assert rows_of(table_of(form, Columns())) == rows
