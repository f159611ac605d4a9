"""The tasks that `prepare` is made of: pure but for the files that they read and write.

A source's rows pass through two shuffles of files, first to the partitions of users, then to those
of items: each task of one stage writes one Arrow file with a batch for every partition of the next
stage, which reads its batch of every file. A task holds one block of the source or one partition.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dask_als import storage
from dask_als.clean import clean
from dask_als.dataset import TEST_DIRECTORY, ratings_path, rows_path
from dask_als.errors import InputError
from dask_als.exact_sum import exact_sum
from dask_als.ranges import balanced_ranges, starts
from dask_als.settings import Columns, PrepareSettings
from dask_als.side import ITEMS, SIDES, USERS, Side
from dask_als.source import Chunk, read_titles
from dask_als.split import (
    hashed_ids,
    last_of_each,
    latest_test,
    mean_of_each,
    mixed,
    random_test,
    sorted_pairs,
)

_RATINGS_SCHEMA = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("rating", pa.float32())])


@dataclass(frozen=True)
class ReadChunk:
    """What a chunk of the source came to; its usable rows lie in the work directory.

    Attributes
    ----------
    n_rows, n_rejected, n_pieces : int
        Rows read, rows not usable, and files written.
    ids : dict of str to pyarrow.Table
        For users and items: ``id``, ascending, and ``count``.
    """

    n_rows: int
    n_rejected: int
    n_pieces: int
    ids: dict[str, pa.Table | None]


@dataclass(frozen=True)
class ChunkSummary:
    """The small part of `ReadChunk`, for the plan."""

    n_rows: int
    n_rejected: int
    n_pieces: int
    id_types: dict[str, pa.DataType | None]


@dataclass(frozen=True)
class UserPart:
    """What became of the ratings of one partition of users.

    Attributes
    ----------
    n_train, n_test, n_merged : int
        Training and held-out ratings, and ratings that gave way to another of the same pair.
    duplicate : (int, int) or None
        User and item index of a pair that was there several times.
    """

    n_train: int
    n_test: int
    n_merged: int
    duplicate: tuple[int, int] | None


@dataclass(frozen=True)
class CheckedPart:
    """A written partition, read again.

    Attributes
    ----------
    counts : ndarray of int64
        Ratings of each of the partition's rows.
    n_ratings : int
    rating_sum : int
        Exact sum.
    checksum : int
        Sum of hashes of (user, item, rating), modulo 2**64: the same for both orientations.
    rating_min, rating_max : float
    """

    counts: np.ndarray
    n_ratings: int
    rating_sum: int
    checksum: int
    rating_min: float
    rating_max: float


@dataclass(frozen=True)
class CheckedSide:
    """All written partitions of one side, with the digest of its ids."""

    digest: str
    n_ratings: tuple[int, ...]
    rating_sum: int
    checksum: int
    rating_min: float
    rating_max: float


@dataclass(frozen=True)
class TitleColumns:
    """Where the items' titles are: a CSV file (or a member of a zip archive) and its columns."""

    path: str
    member: str | None
    item: str
    title: str


def piece_path(work: str, chunk: int, piece: int) -> str:
    """Return the path of a cleaned block of the source."""
    return storage.join(work, "pieces", f"{chunk:05d}-{piece:05d}.arrow")


def rejected_path(work: str, chunk: int) -> str:
    """Return the path of the rows of a chunk that were not usable."""
    return storage.join(work, "rejected", storage.part_name(chunk))


def shuffled_path(work: str, side: Side, name: str) -> str:
    """Return the path of rows on their way to the partitions of a side."""
    return storage.join(work, f"to_{side.name}", f"{name}.arrow")


