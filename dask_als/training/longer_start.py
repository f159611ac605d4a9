"""A start on more ratings than a model was trained on: its factors are lengthened.

More ratings support longer factors. From factors that are too short, alternating least squares
needs many epochs, most of all along the weak directions of the model; from factors that are too
long, it needs few. So training starts from an upper estimate of their lengths.

With T the root of the product of both sides' factor regularization, the penalty of all U and V of
one product U Vᵀ is at least T times the sum of the singular values s of U Vᵀ. At a maximum, U Vᵀ is
therefore U Vᵀ + E with each singular value reduced by T / lambda, where E has the residuals of the
ratings; the largest singular value of E is T / lambda. Ratings that are added, a share f of those
before, add their residuals to E. The largest singular value of scattered numbers grows with the
root of how many there are, so theirs is about √f T / lambda, and by Weyl's inequality no singular
value of the sum grows by more. Each s becomes s + √f T / lambda; the directions stay.

Sources: Srebro, Rennie and Jaakkola 2004, "Maximum-margin matrix factorization"; Mazumder, Hastie
and Tibshirani 2010, "Spectral regularization algorithms for learning large incomplete matrices".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dask_als.core.blocks import Factors
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.data.dataset import Dataset
from dask_als.model.blas_threads import one_blas_thread
from dask_als.model.compact import truncate
from dask_als.model.exact_products import exact_gram, exact_product, exponents, gram_values
from dask_als.model.manifest import ModelManifest
from dask_als.planning.sizes import attribute_files, sides_with_attributes
from dask_als.settings.training import TrainSettings

_ROWS_AT_ONCE = 8192


def added_length(manifest: ModelManifest, dataset: Dataset, settings: TrainSettings) -> float:
    """Return what to add to the singular values of a model's product, to start on a dataset.

    It is 0 if the dataset has no more ratings than the model was trained on, or if the maximum is
    not the one that the estimate is about: that of plain, unconstrained least squares.
    """
    if not (_is_plain(manifest.settings) and _is_plain(settings)):
        return 0.0
    if attribute_files(dataset, settings) or sides_with_attributes(dataset, settings):
        return 0.0
    before = sum(partition.ratings for partition in manifest.users.partitions)
    added = max(0, dataset.n_ratings - before) / max(1, before)
    penalty = math.sqrt(math.prod(settings.regularization(side).factor for side in SIDES))
    return math.sqrt(added) * penalty / settings.residual_precision


def _is_plain(settings: TrainSettings) -> bool:
    return (
        settings.method == "als"
        and settings.feedback == "explicit"
        and settings.regularization_scaling == "plain"
        and not settings.nonnegative
    )


def lengthening(users: Factors, items: Factors, length: float) -> dict[Side, np.ndarray]:
    """Return the matrix of each side by which its factors are multiplied to lengthen the product.

    Directions that the product does not have stay at zero.
    """
    rank = users.factors.shape[1]
    with one_blas_thread():
        grams = {USERS: _gram(users.factors), ITEMS: _gram(items.factors)}
        found = truncate(grams, rank)
    values = found.singular_values
    ratio = np.divide(values + length, values, out=np.zeros(rank), where=values > 0)
    return {side: directions * np.sqrt(ratio) for side, directions in found.maps.items()}


def lengthened(state: Factors, matrix: np.ndarray) -> Factors:
    """Return biases and lengthened factors of all rows of a side."""
    powers, longer = _exponents(state.factors), np.empty_like(state.factors)
    with one_blas_thread():
        for rows, chunk in _chunks(state.factors):
            longer[rows] = exact_product(chunk, matrix, powers)
    return Factors(state.bias, longer)


def _gram(factors: np.ndarray) -> np.ndarray:
    powers, n_rows = _exponents(factors), len(factors)
    chunks = (chunk for _, chunk in _chunks(factors))
    return gram_values(exact_gram(chunks, powers, n_rows), powers, n_rows)


def _exponents(factors: np.ndarray) -> np.ndarray:
    return exponents(np.abs(factors).max(axis=0).astype(np.float64))


def _chunks(factors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield some rows at once, as float64."""
    for start in range(0, len(factors), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        yield rows, factors[rows].astype(np.float64)
