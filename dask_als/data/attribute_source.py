"""Read the attributes of users or items from a file: text or Parquet, a row per id.

Whatever a column comes from, it is one of numbers (float64), of text, or of lists of texts. Text is
numbers if all values are. A text such as ``Action|Comedy`` stands for the list of its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dask_als.core import storage, table_files
from dask_als.core.side import Side
from dask_als.data.attributes import ID
from dask_als.data.id_values import readable_ids, whole_ids
from dask_als.data.source import ReadRange, Source, open_source, read_blocks
from dask_als.data.source_files import listed
from dask_als.data.text_chunks import Raw
from dask_als.data.text_values import is_text, numbers, plain, readable, trimmed
from dask_als.errors import InputError
from dask_als.settings.data import Columns

_MISSING = pa.array(["na", "n/a", "nan", "null", "\\n"])
_LISTS = pa.list_(pa.string())


@dataclass(frozen=True)
class AttributeFile:
    """A file of attributes.

    Attributes
    ----------
    path : str
    side : Side
    columns : Columns
        Of the ratings: what the ids are called, and how text is written.
    """

    path: str
    side: Side
    columns: Columns

    def opened(self) -> tuple[Source, str]:
        """Return the file as a source, and its column of ids.

        Raises
        ------
        InputError
            If there is no such file, or it has no column of ids or no other column.
        """
        form = Columns(
            user=ID,
            item="",
            rating=None,
            no_time=True,
            header=True,
            decimal=self.columns.decimal,
            encoding=self.columns.encoding,
        )
        source = open_source(self.path, form)
        names = source.columns
        option = f"--{self.side.singular}-attributes"
        asked = str(self.columns.user if self.side.singular == "user" else self.columns.item)
        found = next((name for name in (asked, ID) if name in names), None)
        if found is None:
            raise InputError(
                f"{self.path} has no column {asked!r} or {ID!r} for the {self.side.singular} of "
                f"{option}; it has {listed(names)}"
            )
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InputError(f"{self.path} has several columns {repeated[0]!r}; rename all but one")
        if len(names) == 1:
            raise InputError(f"{self.path} has no column of attributes beside {found!r}")
        if found != ID and ID in names:
            raise InputError(
                f"{self.path} has ids in {found!r} and an attribute {ID!r}; rename the attribute"
            )
        return source, found


@dataclass(frozen=True)
class FoundAttributes:
    """The attributes of a file.

    Attributes
    ----------
    table : pyarrow.Table
        ``id``, each once, and the attributes.
    n_rows : int
        Rows of the file.
    without_id : int
        Rows whose id is missing or cannot be one.
    repeated : int
        Rows of ids that a later row has, too; the last one counts.
    """

    table: pa.Table
    n_rows: int
    without_id: int
    repeated: int


@dataclass(frozen=True)
class StoredAttributes:
    """The attributes that a dataset keeps, for one to which ratings are appended."""

    path: str
    crc32: int


def read_attributes(
    file: AttributeFile | None, stored: StoredAttributes | None, ids: pa.Table
) -> FoundAttributes:
    """Read the attributes of a file, and those of a dataset for ids that the file does not have.

    Parameters
    ----------
    ids : pyarrow.Table
        ``id`` of the ratings, whose type the ids have.

    Raises
    ------
    InputError
        If the file cannot be read, no row has an id, or no id is one of the ratings.
    """
    kind = ids.schema.field(ID).type
    tables, n_rows, without_id = [], 0, 0
    if stored is not None:
        before = table_files.read_parquet(stored.path, crc32=stored.crc32)
        tables.append(before.set_column(0, ID, before[ID].cast(kind)))
    if file is not None:
        read = _read_file(file)
        own = read.set_column(0, ID, _ids_of(read[ID].combine_chunks(), kind, file))
        n_rows, usable = own.num_rows, own.filter(pc.is_valid(own[ID]))
        without_id = n_rows - usable.num_rows
        _check_ids(usable, ids, n_rows, file)
        tables.append(usable)
    joined = _joined(tables)
    last = _last_rows(joined[ID].combine_chunks())
    from_file = 0 if file is None else n_rows - without_id
    in_file = last >= joined.num_rows - from_file
    return FoundAttributes(
        joined.take(pa.array(last)).combine_chunks(),
        n_rows,
        without_id,
        from_file - int(in_file.sum()),
    )


def with_ids(ids: pa.Table, found: FoundAttributes) -> pa.Table:
    """Return the ids of the ratings and those that only have attributes, sorted; with counts."""
    own = found.table[ID].combine_chunks()
    is_new = pc.invert(pc.is_in(own, value_set=ids[ID].combine_chunks()))
    new = own.filter(is_new)
    if not len(new):
        return ids
    counts = pa.array(np.zeros(len(new), np.int64)).cast(ids.schema.field("count").type)
    added = pa.table({ID: new, "count": counts})
    return pa.concat_tables([ids.select([ID, "count"]), added]).sort_by(ID).combine_chunks()


def _read_file(file: AttributeFile) -> pa.Table:
    """Return ``id`` as it is written, first, and the attributes as numbers, text or lists."""
    source, id_column = file.opened()
    names = [id_column, *(name for name in source.columns if name != id_column)]
    words = [ID, *names[1:]]
    blocks = [raw.table for raw in _blocks(source, dict(zip(words, names, strict=True)))]
    types = {block.schema for block in blocks}
    if len(types) > 1:  # Of several files.
        blocks = [pa.table({n: _as_text(block[n]) for n in words}) for block in blocks]
    table = pa.concat_tables(blocks)
    columns = {ID: plain(table[ID])}
    for name in words[1:]:
        columns[name] = _attribute(plain(table[name]), name, file)
    return pa.table(columns)


def _blocks(source: Source, names: dict[str, str]) -> list[Raw]:
    raws: list[Raw] = []
    before: ReadRange | None = None
    columns = _Named(names)
    for chunk in source.chunks:
        read = list(read_blocks(chunk, columns, frozenset(names)))  # type: ignore[arg-type]
        this = ReadRange(chunk, read[-1].span if read else None)
        moved = None if before is None else this.corrected(before)
        if moved is not None:
            read = list(read_blocks(moved, columns, frozenset(names)))  # type: ignore[arg-type]
            this = ReadRange(chunk, read[-1].span if read else None)
        before = this
        raws += read
    return raws


@dataclass(frozen=True)
class _Named:
    """The columns of attributes, as `read_blocks` asks for them."""

    of: dict[str, str]

    def names(self) -> dict[str, str]:
        return self.of


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    array = plain(column)
    return readable(array) if is_text(array) else array.cast(pa.string())


def _attribute(array: pa.Array, name: str, file: AttributeFile) -> pa.Array:
    """Return the values of an attribute as numbers, text, or lists of texts."""
    kind = array.type
    if is_text(array):
        text = trimmed(readable(array))
        is_missing = pc.is_in(pc.utf8_lower(text), value_set=_MISSING)
        text = pc.if_else(is_missing, pa.scalar(None, pa.string()), text)
        values = numbers(text, name, decimal=file.columns.decimal)
        is_number = np.isfinite(values)
        is_value = pc.is_valid(text).to_numpy(zero_copy_only=False)
        return pa.array(values, mask=~is_number) if (is_number == is_value).all() else text
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        try:
            return array.cast(_LISTS)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise _unusable(array, name, file) from None
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        array = array.cast(pa.timestamp("ms"), safe=False).cast(pa.int64())
    try:
        values = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise _unusable(array, name, file) from None
    return pa.array(values, mask=~np.isfinite(values))


def _unusable(array: pa.Array, name: str, file: AttributeFile) -> InputError:
    return InputError(
        f"the attribute {name!r} in {file.path} is of type {array.type}; give numbers, text or "
        "lists of text"
    )


def _ids_of(array: pa.Array, kind: pa.DataType, file: AttributeFile) -> pa.Array:
    """Return ids in the type of those of the ratings; null where they cannot be."""
    ids = readable_ids(array)
    if not pa.types.is_integer(kind):
        return ids.cast(kind)
    whole = whole_ids(ids)
    try:
        return whole.cast(kind)
    except pa.ArrowInvalid:
        raise InputError(
            f"{file.path} has ids that are no {file.side.singular} ids of these ratings: {kind}"
        ) from None


def _check_ids(usable: pa.Table, ids: pa.Table, n_rows: int, file: AttributeFile) -> None:
    """Raise InputError if no row of a file belongs to the ratings."""
    if not n_rows:
        raise InputError(f"{file.path} has no rows")
    own = usable[ID].combine_chunks()
    known = ids[ID].combine_chunks()
    if len(own) and pc.any(pc.is_in(own, value_set=known)).as_py():
        return
    of_ratings = f"ids of the ratings are like {known[0].as_py()!r}"
    if not len(own):
        raise InputError(
            f"none of the {n_rows:,} rows in {file.path} has a usable id; {of_ratings}"
        )
    raise InputError(
        f"none of the ids in {file.path}, such as {own[0].as_py()!r}, has a rating; {of_ratings}"
    )


def _joined(tables: list[pa.Table]) -> pa.Table:
    """Concatenate tables; a column of two types becomes text."""
    if len(tables) == 1:
        return tables[0]
    names = list(dict.fromkeys(name for table in tables for name in table.column_names))
    columns: dict[str, Any] = {}
    for name in names:
        kinds = {table.schema.field(name).type for table in tables if name in table.column_names}
        kind = kinds.pop() if len(kinds) == 1 else pa.string()
        parts = [
            _converted(table[name], kind)
            if name in table.column_names
            else pa.nulls(table.num_rows, kind)
            for table in tables
        ]
        columns[name] = pa.concat_arrays(parts)
    return pa.table(columns)


def _converted(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    array = column.combine_chunks()
    if array.type == kind:
        return array
    if pa.types.is_list(array.type):
        return pc.binary_join(array, "|")
    return array.cast(kind)


def _last_rows(ids: pa.Array) -> np.ndarray:
    """Return the position of the last row of each id, ascending."""
    codes = ids.dictionary_encode().indices.to_numpy()
    _, first_from_end = np.unique(codes[::-1], return_index=True)
    last: np.ndarray = np.sort(len(codes) - 1 - first_from_end)
    return last


def checked_file(path: str, side: Side, columns: Columns) -> AttributeFile:
    """Return a file of attributes that was found to have ids and attributes.

    Raises
    ------
    InputError
        If it does not, or there is none.
    """
    file = AttributeFile(storage.absolute(path), side, columns)
    file.opened()
    return file
