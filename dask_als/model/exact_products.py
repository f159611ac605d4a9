"""Matrix products whose bits depend on nothing: rows are rounded to integers, and summed exactly.

Each column is scaled by a power of two and rounded to integers of 20 bits. Products of two have 40
bits, so float64, which holds integers up to 2**53, adds up to 8192 of them without rounding: BLAS
may then sum in any order, with any number of threads. Longer sums continue in int64.

Source: Ozaki et al. 2012, "Error-free transformations of matrix multiplication by using fast
routines of matrix multiplication and its applications".
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_BITS = 20
_BITS_OF_FLOAT = 53
_BITS_OF_INT = 62


def exponents(maxima: np.ndarray) -> np.ndarray:
    """Return, for the largest magnitude of each column, the least power of two that bounds it."""
    return np.frexp(maxima)[1].astype(np.int32)


def exact_gram(blocks: Iterable[np.ndarray], exponents: np.ndarray, n_rows: int) -> np.ndarray:
    """Return the Gram matrix of rows that are rounded to integers.

    Parameters
    ----------
    blocks : iterable of ndarray of float64, shape (n, n_columns)
        The rows, in any split.
    exponents : ndarray of int32, shape (n_columns,)
        Of the columns over all rows, see `exponents`.
    n_rows : int
        The number of all rows, of which these may be a part.

    Returns
    -------
    ndarray of int64, shape (n_columns, n_columns)
        Exact, so the sum over parts is the matrix of all rows; see `gram_values`.
    """
    bits = _gram_bits(n_rows)
    step = 1 << (_BITS_OF_FLOAT - 2 * bits)
    total = np.zeros((len(exponents), len(exponents)), np.int64)
    for block in blocks:
        for start in range(0, len(block), step):
            integers = np.rint(np.ldexp(block[start : start + step], bits - exponents))
            total += (integers.T @ integers).astype(np.int64)
    return total


def gram_values(total: np.ndarray, exponents: np.ndarray, n_rows: int) -> np.ndarray:
    """Return the sum of `exact_gram` over all parts as float64, in the units of the rows."""
    scale = exponents[:, None] + exponents[None, :] - 2 * _gram_bits(n_rows)
    return np.ldexp(total.astype(np.float64), scale)


def _gram_bits(n_rows: int) -> int:
    return min(_BITS, (_BITS_OF_INT - n_rows.bit_length()) // 2)


def exact_product(rows: np.ndarray, matrix: np.ndarray, row_exponents: np.ndarray) -> np.ndarray:
    """Return ``rows @ matrix``, each row with the same bits wherever it is among others.

    Both are split into two integers a number, which together have 40 bits.

    Parameters
    ----------
    rows : ndarray of float64, shape (n, n_columns)
    matrix : ndarray of float64, shape (n_columns, rank)
    row_exponents : ndarray of int32, shape (n_columns,)
        Of the columns of `rows` over all rows, see `exponents`.

    Returns
    -------
    ndarray of float64, shape (n, rank)
    """
    bits = min(_BITS, (_BITS_OF_FLOAT - len(matrix).bit_length()) // 2)
    scaled = np.ldexp(matrix, row_exponents[:, None])
    column_exponents = exponents(np.abs(scaled).max(axis=0, initial=0.0))
    left = _slices(rows, row_exponents, bits)
    right = _slices(scaled, column_exponents, bits)
    high = left[0] @ right[0]
    middle = left[0] @ right[1] + left[1] @ right[0]
    return np.ldexp(high + np.ldexp(middle, -bits), column_exponents - 2 * bits)


def _slices(values: np.ndarray, exponents: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the leading integers of numbers, and those of what rounding them left."""
    scaled = np.ldexp(values, bits - exponents)
    high = np.rint(scaled)
    return high, np.rint(np.ldexp(scaled - high, bits))
