"""What a dataset keeps besides its ratings, so that others can be appended to them.

::

    DATASET/kept/
      times-00000.arrow …       time of each rating of by_user/part-00000, then of test/part-00000,
                                int32 if all are such whole numbers; and its weight in the source,
                                if that has one and it decays
      repeated-00000.arrow …    user, item, rating, time: all rows of the pairs that have several
      left-out-00000.arrow …    ids of user and item, rating, time: rows that a filter has left out

With them and the prepared ratings, all usable rows of the source can be read again. Times are kept
only if the split, the weights or the rule for duplicates depend on them. If the source has weights,
the rows have them, too. A file that would have no row is not
written, except for times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dask_als.core import table_files
from dask_als.core.side import SIDES, USERS, Side
from dask_als.data.block_files import read_block, read_test_block
from dask_als.data.dataset import (
    WEIGHT,
    Dataset,
    Growth,
    Partition,
    RowsFile,
    kept_path,
    ratings_path,
)
from dask_als.data.one_rating import RatingColumns, pair_keys
from dask_als.data.source import Chunk
from dask_als.data.text_chunks import Raw
from dask_als.errors import InputError

_MOST_INT32 = 2.0**31 - 1


def write_times(dataset: str, number: int, train: RatingColumns, test: RatingColumns) -> int:
    """Write the times of a partition's ratings, training before held-out; return the CRC-32."""
    columns = {"time": "time", "given": WEIGHT}
    kept = {
        stored: np.concatenate([train[name], test[name]])
        for name, stored in columns.items()
        if name in train
    }
    table = pa.table({**kept, "time": _narrow(kept["time"])})
    return table_files.write_arrow(kept_path(dataset, "times", number), table, compression="zstd")


def _narrow(times: np.ndarray) -> np.ndarray:
    """Return times as int32 if that holds them, as it does whole seconds; else as they are."""
    if not (len(times) and times.min() >= -_MOST_INT32 and times.max() <= _MOST_INT32):
        return times
    narrow = times.astype(np.int32)
    return narrow if (narrow == times).all() else times


def write_repeated(
    dataset: str, number: int, train: RatingColumns, test: RatingColumns | None
) -> int | None:
    """Write the rows of pairs that have several.

    Parameters
    ----------
    test : dict of str to ndarray or None
        Those of a test source, if the dataset has one of its own.

    Returns
    -------
    int or None
        The CRC-32; None if there are none.
    """
    columns = train
    if test is not None:
        columns = {name: np.concatenate([train[name], test[name]]) for name in train}
        columns["held_out"] = np.repeat([False, True], [len(train["user"]), len(test["user"])])
    return write_kept(dataset, "repeated", number, pa.table(columns))


def write_kept(dataset: str, what: str, number: int, table: pa.Table) -> int | None:
    """Write rows that a dataset keeps, if there are any; return the CRC-32."""
    if not table.num_rows:
        return None
    return table_files.write_arrow(kept_path(dataset, what, number), table, compression="zstd")


