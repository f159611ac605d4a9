"""Parse JSON lines: one JSON object per line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.json

from dask_als.core.arrow_memory import copied
from dask_als.data.csv_text import Malformed, Parsed
from dask_als.errors import InputError

_LINES_OF_NAMES = 100
_MOST_SHOWN = 200
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class JsonFormat:
    """The form of a file of JSON lines.

    Attributes
    ----------
    names : tuple of str
        The keys of the first objects.
    first_line : str
        The first object, for messages.
    header_bytes : int
        Offset of the first byte that is text.
    """

    names: tuple[str, ...]
    first_line: str
    header_bytes: int = 0
    encoding: str | None = None
    has_header: bool = True
    is_plain: bool = False

    def __str__(self) -> str:
        return f"JSON lines, {len(self.names)} keys"


def find_json_format(start: bytes, path: str) -> JsonFormat | None:
    """Return the form of a file that starts with a JSON object; None for another one.

    Raises
    ------
    InputError
        If the file is JSON, but not one object per line.
    """
    text = start.removeprefix(_BOM)
    first = text.lstrip()[:1]
    if first not in (b"{", b"["):
        return None
    lines = list(islice(_lines(text), _LINES_OF_NAMES))
    lines = [line.decode(errors="replace").encode() for line in lines]
    record = _object(lines[0])
    if record is None:
        if first == b"[" and _is_json_array(text.lstrip()):
            raise InputError(
                f"{path} is an array of JSON; write one object per line (JSON lines) instead"
            )
        return None
    names = dict.fromkeys(record)
    for line in lines[1:]:
        names.update(dict.fromkeys(_object(line) or {}))
    shown = lines[0][:_MOST_SHOWN].decode(errors="replace")
    return JsonFormat(tuple(names), shown, len(start) - len(text))


def _lines(text: bytes) -> Iterator[bytes]:
    """Yield the lines that are not blank."""
    return (m.group() for m in re.finditer(rb"[^\r\n]++", text) if m.group().strip())


def _is_json_array(text: bytes) -> bool:
    return re.match(rb"\[\s*[{\[]", text) is not None


def _object(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        value = json.loads(line)
        if isinstance(value, dict):
            return value
    return None


def parse_json(
    text: bytes, json_format: JsonFormat, columns: dict[str, str], as_text: frozenset[str]
) -> Parsed:
    """Parse lines; values of other keys than those of `columns` are ignored.

    Parameters
    ----------
    text : bytes
        Complete lines.
    columns : dict of str to str
        Field of a rating -> key.
    as_text : frozenset of str
        Not used: JSON tells numbers from text.
    """
    with suppress(pa.ArrowInvalid):
        return Parsed(_parse_with_arrow(text, columns), [], len(text))
    rows: list[list[Any]] = []
    malformed: list[Malformed] = []
    for number, line in enumerate(_lines(text)):
        record = _object(line)
        values = [] if record is None else [record.get(key) for key in columns.values()]
        if record is None:
            wrong = "not a JSON object"
        elif any(isinstance(value, dict | list | bool) for value in values):
            wrong = "a value is neither a number nor a text"
        else:
            rows.append(values)
            continue
        shown = line[:_MOST_SHOWN].decode(errors="backslashreplace")
        malformed.append((number, f"{wrong}: {shown}"))
    by_column = zip(*rows, strict=True) if rows else ([] for _ in columns)
    table = pa.table(
        {field: _column(list(values)) for field, values in zip(columns, by_column, strict=True)}
    )
    return Parsed(table, malformed, len(text))


def _parse_with_arrow(text: bytes, columns: dict[str, str]) -> pa.Table:
    """Parse lines of which all have the types of the first; raise ArrowInvalid otherwise."""
    record = _object(next(_lines(text), b""))
    if record is None:
        raise pa.ArrowInvalid("the first line is not an object")
    types = {}
    for field, key in columns.items():
        value = record.get(key)
        if isinstance(value, str):
            types[key] = pa.string()
        elif isinstance(value, int | float) and not isinstance(value, bool):
            is_whole = isinstance(value, int) and field != "rating"
            types[key] = pa.int64() if is_whole else pa.float64()
        else:
            raise pa.ArrowInvalid("the first line has no such value")
    table: pa.Table = pyarrow.json.read_json(
        pa.BufferReader(copied(text)),
        read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(text) + 1),
        parse_options=pyarrow.json.ParseOptions(
            explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="ignore"
        ),
    )
    table.validate(full=True)  # Text that is not UTF-8 is not checked before.
    return table.select(list(columns.values())).rename_columns(list(columns))


def _column(values: list[Any]) -> pa.Array:
    """Return values as numbers if none of them is text, else as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int}:
        with suppress(OverflowError, pa.ArrowInvalid):
            return pa.array(values, pa.int64())
        with suppress(OverflowError, pa.ArrowInvalid):
            return pa.array(values, pa.uint64())
    elif kinds <= {int, float} and kinds:
        with suppress(OverflowError, pa.ArrowInvalid):
            return pa.array([None if value is None else float(value) for value in values])
    return pa.array([None if value is None else str(value) for value in values], pa.string())
