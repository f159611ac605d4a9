"""Predicted ratings of a model in float64.

A pair has the same bits in `predict`, in recommendations and after fold-in: all of them add the
same terms in the same order.
"""

from __future__ import annotations

import numpy as np

from dask_als.core.blocks import Factors
from dask_als.core.jit import compiled


def scores_of_pairs(
    own: Factors, others: Factors, own_rows: np.ndarray, other_rows: np.ndarray, *, mean: float
) -> np.ndarray:
    """Predict the ratings of pairs of rows.

    Parameters
    ----------
    own, others : Factors
        Both sides; which is which makes no difference.
    own_rows, other_rows : ndarray of int, shape (n,)
        Rows of the two sides; -1 is the last row.
    mean : float
        The global mean.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    # Copies, as broadcast arrays have no flags of their own.
    rows, other_rows = np.array(own_rows, np.int64), np.array(other_rows, np.int64)
    return _scores_of_pairs(
        own.bias, own.factors, others.bias, others.factors, rows, other_rows, mean
    )


def scores_of_all(one: Factors, others: Factors, *, mean: float) -> np.ndarray:
    """Predict the ratings of a single row and every row of the other side.

    Returns
    -------
    ndarray of float64, shape (n_others,)
    """
    rows = np.arange(len(others.bias))
    return scores_of_pairs(one, others, np.zeros_like(rows), rows, mean=mean)


def scores_of_one(bias, factors, other_bias, other_factors, mean):
    """Predict the ratings of one row and many others in NumPy, with the bits of `score`."""
    product = np.zeros(len(other_bias))
    for own, others in zip(factors.astype(np.float64), other_factors.T, strict=True):
        product += own * others.astype(np.float64)
    return mean + (np.float64(bias) + other_bias.astype(np.float64)) + product


@compiled
def score(bias, factors, other_bias, other_factors, mean):
    """Predict the rating of one pair: the same operations in the same order for every caller."""
    product = 0.0
    for i in range(len(factors)):
        product += np.float64(factors[i]) * np.float64(other_factors[i])
    return mean + (np.float64(bias) + np.float64(other_bias)) + product


@compiled
def _scores_of_pairs(bias, factors, other_bias, other_factors, rows, other_rows, mean):
    scores = np.empty(len(rows))
    for i in range(len(rows)):
        row, other = rows[i], other_rows[i]
        scores[i] = score(bias[row], factors[row], other_bias[other], other_factors[other], mean)
    return scores
