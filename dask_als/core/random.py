"""Random numbers of rows, the same whichever other rows are drawn and in whatever order."""

from __future__ import annotations

import numpy as np

_ROWS_A_BLOCK = 1024


def standard_normal(
    rows: range, width: int, *, seed: int, stream: int, step: int = 0, dtype: str = "float64"
) -> np.ndarray:
    """Draw standard normal numbers for rows of a matrix.

    The generator is counter-based (Philox; Salmon et al. 2011, "Parallel random numbers: as easy
    as 1, 2, 3"), keyed by seed and stream and restarted at every 1024th row, so that a row's
    numbers do not depend on which other rows are drawn.

    Parameters
    ----------
    rows : range
        Contiguous row numbers.
    width : int
        Numbers per row.
    seed, stream, step : int
        Together they choose the numbers; each below 2**64.
    dtype : {"float64", "float32"}
        The numbers differ between the two.

    Returns
    -------
    ndarray of `dtype`, shape (len(rows), width)
    """
    first_block = rows.start // _ROWS_A_BLOCK
    last_block = max(rows.stop - 1, rows.start) // _ROWS_A_BLOCK
    key = np.array([seed, stream], dtype=np.uint64)
    blocks = [
        np.random.Generator(
            np.random.Philox(key=key, counter=np.array([0, 0, block, step], dtype=np.uint64))
        ).standard_normal((_ROWS_A_BLOCK, width), dtype=np.dtype(dtype).type)
        for block in range(first_block, last_block + 1)
    ]
    start = rows.start - first_block * _ROWS_A_BLOCK
    return np.concatenate(blocks)[start : start + len(rows)]


def generator(*, seed: int, stream: int, step: int) -> np.random.Generator:
    """Return a generator of numbers that do not belong to a row."""
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, 0, 0, step], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
