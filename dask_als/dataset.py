"""A prepared dataset on disk: ratings in Parquet, partitioned by user and again by item.

::

    DATASET/
      manifest.json                  written last: a dataset is complete or not there
      users.parquet  items.parquet   row i = index i: id (as in the source), count, title if known
      by_user/part-00000.parquet …   user, item (int32 indices), rating (float32), sorted
      by_item/part-00000.parquet …   the same ratings by item
      test/part-00000.parquet …      held-out ratings by user, if a split was asked for
      rejected.parquet               source rows that were not usable, each with the reason
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from dask_als import storage
from dask_als.blocks import Block, block_of
from dask_als.errors import InputError
from dask_als.side import ITEMS, USERS, Side

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TEST_DIRECTORY = "test"


@dataclass(frozen=True)
class Partition:
    """A contiguous range of one side's rows, stored as one file.

    Attributes
    ----------
    start, stop : int
        The rows, ``start <= row < stop``.
    ratings : int
        How many training ratings they have.
    test_ratings : int
        How many held-out ratings; 0 for items, whose held-out ratings lie with the users.
    """

    start: int
    stop: int
    ratings: int
    test_ratings: int = 0

    @property
    def rows(self) -> range:
        """The rows as a range."""
        return range(self.start, self.stop)


@dataclass(frozen=True)
class SideTable:
    """What the manifest says of one side.

    Attributes
    ----------
    digest : str
        SHA-256 of the ids in their order.
    partitions : tuple of Partition
    """

    digest: str
    partitions: tuple[Partition, ...]

    @property
    def n_rows(self) -> int:
        """Rows of the side, those without training ratings included."""
        return self.partitions[-1].stop


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset; the ratings stay on disk until they are read.

    Attributes
    ----------
    path : str
    users, items : SideTable
    n_ratings, n_test : int
        Training and held-out ratings.
    rating_mean, rating_min, rating_max : float
        Of the training ratings.
    fingerprint : str
        Digest of ids and ratings; it does not depend on partitions or on the source's order.
    split : dict or None
        How ratings were held out.
    source : dict
        Where the ratings came from, and what became of each of its rows.
    has_titles : bool
        Whether the items have titles.
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

    def table(self, side: Side) -> SideTable:
        """Return what is known of one side."""
        return self.users if side is USERS else self.items

    def read_rows(self, side: Side) -> pa.Table:
        """Read id, count and, if there, title of each row of a side."""
        return storage.read_parquet(rows_path(self.path, side))

    def write_manifest(self, directory: str) -> None:
        """Write what completes the dataset."""
        manifest = {"format_version": FORMAT_VERSION, **asdict(self)}
        del manifest["path"]
        storage.write_json(storage.join(directory, MANIFEST), manifest)


def ratings_path(dataset: str, directory: str, number: int) -> str:
    """Return the path of a partition's ratings."""
    return storage.join(dataset, directory, storage.part_name(number))


def rows_path(dataset: str, side: Side) -> str:
    """Return the path of a side's ids."""
    return storage.join(dataset, f"{side.name}.parquet")


def is_dataset(path: str) -> bool:
    """Tell whether a path is a prepared dataset."""
    return storage.exists(storage.join(path, MANIFEST))


def open_dataset(path: str) -> Dataset:
    """Open a prepared dataset.

    Raises
    ------
    InputError
        If there is none, or one of another format version, or a damaged one.
    """
    if not storage.exists(path):
        raise InputError(f"there is no dataset at {path}; make one with: dask-als prepare")
    if not is_dataset(path):
        raise InputError(
            f"{path} is not a dataset (no {MANIFEST}); make one with: dask-als prepare"
        )
    manifest = storage.read_json(storage.join(path, MANIFEST))
    version = manifest.pop("format_version", None) if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path} has dataset format version {version}, this release reads {FORMAT_VERSION}; "
            "prepare it again"
        )
    try:
        users, items = (_side_table(manifest.pop(side.name)) for side in (USERS, ITEMS))
        return Dataset(path=storage.absolute(path), users=users, items=items, **manifest)
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise InputError(
            f"{path}/{MANIFEST} is damaged: {storage.first_line(error)}; prepare it again"
        ) from None


def _side_table(value: dict[str, Any]) -> SideTable:
    partitions = tuple(Partition(**partition) for partition in value["partitions"])
    return SideTable(digest=value["digest"], partitions=(partitions[0], *partitions[1:]))


def read_block(path: str, side: Side, number: int, partition: Partition) -> Block:
    """Read the ratings of one partition of a dataset.

    Raises
    ------
    InputError
        If the file is missing, damaged, or not what the manifest says.
    """
    file = ratings_path(path, side.ratings_directory, number)
    return _read_ratings(file, side, partition.rows, partition.ratings)


def read_test_block(path: str, number: int, partition: Partition) -> Block:
    """Read the held-out ratings of one partition of a dataset, by user.

    Raises
    ------
    InputError
        If the file is missing, damaged, or not what the manifest says.
    """
    file = ratings_path(path, TEST_DIRECTORY, number)
    return _read_ratings(file, USERS, partition.rows, partition.test_ratings)


def _read_ratings(path: str, side: Side, rows: range, n_ratings: int) -> Block:
    table = storage.read_parquet(path, [side.singular, side.other.singular, "rating"])
    if table.num_rows != n_ratings:
        raise InputError(
            f"{path} holds {table.num_rows:,} ratings, the manifest says {n_ratings:,}; "
            "prepare the dataset again"
        )
    row, column, ratings = (table.column(name).to_numpy() for name in table.column_names)
    try:
        return block_of(rows, row, column, ratings)
    except ValueError as error:
        raise InputError(f"{path} is not the partition it should be: {error}") from None