def read_chunk(
    chunk: Chunk, number: int, columns: Columns, id_types: dict[str, pa.DataType], work: str
) -> ReadChunk:
    """Read a chunk of the source and write its usable rows, a file for each block."""
    ids: dict[str, list[pa.Table]] = {side.singular: [] for side in SIDES}
    rejected, n_rows, n_pieces = [], 0, 0
    for raw in chunk.blocks(columns):
        cleaned = clean(raw, chunk.path, id_types)
        shifted = pc.add(cleaned.rejected.column("row"), n_rows + 1)
        rejected.append(cleaned.rejected.set_column(1, "row", shifted))
        n_rows += raw.n_rows
        if cleaned.usable.num_rows:
            piece = _encoded(cleaned.usable)
            for word, tables in ids.items():
                tables.append(_counted(piece.column(word)))
            path = piece_path(work, number, n_pieces)
            storage.write_batches(path, iter([piece]), piece.schema)
            n_pieces += 1
    all_rejected = pa.concat_tables(rejected)
    if all_rejected.num_rows:
        storage.write_parquet(rejected_path(work, number), all_rejected)
    merged: dict[str, pa.Table | None] = {
        side.name: _merged_or_none(ids[side.singular]) for side in SIDES
    }
    return ReadChunk(n_rows, all_rejected.num_rows, n_pieces, merged)


def _encoded(usable: pa.Table) -> pa.RecordBatch:
    """Return one batch whose ids are codes into a dictionary that travels with it."""
    table = usable.combine_chunks()
    columns = {
        name: column.chunk(0).dictionary_encode() if name in ("user", "item") else column.chunk(0)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }
    return pa.record_batch(columns)


def _counted(ids: pa.DictionaryArray) -> pa.Table:
    counts = np.bincount(ids.indices.to_numpy(), minlength=len(ids.dictionary))
    return pa.table({"id": ids.dictionary, "count": counts})


def _merged_or_none(tables: list[pa.Table]) -> pa.Table | None:
    kinds = {table.schema.field("id").type for table in tables}
    if len(kinds) > 1:
        # Only the types matter then: the chunk will be read again with one.
        kind = common_id_type(kinds)
        tables = [pa.table({"id": pa.array([], kind), "count": pa.array([], pa.int64())})]
    return merged_ids(tables) if tables else None


def common_id_type(kinds: set[pa.DataType]) -> pa.DataType:
    """Return the type that can hold ids of several types."""
    if len(kinds) == 1:
        return next(iter(kinds))
    return pa.uint64() if kinds == {pa.int64(), pa.uint64()} else pa.string()


def summary(chunk: ReadChunk) -> ChunkSummary:
    """Return what the plan needs to know of a chunk."""
    kinds = {
        name: None if table is None else table.schema.field("id").type
        for name, table in chunk.ids.items()
    }
    return ChunkSummary(chunk.n_rows, chunk.n_rejected, chunk.n_pieces, kinds)


def chunk_ids(chunk: ReadChunk, side: Side) -> pa.Table:
    """Return the ids of one side in a chunk."""
    return chunk.ids[side.name]


def merged_ids(tables: list[pa.Table | None]) -> pa.Table:
    """Merge tables of id and count into one whose ids ascend."""
    together = pa.concat_tables([table for table in tables if table is not None])
    grouped = together.group_by("id").aggregate([("count", "sum")])
    return grouped.rename_columns(["id", "count"]).sort_by("id").combine_chunks()


def planned_ranges(ids: pa.Table, n_partitions: int) -> list[range]:
    """Return the row ranges of a side's partitions, balanced by the source's counts."""
    return balanced_ranges(ids.column("count").to_numpy(), n_partitions)


def id_hashes(ids: pa.Table) -> np.ndarray:
    """Return a hash of each id, uint64."""
    return hashed_ids(ids.column("id").combine_chunks())


def shuffle_piece(
    chunk: int, piece: int, ids: dict[str, pa.Table], ranges: list[range], work: str
) -> None:
    """Replace a piece's ids by indices and sort its rows by the users' partitions, in order."""
    batch = storage.read_batch(piece_path(work, chunk, piece), 0)
    columns = {
        side.singular: _indices(batch.column(side.singular), ids[side.name]) for side in SIDES
    }
    columns["rating"] = batch.column("rating").to_numpy()
    if "time" in batch.schema.names:
        columns["time"] = batch.column("time").to_numpy()
    _write_shuffled(shuffled_path(work, USERS, f"{chunk:05d}-{piece:05d}"), columns, USERS, ranges)


