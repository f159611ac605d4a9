"""The notebook's loops, call by call as it makes them: numpy, one row after another, in float64.

As there, a row's ratings are one float array of index and value; every term gathers what it needs
anew; all products of factors with themselves are formed and then added up; and an epoch ends with
a pass over all ratings for objective and RMSE.
"""

from __future__ import annotations

import time

import numpy as np
from common import Arguments, Peer, Ratings, Training, read_ratings, run

RESIDUAL_PRECISION = 1.0
BIAS_REGULARIZATION = 1e-3
FACTOR_REGULARIZATION = 5e-2

Rows = list[np.ndarray]


def train(arguments: Arguments) -> Training:
    """Train users, then items, then sum up objective and RMSE."""
    ratings = read_ratings(arguments.data)
    by_user = rows(ratings.user, ratings.item, ratings)
    by_item = rows(ratings.item, ratings.user, ratings)
    rng = np.random.default_rng(0)
    rank = arguments.rank
    users = rng.normal(0, 1 / np.sqrt(rank), (ratings.n_users, rank)), np.zeros(ratings.n_users)
    items = rng.normal(0, 1 / np.sqrt(rank), (ratings.n_items, rank)), np.zeros(ratings.n_items)
    seconds = []
    for _ in range(arguments.epochs):
        start = time.monotonic()
        half_epoch(by_user, users, items)
        half_epoch(by_item, items, users)
        figures(by_user, users, items)
        seconds.append(time.monotonic() - start)
    settings = {
        "residual_precision": RESIDUAL_PRECISION,
        "bias_regularization": BIAS_REGULARIZATION,
        "factor_regularization": FACTOR_REGULARIZATION,
    }
    return Training(settings, seconds)


def rows(solved: np.ndarray, fixed: np.ndarray, ratings: Ratings) -> Rows:
    """Return each solved row's fixed indices and ratings, the two columns of an array."""
    order = np.argsort(solved, kind="stable")
    ends = np.cumsum(np.bincount(solved))[:-1]
    both = np.column_stack([fixed, ratings.rating]).astype(np.float64)
    return np.split(both[order], ends)


def half_epoch(
    ratings_of_rows: Rows,
    solved: tuple[np.ndarray, np.ndarray],
    fixed: tuple[np.ndarray, np.ndarray],
) -> None:
    """Solve bias, then factor, of one row after another."""
    factors, biases = solved
    fixed_factors, fixed_biases = fixed
    for row in range(len(ratings_of_rows)):
        ratings = ratings_of_rows[row][:, 1]
        indices = ratings_of_rows[row][:, 0].astype(int)
        predicted = np.einsum("i,ji->j", factors[row], fixed_factors[indices])
        bias = (
            RESIDUAL_PRECISION
            * np.sum(ratings - predicted - fixed_biases[indices])
            / (RESIDUAL_PRECISION * len(indices) + BIAS_REGULARIZATION)
        )
        biases[row] = bias
        products = np.einsum("ij,il->ijl", fixed_factors[indices], fixed_factors[indices])
        left = np.sum(products, axis=0)
        residuals = ratings - bias - fixed_biases[indices]
        right = np.sum(np.einsum("ji,j->ji", fixed_factors[indices], residuals), axis=0)
        factors[row] = np.linalg.solve(
            RESIDUAL_PRECISION * left + FACTOR_REGULARIZATION * np.eye(factors.shape[1]),
            RESIDUAL_PRECISION * right,
        )


def figures(
    by_user: Rows, users: tuple[np.ndarray, np.ndarray], items: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float]:
    """Return the penalized log joint and the RMSE."""
    squared_error, n_ratings = 0.0, 0
    for row in range(len(by_user)):
        ratings = by_user[row][:, 1]
        indices = by_user[row][:, 0].astype(int)
        predicted = np.einsum("i,ji->j", users[0][row], items[0][indices])
        squared_error += np.sum((ratings - predicted - users[1][row] - items[1][indices]) ** 2)
        n_ratings += len(indices)
    factors = sum(np.einsum("ij,ij->", its, its) for its, _ in (users, items))
    biases = sum(np.sum(its**2) for _, its in (users, items))
    joint = -0.5 * (
        RESIDUAL_PRECISION * squared_error
        + BIAS_REGULARIZATION * biases
        + FACTOR_REGULARIZATION * factors
    )
    return joint, np.sqrt(squared_error / n_ratings)


run(
    Peer(
        name="the notebook's loops",
        package="numpy",
        model="explicit ratings, biases",
        solver="exact",
        dtype="float64",
        timed_by="a clock around each epoch, its objective included",
    ),
    train,
)
