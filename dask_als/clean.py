"""Which rows of a source are usable ratings, and why the others are not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dask_als.errors import InputError
from dask_als.source import Raw

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

_ID_WORDS = ("user", "item")
_WHOLE_FLOATS = 2.0**53
_MOST_SHOWN = 200


@dataclass(frozen=True)
class Cleaned:
    """Rows of a source, told apart.

    Attributes
    ----------
    usable : pyarrow.Table
        user and item (int64, uint64 or string), rating (float32), time (float64) if there is one.
    rejected : pyarrow.Table
        The others, with `REJECTED_SCHEMA`; ``row`` counts within the block, from 0.
    """

    usable: pa.Table
    rejected: pa.Table


def clean(raw: Raw, file: str, id_types: dict[str, pa.DataType]) -> Cleaned:
    """Tell usable rows from others.

    Parameters
    ----------
    raw : Raw
    file : str
        Where the rows come from, for the rejected ones.
    id_types : dict of str to DataType
        For ``user`` or ``item``, the type that ids must take; without one they are whole numbers
        if all of the block are, else text.
    """
    columns = {word: raw.table.column(word).combine_chunks() for word in raw.table.column_names}
    values = {word: _ids(columns[word], raw.is_text, id_types.get(word)) for word in _ID_WORDS}
    rating = _numbers(columns["rating"])
    with np.errstate(over="ignore"):
        values["rating"] = pa.array(rating.astype(np.float32))
    if "time" in columns:
        values["time"] = _times(columns["time"])

    # The first reason that applies is the one that is kept.
    reasons = [
        (_is_null(values[word]), f"{word} id is missing or unreadable") for word in _ID_WORDS
    ]
    reasons += [
        (_is_null(columns["rating"]), "rating is missing"),
        (np.isnan(rating) & ~_says_nan(columns["rating"]), "rating is not a number"),
        (~np.isfinite(values["rating"].to_numpy()), "rating is not finite"),
    ]
    if "time" in columns:
        reasons.append((_is_null(values["time"]), "time is missing or unreadable"))
    reason = np.select(
        [applies for applies, _ in reasons], [text for _, text in reasons], default=""
    )
    bad = np.flatnonzero(reason != "")
    usable = pa.table(values)
    if len(bad):
        usable = usable.filter(pa.array(reason == ""))
    rejected = _rejected(columns, bad, raw.numbers[bad], reason[bad], file)
    return Cleaned(usable, pa.concat_tables([rejected, _malformed(raw, file)]))


def _is_null(array: pa.Array) -> np.ndarray:
    return pc.is_null(array).to_numpy(zero_copy_only=False)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _text(array: pa.Array) -> pa.Array:
    """Return values as trimmed text; null where there is none or it is not UTF-8."""
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


def _ids(array: pa.Array, is_text: bool, forced: pa.DataType | None) -> pa.Array:
    """Return ids as int64, uint64 or string, null where a row has none."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if _is_text(array.type):
        array = _text(array)
        array = _whole(array) if is_text and forced is None else array
    elif pa.types.is_floating(array.type):
        array = _whole_of_floats(array)
    elif pa.types.is_integer(array.type):
        array = _whole(array)
    elif pa.types.is_null(array.type):
        array = array.cast(pa.int64())
    else:
        raise InputError(f"ids of type {array.type} cannot be used; give whole numbers or text")
    if forced is None or array.type == forced:
        return array
    try:
        return array.cast(forced)
    except pa.ArrowInvalid:
        return array.cast(pa.string())


def _whole(array: pa.Array) -> pa.Array:
    """Return an array as int64, else uint64, if all values are whole numbers; else as it is."""
    for kind in (pa.int64(), pa.uint64()):
        try:
            return array.cast(kind)
        except pa.ArrowInvalid:
            continue
    if _is_text(array.type):
        try:
            return _whole_of_floats(array.cast(pa.float64()), strict=True)
        except pa.ArrowInvalid:
            return array
    return array


def _whole_of_floats(array: pa.Array, *, strict: bool = False) -> pa.Array:
    """Return whole floats as int64 and all others as null, or raise ArrowInvalid if `strict`."""
    values = array.to_numpy(zero_copy_only=False).astype(np.float64)
    given = ~_is_null(array)
    whole = given & (np.abs(values) <= _WHOLE_FLOATS) & (np.floor(values) == values)
    if strict and (given & ~whole).any():
        raise pa.ArrowInvalid("not all values are whole numbers")
    return pa.array(np.where(whole, values, 0).astype(np.int64), mask=~whole)


def _numbers(array: pa.Array) -> np.ndarray:
    """Return values as float64, NaN where they are not numbers."""
    if not _is_text(array.type):
        return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    text = _text(array)
    try:
        return text.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        numbers = pd.to_numeric(text.to_pandas(), errors="coerce")
        return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def _says_nan(array: pa.Array) -> np.ndarray:
    """Tell where NaN is what the source says, not what became of other text."""
    if not _is_text(array.type):
        return np.ones(len(array), dtype=bool)
    lower = pc.utf8_lower(_text(array))
    return pc.fill_null(pc.is_in(lower, pa.array(["nan", "+nan", "-nan"])), False).to_numpy(
        zero_copy_only=False
    )


def _times(array: pa.Array) -> pa.Array:
    """Return times as float64 that order as the times do, null where there is none."""
    if pa.types.is_temporal(array.type):
        array = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    times = _numbers(array)
    if _is_text(array.type) and np.isnan(times).any():
        dates = pd.to_datetime(
            _text(array).to_pandas(), errors="coerce", utc=True, format="ISO8601"
        )
        micros = dates.dt.as_unit("us").astype("int64").where(dates.notna()).to_numpy(np.float64)
        times = np.where(np.isnan(times), micros, times)
    return pa.array(times, mask=~np.isfinite(times))


def _rejected(
    columns: dict[str, pa.Array],
    bad: np.ndarray,
    numbers: np.ndarray,
    reason: np.ndarray,
    file: str,
) -> pa.Table:
    texts = {
        word: [_shown(value) for value in array.take(bad).to_pylist()]
        for word, array in columns.items()
    }
    return pa.table(
        {
            "file": pa.array([file] * len(bad), pa.string()),
            "row": numbers,
            **{word: texts.get(word, [None] * len(bad)) for word in (*_ID_WORDS, "rating", "time")},
            "reason": pa.array(reason, pa.string()),
        },
        schema=REJECTED_SCHEMA,
    )


def _shown(value: object) -> str | None:
    if value is None:
        return None
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return text[:_MOST_SHOWN]


def _malformed(raw: Raw, file: str) -> pa.Table:
    return pa.Table.from_pylist(
        [{"file": file, "row": number, "reason": wrong} for number, wrong in raw.malformed],
        schema=REJECTED_SCHEMA,
    )
