"""Ratings in memory, as tables that `prepare` reads: frames, Arrow, sparse matrices, arrays.

Whatever a table comes from, its columns are ``user``, ``item``, ``rating``, ``time`` and
``weight``, the last three only if they are there. What ids and ratings may be is for
`dask_als.data.clean` to decide; a column of several types becomes text, as it would be in CSV.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dask_als.core import storage
from dask_als.core.side import Side
from dask_als.data.source_files import listed
from dask_als.errors import InputError
from dask_als.settings.data import DEFAULT_TIME, Columns

ACCEPTED = (
    "a path, a data frame (pandas, Dask, Polars), anything with the Arrow C stream interface, "
    "a scipy.sparse matrix, or an array of users, items and ratings"
)
_ROWS_A_GROUP = 1 << 20
_POSITIONS = ("user", "item", "rating", "time")


@dataclass(frozen=True)
class MatrixIds:
    """The ids of the rows and the columns of a sparse matrix; None numbers them from 0."""

    users: Sequence[Any] | None = None
    items: Sequence[Any] | None = None


def columns_of_table(names: Iterable[str], asked: Columns) -> Columns:
    """Return the columns of a table of this module that has these names.

    Parameters
    ----------
    asked : Columns
        Those of the ratings, which also say what ids and times are.
    """
    there = set(names)
    return Columns(
        user="user",
        item="item",
        rating="rating" if "rating" in there else None,
        time="time" if "time" in there else None,
        weight="weight" if "weight" in there else None,
        time_format=asked.time_format,
        id_type=asked.id_type,
    )


def write_table(table: pa.Table, folder: str, number: int = 0) -> None:
    """Write a table as one Parquet file of a folder that `prepare` reads."""
    with storage.opened(storage.join(folder, storage.part_name(number)), "wb") as file:
        pq.write_table(table, file, row_group_size=_ROWS_A_GROUP)


def is_dask_frame(ratings: Any) -> bool:
    """Return whether ratings are a Dask data frame."""
    return hasattr(ratings, "to_delayed") and hasattr(ratings, "npartitions")


def table_of(ratings: Any, columns: Columns, ids: MatrixIds = MatrixIds()) -> pa.Table:
    """Return ratings in memory as a table.

    Parameters
    ----------
    ratings
        A pandas or Polars frame, an Arrow table or anything with an Arrow C stream, a scipy.sparse
        matrix, a structured array, an array with columns of users, items and ratings (and times),
        or a tuple of such columns.
    columns : Columns
        The names of the columns, where columns have names.
    ids : MatrixIds, optional
        For a sparse matrix.

    Raises
    ------
    InputError
        If ratings are something else, or a column is missing.
    """
    if hasattr(ratings, "tocoo"):
        return _of_matrix(ratings, ids)
    if ids != MatrixIds():
        raise InputError("user_ids and item_ids are for a sparse matrix alone")
    if isinstance(ratings, pd.DataFrame):
        return _of_pandas(ratings, columns)
    if isinstance(ratings, np.ndarray):
        return _of_array(ratings, columns)
    if isinstance(ratings, tuple):
        return _of_columns(ratings)
    if hasattr(ratings, "collect_schema") and hasattr(ratings, "collect"):
        ratings = ratings.collect()  # of Polars, lazy
    if hasattr(ratings, "__arrow_c_stream__"):
        return _of_stream(ratings, columns)
    raise InputError(f"ratings are a {type(ratings).__name__}; give {ACCEPTED}")


def attribute_table(attributes: Any, side: Side, id_column: str | int) -> pa.Table:
    """Return attributes in memory as a table whose first column is ``id``.

    Parameters
    ----------
    id_column : str or int
        What ids are called in the ratings; ``id`` will do, too, as will the index of a pandas
        frame.

    Raises
    ------
    InputError
        If attributes are no table, or there is no column of ids.
    """
    what = f"{side.singular}_attributes"
    if isinstance(attributes, pd.DataFrame):
        names = [str(name) for name in attributes.columns]
        arrays = [_of_series(attributes.iloc[:, place]) for place in range(len(names))]
        if str(id_column) not in names and "id" not in names:
            names, arrays = ["id", *names], [_of_series(attributes.index.to_series()), *arrays]
    else:
        if hasattr(attributes, "collect_schema") and hasattr(attributes, "collect"):
            attributes = attributes.collect()  # of Polars, lazy
        if not hasattr(attributes, "__arrow_c_stream__"):
            raise InputError(
                f"{what} are a {type(attributes).__name__}; give a path, a data frame (pandas, "
                "Polars) or anything with the Arrow C stream interface"
            )
        table = pa.RecordBatchReader.from_stream(attributes).read_all()
        names, arrays = table.column_names, table.columns
    found = next((name for name in (str(id_column), "id") if name in names), None)
    if found is None:
        raise InputError(
            f"{what} have no column {str(id_column)!r} or 'id'; they have {listed(tuple(names))}"
        )
    if found != "id" and "id" in names:
        raise InputError(f"{what} have ids in {found!r} and an attribute 'id'; rename it")
    renamed = ["id" if name == found else name for name in names]
    if repeated := [name for name in renamed if renamed.count(name) > 1]:
        raise InputError(f"{what} have several columns {repeated[0]!r}; rename all but one")
    first = renamed.index("id")
    order = [first, *(place for place in range(len(renamed)) if place != first)]
    return pa.table({renamed[place]: arrays[place] for place in order})


def _of_pandas(frame: pd.DataFrame, columns: Columns) -> pa.Table:
    asked = {columns.user, columns.item, columns.rating, columns.time, columns.weight} - {None}
    levels = [name for name in frame.index.names if name in asked and name not in frame.columns]
    if levels:
        frame = frame.reset_index(level=levels)
    labels = _labels(columns, list(frame.columns))
    return pa.table({word: _of_series(frame[label]) for word, label in labels.items()})


def _labels(columns: Columns, there: list[Any]) -> dict[str, Any]:
    """Return field of a rating -> the label in the ratings."""
    time = columns.time
    if time is None and DEFAULT_TIME in there and not columns.no_time:
        time = DEFAULT_TIME
    asked = {"user": columns.user, "item": columns.item, "rating": columns.rating, "time": time}
    asked["weight"] = columns.weight
    labels = {}
    for word, label in asked.items():
        if label is None:
            continue
        labels[word] = label = _label(label, there)
        if label not in there:
            names = listed(tuple(map(str, there)))
            raise InputError(
                f"the ratings have no column {label!r} for the {word}; they have {names}; "
                f"name yours with --{word}-col"
            )
        if there.count(label) > 1:
            raise InputError(f"the ratings have several columns {label!r}; rename all but one")
    return labels


def _label(asked: str | int, there: list[Any]) -> Any:
    """Return the label of a column that is given by label or position."""
    is_position = str(asked).isdecimal() and int(asked) < len(there)
    return there[int(asked)] if asked not in there and is_position else asked


def _of_series(series: pd.Series[Any]) -> pa.Array:
    if isinstance(series.dtype, pd.SparseDtype):
        series = pd.Series(np.asarray(series))
    if isinstance(series.dtype, pd.CategoricalDtype):
        codes = np.asarray(series.cat.codes)
        values = _of_values(series.cat.categories.to_numpy())
        return values.take(pa.array(codes, mask=codes < 0))
    try:
        array = pa.array(series, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        array = _text_of(series.tolist())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def _of_values(values: Any) -> pa.Array:
    """Return a column of an array, or of any sequence of values."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return pa.array(values, from_pandas=True)
    if hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__"):
        array = pa.chunked_array(values) if hasattr(values, "__arrow_c_stream__") else values
        return pa.array(array.combine_chunks()) if isinstance(array, pa.ChunkedArray) else array
    values = list(values)
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return _text_of(values)


