from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.core import superaccumulator
from dask_als.core.superaccumulator import (
    UNIT_EXPONENT,
    as_float,
    exact_sum,
    exact_sum_of_short,
)

UNIT = Fraction(1, 2**UNIT_EXPONENT)
FLOATS = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=50)


@given(FLOATS)
def test_the_sum_is_that_of_fractions(values):
    expected = sum((Fraction(value) for value in values), Fraction(0))
    assert exact_sum(np.array(values)) * UNIT == expected


@given(FLOATS, FLOATS)
def test_sums_of_groups_add_up(one, other):
    together = exact_sum(np.array(other + one))
    assert exact_sum(np.array(one)) + exact_sum(np.array(other)) == together


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=50))
def test_float32_is_summed_as_it_is(values):
    expected = sum((Fraction(value) for value in values), Fraction(0))
    assert exact_sum(np.array(values, dtype=np.float32)) * UNIT == expected


def test_many_of_the_longest_mantissas_do_not_overflow():
    value = np.nextafter(2.0, 1.0)
    n = 300_000
    values = np.full(n, value)
    values[1::2] *= -1
    values[::2] *= 2
    expected = Fraction(value) * (n // 2)
    assert exact_sum(values) * UNIT == expected
    assert exact_sum(np.full(n, value)) * UNIT == Fraction(value) * n


def test_shape_does_not_matter():
    values = np.arange(12.0).reshape(3, 4)
    assert exact_sum(values.T) == exact_sum(values.ravel())
    assert exact_sum(np.empty((0, 3))) == 0


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_no_number_has_no_sum(value):
    with pytest.raises(OverflowError):
        exact_sum(np.array([1.0, value]))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_single_value_comes_back(value):
    assert as_float(exact_sum(np.array([value]))) == value


def test_rounding_happens_once():
    values = np.array([1.0, 2.0**-53, 2.0**-53])
    assert as_float(exact_sum(values)) == 1.0 + 2.0**-52
    assert as_float(exact_sum(values[:2])) == 1.0


HALVES = st.integers(-20, 20).map(lambda number: number / 2)
SMALL = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(HALVES, max_size=50) | st.lists(HALVES | SMALL, max_size=50) | FLOATS)
def test_values_of_few_bits_have_the_same_sum(values):
    assert exact_sum_of_short(np.array(values)) == exact_sum(np.array(values))


def test_halves_are_summed_without_compiling(monkeypatch):
    monkeypatch.delattr(superaccumulator, "exact_sum")
    values = np.tile(np.array([0.5, 4.5, -2, 5], np.float32), 10_000)
    assert exact_sum_of_short(values) * UNIT == 80_000
    assert exact_sum_of_short(np.empty(0, np.float32)) == 0


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_no_number_has_no_sum_of_few_bits_either(value):
    with pytest.raises(OverflowError):
        exact_sum_of_short(np.array([1.0, value], np.float32))
