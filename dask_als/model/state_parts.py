"""Biases and factors of a partition's rows as an Arrow file: the parts of samples and reductions.

A part of a model would do as well, but lists in Parquet take ten times the CPU time to write and to
read, which is noticeable in comparison with an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from dask_als.core import storage, table_files
from dask_als.core.blocks import Factors
from dask_als.core.side import SIDES, Side
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.model.files import state_columns, state_of


def write_part(directory: str, side: Side, number: int, state: Factors) -> int:
    """Write the state of a partition's rows; return the file's CRC-32."""
    table = pa.table(state_columns(state))
    return table_files.write_arrow(_part_path(directory, side, number), table)


def read_part(directory: str, side: Side, number: int, crc32: int) -> Factors:
    """Read the state of a partition's rows.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    path = _part_path(directory, side, number)
    return state_of(table_files.read_arrow(path, crc32=crc32))


def check_partitions(
    directory: str, dataset: Dataset, checksums: Mapping[Side, Sequence[int]]
) -> None:
    """Check that a directory has a part for each partition of a dataset.

    Parameters
    ----------
    checksums : mapping of Side to sequence of int
        The CRC-32 of each part, from the directory's manifest.

    Raises
    ------
    InputError
        If the dataset has other partitions.
    """
    for side in SIDES:
        if len(checksums[side]) != len(dataset.table(side).partitions):
            raise InputError(f"{directory} has other partitions than the dataset; start again")


def _part_path(directory: str, side: Side, number: int) -> str:
    return storage.part_of(directory, side.name, storage.part_name(number, "arrow"))
