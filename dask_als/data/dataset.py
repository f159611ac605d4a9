"""A prepared dataset on disk: ratings in Parquet, partitioned by user and again by item.

::

    DATASET/
      manifest.json                  written last, so that a dataset is complete or absent
      users.parquet  items.parquet   row i has index i: id (as in the source), count, title if known
      by_user/part-00000.parquet …   user, item (int32 indices), rating (float32), sorted; and
                                     weight (float32), if ratings have weights
      by_item/part-00000.parquet …   the same ratings by item
      test/part-00000.parquet …      held-out ratings by user, if the dataset has a split
      user_attributes.parquet        attributes of users, if there are any, and of items; see
      item_attributes.parquet        `dask_als.data.attributes`
      kept/times-00000.arrow …       what appending needs, see `dask_als.data.kept_rows`
      rejected.parquet               unusable rows of the source, each with the reason
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from dask_als.core import json_files, storage, table_files
from dask_als.core.limits import TEXT_BYTES, ParquetLimit
from dask_als.core.side import SIDES, USERS, Side
from dask_als.core.typed_tables import from_manifest
from dask_als.data.attributes import AttributesFile, SideAttributes, attributes_path
from dask_als.errors import InputError
from dask_als.settings.data import PrepareSettings

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TEST_DIRECTORY = "test"
KEPT_FILES = ("times", "repeated", "left_out")
RATINGS_SCHEMA = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("rating", pa.float32())])
WEIGHT = "weight"
_WITH_WEIGHTS = RATINGS_SCHEMA.append(pa.field(WEIGHT, pa.float32()))
RATING_BYTES = sum(field.type.bit_width // 8 for field in _WITH_WEIGHTS)


@dataclass(frozen=True)
class Partition:
    """A contiguous range of one side's rows, stored as one file.

    Attributes
    ----------
    start, stop : int
        The rows, ``start <= row < stop``.
    ratings : int
        Number of training ratings.
    test_ratings : int
        Number of held-out ratings; 0 for items, because held-out ratings are stored by user.
    n_columns : int
        Number of rows of the other side.
    crc32, test_crc32 : int
        CRC-32 of the files of training and held-out ratings.
    """

    start: int
    stop: int
    ratings: int
    test_ratings: int = 0
    n_columns: int = 0
    crc32: int = 0
    test_crc32: int = 0

    @property
    def rows(self) -> range:
        """The rows as a range."""
        return range(self.start, self.stop)


@dataclass(frozen=True)
class SideTable:
    """What the manifest records about one side.

    Attributes
    ----------
    digest : str
        SHA-256 of the ids in index order.
    crc32 : int
        CRC-32 of the file of ids.
    partitions : tuple of Partition
    """

    digest: str
    crc32: int
    partitions: tuple[Partition, ...]

    @property
    def n_rows(self) -> int:
        """Number of rows, including those without training ratings."""
        return self.partitions[-1].stop


@dataclass(frozen=True)
class RowsFile:
    """A reference to the file of a side's ids, small enough to send with every task.

    Attributes
    ----------
    path : str
    crc32 : int
    """

    path: str
    crc32: int

    def read(self, rows: range, columns: list[str]) -> pa.Table:
        """Read columns of a range of rows.

        Raises
        ------
        InputError
            If the file is missing, damaged or not the one recorded.
        """
        return table_files.read_parquet_rows(self.path, rows, columns, crc32=self.crc32)


@dataclass(frozen=True)
class Growth:
    """What a dataset records so that ratings can be appended to it; see `dask_als.data.kept_rows`.

    Attributes
    ----------
    settings : PrepareSettings
    times : tuple of int
        CRC-32 of the times of each partition of users; empty if nothing depends on times.
    repeated : tuple of int or None
        CRC-32 of the rows of pairs that have several, for each partition of users; None if it has
        none.
    left_out : tuple of int or None
        CRC-32 of the rows that a filter has left out, for each partition that it worked on.
    largest_time : float or None
        The largest absolute value of all times.
    appended : tuple of Appended
        What was appended so far.
    """

    settings: PrepareSettings
    times: tuple[int, ...]
    repeated: tuple[int | None, ...]
    left_out: tuple[int | None, ...]
    largest_time: float | None = None
    appended: tuple[Appended, ...] = ()


@dataclass(frozen=True)
class Weights:
    """What a dataset records about the weights of its ratings.

    Attributes
    ----------
    train, test : float
        Sums of the weights of training and of held-out ratings.
    newest_time : float or None
        The time of the newest training rating, from which age is counted; None unless weights
        decay.
    """

    train: float
    test: float
    newest_time: float | None = None


@dataclass(frozen=True)
class Appended:
    """A source that was appended to a dataset.

    Attributes
    ----------
    path : str
    files : dict of str to list
        The state of each of its files.
    before : str
        The fingerprint of the dataset before.
    found : str or None
        What was found about the form of the files, unless it is the usual one.
    """

    path: str
    files: dict[str, Any]
    before: str
    found: str | None = None


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset. The ratings stay on disk until they are read.

    Attributes
    ----------
    path : str
    users, items : SideTable
    n_ratings, n_test : int
        Number of training and of held-out ratings.
    rating_mean, rating_min, rating_max : float
        Statistics of the training ratings; the mean is weighted.
    fingerprint : str
        Digest of ids and ratings, independent of partitions and of the order of the source.
    split : dict or None
        How ratings were held out; None if none were.
    source : dict
        Where the ratings came from, and the counts of usable, rejected and merged rows.
    has_titles : bool
        Whether the items have titles.
    rejected_crc32 : int or None
        CRC-32 of the file of rejected rows; None if there is no such file or it is not recorded.
    growth : Growth or None
        What appending needs; None if the dataset does not record it.
    user_attributes, item_attributes : SideAttributes or None
    weights : Weights or None
        None if ratings have no weights.
    """

    path: str
    users: SideTable
    items: SideTable
    n_ratings: int
    n_test: int
    rating_mean: float
    rating_min: float
    rating_max: float
    fingerprint: str
    split: dict[str, Any] | None
    source: dict[str, Any]
    has_titles: bool
    rejected_crc32: int | None = None
    growth: Growth | None = None
    user_attributes: SideAttributes | None = None
    item_attributes: SideAttributes | None = None
    weights: Weights | None = None

    def attributes(self, side: Side) -> AttributesFile | None:
        """Return a reference to the attributes of a side; None if it has none."""
        its = self.user_attributes if side is USERS else self.item_attributes
        if its is None:
            return None
        return AttributesFile(attributes_path(self.path, side), its, self.table(side).n_rows)

    @property
    def train_weight(self) -> float:
        """The sum of the weights of training ratings; without weights, their number."""
        return self.n_ratings if self.weights is None else self.weights.train

    @property
    def test_weight(self) -> float:
        """The sum of the weights of held-out ratings; without weights, their number."""
        return self.n_test if self.weights is None else self.weights.test

    def table(self, side: Side) -> SideTable:
        """Return what the manifest records about a side."""
        return self.users if side is USERS else self.items

    def read_rows(self, side: Side) -> pa.Table:
        """Read id, count and, if known, title of each row of a side.

        Raises
        ------
        InputError
            If the file is missing or damaged.
        """
        table = self.table(side)
        return table_files.read_parquet(
            rows_path(self.path, side), crc32=table.crc32, limit=_limit_of_rows(table)
        )

    def rows_file(self, side: Side) -> RowsFile:
        """Return a reference to the file of a side's ids."""
        return RowsFile(rows_path(self.path, side), self.table(side).crc32)

    def check_rows(self) -> None:
        """Check that the ids of both sides are present and match the manifest.

        Raises
        ------
        InputError
            If they do not.
        """
        for side in SIDES:
            table = self.table(side)
            path = rows_path(self.path, side)
            table_files.check_parquet(path, crc32=table.crc32, limit=_limit_of_rows(table))

    def files(self) -> dict[str, int]:
        """Return the path and the CRC-32 of every file of the dataset."""
        found = {rows_path(self.path, side): self.table(side).crc32 for side in SIDES}
        for side in SIDES:
            for number, part in enumerate(self.table(side).partitions):
                found[ratings_path(self.path, side.ratings_directory, number)] = part.crc32
        if self.split is not None:
            for number, part in enumerate(self.users.partitions):
                found[ratings_path(self.path, TEST_DIRECTORY, number)] = part.test_crc32
        if self.rejected_crc32 is not None:
            found[rejected_path(self.path)] = self.rejected_crc32
        for side in SIDES:
            if (attributes := self.attributes(side)) is not None:
                found[attributes.path] = attributes.side_attributes.crc32
        if self.growth is not None:
            checksums = {name: getattr(self.growth, name) for name in KEPT_FILES}
            for name, numbered in checksums.items():
                for number, crc32 in enumerate(numbered):
                    if crc32 is not None:
                        found[kept_path(self.path, name, number)] = crc32
        return found

    def write_manifest(self, directory: str) -> None:
        """Write the manifest, which completes the dataset."""
        value = asdict(self)
        del value["path"]
        for name in ("user_attributes", "item_attributes"):
            if value[name] is None:
                del value[name]
        json_files.write_manifest(
            storage.join(directory, MANIFEST), value, format_version=FORMAT_VERSION
        )


