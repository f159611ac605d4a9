"""Read the files of a source as raw columns, in chunks that workers read independently.

Text is cut at line ends, Parquet at row groups. Compressed text is one chunk, read block by block.
`dask_als.data.clean` decides which rows are usable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from dask_als.core import storage
from dask_als.data.compression import reading
from dask_als.data.source_files import (
    KNOWN_TEXT,
    PARQUET,
    archive_and_member,
    files_of,
    find_titles_beside,
    hive_columns,
)
from dask_als.data.text_chunks import Raw, TextFormat, TextRange, TextStream
from dask_als.data.text_form import EmptyFile
from dask_als.data.text_source import chunks_of, found_text, is_parquet
from dask_als.errors import InputError
from dask_als.settings.data import Columns

_ROWS_A_BLOCK = 1 << 20


@dataclass(frozen=True)
class ParquetGroups:
    """Row groups of a Parquet file."""

    path: str
    groups: tuple[int, ...]

    def blocks(self, names: dict[str, str], as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the rows block by block."""
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


@dataclass(frozen=True)
class InFolders:
    """A chunk of a file that has columns in the names of its folders, such as ``year=2024``."""

    chunk: TextRange | TextStream | ParquetGroups
    values: tuple[tuple[str, Any], ...]

    @property
    def path(self) -> str:
        """The path of the file."""
        return self.chunk.path

    def blocks(self, names: dict[str, str], as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the rows block by block."""
        values = dict(self.values)
        inside = {field: name for field, name in names.items() if name not in values}
        if not inside:
            raise InputError(f"{self.path} has all columns in the names of its folders")
        for raw in self.chunk.blocks(inside, as_text):
            table = raw.table
            for field in names.keys() - inside.keys():
                array = pa.repeat(pa.scalar(values[names[field]]), table.num_rows)
                if raw.is_text:
                    array = array.cast(pa.string()).cast(pa.binary())
                table = table.append_column(field, array)
            yield replace(raw, table=table.select(list(names)))


class Chunk(Protocol):
    """A part of a source that a worker reads by itself."""

    @property
    def path(self) -> str:
        """The path of the file."""
        ...

    def blocks(self, names: dict[str, str], as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the rows block by block."""
        ...


@dataclass(frozen=True)
class ReadRange:
    """A chunk that was read, and where its first record starts and its last one ends, if known."""

    chunk: Chunk
    span: tuple[int, int] | None

    def corrected(self, before: ReadRange) -> Chunk | None:
        """Return the chunk with the right start if it was read from a wrong one, else None.

        A range that starts within a quoted field starts where the range before it ends.
        """
        chunk = self.chunk
        if before.chunk.path != chunk.path or before.span is None or self.span is None:
            return None
        if before.span[1] == self.span[0]:
            return None
        text = chunk.chunk if isinstance(chunk, InFolders) else chunk
        assert isinstance(text, TextRange), "only ranges have spans"
        moved = replace(text, first=before.span[1])
        return replace(chunk, chunk=moved) if isinstance(chunk, InFolders) else moved


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
        Path and archive member of the titles in a MovieLens folder or archive.
    formats : dict of str to TextFormat
        The form of each text file.
    n_empty : int
        Files of no bytes, which are skipped.
    member : str or None
        The file that was asked for in the archive, which is the only file.
    """

    path: str
    chunks: tuple[Chunk, ...]
    files: dict[str, tuple[str, ...]]
    titles: tuple[str, str | None] | None
    formats: dict[str, TextFormat]
    n_empty: int
    member: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that every file has, in the first file's order."""
        first, *others = self.files.values()
        return tuple(name for name in first if all(name in names for names in others))

    @property
    def findings(self) -> str | None:
        """What was found about the form of the files, unless it is the usual one."""
        found = list(dict.fromkeys(str(f) for f in self.formats.values() if not f.is_plain))
        if len(found) > 3:
            found = [*found[:3], f"{len(found) - 3} more forms"]
        if self.n_empty:
            found.append(f"{self.n_empty:,} empty files skipped")
        return "; ".join(found) or None


def open_source(path: str, columns: Columns = Columns()) -> Source:
    """Open a source: a file, a folder or a glob of text or Parquet, or ``ARCHIVE.zip!MEMBER``.

    Parameters
    ----------
    columns : Columns, optional
        What is known of the form of text files.

    Raises
    ------
    InputError
        If there is no such source, it cannot be read, or its form is ambiguous.
    """
    with reading(path):
        place, asked = archive_and_member(path)
    names = files_of(place)
    in_folders = hive_columns(place, names)
    chunks: list[Chunk] = []
    files: dict[str, tuple[str, ...]] = {}
    formats: dict[str, TextFormat] = {}
    empty: list[EmptyFile] = []
    titles = None
    for name in names:
        with reading(name):
            try:
                found, of_file = _inspect(name, asked, columns, formats)
            except EmptyFile as error:
                empty.append(error)
                continue
        values = tuple((key, value) for key, value in in_folders[name] if key not in found)
        files[name] = (*found, *(key for key, _ in values))
        chunks += [InFolders(chunk, values) for chunk in of_file] if values else of_file
        if len(names) == 1:
            first = of_file[0] if of_file else None
            member = first.file.member if isinstance(first, TextStream) else None
            titles = find_titles_beside(name, member)
    if not files:
        raise empty[0]
    return Source(path, tuple(chunks), files, titles, formats, len(empty), asked)


def _inspect(
    path: str, member: str | None, columns: Columns, formats: dict[str, TextFormat]
) -> tuple[tuple[str, ...], list[TextRange | TextStream | ParquetGroups]]:
    """Return a file's columns and its chunks, and note the form of text."""
    filesystem, inner = storage.file_system(path)
    if filesystem.size(inner) == 0:
        raise EmptyFile(f"{path} is empty")
    if path.lower().endswith(PARQUET) or (
        not path.lower().endswith(KNOWN_TEXT) and is_parquet(path)
    ):
        with storage.opened(path) as file:
            parquet = pq.ParquetFile(file)
            rows = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            names = tuple(parquet.schema_arrow.names)
        return names, [ParquetGroups(path, groups) for groups in _grouped(rows)]
    text, formats[path] = found_text(path, member, columns)
    return formats[path].names, [*chunks_of(text, formats[path])]


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
    with reading(chunk.path):
        yield from chunk.blocks(columns.names(), as_text)
