"""The user's files, cut into chunks that a worker reads by itself, as raw columns.

CSV is cut at line ends, Parquet at row groups; compressed CSV is one chunk, read in blocks. Nothing
is judged here: what is usable is for `dask_als.clean` to say.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import IO, Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from fsspec.utils import read_block

from dask_als import storage
from dask_als.errors import InputError
from dask_als.settings import Columns

_BLOCK_BYTES = 32 << 20
_ROWS_A_BLOCK = 1 << 20
_HEADER_BYTES = 1 << 20
_DELIMITERS = (",", "\t", ";", "|")
_GROUPLENS_RATINGS = "ratings.csv"
_GROUPLENS_TITLES = "movies.csv"


@dataclass(frozen=True)
class Raw:
    """Some rows of a source as they are, renamed to user, item, rating, time.

    Attributes
    ----------
    table : pyarrow.Table
        Columns of whatever type; text columns of CSV are binary.
    numbers : ndarray of int64, shape (n_rows,)
        The rows' numbers within the block, from 0, malformed rows counted.
    malformed : list of (int, str)
        Rows that could not be cut into columns: number and what is wrong.
    is_text : bool
        Whether values are text of anything, as in CSV, so that ids may be numbers.
    """

    table: pa.Table
    numbers: np.ndarray
    malformed: list[tuple[int, str]]
    is_text: bool

    @property
    def n_rows(self) -> int:
        """All rows, malformed ones included."""
        return self.table.num_rows + len(self.malformed)


@dataclass(frozen=True)
class CsvFormat:
    """How the lines of a CSV file are cut.

    Attributes
    ----------
    names : tuple of str
        The columns, from the header.
    delimiter : str
    header_bytes : int
        Where the first line after the header starts.
    """

    names: tuple[str, ...]
    delimiter: str
    header_bytes: int


@dataclass(frozen=True)
class CsvRange:
    """The lines that start within a range of bytes of a plain CSV file."""

    path: str
    format: CsvFormat
    start: int
    stop: int

    def blocks(self, columns: Columns) -> Iterator[Raw]:
        """Read the lines."""
        with storage.opened(self.path) as file:
            text = read_block(file, self.start, self.stop - self.start, delimiter=b"\n")
        yield _parse_csv(text, self.format, columns)


@dataclass(frozen=True)
class CsvStream:
    """A compressed CSV file, read from its start.

    Attributes
    ----------
    path : str
    member : str or None
        The file within a zip archive; None for gzip.
    format : CsvFormat
    """

    path: str
    member: str | None
    format: CsvFormat

    def blocks(self, columns: Columns) -> Iterator[Raw]:
        """Read the lines, a block at a time."""
        with _opened_text(self.path, self.member) as file:
            file.read(self.format.header_bytes)
            rest = b""
            while data := file.read(_BLOCK_BYTES):
                lines, line_end, rest = (rest + data).rpartition(b"\n")
                yield _parse_csv(lines + line_end, self.format, columns)
            yield _parse_csv(rest, self.format, columns)


@dataclass(frozen=True)
class ParquetGroups:
    """Some row groups of a Parquet file."""

    path: str
    groups: tuple[int, ...]

    def blocks(self, columns: Columns) -> Iterator[Raw]:
        """Read the rows, a block at a time."""
        names = columns.names()
        with storage.opened(self.path) as file:
            batches = pq.ParquetFile(file).iter_batches(
                _ROWS_A_BLOCK, row_groups=list(self.groups), columns=list(names.values())
            )
            for batch in batches:
                table = pa.Table.from_batches([batch]).select(list(names.values()))
                table = table.rename_columns(list(names))
                yield Raw(table, np.arange(table.num_rows), [], is_text=False)


Chunk = CsvRange | CsvStream | ParquetGroups


@dataclass(frozen=True)
class Source:
    """Where ratings come from.

    Attributes
    ----------
    path : str
        As the user gave it.
    chunks : tuple of Chunk
        In the order of the source.
    columns : tuple of str
        The columns that every file has, in the first file's order.
    titles : tuple of (str, str or None), optional
        Path and archive member of titles that came with the ratings.
    """

    path: str
    chunks: tuple[Chunk, ...]
    columns: tuple[str, ...]
    titles: tuple[str, str | None] | None = field(default=None)


def open_source(path: str) -> Source:
    """Find out what a source holds: a file, a folder or a glob of CSV or Parquet.

    Raises
    ------
    InputError
        If nothing is there, or something that cannot be read.
    """
    files, titles = _files_of(path)
    chunks: list[Chunk] = []
    columns: list[str] | None = None
    for file, member in files:
        try:
            its_columns, its_chunks = _inspect(file, member)
        except (pa.ArrowException, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{file} cannot be read: {storage.first_line(error)}") from None
        chunks += its_chunks
        columns = [name for name in columns or its_columns if name in its_columns]
    return Source(path, tuple(chunks), tuple(columns or ()), titles)


def read_titles(path: str, member: str | None, item: str, title: str) -> pa.Table:
    """Read the titles of items from a CSV file.

    Returns
    -------
    pyarrow.Table
        Columns ``id`` (text) and ``title``.

    Raises
    ------
    InputError
        If the file or one of its columns is missing.
    """
    if not storage.exists(path):
        raise InputError(f"there is no file of titles at {path}")
    with _opened_text(path, member) as file:
        text = file.read()
    names = _csv_format(text[:_HEADER_BYTES], path).names
    for name in (item, title):
        if name not in names:
            raise InputError(f"{path} has no column {name!r}; it has {', '.join(names)}")
    text_columns = {item: pa.string(), title: pa.string()}
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=text_columns, include_columns=[item, title]
        ),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
    )
    return table.rename_columns(["id", "title"])


def _files_of(path: str) -> tuple[list[tuple[str, str | None]], tuple[str, str | None] | None]:
    """Return the files (with archive member) to read, and titles in GroupLens' layout."""
    filesystem, inner = fsspec.core.url_to_fs(path)
    if any(letter in inner for letter in "*?["):
        names = sorted(filesystem.glob(inner))
    elif not filesystem.exists(inner):
        raise InputError(f"there is no file or folder at {path}")
    elif filesystem.isdir(inner):
        names = sorted(filesystem.find(inner))
        by_name = {name.rsplit("/", 1)[-1]: name for name in names}
        if _GROUPLENS_RATINGS in by_name:
            titles = by_name.get(_GROUPLENS_TITLES)
            return [(by_name[_GROUPLENS_RATINGS], None)], (titles, None) if titles else None
    else:
        names = [inner]
    names = [name for name in names if _is_readable(name)]
    if not names:
        raise InputError(f"{path} holds no .csv, .csv.gz, .zip or .parquet file")
    if len(names) == 1 and names[0].endswith(".zip"):
        ratings, titles = _members_of_zip(names[0])
        return [(names[0], ratings)], (names[0], titles) if titles else None
    return [
        (name, _members_of_zip(name)[0] if name.endswith(".zip") else None) for name in names
    ], None


