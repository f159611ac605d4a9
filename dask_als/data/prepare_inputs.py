"""Decide how `prepare` reads its inputs: columns, titles, known rows, types of ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dask_als.core import storage
from dask_als.core.side import SIDES, Side
from dask_als.data.prepare_results import ChunkSummary
from dask_als.data.prepare_tasks import common_id_type
from dask_als.data.source import Chunk, Source, continued_at
from dask_als.data.source_files import listed
from dask_als.data.titles import TitleFile, check_titles
from dask_als.errors import InputError
from dask_als.settings.data import Columns


@dataclass(frozen=True)
class KnownRows:
    """The rows of one side, fixed in advance: ratings of other rows are left out.

    Attributes
    ----------
    side : Side
    rows : handle of pyarrow.Table
        ``id``, ``count`` and, if known, ``title``, in the order of the indices.
    id_type : pyarrow.DataType
    has_titles : bool
    """

    side: Side
    rows: Any
    id_type: pa.DataType
    has_titles: bool


@dataclass(frozen=True)
class Titles:
    """A text file of item titles.

    Attributes
    ----------
    path : str
    column : str or int
        The column of titles.
    id_column : str or int or None
        The column of item ids; None takes the same name as in the ratings.
    """

    path: str
    column: str | int = "title"
    id_column: str | int | None = None


def titles_json(titles: Titles) -> dict[str, Any]:
    """Return where titles come from, as plain JSON values."""
    found = {"path": storage.absolute(titles.path), "column": titles.column}
    return found if titles.id_column is None else {**found, "id_column": titles.id_column}


def columns_to_read(source: Source, columns: Columns) -> Columns:
    """Return the columns to read; raise InputError if one is missing or ambiguous."""
    asked = columns.within(source.columns)
    for file, present in source.files.items():
        for field, name in asked.names().items():
            if name not in present:
                raise _missing(source, file, field, name)
            if present.count(name) > 1:
                raise InputError(f"{file} has several columns {name!r}; rename all but one")
    return asked


def _missing(source: Source, file: str, field: str, name: str) -> InputError:
    """Return an error that shows a file's first line and columns, and names what may help."""
    present = source.files[file]
    said = f"{file} has no column {name!r} for the {field}; it has {listed(present)}"
    advice = f"name yours with --{field}-col"
    text_format = source.formats.get(file)
    if text_format is None or text_format.is_plain:
        return InputError(f"{said}; {advice}")
    line = text_format.first_line
    if len(present) == 1:
        advice = "give the delimiter, as --delimiter tab"
    elif not text_format.has_header:
        advice = (
            "give positions, as --user-col 0 --item-col 1 --rating-col 2, or --header if the first "
            "line holds names"
        )
    return InputError(f"{said} ({text_format}), and the first line {line!r}; {advice}")


def find_titles(source: Source, columns: Columns, titles: Titles | None) -> TitleFile | None:
    """Return the file of titles: the one given, else that of a MovieLens archive, if any."""
    if titles is not None:
        item = columns.item if titles.id_column is None else titles.id_column
        path = storage.absolute(titles.path)
        file = TitleFile(path, None, str(item), str(titles.column), columns.encoding)
        check_titles(file)
        return file
    if source.titles is not None:
        with suppress(InputError):
            file = TitleFile(*source.titles, "movieId", "title", columns.encoding)
            check_titles(file)
            return file
    return None


def ranges_to_reread(
    chunks: Sequence[Chunk], summaries: Mapping[int, ChunkSummary]
) -> dict[int, Chunk]:
    """Return ranges of text that were read from a wrong start, with the right one.

    A range that starts within a quoted field starts where the range before it ended.
    """
    wrong = {}
    for number in range(1, len(chunks)):
        before, this = summaries[number - 1].span, summaries[number].span
        is_same_file = chunks[number - 1].path == chunks[number].path
        if is_same_file and before and this and before[1] != this[0]:
            wrong[number] = continued_at(chunks[number], before[1])
    return wrong


def agreed_id_types(
    summaries: Iterable[ChunkSummary], known: KnownRows | None
) -> dict[Side, pa.DataType]:
    """Return the common type of the ids of each side."""
    agreed = {}
    for side in SIDES:
        kinds = frozenset(kind for chunk in summaries for kind in chunk.id_types[side])
        if known is not None and side is known.side:
            kinds |= {known.id_type}
        if kinds:
            agreed[side] = common_id_type(kinds)
    return agreed


def has_types(chunk: ChunkSummary, id_types: dict[Side, pa.DataType]) -> bool:
    """Return whether all ids of a chunk have the common types."""
    return all(chunk.id_types[side] <= {id_types.get(side)} for side in SIDES)
