"""Separate the usable ratings of a source from rows that are rejected with a reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dask_als.core.side import SIDES, Side
from dask_als.data.source import Raw
from dask_als.errors import InputError

REJECTED_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("row", pa.int64()),
        ("user", pa.string()),
        ("item", pa.string()),
        ("rating", pa.string()),
        ("time", pa.string()),
        ("reason", pa.string()),
    ]
)

WHOLE_NUMBER = r"^(-?[0-9]+)(\.0*)?$"
_DATE = r"^[0-9]{4}-?[0-9]{2}"
_BEYOND_MICROSECONDS = r"(\.[0-9]{6})[0-9]+"
_WHOLE_FLOATS = 2.0**53
_MOST_SHOWN = 200


@dataclass(frozen=True)
class Cleaned:
    """The usable and the rejected rows of a block.

    Attributes
    ----------
    usable : pyarrow.Table
        user and item (int64, uint64 or string), rating (float32) and, if read, time (float64).
    rejected : pyarrow.Table
        The rejected rows, with `REJECTED_SCHEMA`; ``row`` counts from 0 within the block.
    """

    usable: pa.Table
    rejected: pa.Table


def clean(raw: Raw, file: str, id_types: dict[Side, pa.DataType]) -> Cleaned:
    """Separate usable rows from rejected ones.

    Parameters
    ----------
    raw : Raw
    file : str
        The source of the rows, recorded with rejected rows.
    id_types : dict of Side to DataType
        The wanted type of the ids of a side. Without one, ids are whole numbers if all usable ids
        of the block are, else text.

    Raises
    ------
    InputError
        If the type of a column cannot be used.
    """
    columns = {word: _plain(raw.table.column(word)) for word in raw.table.column_names}
    ids = {side.singular: _readable_ids(columns[side.singular]) for side in SIDES}
    # The first reason that applies is recorded.
    reasons = [
        (_is_null(array), f"{word} id is missing or unreadable") for word, array in ids.items()
    ]
    if "rating" in columns:
        with np.errstate(over="ignore"):
            rating = _numbers(columns["rating"], "ratings").astype(np.float32)
        reasons += [
            (_is_null(columns["rating"]), "rating is missing"),
            (~np.isfinite(rating), "rating is not a finite number"),
        ]
    else:  # Every row is an event.
        rating = np.ones(raw.table.num_rows, np.float32)
    values = {**ids, "rating": pa.array(rating)}
    if "time" in columns:
        time = _times(columns["time"])
        values["time"] = pa.array(time)
        reasons.append((~np.isfinite(time), "time is missing or unreadable"))

    usable = pa.table(values)
    is_bad = np.logical_or.reduce([applies for applies, _ in reasons])
    bad = np.flatnonzero(is_bad)
    if len(bad):
        usable = usable.filter(pa.array(~is_bad))
    for position, side in enumerate(SIDES):
        array = usable[side.singular].combine_chunks()
        array = _typed_ids(array, raw.is_text, id_types.get(side))
        usable = usable.set_column(position, side.singular, array)
    first_reasons = [next(text for applies, text in reasons if applies[row]) for row in bad]
    rejected = _rejected(columns, bad, raw.numbers[bad], first_reasons, file)
    rejected = pa.concat_tables([rejected, _malformed(raw, file)]).sort_by("row")
    return Cleaned(usable, rejected)


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, with plain string or binary for all types of text."""
    array = column.combine_chunks()
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    if pa.types.is_large_binary(array.type) or pa.types.is_binary_view(array.type):
        return array.cast(pa.binary())
    return array


def _is_text(array: pa.Array) -> bool:
    return pa.types.is_binary(array.type) or pa.types.is_string(array.type)


def _is_null(array: pa.Array) -> np.ndarray:
    return pc.is_null(array).to_numpy(zero_copy_only=False)


def _text(array: pa.Array) -> pa.Array:
    """Return values as trimmed text, null for empty text and for bytes that are not UTF-8."""
    try:
        text = array.cast(pa.string())
    except pa.ArrowInvalid:
        text = pa.array([_decoded(value) for value in array.to_pylist()], pa.string())
    text = pc.utf8_trim_whitespace(text)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _readable_ids(array: pa.Array) -> pa.Array:
    """Return ids as text or whole numbers, null for a missing or unreadable id."""
    if _is_text(array):
        return _text(array)
    if pa.types.is_integer(array.type):
        return array
    if pa.types.is_null(array.type):
        return array.cast(pa.int64())
    if pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False).astype(np.float64)
        is_whole = (np.abs(values) <= _WHOLE_FLOATS) & (np.floor(values) == values)
        return pa.array(np.where(is_whole, values, 0).astype(np.int64), mask=~is_whole)
    raise InputError(f"ids of type {array.type} cannot be used; give whole numbers or text")