def _is_readable(name: str) -> bool:
    hidden = name.rsplit("/", 1)[-1].startswith(("_", "."))
    return not hidden and name.endswith((".csv", ".tsv", ".gz", ".zip", ".parquet", ".pq"))


def _members_of_zip(path: str) -> tuple[str, str | None]:
    try:
        with storage.opened(path) as file, zipfile.ZipFile(file) as archive:
            names = [name for name in archive.namelist() if name.endswith((".csv", ".tsv"))]
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    by_name = {name.rsplit("/", 1)[-1]: name for name in names}
    if _GROUPLENS_RATINGS in by_name:
        return by_name[_GROUPLENS_RATINGS], by_name.get(_GROUPLENS_TITLES)
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise InputError(
            f"{path} must hold one CSV file, or one named {_GROUPLENS_RATINGS}; it holds {found}"
        )
    return names[0], None


def _inspect(path: str, member: str | None) -> tuple[list[str], list[Chunk]]:
    """Return a file's columns and its chunks."""
    if path.endswith((".parquet", ".pq")):
        with storage.opened(path) as file:
            parquet = pq.ParquetFile(file)
            rows = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            columns = parquet.schema_arrow.names
        return columns, [ParquetGroups(path, groups) for groups in _grouped(rows)]
    with _opened_text(path, member) as file:
        csv_format = _csv_format(file.read(_HEADER_BYTES), path)
    columns = list(csv_format.names)
    if member is not None or path.endswith(".gz"):
        return columns, [CsvStream(path, member, csv_format)]
    filesystem, inner = fsspec.core.url_to_fs(path)
    size = filesystem.size(inner)
    # fsspec's read_block starts after the first line end at or behind `start`, unless that is 0.
    edges = [csv_format.header_bytes - 1, *range(_BLOCK_BYTES, size, _BLOCK_BYTES), size]
    return columns, [
        CsvRange(path, csv_format, start, stop) for start, stop in pairwise(edges) if start < stop
    ]


