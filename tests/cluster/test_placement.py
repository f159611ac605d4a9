import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.cluster.placement import Placement


@given(workers=st.integers(1, 40), partitions=st.integers(1, 200))
def test_homes_are_even_and_consecutive(workers, partitions):
    placement = Placement.on(frozenset(map(str, range(workers))), partitions)
    assert placement.n_homes == min(workers, partitions)
    homes = [placement.home(number, partitions) for number in range(partitions)]
    assert homes == sorted(homes)
    counts = [homes.count(home) for home in range(placement.n_homes)]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1
    groups = placement.by_home(list(range(partitions)))
    assert [part for _, group in groups for part in group] == list(range(partitions))
    assert [home for home, group in groups for _ in group] == homes


def test_a_side_of_fewer_partitions_leaves_homes_without():
    placement = Placement.on({"c", "a", "b"}, 3)
    assert placement.workers == ("a", "b", "c")
    assert placement.by_home(["x", "y"]) == [(0, ["x"]), (1, ["y"])]


def test_while_all_workers_are_lost_any_that_comes_is_home():
    placement = Placement.on(set(), 3)
    assert placement.workers == (None,)
    assert placement.by_home(["x", "y"]) == [(0, ["x", "y"])]


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_the_same_workers_are_the_same_homes(order):
    assert Placement.on(order, 3) == Placement.on("abc", 3)


def test_only_several_parts_of_one_of_several_homes_are_concatenated():
    parts = list(range(5))
    assert Placement.on("a", 5).chunks(parts) == []
    assert Placement.on("ab", 5).chunks(parts) == [(0, [0, 1, 2]), (1, [3, 4])]
    assert Placement.on("abc", 5).chunks(parts[:4]) == [(0, [0, 1])]
