"""Cut rows into partitions: contiguous ranges of row indices with about equal work."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from dask_als.errors import InputError

RATINGS_A_PARTITION = 1_000_000
# Larger numbers of partitions are multiples of this one: processors have 2, 4, 8 or 16 threads, and
# the last round of tasks then keeps all of them busy.
_PARTITIONS_AT_ONCE = 16
_MOST_PARTITIONS = 4096
# Factorizing a row costs as much as accumulating about rank / 3 ratings; 16 for usual ranks.
_RATINGS_A_ROW = 16


def default_partitions(n_ratings: int) -> int:
    """Return a number of partitions for which tasks take much longer than scheduling them.

    A partition has one million ratings, or one to two million if there are more than 16.
    """
    n = max(1, -(-n_ratings // RATINGS_A_PARTITION))
    if n > _PARTITIONS_AT_ONCE:
        n = -(-n // (2 * _PARTITIONS_AT_ONCE)) * _PARTITIONS_AT_ONCE
    return min(_MOST_PARTITIONS, n)


def balanced_ranges(counts: np.ndarray, n_partitions: int) -> list[range]:
    """Cut rows into contiguous ranges of about equal work.

    Parameters
    ----------
    counts : ndarray of int, shape (n_rows,)
        Ratings of each row.
    n_partitions : int
        Number of ranges, at most `n_rows`; no range is empty.

    Returns
    -------
    list of range
    """
    n_rows = len(counts)
    if n_rows == 0:
        raise InputError("there are no rows to cut into partitions")
    n_partitions = min(n_partitions, n_rows)
    work = np.cumsum(counts.astype(np.int64) + _RATINGS_A_ROW)
    cuts = np.searchsorted(work, work[-1] * np.arange(1, n_partitions) / n_partitions) + 1
    # Each range keeps at least one row, however heavy a single row is.
    cuts = np.maximum.accumulate(cuts - np.arange(n_partitions - 1)) + np.arange(n_partitions - 1)
    cuts = np.clip(cuts, np.arange(1, n_partitions), n_rows - np.arange(n_partitions - 1, 0, -1))
    edges = [0, *(int(cut) for cut in cuts), n_rows]
    return [range(start, stop) for start, stop in pairwise(edges)]


def partition_of(rows: np.ndarray, ranges: list[range]) -> np.ndarray:
    """Return the number of the range of each row, int16.

    Parameters
    ----------
    rows : ndarray of int
    ranges : list of range
        Contiguous, the first from 0; at most 2**15.
    """
    numbers = np.arange(len(ranges), dtype=np.int16)
    if ranges[-1].stop > len(rows):  # A table of all rows would cost more than it saves.
        starts = np.array([span.start for span in ranges], np.int64)
        return numbers[np.searchsorted(starts, rows, side="right") - 1]
    return np.repeat(numbers, [len(span) for span in ranges]).take(rows)


def is_ascending(values: np.ndarray) -> bool:
    """Tell whether no value is less than the one before it."""
    return bool((values[:-1] <= values[1:]).all())
