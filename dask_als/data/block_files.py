"""Read the ratings of a dataset's partitions as blocks."""

from __future__ import annotations

import numpy as np

from dask_als.core import table_files
from dask_als.core.blocks import Block, block_of
from dask_als.core.limits import ParquetLimit
from dask_als.core.side import USERS, Side
from dask_als.data.dataset import (
    RATING_BYTES,
    RATINGS_SCHEMA,
    TEST_DIRECTORY,
    WEIGHT,
    Partition,
    ratings_path,
    schema_of,
)
from dask_als.errors import InputError


def read_block(path: str, side: Side, number: int, partition: Partition) -> Block:
    """Read the ratings of one partition of a dataset.

    Raises
    ------
    InputError
        If the file is missing, damaged, or does not match the manifest.
    """
    file = ratings_path(path, side.ratings_directory, number)
    return _read_ratings(file, side, partition, partition.ratings, partition.crc32)


def read_test_block(path: str, number: int, partition: Partition) -> Block:
    """Read the held-out ratings of one partition of a dataset, by user.

    Raises
    ------
    InputError
        If the file is missing, damaged, or does not match the manifest.
    """
    file = ratings_path(path, TEST_DIRECTORY, number)
    return _read_ratings(file, USERS, partition, partition.test_ratings, partition.test_crc32)


def _read_ratings(path: str, side: Side, partition: Partition, n_ratings: int, crc32: int) -> Block:
    limit = ParquetLimit(n_ratings, RATING_BYTES)
    table = table_files.read_parquet(
        path, RATINGS_SCHEMA.names, optional=WEIGHT, crc32=crc32, limit=limit
    )
    has_schema = table.schema.types == schema_of(table.column_names).types
    if not has_schema or any(column.null_count for column in table.columns):
        raise InputError(
            f"{path} is not what the manifest says: {n_ratings:,} ratings of user, item, rating"
        )
    row, column = (table[name].to_numpy() for name in (side.singular, side.other.singular))
    try:
        if len(column) and not (column.min() >= 0 and column.max() < partition.n_columns):
            raise ValueError(f"{side.other.name} are outside {range(partition.n_columns)}")
        weights = table[WEIGHT].to_numpy() if WEIGHT in table.column_names else None
        if weights is not None and not (np.isfinite(weights) & (weights > 0)).all():
            raise ValueError("weights are not all finite and above 0")
        return block_of(partition.rows, row, column, table["rating"].to_numpy(), weights)
    except ValueError as error:
        raise InputError(f"{path} is not the expected partition: {error}") from None
