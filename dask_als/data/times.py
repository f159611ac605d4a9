"""Times of ratings, as numbers in the order of the times."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dask_als.data.text_values import is_text, numbers, readable, trimmed
from dask_als.settings.data import strptime_pattern

_DATE = r"^[0-9]{4}-?[0-9]{2}"
_BEYOND_MICROSECONDS = r"(\.[0-9]{6})[0-9]+"
_MICROSECONDS = {"seconds": 1e6, "milliseconds": 1e3}


def times(array: pa.Array, time_format: str | None) -> np.ndarray:
    """Return times as float64, NaN for missing ones.

    Parameters
    ----------
    array : pyarrow.Array
    time_format : str or None
        As in `Columns`. Without one, numbers are kept, and dates become microseconds since 1970.
        With one, all times become microseconds since 1970.
    """
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        return numbers(array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()), "times")
    if time_format in _MICROSECONDS:
        return numbers(array, "times") * _MICROSECONDS[time_format]
    if time_format is not None:
        text = trimmed(readable(array if is_text(array) else array.cast(pa.string())))
        pattern = strptime_pattern(time_format)
        return _of_iso_dates(text) if pattern is None else _of_dates(text, pattern)
    found = numbers(array, "times")
    if is_text(array) and np.isnan(found).any():
        found = np.where(np.isnan(found), _of_iso_dates(trimmed(readable(array))), found)
    return found


def _of_iso_dates(text: pa.Array) -> np.ndarray:
    """Return dates as microseconds since 1970, NaN for text that is not an ISO 8601 date."""
    # pandas takes "now" for a date; and if one date has nanoseconds, it refuses dates of year 9999.
    is_date = pc.match_substring_regex(text, _DATE)
    text = pc.if_else(is_date, text, pa.scalar(None, pa.string()))
    text = pc.replace_substring_regex(text, pattern=_BEYOND_MICROSECONDS, replacement=r"\1")
    return _of_dates(text, "ISO8601")


def _of_dates(text: pa.Array, pattern: str) -> np.ndarray:
    dates = pd.to_datetime(text.to_pandas(), errors="coerce", utc=True, format=pattern)
    micros: np.ndarray = dates.dt.as_unit("us").astype("int64").to_numpy(np.float64)
    return np.where(dates.isna(), np.nan, micros)
