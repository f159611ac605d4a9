"""The contribution of each of a row's own ratings to a prediction, by the normal equations.

A user's factors are linear in their ratings, u = A⁻¹ Fᵀ y with A = FᵀF + ridge I, so a prediction
u·v is a sum with one term for each rating: (v A⁻¹ f_n) y_n. Hu, Koren and Volinsky 2008,
"Collaborative filtering for implicit feedback datasets", section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dask_als.core.blocks import Factors
from dask_als.core.side import USERS
from dask_als.errors import InputError
from dask_als.model.files import ModelManifest
from dask_als.solvers.new_rows import NewRowPrior


@dataclass(frozen=True)
class Explanation:
    """A prediction as a sum.

    Attributes
    ----------
    weights, parts : ndarray of float64, shape (n_ratings,)
        See `contributions`.
    product : float
        The product of factors in the prediction: the sum of the parts and, for a compact model, of
        what the prior of a new user predicts.
    score : float
        The prediction.
    """

    weights: np.ndarray
    parts: np.ndarray
    product: float
    score: float


def check_explainable(manifest: ModelManifest) -> None:
    """Check that a model's predictions are linear in a user's ratings.

    Raises
    ------
    InputError
        If it is a model of implicit feedback, or has the factors of all samples.
    """
    is_linear = manifest.settings.method == "als" or manifest.compact is not None
    if manifest.settings.feedback != "explicit" or not is_linear:
        raise InputError(
            "only a model of explicit ratings can be explained, trained by als or, without "
            "--keep-samples, by gibbs"
        )


def explained(
    manifest: ModelManifest,
    prior: NewRowPrior | None,
    solved_bias: float,
    items: Factors,
    rated: np.ndarray,
    ratings: np.ndarray,
    target: int,
) -> Explanation:
    """Explain the prediction for a user who was solved from ratings.

    Parameters
    ----------
    manifest : ModelManifest
    prior : NewRowPrior or None
        For a compact model, the prior of new users.
    solved_bias : float
        The user's.
    items : Factors
    rated : ndarray of int, shape (n_ratings,)
        The rows of the items that the user rated.
    ratings : ndarray, shape (n_ratings,)
    target : int
        The row of the predicted item.
    """
    of_rated, of_target = items.factors[rated], items.factors[target]
    mean, expected = manifest.global_mean, 0.0
    residuals = ratings.astype(np.float64) - mean - solved_bias - items.bias[rated]
    if prior is None:
        regularization = manifest.settings.regularization(USERS)
        weight = max(1, len(rated)) if regularization.by_count else 1
        ridge = regularization.factor * weight / manifest.settings.residual_precision
    else:
        # In the space where the prior is Normal(0, I).
        residuals -= of_rated @ prior.mean[1:]
        expected = float(of_target @ prior.mean[1:])
        of_rated, of_target = of_rated @ prior.root[1:, 1:], of_target @ prior.root[1:, 1:]
        assert manifest.residual_precision is not None, "a compact model has one"
        ridge = 1 / manifest.residual_precision
    weights, parts = contributions(of_rated, residuals, of_target, ridge=ridge)
    product = expected + float(parts.sum())
    score = mean + solved_bias + float(items.bias[target]) + product
    return Explanation(weights, parts, product, score)


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
