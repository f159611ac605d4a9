"""Ids as whole numbers or text, from columns of any type.

Text from CSV becomes whole numbers if all of it can be read so without loss: an id with a leading
zero is text. Ids that are text keep their blanks.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dask_als.data.text_values import is_text, readable, trimmed
from dask_als.errors import InputError

WHOLE_NUMBER = r"^(-?[0-9]+)(\.0*)?$"
# 7.0 is how tables with gaps are written; of 007 and 7, or -0 and 0, none must become the other.
_WITHOUT_LOSS = r"^(0|-?[1-9][0-9]*)(\.0*)?$"
_WHOLE_FLOATS = 2.0**53
_UUID_DIGITS = np.array([*range(8), *range(9, 13), *range(14, 18), *range(19, 23), *range(24, 36)])


def readable_ids(array: pa.Array) -> pa.Array:
    """Return ids as text or whole numbers, null for a missing or unreadable id.

    Raises
    ------
    InputError
        If values of the type cannot be ids.
    """
    kind = array.type
    if is_text(array):
        return readable(array)
    if pa.types.is_integer(kind):
        return array
    if pa.types.is_null(kind):
        return array.cast(pa.int64())
    if pa.types.is_decimal(kind):
        return _of_decimals(array)
    if isinstance(kind, pa.UuidType):
        return _of_uuids(array.storage)
    if pa.types.is_fixed_size_binary(kind):
        return readable(array.cast(pa.binary()))
    if pa.types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False).astype(np.float64)
        is_whole = (np.abs(values) <= _WHOLE_FLOATS) & (np.floor(values) == values)
        return pa.array(np.where(is_whole, values, 0).astype(np.int64), mask=~is_whole)
    raise InputError(f"ids of type {kind} cannot be used; give whole numbers or text")


def _of_decimals(array: pa.Array) -> pa.Array:
    """Return decimals as whole numbers, or as text if they have more than 64 bits."""
    text = array.cast(pa.string())
    is_whole = pc.match_substring_regex(text, WHOLE_NUMBER)
    digits = pc.replace_substring_regex(text, pattern=WHOLE_NUMBER, replacement=r"\1")
    digits = pc.if_else(is_whole, digits, pa.scalar(None, pa.string()))
    return as_whole(digits, otherwise=digits)


def _of_uuids(array: pa.Array) -> pa.Array:
    """Return UUIDs as text."""
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    octets = np.frombuffer(b"".join(array.fill_null(bytes(16)).to_pylist()), np.uint8)
    octets = octets.reshape(-1, 16)
    text = np.full((len(array), 36), ord("-"), np.uint8)
    text[:, _UUID_DIGITS[::2]] = digits[octets >> 4]
    text[:, _UUID_DIGITS[1::2]] = digits[octets & 15]
    is_null = pc.is_null(array).to_numpy(zero_copy_only=False)
    return pa.array(text.reshape(-1).view("S36").astype(str), pa.string(), mask=is_null)


def whole_ids(array: pa.Array) -> pa.Array:
    """Return ids as whole numbers of at most 64 bits, null for an id that is none."""
    if not is_text(array):
        return as_whole(array, otherwise=array)
    text = trimmed(array)
    is_whole = pc.match_substring_regex(text, WHOLE_NUMBER)
    digits = pc.replace_substring_regex(text, pattern=WHOLE_NUMBER, replacement=r"\1")
    # 18 digits fit into 64 bits; few ids have more.
    is_short = pc.less_equal(pc.utf8_length(digits), 18)
    digits = pc.if_else(is_whole, digits, pa.scalar(None, pa.string()))
    if not pc.all(is_short).as_py():
        digits = pa.array([_if_64_bits(value) for value in digits.to_pylist()], pa.string())
    return as_whole(digits, otherwise=digits)


def _if_64_bits(digits: str | None) -> str | None:
    return digits if digits is not None and -(2**63) <= int(digits) < 2**64 else None


def typed_ids(array: pa.Array, is_from_text: bool, wanted: pa.DataType | None) -> pa.Array:
    """Return ids as the wanted type, if there is one and they can be.

    Whether an id is a whole number depends on the id alone, not on the other ids of its block.

    Parameters
    ----------
    array : pyarrow.Array
        Readable ids, without null.
    is_from_text : bool
        Whether text may be whole numbers, as in CSV.
    wanted : pyarrow.DataType or None
    """
    if pa.types.is_string(array.type) and is_from_text and wanted != pa.string():
        text = trimmed(array)
        is_whole = pc.all(pc.match_substring_regex(text, _WITHOUT_LOSS)).as_py() is not False
        if is_whole:
            digits = pc.replace_substring_regex(text, pattern=_WITHOUT_LOSS, replacement=r"\1")
            array = as_whole(digits, otherwise=array)
    elif pa.types.is_integer(array.type):
        array = as_whole(array, otherwise=array)
    if wanted is None or array.type == wanted:
        return array
    try:
        return array.cast(wanted)
    except pa.ArrowInvalid:
        return array.cast(pa.string())


def as_whole(array: pa.Array, otherwise: pa.Array) -> pa.Array:
    """Return an array as int64, else as uint64, else `otherwise`."""
    for kind in (pa.int64(), pa.uint64()):
        try:
            return array.cast(kind)
        except pa.ArrowInvalid:
            continue
    return otherwise
