"""The best approximation of a product of tall matrices by one of lower rank.

U (n x K) and V (m x K) are the factors of samples side by side, so U Vᵀ is the sum of what all
samples predict. With Gram matrices UᵀU = RᵀR and VᵀV = QᵀQ, the singular values of U Vᵀ are those
of the small matrix R Qᵀ = P Σ Wᵀ, and of all matrices of rank r the nearest to it is

    (U A)(V B)ᵀ,    A = Qᵀ W Σ^(-1/2),    B = Rᵀ P Σ^(-1/2)

with the first r columns of A and B. The Gram matrix of either new factor is Σ. The distance, the
root of the sum of squared differences over all pairs, is that of the singular values left out.
Source: Eckart and Young 1936, "The approximation of one matrix by another of lower rank".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dask_als.core.side import ITEMS, USERS, Side

# Singular values below this share of the largest are rounding errors of the Gram matrices.
_LEAST = 1e-7


@dataclass(frozen=True)
class Compact:
    """What model.json says of samples that were cut down to one rank.

    Attributes
    ----------
    rank : int
    samples : int
        How many were cut down.
    distance : float
        An upper bound on the root mean square, over all pairs, of the difference between a
        prediction and the mean of those of the samples.
    """

    rank: int
    samples: int
    distance: float


@dataclass(frozen=True)
class Truncation:
    """How to get from stacked factors to those of lower rank.

    Attributes
    ----------
    maps : dict of Side to ndarray of float64, shape (n_columns, rank)
        Stacked factors of a side times its map are the new ones. The map takes any row of the
        stacked space to the new factors whose products with the other side are the nearest.
    singular_values : ndarray of float64, shape (rank,)
        Of the product of the new factors, descending; 0 where the rank is lower.
    distance : float
        The root of the sum, over all pairs, of squared differences between the two products.
    """

    maps: dict[Side, np.ndarray]
    singular_values: np.ndarray
    distance: float


def truncate(grams: dict[Side, np.ndarray], rank: int) -> Truncation:
    """Find the best approximation of a product of stacked factors.

    Parameters
    ----------
    grams : dict of Side to ndarray of float64, shape (n_columns, n_columns)
        Of the stacked factors of either side.
    rank : int
        Of the new factors; columns beyond the rank of the product are zero.
    """
    users, items = _root(grams[USERS]), _root(grams[ITEMS])
    left, singular_values, right = np.linalg.svd(users @ items.T)
    used = min(rank, len(singular_values))
    kept = np.zeros(rank)
    kept[:used] = singular_values[:used]
    kept[kept <= _LEAST * singular_values[0]] = 0.0
    scale = np.sqrt(_inverse(kept))[:used]
    maps = {side: np.zeros((len(users), rank)) for side in (USERS, ITEMS)}
    maps[USERS][:, :used] = items.T @ right[:used].T * scale
    maps[ITEMS][:, :used] = users.T @ left[:, :used] * scale
    return Truncation(maps, kept, float(np.sqrt((singular_values[used:] ** 2).sum())))


def _root(gram: np.ndarray) -> np.ndarray:
    """Return R with RᵀR = gram."""
    values, vectors = np.linalg.eigh(gram)
    return (vectors * np.sqrt(np.maximum(values, 0.0))).T


def _inverse(values: np.ndarray) -> np.ndarray:
    """Return the inverse of each number; 0 for 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)
