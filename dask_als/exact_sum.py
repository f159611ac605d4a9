"""Sums of floats that do not depend on the order or the grouping of the terms.

A float64 is a whole number of units of 2**-1126, so a Python integer holds any sum of them exactly.
Such sums are added like integers, in any grouping, and rounded once, when they are read.
"""

from __future__ import annotations

import numpy as np

UNIT_EXPONENT = 1126
_MANTISSA_BITS = 53
_LOW_BITS = 26
# float64 adds 2**16 halves of a mantissa, of 27 bits each, without rounding.
_TERMS_AT_ONCE = 1 << 16


def exact_sum(values: np.ndarray) -> int:
    """Sum floats exactly.

    Parameters
    ----------
    values : ndarray of float32 or float64
        Finite numbers.

    Returns
    -------
    int
        The sum in units of 2**-1126; exact, so ``exact_sum(a) + exact_sum(b)`` is that of both.

    Raises
    ------
    OverflowError
        If a value is infinite or not a number.
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    return sum(
        _sum_at_once(flat[start : start + _TERMS_AT_ONCE])
        for start in range(0, len(flat), _TERMS_AT_ONCE)
    )


def _sum_at_once(values: np.ndarray) -> int:
    """Sum mantissas by their exponent, in two halves that cannot overflow, then all exponents."""
    mantissas, exponents = np.frexp(values)
    if not np.isfinite(mantissas).all():
        raise OverflowError("cannot sum values that are infinite or not a number")
    mantissas = np.ldexp(mantissas, _MANTISSA_BITS - _LOW_BITS)
    high = np.floor(mantissas)
    low = np.ldexp(mantissas - high, _LOW_BITS)
    least = int(exponents.min())
    places = exponents - least
    sums = zip(
        np.bincount(places, weights=high).tolist(),
        np.bincount(places, weights=low).tolist(),
        strict=True,
    )
    total = sum(
        ((int(high) << _LOW_BITS) + int(low)) << place for place, (high, low) in enumerate(sums)
    )
    return total << (least + UNIT_EXPONENT - _MANTISSA_BITS)


def as_float(total: int) -> float:
    """Round an exact sum to the nearest float64."""
    return total / (1 << UNIT_EXPONENT)
