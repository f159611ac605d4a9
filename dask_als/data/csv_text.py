"""Parse CSV text.

A record is a line. Quoted fields may contain delimiters, but no line ends: so text can be cut at
any line end without changing its records. Line ends may be LF, CRLF or CR, and mixed.
"""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dask_als.core.arrow_memory import copied
from dask_als.errors import InputError

LINE_END = re.compile(rb"[\r\n]")
_DELIMITERS = (",", "\t", ";", "|")
_HEADER = re.compile(rb"(?:\xef\xbb\xbf)?[\r\n]*([^\r\n]*)([\r\n]?)")
_NUMBER_TYPES = {"user": pa.int64(), "item": pa.int64(), "rating": pa.float64(), "time": pa.int64()}
_MOST_SHOWN = 200

Malformed = tuple[int, str]
"""A record that cannot be parsed: its number in the text, from 0, and the reason."""


@dataclass(frozen=True)
class CsvFormat:
    """The format of a CSV file.

    Attributes
    ----------
    names : tuple of str
        The names of the columns, from the header.
    delimiter : str
    header_bytes : int
        Offset of the first byte after the header.
    """

    names: tuple[str, ...]
    delimiter: str
    header_bytes: int


def read_format(start: bytes, path: str, *, is_all: bool) -> CsvFormat:
    """Read the header.

    Parameters
    ----------
    start : bytes
        The start of the file.
    path : str
        The file, for errors.
    is_all : bool
        Whether `start` is the whole file.

    Raises
    ------
    InputError
        If the header cannot be read.
    """
    header = _HEADER.match(start)
    assert header is not None, "the pattern matches any text"
    line, line_end = header.groups()
    if not line.strip():
        raise InputError(f"{path} is empty")
    if b"\0" in line:
        raise InputError(f"{path} is not CSV text in UTF-8")
    if not line_end and not is_all:
        raise InputError(f"{path} has a first line of more than {len(start):,} bytes; is it CSV?")
    text = line.decode(errors="replace")
    delimiter = max(_DELIMITERS, key=text.count)
    try:
        names = next(csv.reader(io.StringIO(text), delimiter=delimiter))
    except csv.Error as error:
        raise InputError(f"{path} has a header that cannot be read: {error}") from None
    return CsvFormat(tuple(name.strip() for name in names), delimiter, header.end())


def parse(
    text: bytes, csv_format: CsvFormat, columns: dict[str, str], as_text: frozenset[str]
) -> tuple[pa.Table, list[Malformed]]:
    """Parse lines.

    Columns are numbers if all values of user, item, rating and time are numbers, else bytes.

    Parameters
    ----------
    text : bytes
        Lines without the header.
    columns : dict of str to str
        Field of a rating -> column name, for the columns to read.
    as_text : frozenset of str
        Fields whose columns are always bytes.

    Returns
    -------
    pyarrow.Table
        The well-formed records, with columns named by the fields of a rating.
    list of (int, str)
        The malformed records.
    """
    if b'"' not in text:
        with suppress(pa.ArrowInvalid):
            return _parse_numbers(text, csv_format, columns, as_text), []
        with suppress(pa.ArrowInvalid):
            return _parse_as(text, csv_format, columns, {}), []
    wellformed, malformed = _without_malformed(text, csv_format)
    return _parse_as(wellformed, csv_format, columns, {}), malformed


def _parse_numbers(
    text: bytes, csv_format: CsvFormat, columns: dict[str, str], as_text: frozenset[str]
) -> pa.Table:
    """Parse text without any unusable value; raise ArrowInvalid if there is one."""
    # Searching for one byte is much faster than searching for two.
    if any(letter in text and b"0" + letter in text for letter in (b"x", b"X")):
        raise pa.ArrowInvalid("Arrow would take hexadecimal numbers for ids")
    types = {word: kind for word, kind in _NUMBER_TYPES.items() if word not in as_text}
    table = _parse_as(text, csv_format, columns, types)
    if any(column.null_count for column in table.columns):
        raise pa.ArrowInvalid("a value is missing")
    if "rating" in columns and not pc.all(pc.is_finite(_float32(table["rating"]))).as_py():
        raise pa.ArrowInvalid("a rating is not finite")
    return table


def _float32(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.float32(), safe=False)


def _parse_as(
    text: bytes, csv_format: CsvFormat, columns: dict[str, str], types: dict[str, pa.DataType]
) -> pa.Table:
    """Parse columns as these types, by default bytes; raise ArrowInvalid at the first failure."""
    column_types = {name: types.get(word, pa.binary()) for word, name in columns.items()}
    if not re.search(rb"[^\r\n]", text):
        return pa.table({word: pa.array([], column_types[name]) for word, name in columns.items()})
    return pyarrow.csv.read_csv(
        pa.BufferReader(copied(text)),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, column_names=list(csv_format.names), block_size=len(text) + 1
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=csv_format.delimiter, quote_char='"' if b'"' in text else False
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=column_types,
            include_columns=list(columns.values()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    ).rename_columns(list(columns))


def _without_malformed(text: bytes, csv_format: CsvFormat) -> tuple[bytes, list[Malformed]]:
    """Return the well-formed lines, and the malformed ones with reasons."""
    wellformed = _wellformed_lines(csv_format.delimiter, len(csv_format.names))
    runs, starts, reasons = [], [], []
    position = 0
    while True:
        run = wellformed.match(text, position)
        assert run is not None, "the pattern also matches the empty text"
        runs.append(run.group())
        if run.end() == len(text):
            break
        line_end = LINE_END.search(text, run.end())
        position = line_end.end() if line_end else len(text)
        starts.append(run.end())
        reasons.append(_what_is_wrong(text[run.end() : position].rstrip(b"\r\n"), csv_format))
    numbers = np.searchsorted(_record_starts(text), starts)
    return b"".join(runs), list(zip(numbers.tolist(), reasons, strict=True))


def _record_starts(text: bytes) -> np.ndarray:
    """Return the offsets of the non-empty lines."""
    letters = np.frombuffer(text, np.uint8)
    is_text = (letters != ord("\n")) & (letters != ord("\r"))
    return np.flatnonzero(is_text & np.append(True, ~is_text[:-1]))


@lru_cache
def _field(delimiter: str) -> bytes:
    """Return a pattern of a field: quoted, with doubled quotes in it, or not quoted."""
    return rb'(?:[^"\r\n%b][^\r\n%b]*+|"(?:[^"\r\n]|"")*+"|)' % (
        (re.escape(delimiter.encode()),) * 2
    )


@lru_cache
def _wellformed_lines(delimiter: str, n_columns: int) -> re.Pattern[bytes]:
    """Return a pattern of the longest run of lines with the right number of columns."""
    field, escaped = _field(delimiter), re.escape(delimiter.encode())
    line = rb"%b(?:%b%b){%d}" % (field, escaped, field, n_columns - 1)
    return re.compile(rb"[\r\n]*(?:%b(?:[\r\n]+|\Z))*+" % line)


def _what_is_wrong(line: bytes, csv_format: CsvFormat) -> str:
    field, escaped = _field(csv_format.delimiter), re.escape(csv_format.delimiter.encode())
    if re.fullmatch(rb"%b(?:%b%b)*+" % (field, escaped, field), line):
        n_columns = len(re.findall(rb"%b%b" % (escaped, field), line)) + 1
        wrong = f"{n_columns} columns instead of {len(csv_format.names)}"
    else:
        wrong = "a quote is out of place or not closed"
    return f"{wrong}: {line[:_MOST_SHOWN].decode(errors='backslashreplace')}"
