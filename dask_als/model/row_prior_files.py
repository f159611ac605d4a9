"""Checkpoint files with row priors: the weights of attributes, and the prior means of rows.

Means are kept beside the weights that they follow from because they are summed up step by step,
and would not have the same bits if they were computed anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from dask_als.core import storage, table_files
from dask_als.core.side import Side

What = Literal["means", "weights", "file-weights"]


@dataclass(frozen=True)
class RowPriorFiles:
    """The files of a side with attributes.

    Attributes
    ----------
    means : tuple of int
        CRC-32 of the prior means, by partition of the side.
    weights : tuple of int
        CRC-32 of the weights of implicit attributes, by partition of the other side.
    file_weights : tuple of int
        CRC-32 of the weights of attributes from a file, which are one part.
    """

    means: tuple[int, ...]
    weights: tuple[int, ...]
    file_weights: tuple[int, ...] = ()

    def paths(self, checkpoint: str, side: Side, what: What) -> Sequence[tuple[str, int]]:
        """Return path and CRC-32 of each file."""
        checksums = {
            "means": self.means,
            "weights": self.weights,
            "file-weights": self.file_weights,
        }[what]
        return [
            (_path(checkpoint, side, what, number), crc32) for number, crc32 in enumerate(checksums)
        ]


def write_rows(checkpoint: str, side: Side, what: What, number: int, rows: np.ndarray) -> int:
    """Write the means or weights of one partition; return the file's CRC-32."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    return table_files.write_arrow(_path(checkpoint, side, what, number), pa.table({what: lists}))


def read_rows(path: str, crc32: int) -> np.ndarray:
    """Read what `write_rows` has written.

    Raises
    ------
    InputError
        If the file is missing or damaged.
    """
    lists = table_files.read_arrow(path, crc32=crc32).column(0).combine_chunks()
    rows: np.ndarray = lists.flatten().to_numpy().reshape(len(lists), -1)
    return rows


def _path(checkpoint: str, side: Side, what: str, number: int) -> str:
    name = storage.part_name(number, "arrow")
    return storage.part_of(checkpoint, f"attributes-{side.name}-{what}", name)
