"""Text and numbers in columns of any type."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dask_als.errors import InputError


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, which Arrow would copy even if it is one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def plain(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array, with plain string or binary for all types of text."""
    array = one_array(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        return array.cast(pa.string())
    if pa.types.is_large_binary(array.type) or pa.types.is_binary_view(array.type):
        return array.cast(pa.binary())
    return array


def is_text(array: pa.Array) -> bool:
    """Return whether an array holds text, perhaps as bytes."""
    return pa.types.is_binary(array.type) or pa.types.is_string(array.type)


def is_null(array: pa.Array) -> np.ndarray:
    """Return which values are null."""
    if not array.null_count:
        return np.zeros(len(array), bool)
    return pc.is_null(array).to_numpy(zero_copy_only=False)


def readable(array: pa.Array) -> pa.Array:
    """Return values as text, null for blank text and for bytes that are not UTF-8."""
    try:
        text = array.cast(pa.string())
    except pa.ArrowInvalid:
        text = pa.array([_decoded(value) for value in array.to_pylist()], pa.string())
    return pc.if_else(pc.equal(trimmed(text), ""), pa.scalar(None, pa.string()), text)


def trimmed(text: pa.Array) -> pa.Array:
    """Return text without blanks at its ends."""
    return pc.utf8_trim_whitespace(text)


def is_undecodable(array: pa.Array) -> np.ndarray:
    """Return which values are bytes that are not UTF-8."""
    if not pa.types.is_binary(array.type):
        return np.zeros(len(array), bool)
    return np.array([v is not None and _decoded(v) is None for v in array.to_pylist()], bool)


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def numbers(array: pa.Array, what: str, *, decimal: str = ".") -> np.ndarray:
    """Return values as float64, NaN for values that are not numbers.

    Raises
    ------
    InputError
        If values of the type cannot be numbers.
    """
    if not is_text(array):
        try:
            return array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise InputError(f"{what} of type {array.type} cannot be used") from None
    text = trimmed(readable(array))
    if decimal == ",":
        is_fit = pc.invert(pc.match_substring(text, "."))
        text = pc.if_else(is_fit, pc.replace_substring(text, ",", "."), "")
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
