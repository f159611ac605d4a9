"""Checkpoint files with the sums of predictions of held-out ratings."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dask_als.core import storage, table_files
from dask_als.core.limits import ParquetLimit


def predictions_path(checkpoint: str, number: int) -> str:
    """Return the path of the sums of one block."""
    return storage.part_of(checkpoint, "predictions", storage.part_name(number))


def write_predictions(checkpoint: str, number: int, predicted: np.ndarray) -> int:
    """Write the sums of one block, float64, shape (n_ratings,); return the file's CRC-32."""
    table = pa.table({"sum": predicted})
    return table_files.write_parquet(predictions_path(checkpoint, number), table)


def read_predictions(path: str, n_ratings: int, crc32: int | None) -> np.ndarray:
    """Read the sums of one block, float64, shape (n_ratings,).

    Parameters
    ----------
    crc32 : int or None
        The expected CRC-32 of the file; None does not check it.
    """
    table = table_files.read_parquet(path, ["sum"], crc32=crc32, limit=ParquetLimit(n_ratings, 8))
    return np.asarray(table.column("sum"))
