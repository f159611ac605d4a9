"""Which of a row's own ratings led to a prediction: the weights that the normal equations give.

A user's factors are linear in their ratings, u = A⁻¹ Fᵀ y with A = FᵀF + ridge I, so a prediction
u·v is a sum with one term for each rating: (v A⁻¹ f_n) y_n. Hu, Koren and Volinsky 2008,
"Collaborative filtering for implicit feedback datasets", section 5.
"""

from __future__ import annotations

import numpy as np


def contributions(
    rated: np.ndarray, residuals: np.ndarray, target: np.ndarray, *, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Take a prediction apart by the ratings that it comes from.

    Parameters
    ----------
    rated : ndarray, shape (n_ratings, rank)
        Factors of what was rated.
    residuals : ndarray, shape (n_ratings,)
        What mean and biases leave of the ratings.
    target : ndarray, shape (rank,)
        Factors of what is predicted.
    ridge : float
        The row's regularization, divided by the residual precision.

    Returns
    -------
    weights, parts : ndarray of float64, shape (n_ratings,)
        How alike the target each rated one is to this row, and weight times residual: the parts
        add up to the product of factors in the prediction.
    """
    rated = rated.astype(np.float64)
    matrix = rated.T @ rated + ridge * np.eye(rated.shape[1])
    # The least squares solution also where there is no ridge and A is singular.
    weights = rated @ np.linalg.lstsq(matrix, target.astype(np.float64), rcond=None)[0]
    return weights, weights * residuals
