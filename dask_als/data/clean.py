"""Separate the usable ratings of a source from rows that are rejected with a reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dask_als.core.side import SIDES, Side
from dask_als.data.id_values import readable_ids, typed_ids, whole_ids
from dask_als.data.rating_weights import LEAST_WEIGHT
from dask_als.data.text_chunks import Raw
from dask_als.data.text_values import (
    is_null,
    is_text,
    is_undecodable,
    numbers,
    one_array,
    plain,
    readable,
    trimmed,
)
from dask_als.data.times import times
from dask_als.errors import InputError
from dask_als.settings.data import Columns

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

_DECIMAL_COMMA = r"^[+-]?[0-9]+,[0-9]+$"
_MOST_SHOWN = 200


@dataclass(frozen=True)
class Cleaned:
    """The usable and the rejected rows of a block.

    Attributes
    ----------
    usable : pyarrow.Table
        user and item (int64, uint64 or string), rating (float32) and, if read, time (float64) and
        weight (float32).
    rejected : pyarrow.Table
        The rejected rows, with `REJECTED_SCHEMA`; ``row`` counts from 0 within the block.
    n_untimed : int
        Usable rows whose time is missing or unreadable; it is minus infinity.
    """

    usable: pa.Table
    rejected: pa.Table
    n_untimed: int = 0


def clean(
    raw: Raw,
    file: str,
    id_types: dict[Side, pa.DataType],
    columns: Columns = Columns(),
    *,
    needs_time: bool = False,
) -> Cleaned:
    """Separate usable rows from rejected ones.

    Parameters
    ----------
    raw : Raw
    file : str
        The source of the rows, recorded with rejected rows.
    id_types : dict of Side to DataType
        The wanted type of the ids of a side. Without one, ids are whole numbers if all usable ids
        of the block are, else text.
    columns : Columns, optional
        How values are written.
    needs_time : bool, optional
        Whether a row without a time is rejected.

    Raises
    ------
    InputError
        If the type of a column cannot be used.
    """
    values = {field: plain(raw.table.column(field)) for field in raw.table.column_names}
    ids = {side.singular: readable_ids(values[side.singular]) for side in SIDES}
    # The first reason that applies is recorded.
    reasons = [
        reason
        for field, array in ids.items()
        for reason in _unreadable(field, values[field], array)
    ]
    if columns.id_type == "int":
        ids = {field: whole_ids(array) for field, array in ids.items()}
        reasons += [
            (is_null(array), f"{field} id is no whole number") for field, array in ids.items()
        ]
    if "rating" in values:
        rating = _ratings(values["rating"], columns.decimal, file)
        reasons += [
            (is_null(values["rating"]), "rating is missing"),
            (~np.isfinite(rating), "rating is not a finite number"),
        ]
    else:  # Every row is an event.
        rating = np.ones(raw.table.num_rows, np.float32)
    cleaned = {**ids, "rating": pa.array(rating)}
    if "time" in values:
        time = times(values["time"], columns.time_format)
        has_no_time = ~np.isfinite(time)
        if needs_time:
            reasons.append((has_no_time, "time is missing or unreadable"))
        if has_no_time.any():
            time = np.where(has_no_time, -np.inf, time)
        cleaned["time"] = pa.array(time)
    if "weight" in values:
        weight = _weights(values["weight"], columns.decimal, file)
        reasons += [
            (is_null(values["weight"]), "weight is missing"),
            (weight == 0, "weight is 0"),
        ]
        cleaned["weight"] = pa.array(weight)

    usable = pa.table(cleaned)
    is_bad = np.zeros(usable.num_rows, bool)
    for applies, _ in reasons:
        is_bad |= applies
    bad = np.flatnonzero(is_bad)
    if len(bad):
        usable = usable.filter(pa.array(~is_bad))
    for position, side in enumerate(SIDES):
        array = one_array(usable[side.singular])
        array = typed_ids(array, raw.is_text, id_types.get(side))
        usable = usable.set_column(position, side.singular, array)
    first_reasons = [next(text for applies, text in reasons if applies[row]) for row in bad]
    rejected = REJECTED_SCHEMA.empty_table()
    if len(bad):
        rejected = _rejected(values, bad, raw.numbers[bad], first_reasons, file)
    if raw.malformed:
        rejected = pa.concat_tables([rejected, _malformed(raw, file)]).sort_by("row")
    n_untimed = int((has_no_time & ~is_bad).sum()) if "time" in values else 0
    return Cleaned(usable, rejected, n_untimed)


def _unreadable(field: str, values: pa.Array, ids: pa.Array) -> list[tuple[np.ndarray, str]]:
    """Return which ids are none, with the reasons."""
    is_none = is_null(ids)
    reasons = [(is_none, f"{field} id is missing or unreadable")]
    if is_none.any():
        reason = f"{field} id is not UTF-8; give the --encoding of the file, such as latin-1"
        reasons.insert(0, (is_undecodable(values), reason))
    return reasons


def _ratings(array: pa.Array, decimal: str, file: str) -> np.ndarray:
    """Return ratings as float32, not finite where they are none.

    Raises
    ------
    InputError
        If a rating has a decimal comma and that is not the decimal mark.
    """
    with np.errstate(over="ignore"):
        ratings = numbers(array, "ratings", decimal=decimal).astype(np.float32)
    if decimal == "." and is_text(array) and not np.isfinite(ratings).all():
        text = trimmed(readable(array))
        found = text.filter(pc.match_substring_regex(text, _DECIMAL_COMMA).fill_null(False))
        if len(found):
            raise InputError(
                f"{file} has the rating {found[0].as_py()[:_MOST_SHOWN]!r}: give --decimal , if "
                "the comma is a decimal mark"
            )
    return ratings


def _weights(array: pa.Array, decimal: str, file: str) -> np.ndarray:
    """Return weights as float32; 0 also for a missing one.

    Raises
    ------
    InputError
        If a weight is no number, not finite or below 0. It would not be a mistake of that row
        alone: the column is another, or its values are no weights.
    """
    found = np.where(is_null(array), 0, numbers(array, "weights", decimal=decimal))
    with np.errstate(over="ignore", invalid="ignore"):
        weights = found.astype(np.float32)
        is_wrong = ~(np.isfinite(weights) & (weights >= 0))
    if is_wrong.any():
        value = _shown(array[int(np.flatnonzero(is_wrong)[0])].as_py())
        raise InputError(
            f"{file} has the weight {value!r}; weights must be finite numbers above 0, as float32"
        )
    # Not 0 because it is too small for float32.
    return np.where(found > 0, np.maximum(weights, LEAST_WEIGHT), weights).astype(np.float32)


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