def ratings_path(dataset: str, directory: str, number: int) -> str:
    """Return the path of a partition's ratings."""
    return storage.part_of(dataset, directory, storage.part_name(number))


def schema_of(columns: Iterable[str]) -> pa.Schema:
    """Return the schema of a partition of ratings, with weights if they are among the columns."""
    return _WITH_WEIGHTS if WEIGHT in columns else RATINGS_SCHEMA


def rows_path(dataset: str, side: Side) -> str:
    """Return the path of a side's ids."""
    return storage.part_of(dataset, f"{side.name}.parquet")


def kept_path(dataset: str, what: str, number: int) -> str:
    """Return the path of a file that a dataset keeps for appending; see `Growth`."""
    return storage.part_of(dataset, "kept", f"{what.replace('_', '-')}-{number:05d}.arrow")


def rejected_path(dataset: str) -> str:
    """Return the path of a dataset's rejected rows."""
    return storage.join(dataset, "rejected.parquet")


def is_dataset(path: str) -> bool:
    """Tell whether a path is a prepared dataset."""
    return storage.exists(storage.join(path, MANIFEST))


def open_dataset(path: str) -> Dataset:
    """Open a prepared dataset.

    Raises
    ------
    InputError
        If there is none, or it is damaged or of another format version.
    """
    if not storage.exists(path):
        raise InputError(f"there is no dataset at {path}; make one with: dask-als prepare")
    if not is_dataset(path):
        raise InputError(
            f"{path} is not a dataset (no {MANIFEST}); make one with: dask-als prepare"
        )
    file = storage.part_of(path, MANIFEST)
    manifest = json_files.read_manifest(file, format_version=FORMAT_VERSION)
    manifest["path"] = storage.absolute(path)
    try:
        dataset = from_manifest(Dataset, manifest, file)
        _check_partitions(dataset, file)
    except InputError as error:
        raise InputError(f"{error}; prepare the dataset again") from None
    for side in SIDES:
        limit = _limit_of_rows(dataset.table(side))
        table_files.check_parquet_rows(rows_path(path, side), limit)
    return dataset


