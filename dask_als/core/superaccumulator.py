"""Exact sums of floats, which do not depend on the order or the grouping of the terms.

A float64 is an integer multiple of 2**-1126, so a Python integer holds any sum of them exactly.
Such sums are added as integers, in any grouping, and rounded once, when they are read.
"""

from __future__ import annotations

from math import frexp, isfinite
from typing import Any

import numpy as np

from dask_als.core.jit import compiled
from dask_als.errors import NotFiniteError

UNIT_EXPONENT = 1126
_MANTISSA_BITS = 52  # without the first one, which is not stored
_LOW_BITS = 26
_EXPONENTS = 2048
# A number is its mantissa times 2 ** (stored exponent - _BIAS).
_BIAS = 1075
_AT_ONCE = 1 << 14
_MOST_BITS = 1000  # 2.0 to a higher power may be infinite


def exact_sum(values: np.ndarray) -> int:
    """Sum floats exactly.

    Parameters
    ----------
    values : ndarray of float32 or float64
        Finite numbers.

    Returns
    -------
    int
        The sum in units of 2**-1126. Sums of parts add up to the sum of the whole.

    Raises
    ------
    NotFiniteError
        If a value is infinite or not a number.
    """
    bits = np.asarray(values, dtype=np.float64).ravel().view(np.int64)
    high, low = np.zeros((2, _EXPONENTS), np.int64)
    least, most = _sum_by_exponent(bits, high, low)
    if most == _EXPONENTS - 1:
        raise NotFiniteError("cannot sum values that are infinite or not a number")
    return sum(
        ((int(high[exponent]) << _LOW_BITS) + int(low[exponent]))
        << (exponent + UNIT_EXPONENT - _BIAS)
        for exponent in range(least, most + 1)
    )


def exact_sum_of_short(values: np.ndarray) -> int:
    """Sum floats exactly, as `exact_sum`: those of few bits, such as ratings, without compiling.

    A float64 holds any sum of multiples of a unit that has at most 53 bits.
    """
    values = np.asarray(values).ravel()
    total = 0
    for start in range(0, len(values), _AT_ONCE):
        some = values[start : start + _AT_ONCE].astype(np.float64)
        bound = float(max(-some.min(), some.max())) * len(some)
        bits = _MANTISSA_BITS + 1 - frexp(bound)[1]
        if not (isfinite(bound) and 0 <= bits <= _MOST_BITS):
            return exact_sum(values)
        units = some * 2.0**bits
        if not (units == np.rint(units)).all():
            return exact_sum(values)
        total += int(units.sum()) << (UNIT_EXPONENT - bits)
    return total


@compiled
def _sum_by_exponent(bits: np.ndarray, high: np.ndarray, low: np.ndarray) -> Any:
    """Sum mantissas by their exponent; return the least and the greatest exponent.

    The two halves of a mantissa are summed separately, so that int64 cannot overflow.
    """
    least, most = _EXPONENTS, 0
    for number in bits:
        exponent = (number >> _MANTISSA_BITS) & (_EXPONENTS - 1)
        mantissa = number & ((1 << _MANTISSA_BITS) - 1)
        if exponent == 0:  # subnormal: there is no implicit first bit
            exponent = 1
        else:
            mantissa |= 1 << _MANTISSA_BITS
        if number < 0:
            mantissa = -mantissa
        high[exponent] += mantissa >> _LOW_BITS
        low[exponent] += mantissa & ((1 << _LOW_BITS) - 1)
        least, most = min(least, exponent), max(most, exponent)
    return least, most


def exact_count(n: int) -> int:
    """Return a number of things as an exact sum: that of as many ones."""
    return n << UNIT_EXPONENT


def as_float(total: int) -> float:
    """Round an exact sum to the nearest float64."""
    return total / (1 << UNIT_EXPONENT)
