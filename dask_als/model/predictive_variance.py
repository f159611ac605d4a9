"""The standard deviation of a predicted rating, from the samples of a model.

The variance of the samples' predictions of a pair is the uncertainty of the pair's mean. A rating
varies around that mean with the inverse of the residual precision alpha, so its standard deviation
is, over samples s,

    std² = var_s (b_s + c_s + u_s·v_s) + 1 / alpha

Rows without training ratings have the mean bias of each sample, so their standard deviations are
too small. This is the variance of the predictive distribution in Salakhutdinov and Mnih 2008,
"Bayesian probabilistic matrix factorization using Markov chain Monte Carlo".
"""

from __future__ import annotations

import numpy as np

from dask_als.core.blocks import Factors

_PAIRS_AT_ONCE = 4096


def predictions_of_samples(
    users: Factors, items: Factors, user_rows: np.ndarray, item_rows: np.ndarray, *, mean: float
) -> np.ndarray:
    """Return the prediction of each sample.

    Parameters
    ----------
    users, items : Factors
        Biases of all samples, shape (n_rows, n_samples), and their factors as in a model:
        concatenated and divided by the root of `n_samples`.
    user_rows, item_rows : ndarray of int, shape (n,)
    mean : float
        The global mean.

    Returns
    -------
    ndarray of float64, shape (n, n_samples)
    """
    n_samples = users.bias.shape[1]
    by_sample = (len(user_rows), n_samples, -1)
    products = np.einsum(
        "nsk,nsk->ns",
        users.factors[user_rows].reshape(by_sample),
        items.factors[item_rows].reshape(by_sample),
        dtype=np.float64,
    )
    biases = users.bias[user_rows].astype(np.float64) + items.bias[item_rows]
    return mean + biases + n_samples * products


def standard_deviations(
    users: Factors,
    items: Factors,
    user_rows: np.ndarray,
    item_rows: np.ndarray,
    *,
    residual_precision: float,
) -> np.ndarray:
    """Return the standard deviation of the rating of each pair, in units of a rating.

    Parameters
    ----------
    users, items, user_rows, item_rows
        As for `predictions_of_samples`.
    residual_precision : float
        alpha.

    Returns
    -------
    ndarray of float64, shape (n,)
    """
    variances = np.empty(len(user_rows))
    for start in range(0, len(user_rows), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        # The global mean is the same in all samples, so it does not change the variance.
        predicted = predictions_of_samples(users, items, user_rows[some], item_rows[some], mean=0.0)
        variances[some] = predicted.var(axis=1)
    return np.sqrt(variances + 1 / residual_precision)