def _indices(ids: pa.DictionaryArray, all_ids: pa.Table) -> np.ndarray:
    known = pc.index_in(ids.dictionary, value_set=all_ids.column("id").combine_chunks())
    return known.to_numpy()[ids.indices.to_numpy()].astype(np.int32)


def _write_shuffled(
    path: str, columns: dict[str, np.ndarray], side: Side, ranges: list[range]
) -> None:
    """Write rows as one batch for each partition of a side; rows keep their order within."""
    partition = np.searchsorted(starts(ranges), columns[side.singular], side="right") - 1
    order = np.argsort(partition.astype(np.int16), kind="stable")
    edges = np.searchsorted(partition[order], np.arange(len(ranges) + 1))
    batch = pa.record_batch({name: values[order] for name, values in columns.items()})
    batches = (
        batch.slice(edges[number], edges[number + 1] - edges[number])
        for number in range(len(ranges))
    )
    storage.write_batches(path, batches, batch.schema)


def write_user_part(
    number: int,
    pieces: list[tuple[int, int]],
    hashes: dict[str, np.ndarray],
    item_ranges: list[range],
    settings: PrepareSettings,
    dataset: str,
    work: str,
) -> UserPart:
    """Write the training and held-out ratings of one partition of users.

    Raises
    ------
    InputError
        If the latest ratings are to be held out and the source has no time.
    """
    names = [f"{chunk:05d}-{piece:05d}" for chunk, piece in pieces]
    table = _read_shuffled([shuffled_path(work, USERS, name) for name in names], number)
    user, item, rating = (table.column(name).to_numpy() for name in ("user", "item", "rating"))
    time = table.column("time").to_numpy() if "time" in table.column_names else None

    order, first = sorted_pairs(user, item)
    kept = last_of_each(order, first, time)
    n_merged = len(order) - len(kept)
    duplicate = None
    if n_merged:
        if settings.duplicates == "mean":
            rating = rating.copy()
            rating[kept] = mean_of_each(order, first, rating)
        several = np.argmax(np.diff([*first, len(order)]) > 1)
        position = order[first[several]]
        duplicate = (int(user[position]), int(item[position]))
    user, item, rating = user[kept], item[kept], rating[kept]

    is_test = np.zeros(len(user), dtype=bool)
    if settings.test_fraction and settings.split == "random":
        is_test = random_test(
            hashes["users"][user],
            hashes["items"][item],
            fraction=settings.test_fraction,
            seed=settings.seed,
        )
    elif settings.test_fraction:
        assert time is not None, "the plan asks for a time column"
        is_test = latest_test(user, item, time[kept], fraction=settings.test_fraction)

    train = {"user": user[~is_test], "item": item[~is_test], "rating": rating[~is_test]}
    _write_ratings(ratings_path(dataset, USERS.ratings_directory, number), train)
    if settings.test_fraction:
        test = {"user": user[is_test], "item": item[is_test], "rating": rating[is_test]}
        _write_ratings(ratings_path(dataset, TEST_DIRECTORY, number), test)
    _write_shuffled(shuffled_path(work, ITEMS, f"{number:05d}"), train, ITEMS, item_ranges)
    return UserPart(int((~is_test).sum()), int(is_test.sum()), n_merged, duplicate)


def _read_shuffled(paths: list[str], number: int) -> pa.Table:
    return pa.Table.from_batches([storage.read_batch(path, number) for path in paths])


def _write_ratings(path: str, columns: dict[str, np.ndarray]) -> None:
    storage.write_parquet(path, pa.table(columns, schema=_RATINGS_SCHEMA))


