"""Ids that a caller asks for, in the type of the model's ids.

The rule: ids are whole numbers or text, as the model has them. Where they are numbers, a float that
is a whole number counts as one, as pandas makes floats of integers beside missing values. Nothing
else is converted: text is never a number, a number is never text, and a missing id is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from dask_als.core.wording import warn_caller
from dask_als.errors import InputError, UnknownIdWarning

Unknown = Literal["warn", "error", "ignore"]


def is_single(ids: Any) -> bool:
    """Return whether this is one id, not a sequence of ids."""
    return isinstance(ids, str | bytes) or np.ndim(ids) == 0


def checked_ids(ids: Any, dtype: Any, what: str) -> pd.Index[Any]:
    """Return ids in the type of a model's ids.

    Parameters
    ----------
    ids : sequence of ids
    dtype : dtype
        Of the model's ids.
    what : {"user", "item"}
        For errors.

    Raises
    ------
    InputError
        If an id is missing or of another type.
    """
    index = _as_index(ids)
    if pd.api.types.is_integer_dtype(dtype):
        if pd.api.types.is_integer_dtype(index.dtype) and not index.hasnans:
            return index
        return _as_index([_whole(value, what) for value in index.tolist()])
    if pd.api.types.is_string_dtype(index.dtype) and index.dtype != object and not index.hasnans:
        return index
    return pd.Index([_text(value, what) for value in index.tolist()], dtype=dtype)


def report_unknown(ids: Any, is_unknown: np.ndarray, what: str, unknown: Unknown) -> None:
    """Warn of ids that are not in the model, or raise InputError, or do neither."""
    if unknown not in ("warn", "error", "ignore"):
        raise InputError(f"unknown is {unknown!r}; it must be warn, error or ignore")
    n_unknown = int(is_unknown.sum())
    if not n_unknown or unknown == "ignore":
        return
    first = _as_index(ids)[int(np.argmax(is_unknown))]
    first = first.item() if isinstance(first, np.generic) else first
    if len(is_unknown) == 1:
        message = f"{what} {first!r} is not in the model"
    else:
        message = (
            f"{n_unknown:,} of {len(is_unknown):,} {what} ids are not in the model, "
            f"for instance {first!r}"
        )
    if unknown == "error":
        raise InputError(message)
    warn_caller(f"{message}; means and biases alone make the prediction", UnknownIdWarning)


def _as_index(ids: Any) -> pd.Index[Any]:
    if isinstance(ids, pd.Series | pd.Index) and isinstance(ids.dtype, pd.CategoricalDtype):
        ids = ids.astype(ids.dtype.categories.dtype)
    if not isinstance(ids, pd.Series | pd.Index | np.ndarray):
        ids = list(ids)
        if any(isinstance(value, bool | np.bool_) for value in ids):
            return pd.Index(ids, dtype=object)
    return pd.Index(ids)


def _whole(value: Any, what: str) -> int:
    if isinstance(value, float | np.floating) and value.is_integer():
        return int(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise _wrong(value, f"{what} ids of this model are whole numbers")


def _text(value: Any, what: str) -> str:
    if isinstance(value, str):
        return value
    raise _wrong(value, f"{what} ids of this model are text")


def _wrong(value: Any, rule: str) -> InputError:
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return InputError(f"an id is missing ({value!r}); {rule}")
    return InputError(f"{value!r} is of type {type(value).__name__}; {rule}")


def listed(ids: Any) -> Sequence[Any]:
    """Return one id as a list, several as they are."""
    if not is_single(ids):
        return ids
    return [ids.item() if isinstance(ids, np.ndarray | np.generic) else ids]
