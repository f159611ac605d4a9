"""Similarity of rows by their factors."""

from __future__ import annotations

from typing import Literal

import numpy as np

Measure = Literal["cosine", "inner-product"]


def similarities(factors: np.ndarray, row: int, measure: Measure) -> np.ndarray:
    """Return the similarity of each row to one of them.

    Parameters
    ----------
    factors : ndarray, shape (n_rows, rank)
    row : int
    measure : {"cosine", "inner-product"}

    Returns
    -------
    ndarray of float64, shape (n_rows,)
        A cosine with a zero vector is -1.
    """
    factors = factors.astype(np.float64)
    products: np.ndarray = factors @ factors[row]
    if measure == "inner-product":
        return products
    norms = np.linalg.norm(factors, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(products / (norms * norms[row]), nan=-1.0)
