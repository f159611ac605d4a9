"""Decide how `prepare` reads its inputs: columns, titles, known rows, types of ids."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dask_als.core import storage
from dask_als.core.side import SIDES, Side
from dask_als.data.prepare_results import ChunkSummary
from dask_als.data.prepare_tasks import common_id_type
from dask_als.data.source import Source, TitleFile, check_titles, listed
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
    """A CSV file of item titles.

    Attributes
    ----------
    path : str
    column : str
        The column of titles. The column of items has the same name as in the ratings.
    """

    path: str
    column: str = "title"


def columns_to_read(source: Source, columns: Columns) -> Columns:
    """Return the columns to read; raise InputError if one is missing or ambiguous."""
    asked = columns.within(source.columns)
    for file, present in source.files.items():
        for word, name in asked.names().items():
            if name not in present:
                raise InputError(
                    f"{file} has no column {name!r} for the {word}; it has "
                    f"{listed(present)}; name yours with --{word}-col"
                )
            if present.count(name) > 1:
                raise InputError(f"{file} has several columns {name!r}; rename all but one")
    return asked


def find_titles(source: Source, columns: Columns, titles: Titles | None) -> TitleFile | None:
    """Return the file of titles: the one given, else the one in GroupLens' layout, if any."""
    if titles is not None:
        file = TitleFile(storage.absolute(titles.path), None, columns.item, titles.column)
        check_titles(file)
        return file
    if source.titles is not None:
        with suppress(InputError):
            file = TitleFile(*source.titles, columns.item, "title")
            check_titles(file)
            return file
    return None


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
