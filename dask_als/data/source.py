"""Read the files of a source as raw columns, in chunks that workers read independently.

CSV is cut at line ends, Parquet at row groups. Compressed CSV is one chunk, read block by block.
`dask_als.data.clean` decides which rows are usable.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any, Protocol

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dask_als.core import storage
from dask_als.core.limits import read_text
from dask_als.data import csv_text
from dask_als.data.csv_text import LINE_END, CsvFormat, Malformed
from dask_als.errors import DaskALSError, InputError
from dask_als.settings.data import Columns

_BLOCK_BYTES = 16 << 20
_ROWS_A_BLOCK = 1 << 20
_HEADER_BYTES = 1 << 20
_LONGEST_LINE_BYTES = 64 << 20
_SCAN_BYTES = 1 << 16
_CSV = (".csv", ".tsv", ".gz", ".zip")
_PARQUET = (".parquet", ".pq")
_GROUPLENS_RATINGS = "ratings.csv"
_GROUPLENS_TITLES = "movies.csv"
_READ_ERRORS = (
    pa.ArrowException,
    OSError,
    EOFError,
    RuntimeError,  # an encrypted archive
    zlib.error,
    zipfile.BadZipFile,
)


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
    """

    table: pa.Table
    malformed: list[Malformed]
    is_text: bool

    @property
    def n_rows(self) -> int:
        """Number of records, including malformed ones."""
        return self.table.num_rows + len(self.malformed)

    @property
    def numbers(self) -> np.ndarray:
        """The number of each row within the block, from 0, counting malformed records."""
        return np.delete(np.arange(self.n_rows), [number for number, _ in self.malformed])