def _limit_of_rows(table: SideTable) -> ParquetLimit:
    return ParquetLimit(table.n_rows, TEXT_BYTES)


def _check_partitions(dataset: Dataset, file: str) -> None:
    """Raise InputError if the partitions do not cover the matrix of ratings.

    The kernels rely on this: they do not check indices.
    """
    mistake = _mistake_in_partitions(dataset)
    if mistake is not None:
        raise InputError(f"{file} is damaged: {mistake}")


def _mistake_in_partitions(dataset: Dataset) -> str | None:
    for table, other in ((dataset.users, dataset.items), (dataset.items, dataset.users)):
        if not (table.partitions and other.partitions):
            return "a side has no partitions"
        if any(partition.n_columns != other.n_rows for partition in table.partitions):
            return "the partitions of one side do not match those of the other"
        mistake = mistake_in_ranges(table.partitions)
        if mistake is not None:
            return mistake
        if sum(partition.ratings for partition in table.partitions) != dataset.n_ratings:
            return "the partitions' ratings do not add up"
    if sum(partition.test_ratings for partition in dataset.users.partitions) != dataset.n_test:
        return "the partitions' held-out ratings do not add up"
    return None


def mistake_in_ranges(partitions: Sequence[Partition]) -> str | None:
    """Return what is wrong with partitions that should be consecutive; None if nothing is."""
    stop = 0
    for part in partitions:
        if not (part.start == stop < part.stop) or part.ratings < 0 or part.test_ratings < 0:
            return f"{part} is not the next partition"
        stop = part.stop
    return None if stop < 2**31 else f"{stop:,} rows are too many"