@dataclass(frozen=True)
class PreparedRows:
    """The usable rows of a source that one partition of users was made of, as a chunk of a source.

    It holds what reading takes and no more, since it is sent with a task.

    Attributes
    ----------
    dataset : str
        The path of the dataset.
    number : int
        The number of the partition.
    partition : Partition
    ids : dict of Side to IdsFile
    has_test : bool
        Whether the dataset holds out ratings.
    times, repeated : int or None
        CRC-32 of the kept files of the partition; None if there is none.
    has_weights : bool
        Whether the source has weights.
    held_out : bool or None
        For a dataset with a test source of its own: whether to read the rows of that, or of the
        other source. None reads all rows.
    """

    dataset: str
    number: int
    partition: Partition
    ids: dict[Side, IdsFile]
    has_test: bool
    times: int | None
    repeated: int | None
    has_weights: bool
    held_out: bool | None

    @property
    def path(self) -> str:
        """The file of training ratings, for errors."""
        return ratings_path(self.dataset, USERS.ratings_directory, self.number)

    def blocks(self, names: dict[str, str], as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the rows."""
        rows: dict[str, Any] = {**self._rows()}
        for side in SIDES:
            rows[side.singular] = self.ids[side].of(rows[side.singular])
        yield Raw(pa.table({word: rows[word] for word in names}), [], is_text=False)

    def _rows(self) -> RatingColumns:
        rows = self._prepared()
        if self.repeated is None:
            return rows
        path = kept_path(self.dataset, "repeated", self.number)
        table = table_files.read_arrow(path, crc32=self.repeated)
        repeated = {name: table[name].to_numpy() for name in table.column_names}
        held_out = repeated.pop("held_out", None)
        if held_out is not None and self.held_out is not None:
            repeated = {
                name: values[held_out == self.held_out] for name, values in repeated.items()
            }
        single = ~np.isin(pair_keys(rows), pair_keys(repeated))
        return {
            name: np.concatenate([values[single], repeated[name]]) for name, values in rows.items()
        }

    def _prepared(self) -> RatingColumns:
        """Read the prepared ratings and their times."""
        blocks = [read_block(self.dataset, USERS, self.number, self.partition)]
        if self.has_test:
            blocks.append(read_test_block(self.dataset, self.number, self.partition))
        rows: dict[str, Any] = {
            "user": np.concatenate([block.row_of_rating for block in blocks]),
            "item": np.concatenate([block.indices for block in blocks]),
            "rating": np.concatenate([block.ratings for block in blocks]),
        }
        n_train, n_rows = len(blocks[0].ratings), len(rows["rating"])
        if self.has_weights and blocks[0].weights is not None:
            rows[WEIGHT] = np.concatenate([block.weights for block in blocks])
        if self.times is not None:
            path = kept_path(self.dataset, "times", self.number)
            kept = table_files.read_arrow(path, crc32=self.times)
            if kept.num_rows != n_rows:
                raise InputError(f"{path} is damaged: it does not have {n_rows:,} times")
            # The weights of the source replace those that have decayed.
            rows |= {name: kept[name].to_numpy() for name in kept.column_names}
        if self.held_out is None:
            return rows
        wanted = slice(n_train, None) if self.held_out else slice(n_train)
        return {name: values[wanted] for name, values in rows.items()}


@dataclass(frozen=True)
class IdsFile:
    """The ids of all rows of a side.

    Attributes
    ----------
    file : RowsFile
    n_rows : int
    """

    file: RowsFile
    n_rows: int

    def of(self, rows: np.ndarray) -> pa.Array:
        """Return the ids of some rows."""
        ids = self.file.read(range(self.n_rows), ["id"])["id"].combine_chunks()
        return ids.take(pa.array(rows))


@dataclass(frozen=True)
class LeftOutRows:
    """Rows that a filter has left out of a dataset, as a chunk of a source.

    Attributes
    ----------
    path : str
    crc32 : int
    """

    path: str
    crc32: int

    def blocks(self, names: dict[str, str], as_text: frozenset[str]) -> Iterator[Raw]:
        """Read the rows."""
        table = table_files.read_arrow(self.path, crc32=self.crc32)
        yield Raw(table.select(list(names)), [], is_text=False)


def stored_chunks(dataset: Dataset) -> tuple[list[Chunk], list[Chunk]]:
    """Return the chunks that hold all usable rows of a dataset: training, and its own test."""
    growth = dataset.growth
    assert growth is not None, "it was checked that ratings can be appended"
    left_out: list[Chunk] = [
        LeftOutRows(kept_path(dataset.path, "left_out", number), crc32)
        for number, crc32 in enumerate(growth.left_out)
        if crc32 is not None
    ]
    if growth.settings.split != "own":
        return [*_prepared_rows(dataset, growth, None), *left_out], []
    train, test = (_prepared_rows(dataset, growth, held_out) for held_out in (False, True))
    return [*train, *left_out], [*test]


def _prepared_rows(dataset: Dataset, growth: Growth, held_out: bool | None) -> list[PreparedRows]:
    ids = {side: IdsFile(dataset.rows_file(side), dataset.table(side).n_rows) for side in SIDES}
    return [
        PreparedRows(
            dataset.path,
            number,
            partition,
            ids,
            dataset.split is not None,
            growth.times[number] if growth.times else None,
            growth.repeated[number],
            WEIGHT in dataset.source["columns"],
            held_out,
        )
        for number, partition in enumerate(dataset.users.partitions)
    ]