@dataclass(frozen=True)
class CsvRange:
    """The lines of an uncompressed CSV file that start within a range of bytes."""

    path: str
    format: CsvFormat
    start: int
    stop: int

    def blocks(self, columns: Columns, as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the lines."""
        with storage.opened(self.path) as file:
            first, stop = (
                _behind_line_end(file, edge - 1, self.path) for edge in (self.start, self.stop)
            )
            file.seek(first)
            text = file.read(stop - first)
        yield _raw(text, self.format, columns, as_text)


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

    def blocks(self, columns: Columns, as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the lines block by block."""
        with _opened_text(self.path, self.member) as file:
            file.read(self.format.header_bytes)
            rest = b""
            while data := file.read(_BLOCK_BYTES):
                text = rest + data
                cut = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
                rest = text[cut:]
                _check_line(len(rest), self.path)
                if cut:
                    yield _raw(text[:cut], self.format, columns, as_text)
            if rest:
                yield _raw(rest, self.format, columns, as_text)


@dataclass(frozen=True)
class ParquetGroups:
    """Row groups of a Parquet file."""

    path: str
    groups: tuple[int, ...]

    def blocks(self, columns: Columns, as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the rows block by block."""
        names = columns.names()
        with storage.opened(self.path) as file:
            batches = pq.ParquetFile(file).iter_batches(
                _ROWS_A_BLOCK,
                row_groups=list(self.groups),
                columns=list(names.values()),
                use_threads=False,  # Arrow's threads must not hold a file when Python exits.
            )
            for batch in batches:
                table = pa.Table.from_batches([batch]).select(list(names.values()))
                yield Raw(table.rename_columns(list(names)), [], is_text=False)


class Chunk(Protocol):
    """A part of a source that a worker reads by itself."""

    @property
    def path(self) -> str:
        """Its file."""
        ...

    def blocks(self, columns: Columns, as_text: frozenset[str]) -> Iterator[Raw]:
        """Read it, a block at a time."""
        ...


@dataclass(frozen=True)
class TitleFile:
    """A CSV file of item titles, or such a member of a zip archive, and its columns."""

    path: str
    member: str | None
    item: str
    title: str


@dataclass(frozen=True)
class Source:
    """A source of ratings.

    Attributes
    ----------
    path : str
        As the user gave it.
    chunks : tuple of Chunk
        In the order of the source.
    files : dict of str to tuple of str
        The columns of each file.
    titles : tuple of (str, str or None), optional
        Path and archive member of the titles in GroupLens' layout.
    """

    path: str
    chunks: tuple[Chunk, ...]
    files: dict[str, tuple[str, ...]]
    titles: tuple[str, str | None] | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every file has, in the first file's order."""
        first, *others = self.files.values()
        return tuple(name for name in first if all(name in names for names in others))


def open_source(path: str) -> Source:
    """Open a source: a file, a folder or a glob of CSV or Parquet.

    Raises
    ------
    InputError
        If there is no such source, or it cannot be read.
    """
    files = [(name, _member_of_zip(name)) for name in _files_of(path)]
    chunks: list[Chunk] = []
    columns: dict[str, tuple[str, ...]] = {}
    for file, member in files:
        with _reading(file):
            columns[file], chunks_of_file = _inspect(file, member)
        chunks += chunks_of_file
    titles = _titles_beside(*files[0]) if len(files) == 1 else None
    return Source(path, tuple(chunks), columns, titles)


def read_blocks(chunk: Chunk, columns: Columns, as_text: frozenset[str]) -> Iterator[Raw]:
    """Read a chunk block by block.

    Parameters
    ----------
    columns : Columns
    as_text : frozenset of str
        Fields whose values in CSV stay bytes, even if all values of a block are numbers.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    with _reading(chunk.path):
        yield from chunk.blocks(columns, as_text)


def check_titles(titles: TitleFile) -> None:
    """Check that a file of titles exists and has its two columns.

    Raises
    ------
    InputError
        If not.
    """
    if not storage.exists(titles.path):
        raise InputError(f"there is no file of titles at {titles.path}")
    with _reading(titles.path):
        names = _format_of(titles.path, titles.member).names
    for name in (titles.item, titles.title):
        if name not in names:
            raise InputError(f"{titles.path} has no column {name!r}; it has {listed(names)}")


def read_titles(titles: TitleFile) -> pa.Table:
    """Read the titles of items; malformed lines are skipped.

    Returns
    -------
    pyarrow.Table
        Columns ``id`` and ``title``, as bytes.
    """
    with _reading(titles.path):
        csv_format = _format_of(titles.path, titles.member)
        filesystem, inner = storage.file_system(titles.path)
        with _opened_text(titles.path, titles.member) as file:
            text = read_text(file, titles.path, filesystem.size(inner))[csv_format.header_bytes :]
    columns = {"id": titles.item, "title": titles.title}
    table, _ = csv_text.parse(text, csv_format, columns, frozenset())
    return table


def listed(names: tuple[str, ...], most: int = 20) -> str:
    """Return names for an error message."""
    shown = [name[:80] for name in names[:most]]
    return ", ".join(shown) + (f" and {len(names) - most:,} more" if len(names) > most else "")


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """Convert errors of reading a file to an InputError that names the file."""
    try:
        yield
    except DaskALSError:
        raise
    except _READ_ERRORS as error:
        raise InputError(f"{path} cannot be read: {storage.first_line(error)}") from None


def _raw(text: bytes, csv_format: CsvFormat, columns: Columns, as_text: frozenset[str]) -> Raw:
    table, malformed = csv_text.parse(text, csv_format, columns.names(), as_text)
    return Raw(table, malformed, is_text=True)


def _behind_line_end(file: IO[bytes], position: int, path: str) -> int:
    """Return the start of the line after the first line end at or after a position."""
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


def _files_of(path: str) -> list[str]:
    """Return the files to read; in GroupLens' layout, only the file of ratings."""
    filesystem, inner = storage.file_system(path)
    if filesystem.isfile(inner):
        if not inner.lower().endswith(_CSV + _PARQUET):
            raise InputError(f"{path} is not a .csv, .tsv, .gz, .zip or .parquet file")
        return [storage.on_every_process(filesystem, inner)]
    if filesystem.isdir(inner):
        found = filesystem.find(inner)
    elif any(letter in inner for letter in "*?["):
        found = filesystem.glob(inner)
    else:
        raise InputError(f"there is no file or folder at {path}")
    names = sorted(
        (storage.on_every_process(filesystem, name) for name in found if _is_data(name)),
        key=_by_number,
    )
    if not names:
        raise InputError(f"{path} holds no .csv, .tsv, .gz, .zip or .parquet file")
    ratings = [name for name in names if _base(name) == _GROUPLENS_RATINGS]
    if len(ratings) == 1 and _beside(ratings[0], _GROUPLENS_TITLES) in names:
        return ratings
    return names


def _base(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _beside(name: str, other: str) -> str:
    return name[: len(name) - len(_base(name))] + other


def _is_data(name: str) -> bool:
    return not _base(name).startswith(("_", ".")) and name.lower().endswith(_CSV + _PARQUET)


def _by_number(name: str) -> list[Any]:
    """Return a key that sorts part.9 before part.10."""
    return [int(text) if i % 2 else text for i, text in enumerate(re.split(r"([0-9]+)", name))]


def _member_of_zip(path: str) -> str | None:
    """Return the file of ratings in a zip archive; None if the path is not a zip archive."""
    if not path.lower().endswith(".zip"):
        return None
    names = _names_in_zip(path)
    ratings = [name for name in names if _base(name) == _GROUPLENS_RATINGS]
    candidates = ratings or names
    if len(candidates) != 1:
        raise InputError(
            f"{path} must hold one CSV file, or one named {_GROUPLENS_RATINGS}; it holds "
            f"{listed(tuple(names)) or 'none'}"
        )
    return candidates[0]


def _names_in_zip(path: str) -> list[str]:
    with _reading(path), storage.opened(path) as file, zipfile.ZipFile(file) as archive:
        return [
            name
            for name in archive.namelist()
            if _is_data(name) and name.lower().endswith((".csv", ".tsv"))
        ]


def _titles_beside(path: str, member: str | None) -> tuple[str, str | None] | None:
    """Return the titles in GroupLens' layout, if any."""
    if _base(member or path) != _GROUPLENS_RATINGS:
        return None
    titles = _beside(member or path, _GROUPLENS_TITLES)
    if member is None:
        return (titles, None) if storage.exists(titles) else None
    return (path, titles) if titles in _names_in_zip(path) else None


def _inspect(path: str, member: str | None) -> tuple[tuple[str, ...], list[Chunk]]:
    """Return a file's columns and its chunks."""
    if path.lower().endswith(_PARQUET):
        with storage.opened(path) as file:
            parquet = pq.ParquetFile(file)
            rows = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            columns = tuple(parquet.schema_arrow.names)
        return columns, [ParquetGroups(path, groups) for groups in _grouped(rows)]
    csv_format = _format_of(path, member)
    if member is not None or path.lower().endswith(".gz"):
        return csv_format.names, [CsvStream(path, member, csv_format)]
    filesystem, inner = storage.file_system(path)
    first, size = csv_format.header_bytes, filesystem.size(inner)
    edges = [first, *range((first // _BLOCK_BYTES + 1) * _BLOCK_BYTES, size, _BLOCK_BYTES), size]
    return csv_format.names, [CsvRange(path, csv_format, *edge) for edge in pairwise(edges)]


def _grouped(rows: list[int]) -> list[tuple[int, ...]]:
    """Group consecutive row groups into about one block of rows each."""
    groups: list[tuple[int, ...]] = []
    held = 0
    for number, n_rows in enumerate(rows):
        if not groups or held + n_rows > _ROWS_A_BLOCK:
            groups.append(())
            held = 0
        groups[-1] += (number,)
        held += n_rows
    return groups


def _format_of(path: str, member: str | None) -> CsvFormat:
    with _opened_text(path, member) as file:
        start = file.read(_HEADER_BYTES)
    return csv_text.read_format(start, path, is_all=len(start) < _HEADER_BYTES)


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
        compression = "gzip" if path.lower().endswith(".gz") else None
        with fsspec.open(path, "rb", compression=compression) as text:
            yield text
