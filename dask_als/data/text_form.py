"""Find the form of a text file: delimiter, header, comments and columns, from its first bytes."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from dask_als.data.grouplens import columns_of
from dask_als.errors import InputError
from dask_als.settings.data import Columns

SPACE = " "
"""The delimiter that stands for any run of blanks and tabs."""

_DELIMITERS = (",", "\t", ";", "|", "::")
_NAMES = {",": "comma", "\t": "tab", SPACE: "spaces"}
_COMMENTS = (b"#", b"%")
_BOM = codecs.BOM_UTF8
_LINE = re.compile(rb"([^\r\n]*)([\r\n]?)")
_SAMPLE_BYTES = 1 << 16
_SAMPLE_RECORDS = 20
_MOST_SHOWN = 200
# More would only slow down the parser: each block has a buffer for each column.
_MOST_COLUMNS = 10_000
_MISSING = ("", "na", "null", r"\n", "none")


class EmptyFile(InputError):
    """A file without any record or header."""


@dataclass(frozen=True)
class CsvFormat:
    """The form of a delimited text file.

    Attributes
    ----------
    names : tuple of str
        The names of the columns: from the header, else their positions from 0.
    delimiter : str
        One or several characters; `SPACE` is any run of blanks.
    header_bytes : int
        Offset of the first byte after comments and header.
    has_header : bool
    first_line : str
        The header, or else the first record, for messages.
    comment : bytes
        Lines with this start are skipped; empty skips none.
    decimal : {".", ","}
    encoding : str or None
        None is UTF-8.
    n_comments : int
        Lines of comment before the header.
    """

    names: tuple[str, ...]
    delimiter: str
    header_bytes: int
    has_header: bool = True
    first_line: str = ""
    comment: bytes = b""
    decimal: str = "."
    encoding: str | None = None
    n_comments: int = 0

    @property
    def has_quotes(self) -> bool:
        """Whether fields may be quoted; files with `::` and the like have no quoted fields."""
        return len(self.delimiter.encode()) == 1

    @property
    def quotes_span_lines(self) -> bool:
        """Whether a quoted field may contain line ends."""
        return self.has_quotes and self.delimiter != SPACE

    @property
    def delimiter_bytes(self) -> bytes:
        """The delimiter as it is in the file."""
        return self.delimiter.encode(self.encoding or "utf-8")

    @property
    def is_plain(self) -> bool:
        """Whether the form is the usual one: commas and a header, in UTF-8."""
        return (self.delimiter, self.has_header, self.encoding, self.n_comments) == (
            ",",
            True,
            None,
            0,
        )

    def __str__(self) -> str:
        delimiter = _NAMES.get(self.delimiter, repr(self.delimiter))
        facts = [
            f"delimiter {delimiter}",
            f"{len(self.names)} columns" if len(self.names) > 1 else "1 column",
            "a header" if self.has_header else "no header",
        ]
        if self.n_comments:
            lines = "line" if self.n_comments == 1 else "lines"
            facts.append(f"{self.n_comments} comment {lines} before")
        if self.encoding:
            facts.append(self.encoding)
        return ", ".join(facts)


def find_format(start: bytes, path: str, columns: Columns, *, is_all: bool) -> CsvFormat:
    """Find the form of a delimited text file.

    Parameters
    ----------
    start : bytes
        The start of the file.
    path : str
        The file, for its name and for errors.
    columns : Columns
        What is known: the wanted columns, and settings that need not be found.
    is_all : bool
        Whether `start` is the whole file.

    Raises
    ------
    InputError
        If the file is not text, or its form is ambiguous.
    """
    encoding = None if columns.encoding in (None, "utf-8") else columns.encoding
    leading, first = _leading_comments(start, columns.comment)
    line, line_end = first.groups()
    if not line.strip() and leading and columns.comment is None:
        raise InputError(
            f"{path} holds only comments, as {leading[0][:_MOST_SHOWN]!r}; if these are records, "
            "give --comment ''"
        )
    if not line.strip():
        raise EmptyFile(f"{path} is empty")
    if b"\0" in line:
        raise InputError(
            f"{path} is not CSV text in UTF-8; if it is text, give its --encoding, such as "
            "utf-16-le"
        )
    if not line_end and not is_all:
        raise InputError(f"{path} has a first line of more than {len(start):,} bytes; is it CSV?")
    whole = start if is_all else start[: max(start.rfind(b"\n"), start.rfind(b"\r")) + 1]
    sample = whole[first.start() : max(first.end(), first.start() + _SAMPLE_BYTES)]
    text = sample.decode(encoding or "utf-8", errors="replace")
    delimiter = columns.delimiter or _find_delimiter(text, columns.decimal)
    try:
        fields = next(_records(text, delimiter))
    except csv.Error as error:
        raise InputError(f"{path} has a header that cannot be read: {error}") from None
    if len(fields) > _MOST_COLUMNS:
        raise InputError(
            f"{path} has a header of {len(fields):,} columns; at most {_MOST_COLUMNS:,} are read"
        )
    shown = line.decode(encoding or "utf-8", errors="replace")[:_MOST_SHOWN]
    _check_comments(leading, len(fields), delimiter, path)
    fields = [field.strip() for field in fields]
    has_header = _has_header(fields, columns, path, shown)
    return CsvFormat(
        names=tuple(fields) if has_header else _names_by_position(len(fields), path),
        delimiter=delimiter,
        header_bytes=first.end() if has_header else first.start(),
        has_header=has_header,
        first_line=shown,
        comment=(columns.comment or "").encode(),
        decimal=columns.decimal,
        encoding=encoding,
        n_comments=len(leading),
    )


def _leading_comments(start: bytes, comment: str | None) -> tuple[list[str], re.Match[bytes]]:
    """Return the comments before the first line that is none, and the match of that line."""
    prefixes = _COMMENTS if comment is None else (comment.encode(),) if comment else ()
    found: list[str] = []
    position = len(_BOM) if start.startswith(_BOM) else 0
    while True:
        line = _LINE.match(start, position)
        assert line is not None, "the pattern matches any text"
        content = line.group(1)
        if content and content.startswith(prefixes):
            found.append(content.decode(errors="replace") if comment is None else "")
        elif content or line.end() == len(start):
            return found, line
        position = line.end()


def _check_comments(comments: list[str], n_columns: int, delimiter: str, path: str) -> None:
    """Raise InputError if a line that was taken for a comment may be a record or a header."""
    for comment in comments:
        if n_columns > 1 and len(next(_records(comment, delimiter), [])) == n_columns:
            raise InputError(
                f"{path} starts with the line {comment[:_MOST_SHOWN]!r}, which may be a comment or "
                f"not: give --comment {comment[0]!r} to skip such lines, or --comment ''"
            )


def _find_delimiter(text: str, decimal: str) -> str:
    """Return the delimiter that gives the first records the same number of columns, and most.

    Blanks are one if nothing else is, and a comma that is the decimal mark if blanks are none.
    """
    candidates = [delimiter for delimiter in _DELIMITERS if delimiter != decimal]
    scores = [(*_agreement(text, delimiter), delimiter) for delimiter in candidates]
    n_agreeing, n_columns, delimiter = max(scores, key=lambda score: score[:2])
    if n_columns > 1:
        return delimiter
    n_agreeing, n_columns = _agreement(text, SPACE)
    return SPACE if n_columns > 1 and n_agreeing > 0.5 else ","


def _agreement(text: str, delimiter: str) -> tuple[float, int]:
    """Return which part of the records has as many columns as the first, and that number."""
    try:
        counts = [len(fields) for fields in islice(_records(text, delimiter), _SAMPLE_RECORDS)]
    except csv.Error:
        counts = [text.split("\n", 1)[0].count(delimiter) + 1]
    if not counts or counts[0] == 1:
        return 0.0, 1
    return counts.count(counts[0]) / len(counts), counts[0]


def _records(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yield the fields of the records that are not empty."""
    if len(delimiter) == 1 and delimiter != SPACE:
        yield from (
            fields
            for fields in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            if fields
        )
        return
    for line in re.split(r"[\r\n]+", text):
        if line.strip():
            yield line.split() if delimiter == SPACE else line.split(delimiter)


