"""The tasks of `prepare`. Their only side effects are the files that they write.

Rows are shuffled twice through files, first to the partitions of users, then to those of items. A
task writes one Arrow file with a batch for each partition of the next stage. A task of that stage
reads its batch from every file. A task holds one block of the source or one partition in memory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dask_als.core import checksums, storage, table_files
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.core.superaccumulator import exact_sum_of_short
from dask_als.data import block_ids
from dask_als.data.clean import REJECTED_SCHEMA, clean
from dask_als.data.dataset import (
    RATINGS_SCHEMA,
    WEIGHT,
    Dataset,
    ratings_path,
    rows_path,
    schema_of,
)
from dask_als.data.id_values import WHOLE_NUMBER
from dask_als.data.one_rating import RatingColumns
from dask_als.data.pair_checksums import checksum_of
from dask_als.data.partitioning import balanced_ranges, is_ascending, partition_of
from dask_als.data.prepare_results import (
    BlockCounts,
    BlockNumber,
    CheckedPart,
    CheckedSide,
    ChunkSummary,
    ReadChunk,
    total_weight,
)
from dask_als.data.source import Chunk, read_blocks
from dask_als.data.split import hashed_ids, order_of_pairs
from dask_als.data.text_values import one_array
from dask_als.data.titles import TitleFile, read_titles
from dask_als.errors import InputError
from dask_als.settings.data import Columns

_CANONICAL_NUMBER = r"^(0|-?[1-9][0-9]*)$"


def usable_path(work: str, block: BlockNumber) -> str:
    """Return the path of a block's usable rows."""
    return _path_of(work, "usable", block, "arrow")


def rejected_path(work: str, block: BlockNumber) -> str:
    """Return the path of a block's rejected rows."""
    return _path_of(work, "rejected", block, "parquet")


def to_users_path(work: str, block: BlockNumber) -> str:
    """Return the path of a block's rows, shuffled for the partitions of users."""
    return _path_of(work, "to-users", block, "arrow")


def to_items_path(work: str, part: int) -> str:
    """Return the path of a user partition's rows, shuffled for the partitions of items."""
    return storage.join(work, f"to-items-{part:05d}.arrow")


def _path_of(work: str, what: str, block: BlockNumber, suffix: str) -> str:
    chunk, number = block
    return storage.join(work, f"{what}-{chunk:05d}-{number:05d}.{suffix}")


def read_chunk(
    chunk: Chunk,
    number: int,
    columns: Columns,
    id_types: dict[Side, pa.DataType],
    work: str,
    needs_time: bool = False,
) -> ReadChunk:
    """Read a chunk of the source; write the usable and the rejected rows of each block.

    Raises
    ------
    InputError
        If the file cannot be read, or a column is of a type that cannot be used.
    """
    as_text = frozenset(side.singular for side, kind in id_types.items() if kind == pa.string())
    ids: dict[Side, list[pa.Table]] = {side: [] for side in SIDES}
    counts: list[BlockCounts] = []
    largest_times: list[float] = []
    n_rows = 0
    span = None
    for raw in read_blocks(chunk, columns, as_text):
        block = (number, len(counts))
        cleaned = clean(raw, chunk.path, id_types, columns, needs_time=needs_time)
        rejected = cleaned.rejected
        if rejected.num_rows:
            row = pc.add(rejected["row"], n_rows + 1)
            table_files.write_parquet(
                rejected_path(work, block), rejected.set_column(1, "row", row)
            )
        if cleaned.usable.num_rows:
            batch = _encoded(cleaned.usable)
            table_files.write_batches(usable_path(work, block), [batch], batch.schema)
            for side in SIDES:
                kind = cleaned.usable.schema.field(side.singular).type
                ids[side].append(block_ids.counted(batch.column(side.singular), kind))
            largest_times += _largest_times(cleaned.usable)
        counts.append(BlockCounts(raw.n_rows, rejected.num_rows, cleaned.n_untimed))
        n_rows += raw.n_rows
        span = raw.span
    kinds = {
        side: frozenset(table.schema.field("id").type for table in tables)
        for side, tables in ids.items()
    }
    merged = {
        side: merged_ids(tables) if len(kinds[side]) == 1 else pa.table({})
        for side, tables in ids.items()
    }
    largest_time = max(largest_times, default=None)
    return ReadChunk(ChunkSummary(tuple(counts), kinds, largest_time, span), merged)


