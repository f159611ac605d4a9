"""Read text files in chunks: ranges of bytes that workers read independently, or whole streams."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
import pyarrow as pa

from dask_als.core import storage
from dask_als.data import csv_text
from dask_als.data.compression import TextFile
from dask_als.data.csv_text import LINE_END, LONGEST_RECORD_BYTES, Malformed, Parsed
from dask_als.data.json_lines import JsonFormat, parse_json
from dask_als.data.text_form import CsvFormat
from dask_als.errors import InputError

BLOCK_BYTES = 16 << 20
_SCAN_BYTES = 1 << 16
_LONGEST_LINE_BYTES = LONGEST_RECORD_BYTES

TextFormat = CsvFormat | JsonFormat


@dataclass(frozen=True)
class Raw:
    """A block of records as read, with columns renamed to user, item, rating, time.

    Attributes
    ----------
    table : pyarrow.Table
        Columns of any type; text columns of CSV are binary.
    malformed : list of (int, str)
        Records that could not be parsed: number within the block, and the reason.
    is_text : bool
        Whether the source is text, as CSV is, so that ids may be numbers.
    span : (int, int) or None
        Of a range of a file: where the first record starts and the last one ends.
    """

    table: pa.Table
    malformed: list[Malformed]
    is_text: bool
    span: tuple[int, int] | None = None

    @property
    def n_rows(self) -> int:
        """Number of records, including malformed ones."""
        return self.table.num_rows + len(self.malformed)

    @property
    def numbers(self) -> np.ndarray:
        """The number of each row within the block, from 0, counting malformed records."""
        return np.delete(np.arange(self.n_rows), [number for number, _ in self.malformed])


@dataclass(frozen=True)
class TextRange:
    """The records of an uncompressed text file that start within a range of bytes.

    Attributes
    ----------
    path : str
    format : CsvFormat or JsonFormat
    start, stop : int
        The range, cut anywhere.
    first : int or None
        Where its first record starts. None takes the first line that starts in the range, which is
        wrong if a quoted field of the range before contains that line's start: then the end of the
        range before tells.
    """

    path: str
    format: TextFormat
    start: int
    stop: int
    first: int | None = None

    def blocks(self, names: dict[str, str], as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the records."""
        with storage.opened(self.path) as file:
            first = self.first
            if first is None:
                first = _behind_line_end(file, self.start - 1, self.path)
            stop = max(first, _behind_line_end(file, self.stop - 1, self.path))
            file.seek(first)
            text = file.read(stop - first)
            is_all = not file.read(1)
            while True:
                n_bytes = len(text)
                parsed = _parse(text, self.format, names, as_text, stop=stop - first, is_all=is_all)
                if parsed.end >= stop - first:
                    break
                # A quoted field is not closed here.
                file.seek(first + n_bytes)
                text += _read_lines(file, max(_SCAN_BYTES, n_bytes - parsed.end))
                is_all = len(text) == n_bytes
        yield _raw(parsed, self.format, (first, first + parsed.end))


@dataclass(frozen=True)
class TextStream:
    """A text file that is read from its start, as it is compressed."""

    file: TextFile
    format: TextFormat

    @property
    def path(self) -> str:
        """The path of the file."""
        return self.file.path

    def blocks(self, names: dict[str, str], as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the records block by block."""
        with self.file.opened() as file:
            file.read(self.format.header_bytes)
            rest = b""
            is_all = False
            while not is_all:
                data = file.read(BLOCK_BYTES)
                is_all = not data
                text = rest + data
                cut = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
                if is_all:
                    cut = len(text)
                    if not cut:
                        return
                _check_line(len(text) - cut, self.path)
                if not cut:
                    rest = text
                    continue
                parsed = _parse(text[:cut], self.format, names, as_text, is_all=is_all)
                rest = text[parsed.end :]
                if parsed.end:
                    yield _raw(parsed, self.format, None)


def _parse(
    text: bytes,
    text_format: TextFormat,
    names: dict[str, str],
    as_text: frozenset[str],
    *,
    stop: int | None = None,
    is_all: bool = True,
) -> Parsed:
    if isinstance(text_format, JsonFormat):
        return parse_json(text, text_format, names, as_text)
    return csv_text.parse(text, text_format, names, as_text, stop=stop, is_all=is_all)


def _raw(parsed: Parsed, text_format: TextFormat, span: tuple[int, int] | None) -> Raw:
    is_text = isinstance(text_format, CsvFormat)
    return Raw(parsed.table, parsed.malformed, is_text=is_text, span=span)


def _read_lines(file: IO[bytes], n_bytes: int) -> bytes:
    """Read at least so many bytes, up to a line end, or up to the end of the file."""
    pieces = [file.read(n_bytes)]
    while piece := file.read(_SCAN_BYTES):
        line_end = LINE_END.search(piece)
        pieces.append(piece[: line_end.end()] if line_end else piece)
        if line_end:
            file.seek(line_end.end() - len(piece), 1)
            break
    return b"".join(pieces)


def _behind_line_end(file: IO[bytes], position: int, path: str) -> int:
    """Return the start of the line after the first line end at or after a position."""
    if position < 0:
        return 0
    file.seek(position)
    passed = 0
    while data := file.read(_SCAN_BYTES):
        if line_end := LINE_END.search(data):
            return position + passed + line_end.end()
        passed += len(data)
        _check_line(passed, path)
    return position + passed


def _check_line(n_bytes: int, path: str) -> None:
    if n_bytes > _LONGEST_LINE_BYTES:
        raise InputError(
            f"{path} has a line of more than {_LONGEST_LINE_BYTES:,} bytes; is it CSV?"
        )
