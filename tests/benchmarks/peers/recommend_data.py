"""A model of ours, as its peers read it."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq


def read_side(model: str, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return biases and factors of one side."""
    table = pq.read_table(f"{model}/{side}")
    factors = table.column("factors").combine_chunks()
    values = factors.flatten().to_numpy().reshape(len(factors), -1)
    return table.column("bias").to_numpy(), values