def write_item_part(number: int, n_user_parts: int, dataset: str, work: str) -> None:
    """Write the training ratings of one partition of items."""
    paths = [shuffled_path(work, ITEMS, f"{part:05d}") for part in range(n_user_parts)]
    table = _read_shuffled(paths, number)
    order, _ = sorted_pairs(table.column("item").to_numpy(), table.column("user").to_numpy())
    columns = {name: table.column(name).to_numpy()[order] for name in _RATINGS_SCHEMA.names}
    _write_ratings(ratings_path(dataset, ITEMS.ratings_directory, number), columns)


def check_part(path: str, side: Side, rows: range) -> CheckedPart:
    """Read a written partition again and sum it up."""
    table = storage.read_parquet(path)
    user, item, rating = (table.column(name).to_numpy() for name in _RATINGS_SCHEMA.names)
    row = user if side is USERS else item
    pairs = user.astype(np.uint64) << np.uint64(32) | item.astype(np.uint64)
    hashes = mixed(mixed(pairs) + rating.view(np.uint32))
    return CheckedPart(
        counts=np.bincount(row - rows.start, minlength=len(rows)),
        n_ratings=len(row),
        rating_sum=exact_sum(rating),
        checksum=int(hashes.sum(dtype=np.uint64)),
        rating_min=float(rating.min(initial=np.inf)),
        rating_max=float(rating.max(initial=-np.inf)),
    )


def finish_side(
    side: Side,
    ids: pa.Table,
    parts: list[CheckedPart],
    titles: TitleColumns | None,
    dataset: str,
) -> CheckedSide:
    """Write a side's ids with their counts of training ratings, and sum up its partitions."""
    counts = np.concatenate([part.counts for part in parts])
    table = pa.table({"id": ids.column("id"), "count": pa.array(counts, pa.int64())})
    if titles is not None:
        table = table.append_column("title", _titles_of(ids.column("id"), titles))
    storage.write_parquet(rows_path(dataset, side), table, row_group_size=1 << 16)
    return CheckedSide(
        digest=_digest(ids.column("id")),
        n_ratings=tuple(part.n_ratings for part in parts),
        rating_sum=sum(part.rating_sum for part in parts),
        checksum=sum(part.checksum for part in parts) % 2**64,
        rating_min=min(part.rating_min for part in parts),
        rating_max=max(part.rating_max for part in parts),
    )


def _titles_of(ids: pa.ChunkedArray, columns: TitleColumns) -> pa.Array:
    titles = read_titles(columns.path, columns.member, columns.item, columns.title)
    where = pc.index_in(ids.cast(pa.string()), value_set=titles.column("id").combine_chunks())
    return titles.column("title").combine_chunks().take(where)


def _digest(ids: pa.ChunkedArray) -> str:
    """Return the SHA-256 of ids, one a line, whatever Arrow's buffers look like."""
    digest = hashlib.sha256(str(ids.type).encode())
    for chunk in ids.chunks:
        text = chunk.cast(pa.string())
        digest.update("\n".join(text.to_pylist()).encode() + b"\n")
    return digest.hexdigest()


def write_rejected(files: list[tuple[str, int]], path: str) -> None:
    """Put the chunks' rejected rows together.

    Parameters
    ----------
    files : list of (str, int)
        Files of rejected rows, and how many rows of the source file come before their chunk.
    """
    tables = []
    for file, rows_before in files:
        table = storage.read_parquet(file)
        row = pc.add(table.column("row"), rows_before)
        tables.append(table.set_column(1, "row", row))
    storage.write_parquet(path, pa.concat_tables(tables))


def example_pair(users: pa.Table, items: pa.Table, pair: tuple[int, int]) -> tuple[object, object]:
    """Return the ids of a pair of indices."""
    return users.column("id")[pair[0]].as_py(), items.column("id")[pair[1]].as_py()


def check_has_ids(ids: pa.Table, side: Side) -> None:
    """Check that indices fit into int32.

    Raises
    ------
    InputError
        If there are too many ids.
    """
    if ids.num_rows >= 2**31:
        raise InputError(f"{ids.num_rows:,} {side.name} are more than the format's 2**31")
