"""The contribution of each of a row's own ratings to a prediction, by the normal equations.

A user's factors are linear in their ratings, u = A⁻¹ Fᵀ y with A = FᵀF + ridge I, so a prediction
u·v is a sum with one term for each rating: (v A⁻¹ f_n) y_n. Hu, Koren and Volinsky 2008,
"Collaborative filtering for implicit feedback datasets", section 5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dask_als.core.blocks import Factors
from dask_als.core.side import ITEMS, USERS
from dask_als.errors import InputError
from dask_als.model.manifest import ModelManifest
from dask_als.model.training_data import RatingsOfRow
from dask_als.solvers.new_row_prior import NewRowPrior

if TYPE_CHECKING:
    from dask_als.model.in_memory import InMemoryModel


def contributions(
    rated: np.ndarray,
    residuals: np.ndarray,
    target: np.ndarray,
    *,
    ridge: float,
    counts: np.ndarray | None = None,
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
    counts : ndarray, shape (n_ratings,), optional
        The weights of the ratings, if they have any.

    Returns
    -------
    weights, parts : ndarray of float64, shape (n_ratings,)
        The similarity of each rated row to the target as this row sees it, and weight times
        residual: the parts add up to the product of factors in the prediction.
    """
    rated = rated.astype(np.float64)
    counted = rated if counts is None else rated * counts[:, None].astype(np.float64)
    matrix = counted.T @ rated + ridge * np.eye(rated.shape[1])
    # Least squares also solves a singular A, which only a ridge of 0 allows.
    weights = counted @ np.linalg.lstsq(matrix, target.astype(np.float64), rcond=None)[0]
    return weights, weights * residuals


def explained(model: InMemoryModel, user: Any, item: Any) -> pd.DataFrame:
    """Return how much each of a user's ratings contributes; see `ALSModel.explain`."""
    _check_linear(model.manifest)
    row, target = model.users.row(user), model.items.row(item)
    its = model.ratings_of(USERS, row)
    rated, ratings = its.rated, its.ratings
    own = model.users.state[row : row + 1]
    items, mean = model.items.state, model.manifest.global_mean
    prior, free = model.users.new_rows, np.ones(items.factors.shape[1], bool)
    if prior is None and not model.settings.nonnegative:
        # Without the kernel, which takes a second to import.
        bias = _solved_bias(model.manifest, its, own, items)
    else:
        solved = model.solver.solve(USERS, rated, ratings, own, its.weights)
        bias = float(solved.bias[0])
        if prior is None:
            # Factors that are zero stay there: the others are linear.
            free = solved.factors[0] > 0
    residuals = ratings.astype(np.float64) - mean - bias - items.bias[rated]
    if prior is None:
        weights, parts = contributions(
            items.factors[rated][:, free],
            residuals,
            items.factors[target][free],
            ridge=_ridges(model.manifest, its)[1],
            counts=its.weights,
        )
        expected = 0.0
    else:
        expected, weights, parts = _with_prior(
            prior, model.manifest, items.factors[rated], residuals, items.factors[target], its
        )
    order = np.lexsort((rated, -np.abs(parts)))
    frame = model.described(
        ITEMS, rated[order], rating=ratings[order], weight=weights[order], part=parts[order]
    )
    product = expected + float(parts.sum())
    score = mean + bias + float(items.bias[target]) + product
    frame.attrs = {"product": product, "score": score}
    return frame


def _check_linear(manifest: ModelManifest) -> None:
    """Raise InputError if the predictions of a model are not linear in a user's ratings."""
    is_linear = manifest.settings.method == "als" or manifest.compact is not None
    if manifest.settings.feedback != "explicit" or not is_linear:
        raise InputError(
            "only a model of explicit ratings can be explained, trained by als or, without "
            "--keep-samples, by gibbs"
        )


def _solved_bias(manifest: ModelManifest, its: RatingsOfRow, own: Factors, items: Factors) -> float:
    """Return the best bias of a row, given its factors; see `kernels.least_squares`."""
    y = its.ratings.astype(np.float64) - manifest.global_mean - items.bias[its.rated]
    w = np.ones(len(y)) if its.weights is None else its.weights.astype(np.float64)
    predicted = (w @ items.factors[its.rated].astype(np.float64)) @ own.factors[0]
    return float((w @ y - predicted) / (w.sum() + _ridges(manifest, its)[0]))


def _ridges(manifest: ModelManifest, its: RatingsOfRow) -> tuple[float, float]:
    """Return the regularization of a user's bias and factors, by the residual precision."""
    regularization = manifest.settings.regularization(USERS)
    weight = 1.0
    if regularization.by_count and len(its.ratings):
        counts = its.ratings.size if its.weights is None else its.weights.sum(dtype=np.float64)
        weight = float(counts)
    scale = weight / manifest.settings.residual_precision
    return regularization.bias * scale, regularization.factor * scale


def _with_prior(
    prior: NewRowPrior,
    manifest: ModelManifest,
    rated: np.ndarray,
    residuals: np.ndarray,
    target: np.ndarray,
    its: RatingsOfRow,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the product that a row's prior predicts, and `contributions` to the rest of it."""
    assert manifest.residual_precision is not None, "a compact model has one"
    mean, root = prior.mean[1:], prior.root[1:, 1:]
    # Times the root, the prior of the row's factors is Normal(0, I).
    weights, parts = contributions(
        rated @ root,
        residuals - rated @ mean,
        target @ root,
        ridge=1 / manifest.residual_precision,
        counts=its.weights,
    )
    return float(target @ mean), weights, parts
