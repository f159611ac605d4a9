"""The contribution of each of a row's own ratings to a prediction, by the normal equations.

A user's factors are linear in their ratings, u = A⁻¹ Fᵀ y with A = FᵀF + ridge I, so a prediction
u·v is a sum with one term for each rating: (v A⁻¹ f_n) y_n. Hu, Koren and Volinsky 2008,
"Collaborative filtering for implicit feedback datasets", section 5.
"""

from __future__ import annotations

import numpy as np


def contributions(
    rated: np.ndarray, residuals: np.ndarray, target: np.ndarray, *, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split a prediction into the contributions of the row's ratings.

    Parameters
    ----------
    rated : ndarray, shape (n_ratings, rank)
        Factors of the rated rows.
    residuals : ndarray, shape (n_ratings,)
        The ratings without mean and biases.
    target : ndarray, shape (rank,)
        Factors of the predicted row.
    ridge : float
        The row's regularization, divided by the residual precision.

    Returns
    -------
    weights, parts : ndarray of float64, shape (n_ratings,)
        The similarity of each rated row to the target as this row sees it, and weight times
        residual: the parts add up to the product of factors in the prediction.
    """
    rated = rated.astype(np.float64)
    matrix = rated.T @ rated + ridge * np.eye(rated.shape[1])
    # Least squares also solves a singular A, which only a ridge of 0 allows.
    weights = rated @ np.linalg.lstsq(matrix, target.astype(np.float64), rcond=None)[0]
    return weights, weights * residuals
