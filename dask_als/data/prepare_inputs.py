"""Decide how `prepare` reads its inputs: columns, titles, known rows, types of ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pyarrow as pa

from dask_als.core import storage
from dask_als.core.side import SIDES, Side
from dask_als.data.attribute_source import AttributeFile, StoredAttributes
from dask_als.data.dataset import WEIGHT, Appended, Dataset
from dask_als.data.prepare_results import ChunkSummary, largest_time
from dask_als.data.prepare_tasks import common_id_type
from dask_als.data.source import Chunk, ReadRange, Source
from dask_als.data.source_files import listed
from dask_als.data.split import unit_of_times
from dask_als.data.titles import TitleFile, check_titles
from dask_als.errors import InputError
from dask_als.settings.data import Columns, PrepareSettings


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


@dataclass(frozen=True)
class Ratings:
    """The ratings that a dataset is made of.

    Attributes
    ----------
    name : str
        The source, for errors.
    columns : Columns
        The names of the columns of what is not stored.
    train, test : tuple of Chunk
        In their order; those of `test` are held out.
    n_stored : (int, int)
        How many of the first training and test chunks are stored rows of `before`.
    described : dict
        What the manifest records about the source.
    titles : TitleFile or None
    test_name : str or None
        The test source, for errors.
    before : Dataset or None
        The dataset that the ratings are appended to.
    appended : Appended or None
        What is appended to it.
    attributes : dict of Side to AttributeFile
        The files of attributes that were given.
    """

    name: str
    columns: Columns
    train: tuple[Chunk, ...]
    described: dict[str, Any]
    titles: TitleFile | None
    test: tuple[Chunk, ...] = ()
    test_name: str | None = None
    n_stored: tuple[int, int] = (0, 0)
    before: Dataset | None = None
    appended: Appended | None = None
    attributes: dict[Side, AttributeFile] = field(default_factory=dict)

    def stored_attributes(self, side: Side) -> StoredAttributes | None:
        """Return the attributes of a side that `before` keeps, if there are any."""
        kept = None if self.before is None else self.before.attributes(side)
        return None if kept is None else StoredAttributes(kept.path, kept.side_attributes.crc32)

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """All chunks."""
        return (*self.train, *self.test)

    @property
    def train_numbers(self) -> range:
        """The numbers of the training chunks."""
        return range(len(self.train))

    @property
    def test_numbers(self) -> range:
        """The numbers of the test chunks."""
        return range(len(self.train), len(self.chunks))

    @property
    def new_numbers(self) -> range:
        """The numbers of the training chunks that are not stored rows."""
        return range(self.n_stored[0], len(self.train))

    @property
    def stored_numbers(self) -> tuple[int, ...]:
        """The numbers of the chunks of stored rows."""
        train, test = self.n_stored
        return (*range(train), *range(len(self.train), len(self.train) + test))

    def columns_of(self, number: int) -> Columns:
        """Return the names of the columns of a chunk."""
        if number not in self.stored_numbers:
            return self.columns
        time = None if self.columns.time is None else "time"
        weight = None if self.columns.weight is None else WEIGHT
        return Columns(user="user", item="item", rating="rating", time=time, weight=weight)


def columns_to_read(source: Source, columns: Columns) -> Columns:
    """Return the columns to read; raise InputError if one is missing or ambiguous."""
    asked = columns.within(source.columns)
    for file, present in source.files.items():
        for word, name in asked.names().items():
            if name not in present:
                raise _missing(source, file, word, name)
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
    advice += ", or give --delimiter, if another one separates columns"
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
    """Return the ranges of text that were read from a wrong start, with the right one."""
    read = [ReadRange(chunk, summaries[number].span) for number, chunk in enumerate(chunks)]
    corrected = {n: this.corrected(before) for n, (before, this) in enumerate(pairwise(read), 1)}
    return {number: chunk for number, chunk in corrected.items() if chunk is not None}


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


def check_times_of_appended(summaries: Sequence[ChunkSummary], ratings: Ratings) -> None:
    """Check that the times of appended ratings are in the unit of those of the dataset.

    Parameters
    ----------
    summaries : sequence of ChunkSummary
        Of all chunks.

    Raises
    ------
    InputError
        If their sizes tell that they are not, so that they would not order as time does.
    """
    before = ratings.before
    assert before is not None, "ratings are appended"
    assert before.growth is not None, "ratings are appended"
    stored = set(ratings.stored_numbers)
    new = [chunk for number, chunk in enumerate(summaries) if number not in stored]
    largest = {ratings.name: largest_time(new), before.path: before.growth.largest_time}
    units = {path: unit_of_times(time)[0] for path, time in largest.items() if time is not None}
    if len(set(units.values())) > 1:
        raise InputError(
            f"times look like {units[ratings.name]} in {ratings.name}, like {units[before.path]} "
            f"in {before.path}; give them in the same unit"
        )


def check_split(settings: PrepareSettings, n_train: int, n_test: int) -> None:
    """Raise InputError if nothing is left to train on, or a split by time holds out nothing."""
    if settings.split == "time" and not n_test:
        raise InputError(
            f"no rating is from {settings.test_from} or later; use an earlier --test-from"
        )
    if n_train:
        return
    remedy = {
        "time": "use a later --test-from",
        "own": "the test source has all pairs of the other; give another --test",
    }
    raise InputError(
        "no rating is left to train on; "
        f"{remedy.get(settings.split, 'use a smaller --test-fraction')}"
    )
