import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from dask.sizeof import sizeof
from hypothesis import given
from hypothesis import strategies as st
from support.made_blocks import block_with

from dask_als.core import blocks
from dask_als.core.blocks import (
    Factors,
    block_of,
    concatenated,
    predictions,
    random_factors,
    split,
    zero_factors,
)
from dask_als.core.side import ITEMS, USERS
from dask_als.solvers.base import join_parts, unsolved_part


def test_a_block_is_the_ratings_by_row():
    row, column = np.array([5, 5, 7, 9]), np.array([0, 3, 1, 0], dtype=np.int32)
    block = block_of(range(4, 10), row, column, np.arange(4, dtype=np.float32))
    assert block.indptr.tolist() == [0, 0, 2, 2, 3, 3, 4]
    assert block.counts.tolist() == [0, 2, 0, 1, 0, 1]
    assert block.row_of_rating.tolist() == [5, 5, 7, 9]
    assert block.indptr.dtype == np.int64


def test_an_empty_block():
    empty = np.array([], dtype=np.int32)
    block = block_of(range(3, 5), empty, empty, empty.astype(np.float32))
    assert block.indptr.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ([3, 4], [0, 0], "not all within"),
        ([4, 10], [0, 0], "not all within"),
        ([5, 4], [0, 0], "not sorted"),
        ([5, 5], [2, 1], "not sorted"),
        ([5, 5], [2, 2], "contain a pair twice"),
    ],
)
def test_what_is_no_block(row, column, reason):
    with pytest.raises(ValueError, match=reason):
        block_of(
            range(4, 10), np.array(row), np.array(column, dtype=np.int32), np.ones(2, np.float32)
        )


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=20),
    n_blocks=st.integers(1, 25),
    row_cost=st.floats(0, 100),
)
def test_the_blocks_of_a_split_have_its_ratings(counts, n_blocks, row_cost):
    plain = block_with(counts, 9, start=3)
    assert all(part.weights is None for part in split(plain, n_blocks, row_cost=row_cost))
    whole = replace(plain, weights=np.arange(1, 1 + sum(counts), dtype=np.float32))
    parts = split(whole, n_blocks, row_cost=row_cost)
    assert 1 <= len(parts) <= n_blocks
    assert [row for part in parts for row in part.rows] == list(whole.rows)
    assert all(len(part.rows) for part in parts)
    assert np.concatenate([part.counts for part in parts]).tolist() == counts
    for name in ("row_of_rating", "indices", "ratings", "weights"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert joined.tobytes() == getattr(whole, name).tobytes()
    most = max(count + row_cost for count in counts)
    costs = [len(part.indices) + row_cost * len(part.rows) for part in parts]
    assert max(costs) <= sum(costs) / n_blocks + most + 1e-6


def test_random_states_are_normal_with_the_notebooks_deviation():
    state = random_factors(USERS, range(20_000), rank=16, seed=1, dtype="float64")
    assert not state.bias.any()
    assert state.factors.std() == pytest.approx(0.25, rel=0.01)
    assert state.factors.mean() == pytest.approx(0, abs=0.002)


@pytest.mark.parametrize(("start", "stop"), [(0, 7), (1000, 1100), (1024, 2048), (1500, 5000)])
def test_a_rows_random_numbers_do_not_depend_on_the_range(start, stop):
    whole = random_factors(ITEMS, range(5000), rank=3, seed=1, dtype="float32")
    part = random_factors(ITEMS, range(start, stop), rank=3, seed=1, dtype="float32")
    np.testing.assert_array_equal(part.factors, whole.factors[start:stop])


def test_sides_and_seeds_start_from_different_numbers():
    starts = [
        random_factors(side, range(10), rank=2, seed=seed, dtype="float64").factors.tobytes()
        for side in (USERS, ITEMS)
        for seed in (0, 1)
    ]
    assert len(set(starts)) == 4


def test_zero_state():
    state = zero_factors(range(3, 5), rank=2, dtype="float32")
    assert state.factors.shape == (2, 2)
    assert not state.factors.any()


def test_concatenated():
    parts = [Factors(np.arange(n, dtype=float), np.ones((n, 2)) * n) for n in (2, 3)]
    whole = concatenated(parts)
    assert whole.factors.ctypes.data % 64 == 0
    assert whole.bias.tolist() == [0, 1, 0, 1, 2]
    assert whole.factors[:, 0].tolist() == [2, 2, 3, 3, 3]
    assert concatenated(parts[:1]) is parts[0]


def test_predictions():
    users = Factors(np.array([0.5, -1.0]), np.array([[1.0, 2.0], [0.0, 1.0]]))
    items = Factors(np.array([0.25]), np.array([[3.0, -1.0]]))
    found = predictions(users, items, np.array([0, 1]), np.array([0, 0]), mean=3.0)
    assert found.tolist() == [3.0 + 0.5 + 0.25 + 1.0, 3.0 - 1.0 + 0.25 - 1.0]


def test_predictions_of_many_ratings_are_those_of_a_few(monkeypatch):
    """Whatever is predicted at once, each has the same bits, and takes little memory."""
    draw = np.random.default_rng(0)
    users, items = (
        Factors(draw.normal(size=n).astype("f4"), draw.normal(size=(n, 33)).astype("f4"))
        for n in (200, 100)
    )
    own, other = (draw.integers(n, size=50_000) for n in (200, 100))
    tracemalloc.start()
    whole = predictions(users, items, own, other, mean=3.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gathered_at_once = 2 * 50_000 * 33 * 4
    assert peak - whole.nbytes < gathered_at_once / 2
    monkeypatch.setattr(blocks, "PREDICTIONS_AT_ONCE", 7)
    assert predictions(users, items, own, other, mean=3.0).tobytes() == whole.tobytes()


def test_dask_sees_how_large_they_are():
    """It weighs what moving a block costs, and what is on a worker."""
    ratings = np.ones(1000, np.float32)
    block = block_of(range(1000), np.arange(1000), np.zeros(1000, dtype=np.int32), ratings)
    assert sizeof(block) == pytest.approx(4000 + 4000 + 8008, rel=0.01)
    state = zero_factors(range(1000), rank=9, dtype="float32")
    assert sizeof(state) == pytest.approx(40_000, rel=0.01)
    part = unsolved_part(state)
    assert sizeof(part) == pytest.approx(41_000, rel=0.01)
    assert sizeof(join_parts([part])) == pytest.approx(40_000, rel=0.01)