def _text_of(values: Iterable[Any]) -> pa.Array:
    """Return values of several types as text; a float that is a whole number is one."""
    return pa.array([_as_text(value) for value in values], pa.string())


def _as_text(value: Any) -> str | None:
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return None
    if isinstance(value, float | np.floating) and value.is_integer():
        return str(int(value))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _of_stream(stream: Any, columns: Columns) -> pa.Table:
    table = pa.RecordBatchReader.from_stream(stream).read_all()
    labels = _labels(columns, table.column_names)
    return pa.table({word: table.column(label) for word, label in labels.items()})


def _of_matrix(matrix: Any, ids: MatrixIds) -> pa.Table:
    triples = matrix.tocoo()
    sides = {}
    for word, rows, size, own in (
        ("user", triples.row, triples.shape[0], ids.users),
        ("item", triples.col, triples.shape[1], ids.items),
    ):
        rows = pa.array(np.asarray(rows, np.int64))
        if own is not None and len(own) != size:
            raise InputError(
                f"{word}_ids has {len(own):,} ids, and the matrix has {size:,} {word}s"
            )
        sides[word] = rows if own is None else _of_values(own).take(rows)
    return pa.table({**sides, "rating": _of_values(np.asarray(triples.data))})


def _of_array(array: np.ndarray, columns: Columns) -> pa.Table:
    if array.dtype.names is not None:
        labels = _labels(columns, list(array.dtype.names))
        return pa.table({word: _of_values(array[label]) for word, label in labels.items()})
    if array.ndim != 2:
        raise InputError(
            f"ratings are an array of shape {array.shape}; give one with columns of users, items "
            "and ratings"
        )
    return _of_columns(tuple(array.T))


def _of_columns(values: tuple[Any, ...]) -> pa.Table:
    if not 2 <= len(values) <= len(_POSITIONS):
        raise InputError(
            f"ratings have {len(values)} columns; give users, items and, if there are any, ratings "
            "and times"
        )
    lengths = {len(column) for column in values}
    if len(lengths) > 1:
        raise InputError(f"columns of ratings have different lengths: {sorted(lengths)}")
    return pa.table(
        {word: _of_values(column) for word, column in zip(_POSITIONS, values, strict=False)}
    )
