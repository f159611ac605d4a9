"""The ids of a block of rows: how they are stored, counted, and replaced by indices.

Whole numbers of a narrow range, as most ids are, are looked up in tables with an entry for each
number of the range. Other ids are looked up by hashes, once for each different id of the block.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# A table has at most so many entries for each id that is looked up in it, or so many in all.
_ENTRIES_PER_ID = 4
_LEAST_ENTRIES = 1 << 16


def encoded(ids: pa.Array) -> pa.Array:
    """Return ids as a block stores them: whole numbers of a narrow range, or a dictionary."""
    found = _range_of(ids)
    if found is None:
        return ids.dictionary_encode()
    fits = found.start >= -(2**31) and found.stop <= 2**31
    return ids.cast(pa.int32()) if fits else ids


def counted(stored: pa.Array, kind: pa.DataType) -> pa.Table:
    """Return the different ids of a block, of the type `kind`, with their ``count``."""
    if isinstance(stored, pa.DictionaryArray):
        counts = np.bincount(stored.indices.to_numpy(), minlength=len(stored.dictionary))
        return pa.table({"id": stored.dictionary, "count": counts})
    found = _range_of(stored)
    assert found is not None, "ids of a wide range are stored as a dictionary"
    counts = np.bincount(_places(stored.to_numpy(), found))
    return _of_range(found, counts, kind)


def merged(tables: list[pa.Table]) -> pa.Table:
    """Merge tables of ids, each of them once, and their counts into one, sorted by id."""
    # Combining copies: Arrow warns if it has to group unaligned tables from other processes.
    combined = pa.concat_tables(tables).combine_chunks()
    ids = combined["id"].combine_chunks()
    found = _range_of(ids)
    if found is None:
        groups = combined.group_by("id", use_threads=False)
        sums = groups.aggregate([("count", "sum")]).rename_columns(["id", "count"])
        return sums.sort_by("id").combine_chunks()
    counts = np.zeros(len(found), np.int64)
    for table in tables:
        # An id is in a table only once, so none is added twice to the same entry.
        counts[_places(table["id"].to_numpy(), found)] += table["count"].to_numpy()
    return _of_range(found, counts, ids.type)


def indices(stored: pa.Array, all_ids: pa.Array) -> np.ndarray:
    """Return the index of each id of a block among all ids, int32; -1 for one that is not there."""
    if isinstance(stored, pa.DictionaryArray):
        found = pc.index_in(stored.dictionary, value_set=all_ids)
        return found.fill_null(-1).to_numpy()[stored.indices.to_numpy()]
    found = _range_of(stored)
    assert found is not None, "ids of a wide range are stored as a dictionary"
    numbers = all_ids.to_numpy()
    rows = np.flatnonzero((numbers >= found.start) & (numbers < found.stop))
    table = np.full(len(found), -1, np.int32)
    table[_places(numbers[rows], found)] = rows
    return table.take(_places(stored.to_numpy(), found))


def _range_of(ids: pa.Array) -> range | None:
    """Return the range of the ids; None if it is wide, or if they are not whole numbers."""
    if not pa.types.is_integer(ids.type) or not len(ids):
        return None
    numbers = ids.to_numpy()
    found = range(int(numbers.min()), int(numbers.max()) + 1)
    most = max(_LEAST_ENTRIES, _ENTRIES_PER_ID * len(ids))
    return found if found.stop - found.start <= most else None


def _places(numbers: np.ndarray, span: range) -> np.ndarray:
    """Return the place of each number in a range that has all of them, int64."""
    if numbers.dtype == np.uint64:
        return (numbers - np.uint64(span.start)).astype(np.int64)
    return np.subtract(numbers, span.start, dtype=np.int64)


def _of_range(span: range, counts: np.ndarray, kind: pa.DataType) -> pa.Table:
    """Return the ids of a range that were counted, ascending, with their counts."""
    places = np.flatnonzero(counts)
    ids = places.astype(kind.to_pandas_dtype())
    ids += ids.dtype.type(span.start)
    return pa.table({"id": pa.array(ids, kind), "count": counts[places]})