def _largest_times(usable: pa.Table) -> list[float]:
    """Return the largest absolute value of the times that are known, if any."""
    if "time" not in usable.column_names:
        return []
    times = one_array(usable["time"]).to_numpy()
    is_known = np.isfinite(times)
    known = times if is_known.all() else times[is_known]
    return [float(max(-known.min(), known.max()))] if len(known) else []


def _encoded(usable: pa.Table) -> pa.RecordBatch:
    """Return one batch with ids as they are stored."""
    columns = {name: one_array(usable[name]) for name in usable.column_names}
    for side in SIDES:
        columns[side.singular] = block_ids.encoded(columns[side.singular])
    return pa.record_batch(columns)


def common_id_type(kinds: frozenset[pa.DataType]) -> pa.DataType:
    """Return the type that can hold ids of all these types."""
    if len(kinds) == 1:
        return next(iter(kinds))
    return pa.uint64() if kinds == {pa.int64(), pa.uint64()} else pa.string()


def summary(chunk: ReadChunk) -> ChunkSummary:
    """Return the summary of a chunk."""
    return chunk.summary


def chunk_ids(chunk: ReadChunk, side: Side) -> pa.Table:
    """Return the ids of one side in a chunk."""
    return chunk.ids[side]


def first_text_id(chunk: ReadChunk, side: Side) -> str | None:
    """Return the first id of a side in a chunk that is not written as a whole number, if any."""
    if not chunk.ids[side].num_columns:
        return None
    ids = chunk.ids[side]["id"].cast(pa.string())
    is_other = pc.invert(pc.match_substring_regex(ids, _CANONICAL_NUMBER))
    return next(iter(ids.filter(is_other).to_pylist()), None)


def merged_ids(tables: list[pa.Table]) -> pa.Table:
    """Merge tables of id and count into one, sorted by id.

    Raises
    ------
    InputError
        If there are 2**31 ids or more.
    """
    ids = block_ids.merged(tables)
    if ids.num_rows >= 2**31:
        raise InputError(f"{ids.num_rows:,} different ids are too many; the format holds 2**31")
    return ids


def planned_ranges(ids: pa.Table, n_partitions: int) -> list[range]:
    """Return the row ranges of a side's partitions, balanced by the counts of the source."""
    return balanced_ranges(ids["count"].to_numpy(), n_partitions)


def id_hashes(ids: pa.Table) -> np.ndarray:
    """Return a hash of each id, uint64."""
    return hashed_ids(ids["id"].combine_chunks())


def shuffle_block(
    block: BlockNumber,
    ids: dict[Side, pa.Table],
    ranges: list[range],
    work: str,
    to: str,
    within: dict[Side, pa.Table] | None = None,
) -> int:
    """Replace a block's ids by indices and sort its rows by partition of users, stably.

    Parameters
    ----------
    work, to : str
        The directories to read from and to write to.
    within : dict of Side to pyarrow.Table, optional
        The ids that rows may have; by default `ids`.

    Returns
    -------
    int
        Number of rows left out because one of their ids is not among those they may have.
    """
    batch = table_files.read_batch(usable_path(work, block), 0)
    columns = {side.singular: _indices(batch, side, ids) for side in SIDES}
    for name in batch.schema.names[len(SIDES) :]:
        columns[name] = batch.column(name).to_numpy()
    places = [columns[side.singular] for side in SIDES]
    if within is not None:
        places += [_indices(batch, side, within) for side in SIDES]
    n_left_out = 0
    if min(int(place.min()) for place in places) < 0:
        is_known = np.logical_and.reduce([place >= 0 for place in places])
        columns = {name: values[is_known] for name, values in columns.items()}
        n_left_out = len(is_known) - int(np.count_nonzero(is_known))
    write_shuffled(to_users_path(to, block), columns, USERS, ranges)
    return n_left_out


def _indices(batch: pa.RecordBatch, side: Side, ids: dict[Side, pa.Table]) -> np.ndarray:
    """Return the index of each id, -1 for an unknown id."""
    return block_ids.indices(batch.column(side.singular), one_array(ids[side]["id"]))