def _names_by_position(n_columns: int, path: str) -> tuple[str, ...]:
    """Return the names of columns without header: those of a MovieLens file, else positions."""
    known = columns_of(path) or ()
    if len(known) > n_columns:
        known = ()
    return (*known, *map(str, range(len(known), n_columns)))


def _has_header(fields: list[str], columns: Columns, path: str, line: str) -> bool:
    """Decide whether the first line holds the names of the columns.

    Raises
    ------
    InputError
        If it may hold names or values.
    """
    if columns.header is not None:
        return columns.header
    wanted = list(columns.names().values())
    positions = list(map(str, range(len(fields))))
    if fields == positions:
        raise _ambiguous(path, line)
    number = columns.names().get("rating")
    if number is not None:
        place = _position(number, fields)
        if place is not None:
            return not _is_value(fields[place], columns)
    if all(name in fields for name in wanted):
        return True
    if any(_is_number(field, columns) for field in fields):
        return False
    if all(name not in fields and name in positions for name in wanted):
        raise _ambiguous(path, line)
    return True


def _position(name: str, fields: list[str]) -> int | None:
    if name in fields:
        return fields.index(name)
    return int(name) if name.isdecimal() and int(name) < len(fields) else None


def _is_value(field: str, columns: Columns) -> bool:
    return field.lower() in _MISSING or _is_number(field, columns)


def _is_number(field: str, columns: Columns) -> bool:
    try:
        float(field.replace(",", ".") if columns.decimal == "," or "," in field else field)
    except ValueError:
        return False
    return True


def _ambiguous(path: str, line: str) -> InputError:
    return InputError(
        f"{path} starts with the line {line!r}, which may hold names or values: give --header or "
        "--no-header"
    )
