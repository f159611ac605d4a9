"""Sums of floats that do not depend on the order or the grouping of the terms.

A float64 is a whole number of units of 2**-1126, so a Python integer holds any sum of them exactly.
Such sums are added like integers, in any grouping, and rounded once, when they are read.
"""

from __future__ import annotations

import numpy as np

UNIT_EXPONENT = 1126
_MANTISSA_BITS = 53
_LOW_BITS = 26


def exact_sum(values: np.ndarray) -> int:
    """Sum floats exactly.

    Parameters
    ----------
    values : ndarray of float32 or float64
        Finite numbers, fewer than 2**36 of them.

    Returns
    -------
    int
        The sum in units of 2**-1126; exact, so ``exact_sum(a) + exact_sum(b)`` is that of both.

    Raises
    ------
    OverflowError
        If a value is infinite or not a number.
    """
    mantissas, exponents = np.frexp(np.asarray(values, dtype=np.float64).ravel())
    if not np.isfinite(mantissas).all():
        raise OverflowError("cannot sum values that are infinite or not a number")
    # Two halves, so that int64 holds the sum of 2**36 of them.
    whole = np.ldexp(mantissas, _MANTISSA_BITS).astype(np.int64)
    shifts = exponents + (UNIT_EXPONENT - _MANTISSA_BITS)
    low = np.zeros(shifts.max(initial=0) + 1, dtype=np.int64)
    high = np.zeros_like(low)
    np.add.at(low, shifts, whole & ((1 << _LOW_BITS) - 1))
    np.add.at(high, shifts, whole >> _LOW_BITS)
    return sum(
        ((int(high[shift]) << _LOW_BITS) + int(low[shift])) << int(shift)
        for shift in np.flatnonzero(low | high)
    )


def as_float(total: int) -> float:
    """Round an exact sum to the nearest float64."""
    return total / (1 << UNIT_EXPONENT)