def write_shuffled(
    path: str, columns: dict[str, np.ndarray], side: Side, ranges: list[range]
) -> None:
    """Write rows as one batch for each partition of a side; rows keep their order in it."""
    partition = partition_of(columns[side.singular], ranges)
    edges = [0, *np.cumsum(np.bincount(partition, minlength=len(ranges))).tolist()]
    if not is_ascending(partition):
        # NumPy sorts 16-bit numbers by radix.
        order = np.argsort(partition, kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
    batch = pa.record_batch(columns)
    batches = (batch.slice(start, stop - start) for start, stop in pairwise(edges))
    table_files.write_batches(path, batches, batch.schema)


def read_user_rows(work: str, blocks: Sequence[BlockNumber], number: int) -> RatingColumns:
    """Read the rows of one partition of users, in the order of the source."""
    return _read_shuffled([to_users_path(work, block) for block in blocks], number)


def _read_shuffled(paths: list[str], number: int) -> dict[str, np.ndarray]:
    table = pa.Table.from_batches([table_files.read_batch(path, number) for path in paths])
    return {name: table[name].to_numpy() for name in table.column_names}


def write_ratings(path: str, columns: RatingColumns, side: Side) -> int:
    """Write the ratings of a partition, sorted by a side, without times; return the CRC-32."""
    encodings = {side.other.singular: "DELTA_BINARY_PACKED", WEIGHT: "BYTE_STREAM_SPLIT"}
    schema = schema_of(columns)
    return table_files.write_parquet(
        path,
        pa.table(stored_columns(columns), schema=schema),
        dictionaries=["rating"],
        encodings={name: encodings[name] for name in schema.names if name in encodings},
    )


def stored_columns(columns: RatingColumns) -> RatingColumns:
    """Return the columns that a partition stores."""
    return {name: columns[name] for name in schema_of(columns).names}


def write_item_part(number: int, n_user_parts: int, dataset: str, work: str) -> int:
    """Write the training ratings of one partition of items; return the CRC-32."""
    read = _read_shuffled([to_items_path(work, part) for part in range(n_user_parts)], number)
    order = order_of_pairs(read["item"], read["user"])
    columns = {name: values[order] for name, values in read.items()}
    return write_ratings(ratings_path(dataset, ITEMS.ratings_directory, number), columns, ITEMS)


def check_part(path: str, side: Side, rows: range, crc32: int) -> CheckedPart:
    """Read a written partition back and summarize it.

    Parameters
    ----------
    crc32 : int
        That of what was written.
    """
    table = table_files.read_parquet(path, RATINGS_SCHEMA.names, optional=WEIGHT, crc32=crc32)
    user, item, rating = (table[name].to_numpy() for name in RATINGS_SCHEMA.names)
    weights = table[WEIGHT].to_numpy() if WEIGHT in table.column_names else None
    row = user if side is USERS else item
    weighted = rating
    if weights is not None:
        # Exact, as the product of two float32 is a float64.
        weighted = weights.astype(np.float64) * rating
    return CheckedPart(
        counts=np.bincount(row - rows.start, minlength=len(rows)),
        n_ratings=len(row),
        crc32=crc32,
        rating_sum=exact_sum_of_short(weighted),
        checksum=checksum_of(user, item, rating, weights),
        rating_min=float(rating.min(initial=np.inf)),
        rating_max=float(rating.max(initial=-np.inf)),
        weight_sum=None if weights is None else exact_sum_of_short(weights),
    )


def cold_ratings(
    path: str, test: CheckedPart, users: CheckedPart, first_user: int, items: list[CheckedPart]
) -> int:
    """Count the held-out ratings of users or items without training ratings.

    Parameters
    ----------
    path : str
        A partition of held-out ratings.
    test, users : CheckedPart
        That partition, and the training ratings of its users.
    items : list of CheckedPart
        All partitions of items.
    """
    table = table_files.read_parquet(path, ["user", "item"], crc32=test.crc32)
    item_counts = np.concatenate([part.counts for part in items])
    user_count = users.counts[table["user"].to_numpy() - first_user]
    return int(((user_count == 0) | (item_counts[table["item"].to_numpy()] == 0)).sum())


def finish_side(
    side: Side,
    ids: pa.Table,
    parts: list[CheckedPart],
    titles: TitleFile | None,
    dataset: str,
    before: Dataset | None,
) -> CheckedSide:
    """Write a side's ids with their counts of training ratings, and summarize its partitions.

    Parameters
    ----------
    ids : pyarrow.Table
        ``id`` and, if known, ``title``.
    titles : TitleFile or None
        Where to look up titles.
    before : Dataset or None
        A dataset with titles, for items that have none there.
    """
    counts = np.concatenate([part.counts for part in parts])
    table = pa.table({"id": ids["id"], "count": pa.array(counts, pa.int64())})
    if "title" in ids.column_names:
        table = table.append_column("title", ids["title"])
    elif titles is not None or before is not None:
        found = [] if titles is None else [_titles_of(ids["id"], read_titles(titles))]
        if before is not None:
            found.append(_titles_before(ids["id"], before))
        table = table.append_column("title", pc.coalesce(*found))
    path = rows_path(dataset, side)
    table_files.write_parquet(path, table, row_group_size=1 << 16)
    return CheckedSide(
        digest=_digest(ids["id"].combine_chunks()),
        crc32=checksums.crc32_of(path),
        part_ratings=tuple(part.n_ratings for part in parts),
        part_crc32=tuple(part.crc32 for part in parts),
        rating_sum=sum(part.rating_sum for part in parts),
        checksum=sum(part.checksum for part in parts) % 2**64,
        rating_min=min(part.rating_min for part in parts),
        rating_max=max(part.rating_max for part in parts),
        weight_sum=total_weight(parts),
    )


def _titles_before(ids: pa.ChunkedArray, before: Dataset) -> pa.Array:
    """Return the title that each item had before, null if it had none."""
    rows = before.read_rows(ITEMS)
    places = pc.index_in(ids.combine_chunks(), value_set=rows["id"].combine_chunks().cast(ids.type))
    return rows["title"].combine_chunks().take(places)


def _titles_of(ids: pa.ChunkedArray, titles: pa.Table) -> pa.Array:
    """Return the first title of each id, null if it has none."""
    key_of = _whole_number if pa.types.is_integer(ids.type) else str
    by_id: dict[str | int | None, str] = {}
    for key, title in zip(titles["id"].to_pylist(), titles["title"].to_pylist(), strict=True):
        if key and title:
            by_id.setdefault(key_of(key.decode(errors="replace")), title.decode(errors="replace"))
    return pa.array([by_id.get(key) for key in ids.to_pylist()], pa.string())


def _whole_number(text: str) -> int | None:
    found = re.match(WHOLE_NUMBER, text.strip())
    return int(found.group(1)) if found else None


def _digest(ids: pa.Array) -> str:
    """Return the SHA-256 of ids, independent of the layout of Arrow's buffers."""
    digest = hashlib.sha256(str(ids.type).encode())
    if pa.types.is_integer(ids.type):
        digest.update(ids.to_numpy().tobytes())
    else:
        _, ends, text = ids.buffers()
        edges = np.frombuffer(ends, np.int32)[ids.offset : ids.offset + len(ids) + 1]
        digest.update(np.diff(edges).tobytes())
        digest.update(text[edges[0] : edges[-1]])
    return digest.hexdigest()


def write_rejected(files: list[tuple[str, int]], path: str) -> int:
    """Concatenate rejected rows, one file at a time; return the CRC-32 of the written file.

    Parameters
    ----------
    files : list of (str, int)
        Files of rejected rows, and the number of rows of the source file before their chunk.
    """
    tables = (
        table.set_column(1, "row", pc.add(table["row"], rows_before))
        for file, rows_before in files
        for table in table_files.read_parquet_groups(file)
    )
    return table_files.write_parquet_tables(path, tables, REJECTED_SCHEMA)


def example_pair(users: pa.Table, items: pa.Table, pair: tuple[int, int]) -> tuple[object, object]:
    """Return the ids of a pair of indices."""
    return users["id"][pair[0]].as_py(), items["id"][pair[1]].as_py()
