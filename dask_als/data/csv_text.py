"""Parse delimited text.

A record is a line, or several if a quoted field contains line ends. Line ends may be LF, CRLF or
CR, and mixed. Comments and blank lines are no records.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from dask_als.core.arrow_memory import copied
from dask_als.data.text_form import SPACE, CsvFormat
from dask_als.errors import InputError

LINE_END = re.compile(rb"[\r\n]")
LONGEST_RECORD_BYTES = 64 << 20
_NUMBER_TYPES = {
    "user": pa.int64(),
    "item": pa.int64(),
    "rating": pa.float64(),
    "time": pa.int64(),
    "weight": pa.float64(),
}
_ID_FIELDS = frozenset({"user", "item"})
_MOST_SHOWN = 200
_DIGITS = 10
_SCANNED_AT_ONCE = 1 << 16
_SEPARATORS = [bytes([code]) for code in (31, 30, 29, 28, *range(1, 9), *range(14, 28))]
_BLANKS_AT_EDGES = re.compile(
    rb"(?:\A|(?<=[\r\n]))[ \t]++|(?<![ \t])[ \t]++(?=[\r\n]|\Z)",
)
_BLANKS = re.compile(rb'"[^"\r\n]*+"|[ \t]++')

Malformed = tuple[int, str]
"""A record that cannot be parsed: its number in the text, from 0, and the reason."""


class Parsed(NamedTuple):
    """Parsed text.

    Attributes
    ----------
    table : pyarrow.Table
        The well-formed records, with columns named by the fields of a rating.
    malformed : list of (int, str)
        The malformed records.
    end : int
        Offset after the last record. Less than asked for if a quoted field is not closed in the
        text.
    """

    table: pa.Table
    malformed: list[Malformed]
    end: int


def parse(
    text: bytes,
    csv_format: CsvFormat,
    columns: dict[str, str],
    as_text: frozenset[str],
    *,
    stop: int | None = None,
    is_all: bool = True,
) -> Parsed:
    """Parse lines.

    Columns are numbers if all values of user, item, rating and time are numbers, else bytes.

    Parameters
    ----------
    text : bytes
        Complete lines without the header.
    columns : dict of str to str
        Field of a rating -> column name, for the columns to read.
    as_text : frozenset of str
        Fields whose columns are always bytes.
    stop : int, optional
        Parse the records that start before this offset, which follows a line end; by default all.
    is_all : bool, optional
        Whether the file ends with the text.
    """
    stop = len(text) if stop is None else stop
    names = csv_format.names
    if csv_format.quotes_span_lines and b'"' in text:
        lines = _Lines(csv_format.delimiter_bytes, len(names), spans_lines=True)
        wellformed, malformed, end = lines.scan(text, stop, csv_format.comment, is_all)
        wellformed = _decoded(wellformed, csv_format)
        table = _parse_as(wellformed, csv_format, csv_format.delimiter_bytes, columns, {})
        return Parsed(table, malformed, end)
    body = text if stop == len(text) else text[:stop]
    if csv_format.comment:
        body = _without_comments(body, csv_format.comment)
    body, delimiter = _with_single_byte(_decoded(body, csv_format), csv_format)
    if b'"' not in body or not csv_format.has_quotes:
        with suppress(pa.ArrowInvalid):
            return Parsed(_parse_numbers(body, csv_format, delimiter, columns, as_text), [], stop)
        with suppress(pa.ArrowInvalid):
            return Parsed(_parse_as(body, csv_format, delimiter, columns, {}), [], stop)
    lines = _Lines(delimiter, len(names), has_quotes=csv_format.has_quotes)
    wellformed, malformed, _ = lines.scan(body, len(body), b"", True)
    if delimiter != csv_format.delimiter_bytes:
        shown = delimiter.decode()
        malformed = [(n, why.replace(shown, csv_format.delimiter)) for n, why in malformed]
    return Parsed(_parse_as(wellformed, csv_format, delimiter, columns, {}), malformed, stop)


def _decoded(text: bytes, csv_format: CsvFormat) -> bytes:
    """Return text as UTF-8."""
    if csv_format.encoding is None:
        return text
    return text.decode(csv_format.encoding, errors="replace").encode()


def _without_comments(text: bytes, comment: bytes) -> bytes:
    return re.sub(rb"(?:\A|(?<=[\r\n]))%b[^\r\n]*+" % re.escape(comment), b"", text)


def _with_single_byte(text: bytes, csv_format: CsvFormat) -> tuple[bytes, bytes]:
    """Return text whose delimiter is a single byte, as Arrow requires, and that byte."""
    delimiter = csv_format.delimiter.encode()
    if len(delimiter) == 1 and csv_format.delimiter != SPACE:
        return text, delimiter
    single = next((byte for byte in _SEPARATORS if byte not in text), None)
    if single is None:
        raise InputError(f"a text with the delimiter {csv_format.delimiter!r} is not text")
    if csv_format.delimiter != SPACE:
        return text.replace(delimiter, single), single
    text = _BLANKS_AT_EDGES.sub(b"", text)
    return _BLANKS.sub(lambda m: m.group() if m.group()[0] == ord('"') else single, text), single


def _parse_numbers(
    text: bytes,
    csv_format: CsvFormat,
    delimiter: bytes,
    columns: dict[str, str],
    as_text: frozenset[str],
) -> pa.Table:
    """Parse text without any unusable value; raise ArrowInvalid if there is one."""
    # Searching for one byte is much faster than searching for two.
    if any(letter in text and b"0" + letter in text for letter in (b"x", b"X")):
        raise pa.ArrowInvalid("Arrow would take hexadecimal numbers for ids")
    if not as_text.issuperset(_ID_FIELDS & columns.keys()) and _has_leading_zeros(text, delimiter):
        raise pa.ArrowInvalid("Arrow would drop leading zeros of ids")
    types = {field: kind for field, kind in _NUMBER_TYPES.items() if field not in as_text}
    table = _parse_as(text, csv_format, delimiter, columns, types)
    if any(column.null_count for column in table.columns):
        raise pa.ArrowInvalid("a value is missing")
    if "rating" in columns and not pc.all(pc.is_finite(_float32(table["rating"]))).as_py():
        raise pa.ArrowInvalid("a rating is not finite")
    return table


def _has_leading_zeros(text: bytes, delimiter: bytes) -> bool:
    """Return whether a value may be a number with zeros before its first digit."""
    if re.match(rb"0[0-9]|-0", text):
        return True
    starts = [delimiter, *(byte for byte in (b"\n", b"\r", b" ") if byte in text)]
    if b"-" in text and any(before + b"-0" in text for before in starts):
        return True
    codes = np.frombuffer(text, np.uint8)
    return any(
        _has_zero_before_digit(codes[at : at + _SCANNED_AT_ONCE + 2], starts)
        for at in range(0, len(codes), _SCANNED_AT_ONCE)
    )


def _has_zero_before_digit(codes: np.ndarray, starts: list[bytes]) -> bool:
    """Return whether one of these bytes, a zero and a digit follow each other."""
    found = codes[1:-1] == ord("0")
    found &= codes[2:] - np.uint8(ord("0")) < _DIGITS  # what is less than a 0 wraps around
    is_start = codes[:-2] == ord(starts[0])
    for before in starts[1:]:
        is_start |= codes[:-2] == ord(before)
    found &= is_start
    return bool(found.any())


def _float32(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.float32(), safe=False)


def _parse_as(
    text: bytes,
    csv_format: CsvFormat,
    delimiter: bytes,
    columns: dict[str, str],
    types: dict[str, pa.DataType],
) -> pa.Table:
    """Parse columns as these types, by default bytes; raise ArrowInvalid at the first failure."""
    column_types = {name: types.get(field, pa.binary()) for field, name in columns.items()}
    if not re.search(rb"[^\r\n]", text):
        return pa.table(
            {field: pa.array([], column_types[name]) for field, name in columns.items()}
        )
    has_quotes = csv_format.has_quotes and b'"' in text
    return pyarrow.csv.read_csv(
        pa.BufferReader(copied(text)),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, column_names=list(csv_format.names), block_size=len(text) + 1
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=delimiter.decode(),
            quote_char='"' if has_quotes else False,
            newlines_in_values=has_quotes and csv_format.quotes_span_lines,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=column_types,
            include_columns=list(columns.values()),
            null_values=[""],
            strings_can_be_null=True,
            decimal_point=csv_format.decimal,
        ),
    ).rename_columns(list(columns))


class _Lines:
    """Finds the records of text that Arrow cannot parse as a whole."""

    def __init__(
        self,
        delimiter: bytes,
        n_columns: int,
        *,
        has_quotes: bool = True,
        spans_lines: bool = False,
    ) -> None:
        self.field = _field(delimiter, has_quotes, spans_lines)
        self.delimiter = re.escape(delimiter)
        self.n_columns = n_columns

    def scan(
        self, text: bytes, stop: int, comment: bytes, is_all: bool
    ) -> tuple[bytes, list[Malformed], int]:
        """Return the well-formed records that start before `stop`, the malformed ones, the end."""
        field, delimiter = self.field, self.delimiter
        no_comment = b"(?!%b)" % re.escape(comment) if comment else b""
        fields = b"%b%b(?:%b%b)" % (no_comment, field, delimiter, field)
        record = fields + b"{%d}" % (self.n_columns - 1)
        records = _compiled(rb"[\r\n]*+(?:%b(?:[\r\n]++|\Z))*+" % record)
        end_of_record = rb"(?:[\r\n]++|\Z)" if is_all else rb"[\r\n]++"
        one_record = _compiled(record + end_of_record)
        any_record = _compiled(fields + b"*+" + end_of_record)
        is_open = _compiled(rb'(?:%b%b)*+"[^"]*+(?:""[^"]*+)*+\Z' % (field, delimiter))
        runs: list[bytes] = []
        malformed: list[tuple[int, str]] = []
        position = 0
        while position < stop:
            run = records.match(text, position, stop)
            assert run is not None, "the pattern also matches the empty text"
            runs.append(run.group())
            position = run.end()
            if position >= stop:
                break
            if one := one_record.match(text, position):
                runs.append(one.group())
                position = one.end()
                continue
            line_end = LINE_END.search(text, position)
            line_stop = line_end.end() if line_end else len(text)
            if comment and text.startswith(comment, position):
                position = line_stop
                continue
            if whole := any_record.match(text, position):
                wrong = self._wrong_columns(whole.group())
                line_stop = whole.end()
            else:
                is_near = len(text) - position < LONGEST_RECORD_BYTES
                if not is_all and is_near and is_open.match(text, position):
                    break
                wrong = "a quote is out of place or not closed"
            malformed.append((len(runs), f"{wrong}: {_shown(text[position:line_stop])}"))
            position = line_stop
        if malformed:
            complete = _compiled(record + rb"(?:[\r\n]++|\Z)")
            counts = np.cumsum([0, *(_n_matches(complete, run) for run in runs)])
            malformed = [(int(counts[n]) + i, why) for i, (n, why) in enumerate(malformed)]
        return b"".join(runs), malformed, position

    def _wrong_columns(self, record: bytes) -> str:
        record = record.rstrip(b"\r\n")
        n_columns = len(re.findall(rb"%b%b" % (self.delimiter, self.field), record)) + 1
        return f"{n_columns} columns instead of {self.n_columns}"


def _n_matches(record: re.Pattern[bytes], run: bytes) -> int:
    """Count the records in well-formed text."""
    return sum(1 for match in record.finditer(run.lstrip(b"\r\n")) if match.group())


def _shown(record: bytes) -> str:
    return record.rstrip(b"\r\n")[:_MOST_SHOWN].decode(errors="backslashreplace")


_compiled = lru_cache(maxsize=64)(re.compile)


@lru_cache
def _field(delimiter: bytes, has_quotes: bool, spans_lines: bool) -> bytes:
    """Return a pattern of a field: quoted, with doubled quotes in it, or not quoted."""
    escaped = re.escape(delimiter)
    if not has_quotes:
        return rb"[^\r\n%b]*+" % escaped
    line_ends = b"" if spans_lines else rb"\r\n"
    return rb'(?:[^"\r\n%b][^\r\n%b]*+|"[^"%b]*+(?:""[^"%b]*+)*+"|)' % (
        escaped,
        escaped,
        line_ends,
        line_ends,
    )
