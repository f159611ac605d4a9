"""What `prepare` decides about its inputs: columns, titles, known rows, types of ids."""

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
    """The rows of one side, decided elsewhere: ratings of other rows are left out.

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
    """A CSV file of item titles that the user names.

    Attributes
    ----------
    path : str
    column : str
        The title's column; the item's is called as in the ratings.
    """

    path: str
    column: str = "title"


def columns_to_read(source: Source, columns: Columns) -> Columns:
    """Return the columns to read; raise InputError if one is missing."""
    asked = columns.within(source.columns)
    for file, its_columns in source.files.items():
        for word, name in asked.names().items():
            if name not in its_columns:
                raise InputError(
                    f"{file} has no column {name!r} for the {word}; it has "
                    f"{listed(its_columns)}; name yours with --{word}-col"
                )
            if its_columns.count(name) > 1:
                raise InputError(f"{file} has several columns {name!r}; rename all but one")
    return asked


def find_titles(source: Source, columns: Columns, titles: Titles | None) -> TitleFile | None:
    """Return where the titles are: in the user's file, or in GroupLens' if it is one."""
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
) -> dict[str, pa.DataType]:
    """Return one type for the ids of each side, by the side's word."""
    agreed = {}
    for side in SIDES:
        kinds = frozenset(kind for chunk in summaries for kind in chunk.id_types[side.name])
        if known is not None and side is known.side:
            kinds |= {known.id_type}
        if kinds:
            agreed[side.singular] = common_id_type(kinds)
    return agreed


def has_types(chunk: ChunkSummary, id_types: dict[str, pa.DataType]) -> bool:
    """Tell whether all ids of a chunk have the types that were agreed on."""
    return all(chunk.id_types[side.name] <= {id_types.get(side.singular)} for side in SIDES)
