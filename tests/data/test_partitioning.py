from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.data import partitioning as ranges
from dask_als.data.partitioning import (
    balanced_ranges,
    default_partitions,
    is_ascending,
    partition_of,
)
from dask_als.errors import InputError

COUNTS = st.lists(st.integers(0, 10) | st.integers(0, 10**7), min_size=1, max_size=60)


@given(COUNTS, st.integers(1, 70))
def test_ranges_are_contiguous_and_none_is_empty(counts, n_partitions):
    cut = balanced_ranges(np.array(counts), n_partitions)
    assert len(cut) == min(n_partitions, len(counts))
    assert [row for rows in cut for row in rows] == list(range(len(counts)))
    assert all(len(rows) for rows in cut)


@given(COUNTS, st.integers(1, 10))
def test_no_range_has_much_more_than_its_share(counts, n_partitions):
    work = np.array(counts) + ranges._RATINGS_A_ROW
    cut = balanced_ranges(np.array(counts), n_partitions)
    for rows in cut:
        assert work[rows.start : rows.stop].sum() <= work.sum() / len(cut) + work.max()


def test_work_counts_and_not_rows():
    counts = np.array([1000] * 10 + [10] * 1000)
    first, second = balanced_ranges(counts, 2)
    assert len(first) < len(second)
    assert np.isclose((counts + 16)[: len(first)].sum(), (counts + 16).sum() / 2, rtol=0.05)


def test_no_rows():
    with pytest.raises(InputError, match="no rows"):
        balanced_ranges(np.array([], dtype=np.int64), 3)


def test_default_partitions():
    assert [default_partitions(n) for n in (0, 1, 10**6, 10**6 + 1)] == [1, 1, 1, 2]
    millions = [(16, 16), (20, 16), (32, 16), (33, 32), (64, 32), (65, 48)]
    assert [default_partitions(n * 10**6) for n, _ in millions] == [n for _, n in millions]
    assert default_partitions(10**12) == ranges._MOST_PARTITIONS
    assert all(a <= b for a, b in pairwise(map(default_partitions, range(1, 10**8, 999_999))))


@pytest.mark.parametrize("n_rows", [3, 100])
def test_each_row_is_in_its_range(n_rows):
    rows = np.array([8, 0, 2, 3, 7, 1, 8, 4, 5, 6] * 10, np.int32)[:n_rows]
    found = partition_of(rows, [range(1), range(1, 3), range(3, 9)])
    assert found.dtype == np.int16
    assert found.tolist() == [(row > 0) + (row > 2) for row in rows.tolist()]


def test_what_ascends():
    assert is_ascending(np.array([1, 1, 2]))
    assert is_ascending(np.array([], int))
    assert not is_ascending(np.array([1, 2, 1]))
