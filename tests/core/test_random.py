import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.core.random import standard_normal


@given(st.integers(0, 3000), st.integers(0, 1500), st.integers(0, 1500))
def test_a_rows_numbers_do_not_depend_on_the_others(start, first, second):
    whole = standard_normal(range(start, start + first + second), 2, seed=5, stream=1)
    parts = [
        standard_normal(range(start, start + first), 2, seed=5, stream=1),
        standard_normal(range(start + first, start + first + second), 2, seed=5, stream=1),
    ]
    assert np.array_equal(np.concatenate(parts), whole)


def test_they_are_standard_normal():
    numbers = standard_normal(range(500, 20_500), 5, seed=0, stream=0)
    assert numbers.shape == (20_000, 5)
    assert abs(numbers.mean()) < 0.015
    assert abs(numbers.std() - 1) < 0.015
    assert np.abs(np.corrcoef(numbers.T) - np.eye(5)).max() < 0.03
    assert abs(np.corrcoef(numbers[1024:].ravel(), numbers[:-1024].ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("other", [{"seed": 8}, {"stream": 1}, {"step": 1}, {"seed": 2**64 - 1}])
def test_whatever_they_belong_to_makes_others(other):
    base = {"seed": 7, "stream": 0, "step": 0}
    numbers = standard_normal(range(10), 3, **base)
    assert not np.isin(standard_normal(range(10), 3, **{**base, **other}), numbers).any()
    assert np.array_equal(standard_normal(range(10), 3, **base), numbers)


def test_no_rows():
    assert standard_normal(range(5, 5), 3, seed=0, stream=0).shape == (0, 3)
