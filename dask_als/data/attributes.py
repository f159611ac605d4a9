"""The attributes of a side: how a dataset keeps them, and the matrix that training makes of them.

::

    DATASET/
      user_attributes.parquet        row i has index i: id, and the attributes as they were given
      item_attributes.parquet        the same

A number is standardized over the rows with training ratings: its mean is taken off, and it is
divided by its standard deviation. A text, and each text of a list, is a category, which has a
column that is 1 where a row has it. A missing value has zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dask_als.core import storage, table_files
from dask_als.core.limits import TEXT_BYTES, ParquetLimit
from dask_als.core.side import Side
from dask_als.core.sparse import SparseRows, sparse_rows
from dask_als.errors import InputError
from dask_als.settings.data import LEAST_ROWS

if TYPE_CHECKING:
    from dask_als.data.attribute_source import FoundAttributes

ID = "id"


@dataclass(frozen=True)
class Attribute:
    """How one attribute becomes columns of numbers.

    Attributes
    ----------
    name : str
    mean, deviation : float or None
        Of numbers, over the rows with training ratings.
    categories : tuple of str
        Of text, in the order of their columns.
    """

    name: str
    mean: float | None = None
    deviation: float | None = None
    categories: tuple[str, ...] = ()

    @property
    def n_columns(self) -> int:
        """The number of its columns."""
        return 1 if self.mean is not None else len(self.categories)


@dataclass(frozen=True)
class SideAttributes:
    """What the manifest of a dataset records about the attributes of a side.

    Attributes
    ----------
    crc32 : int
        CRC-32 of their file.
    attributes : tuple of Attribute
        Those that training uses.
    counts : dict of str to int
        ``rows`` of the file; those ``without_id`` and ``repeated``; ``without_ratings``, the ids
        with attributes that no training rating has; ``without_attributes``, the rows with ratings
        that have none; ``rare_categories``, those of fewer than 3 rows with ratings.
    left_out : tuple of str
        Attributes that say nothing of rows with ratings: all values are missing or the same, or
        all categories are rare.
    n_values : int
        Numbers in the matrix that are not 0 by default.
    """

    crc32: int
    attributes: tuple[Attribute, ...]
    counts: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    n_values: int = 0

    @property
    def n_columns(self) -> int:
        """The number of columns of the matrix."""
        return sum(attribute.n_columns for attribute in self.attributes)


@dataclass(frozen=True)
class AttributesFile:
    """A reference to the attributes of a side, to send with a task."""

    path: str
    side_attributes: SideAttributes
    n_rows: int

    def read(self) -> pa.Table:
        """Read the attributes of all rows.

        Raises
        ------
        InputError
            If the file is missing, damaged or not the one recorded.
        """
        limit = ParquetLimit(self.n_rows, TEXT_BYTES)
        return table_files.read_parquet(self.path, crc32=self.side_attributes.crc32, limit=limit)

    def matrix(self) -> SparseRows:
        """Return the matrix of the attributes, a row for each row of the side."""
        return encoded(self.read(), self.side_attributes.attributes)


def attributes_path(dataset: str, side: Side) -> str:
    """Return the path of the attributes of a side."""
    return storage.part_of(dataset, f"{side.singular}_attributes.parquet")


def write_attributes(
    dataset: str, side: Side, found: FoundAttributes, ids: pa.Table, counts: np.ndarray
) -> SideAttributes:
    """Write the attributes of a side in the order of its rows.

    Parameters
    ----------
    ids : pyarrow.Table
        ``id`` of each row.
    counts : ndarray of int64
        Training ratings of each row.

    Raises
    ------
    InputError
        If no attribute says anything of the rows with ratings.
    """
    own = ids[ID].combine_chunks()
    places = pc.index_in(own, value_set=found.table[ID].combine_chunks())
    table = found.table.take(places).set_column(0, ID, own).combine_chunks()
    is_rated, has_row = counts > 0, pc.is_valid(places).to_numpy(zero_copy_only=False)
    attributes, left_out, n_rare = [], [], 0
    for name in table.column_names[1:]:
        attribute, rare = _fitted(table[name].combine_chunks(), is_rated, name)
        if attribute is None:
            left_out.append(name)
        else:
            attributes.append(attribute)
            n_rare += rare
    if not attributes:
        raise InputError(
            f"none of the {side.singular} attributes {', '.join(left_out)} says anything of "
            f"{side.name} with ratings: values are missing, all the same, or categories of fewer "
            f"than {LEAST_ROWS} {side.name}"
        )
    crc32 = table_files.write_parquet(attributes_path(dataset, side), table, row_group_size=1 << 16)
    reported = {
        "rows": found.n_rows,
        "without_id": found.without_id,
        "repeated": found.repeated,
        "without_ratings": int((has_row & ~is_rated).sum()),
        "without_attributes": int((is_rated & ~has_row).sum()),
        "rare_categories": n_rare,
    }
    n_values = len(encoded(table, attributes).values)
    return SideAttributes(crc32, tuple(attributes), reported, tuple(left_out), n_values)


def encoded(table: pa.Table, attributes: Sequence[Attribute]) -> SparseRows:
    """Return the matrix of a table of attributes; unknown categories have no column."""
    rows, columns, values, first = [], [], [], 0
    for attribute in attributes:
        if attribute.name not in table.column_names:
            raise InputError(f"there is no attribute {attribute.name!r}, which training has used")
        array = table[attribute.name].combine_chunks()
        if attribute.mean is not None and attribute.deviation is not None:
            number = _numbers(array)
            row = np.flatnonzero(np.isfinite(number))
            value = (number[row] - attribute.mean) / attribute.deviation
            column = np.zeros(len(row), np.int64)
        else:
            row, texts = _categories(array)
            place = pc.index_in(texts, value_set=pa.array(attribute.categories, pa.string()))
            is_known = pc.is_valid(place).to_numpy(zero_copy_only=False)
            column = place.filter(pa.array(is_known)).to_numpy().astype(np.int64)
            pairs = np.unique(np.stack([row[is_known], column]), axis=1)
            row, column = pairs
            value = np.ones(len(row))
        rows.append(row)
        columns.append(first + column)
        values.append(value)
        first += attribute.n_columns
    return sparse_rows(
        table.num_rows,
        first,
        np.concatenate(rows),
        np.concatenate(columns),
        np.concatenate(values),
    )


def _fitted(array: pa.Array, is_rated: np.ndarray, name: str) -> tuple[Attribute | None, int]:
    """Return how an attribute is encoded, None if it says nothing; and its rare categories."""
    if pa.types.is_floating(array.type):
        values = _numbers(array)[is_rated]
        values = values[np.isfinite(values)]
        if len(values) < 2 or values.min() == values.max():
            return None, 0
        # Scaled first, so that squares of large numbers do not overflow.
        largest = float(np.abs(values).max())
        mean = math.fsum(values / largest) / len(values)
        variance = math.fsum((values / largest - mean) ** 2) / len(values)
        deviation = math.sqrt(variance) * largest
        if not (0 < deviation < math.inf):
            return None, 0
        return Attribute(name, mean * largest, deviation), 0
    row, texts = _categories(array)
    pairs = pa.table({"row": row, "text": texts}).filter(pa.array(is_rated[row]))
    distinct = pairs.group_by(["row", "text"], use_threads=False).aggregate([])
    counted = distinct.group_by("text", use_threads=False).aggregate([("row", "count")])
    is_often = pc.greater_equal(counted["row_count"], LEAST_ROWS)
    often = counted.filter(is_often)
    n_rare = counted.num_rows - often.num_rows
    if not often.num_rows:
        return None, n_rare
    return Attribute(name, categories=tuple(sorted(often["text"].to_pylist()))), n_rare


def _numbers(array: pa.Array) -> np.ndarray:
    """Return numbers as float64, NaN where they are missing."""
    return array.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _categories(array: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """Return the row and the text of each category of a column, of text or lists."""
    if pa.types.is_floating(array.type):
        array = array.cast(pa.string())
    lists = array if pa.types.is_list(array.type) else pc.split_pattern(array, "|")
    row = pc.list_parent_indices(lists).to_numpy()
    texts = pc.utf8_trim_whitespace(pc.list_flatten(lists))
    is_text = pc.fill_null(pc.not_equal(texts, ""), False)
    return row[is_text.to_numpy(zero_copy_only=False)], texts.filter(is_text)