def _grouped(rows: list[int]) -> list[tuple[int, ...]]:
    """Put consecutive row groups together until they hold about a block's rows."""
    groups: list[tuple[int, ...]] = []
    held = _ROWS_A_BLOCK
    for number, n_rows in enumerate(rows):
        if held + n_rows > _ROWS_A_BLOCK:
            groups.append(())
            held = 0
        groups[-1] += (number,)
        held += n_rows
    return groups


@contextmanager
def _opened_text(path: str, member: str | None) -> Iterator[IO[bytes]]:
    if member is not None:
        with (
            storage.opened(path) as file,
            zipfile.ZipFile(file) as archive,
            archive.open(member) as text,
        ):
            yield text
    else:
        with fsspec.open(path, "rb", compression="gzip" if path.endswith(".gz") else None) as text:
            yield text


def _csv_format(start: bytes, path: str) -> CsvFormat:
    header, line_end, _ = start.partition(b"\n")
    if not header.strip():
        raise InputError(f"{path} is empty")
    text = header.decode("utf-8-sig", errors="replace").rstrip("\r")
    delimiter = max(_DELIMITERS, key=text.count)
    names = next(csv.reader(io.StringIO(text), delimiter=delimiter))
    return CsvFormat(tuple(name.strip() for name in names), delimiter, len(header) + len(line_end))


def _parse_csv(text: bytes, csv_format: CsvFormat, columns: Columns) -> Raw:
    """Cut lines into columns; numbers are parsed if all of them are, else all stays text."""
    number_types = {"user": pa.int64(), "item": pa.int64(), "rating": pa.float64()}
    try:
        return _parse_csv_as(text, csv_format, columns, {**number_types, "time": pa.int64()})
    except pa.ArrowInvalid:
        return _parse_csv_as(text, csv_format, columns, {})


def _parse_csv_as(
    text: bytes, csv_format: CsvFormat, columns: Columns, types: dict[str, pa.DataType]
) -> Raw:
    names = columns.names()
    malformed: list[tuple[int, str]] = []

    def skip(row: Any) -> str:
        wrong = f"{row.actual_columns} columns instead of {row.expected_columns}: {row.text[:200]}"
        malformed.append((row.number - 1, wrong))
        return "skip"

    if not text.strip():
        empty = pa.table({word: pa.array([], pa.binary()) for word in names})
        return Raw(empty, np.arange(0), [], is_text=True)
    table = pyarrow.csv.read_csv(
        pa.BufferReader(text),
        # Row numbers are known only when one thread reads.
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, column_names=list(csv_format.names), block_size=len(text) + 1
        ),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=csv_format.delimiter, invalid_row_handler=skip
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={name: types.get(word, pa.binary()) for word, name in names.items()},
            include_columns=list(names.values()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    ).rename_columns(list(names))
    numbers = np.arange(table.num_rows + len(malformed))
    numbers = np.delete(numbers, [number for number, _ in malformed])
    return Raw(table, numbers, malformed, is_text=True)