def _typed_ids(array: pa.Array, is_text: bool, wanted: pa.DataType | None) -> pa.Array:
    """Return ids as the wanted type, if there is one and they can be.

    Whether an id is a whole number depends on the id alone, not on the other ids of its block.
    """
    if pa.types.is_string(array.type) and is_text and wanted != pa.string():
        is_whole = pc.all(pc.match_substring_regex(array, WHOLE_NUMBER)).as_py() is not False
        if is_whole:
            digits = pc.replace_substring_regex(array, pattern=WHOLE_NUMBER, replacement=r"\1")
            array = _as_whole(digits, otherwise=array)
    elif pa.types.is_integer(array.type):
        array = _as_whole(array, otherwise=array)
    if wanted is None or array.type == wanted:
        return array
    try:
        return array.cast(wanted)
    except pa.ArrowInvalid:
        return array.cast(pa.string())


def _as_whole(array: pa.Array, otherwise: pa.Array) -> pa.Array:
    """Return an array as int64, else as uint64, else `otherwise`."""
    for kind in (pa.int64(), pa.uint64()):
        try:
            return array.cast(kind)
        except pa.ArrowInvalid:
            continue
    return otherwise


def _numbers(array: pa.Array, what: str) -> np.ndarray:
    """Return values as float64, NaN for values that are not numbers."""
    if not _is_text(array):
        try:
            return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise InputError(f"{what} of type {array.type} cannot be used") from None
    text = _text(array)
    try:
        return text.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        return np.array([_number(value) for value in text.to_pylist()], np.float64)


def _number(text: str | None) -> float:
    """Parse a number as Arrow does; NaN if the text is not a number."""
    try:
        return float(text) if text and text.isascii() and "_" not in text else np.nan
    except ValueError:
        return np.nan


def _times(array: pa.Array) -> np.ndarray:
    """Return times as float64 in the order of the times, NaN for missing ones.

    Numbers are kept; dates become microseconds since 1970.
    """
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    times = _numbers(array, "times")
    if _is_text(array) and np.isnan(times).any():
        times = np.where(np.isnan(times), _microseconds(_text(array)), times)
    return times


def _microseconds(text: pa.Array) -> np.ndarray:
    """Return dates as microseconds since 1970, NaN for text that is not an ISO 8601 date."""
    # pandas takes "now" for a date; and if one date has nanoseconds, it refuses dates of year 9999.
    is_date = pc.match_substring_regex(text, _DATE)
    text = pc.if_else(is_date, text, pa.scalar(None, pa.string()))
    text = pc.replace_substring_regex(text, pattern=_BEYOND_MICROSECONDS, replacement=r"\1")
    dates = pd.to_datetime(text.to_pandas(), errors="coerce", utc=True, format="ISO8601")
    micros: np.ndarray = dates.dt.as_unit("us").astype("int64").to_numpy(np.float64)
    return np.where(dates.isna(), np.nan, micros)


def _rejected(
    columns: dict[str, pa.Array],
    bad: np.ndarray,
    numbers: np.ndarray,
    reasons: list[str],
    file: str,
) -> pa.Table:
    shown = {
        word: [_shown(value) for value in array.take(bad).to_pylist()]
        for word, array in columns.items()
    }
    return pa.table(
        {
            "file": [_text_of_path(file)] * len(bad),
            "row": numbers,
            **{
                word: shown.get(word, [None] * len(bad))
                for word in ("user", "item", "rating", "time")
            },
            "reason": reasons,
        },
        schema=REJECTED_SCHEMA,
    )


def _shown(value: object) -> str | None:
    if value is None:
        return None
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return text[:_MOST_SHOWN]


def _text_of_path(path: str) -> str:
    """Return a path as valid UTF-8: undecodable bytes of a file name are escaped."""
    return path.encode(errors="backslashreplace").decode()


def _malformed(raw: Raw, file: str) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {"file": _text_of_path(file), "row": number, "reason": wrong}
            for number, wrong in raw.malformed
        ],
        schema=REJECTED_SCHEMA,
    )
