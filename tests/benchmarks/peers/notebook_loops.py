"""The equations of the notebook as it runs them: numpy, one row after another, in double precision.

As there, an epoch forms every rating's product of factors with themselves and then adds them up,
and ends with a pass over all ratings for the objective.
"""

from __future__ import annotations

import time

import numpy as np
from common import Arguments, Peer, Ratings, Training, read_ratings, run

RESIDUAL_PRECISION = 1.0
BIAS_REGULARIZATION = 1e-3
FACTOR_REGULARIZATION = 5e-2

Rows = list[tuple[np.ndarray, np.ndarray]]


def train(arguments: Arguments) -> Training:
    """Train users, then items, then sum up the objective."""
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
        objective(by_user, users, items)
        seconds.append(time.monotonic() - start)
    settings = {
        "residual_precision": RESIDUAL_PRECISION,
        "bias_regularization": BIAS_REGULARIZATION,
        "factor_regularization": FACTOR_REGULARIZATION,
    }
    return Training(settings, seconds)


def rows(solved: np.ndarray, fixed: np.ndarray, ratings: Ratings) -> Rows:
    """Give each solved row's fixed indices and ratings."""
    order = np.argsort(solved, kind="stable")
    ends = np.cumsum(np.bincount(solved))[:-1]
    values = ratings.rating.astype(np.float64)
    return list(zip(np.split(fixed[order], ends), np.split(values[order], ends), strict=True))


def half_epoch(
    ratings_of_rows: Rows,
    solved: tuple[np.ndarray, np.ndarray],
    fixed: tuple[np.ndarray, np.ndarray],
) -> None:
    """Solve bias, then factor, of one row after another."""
    factors, biases = solved
    fixed_factors, fixed_biases = fixed
    ridge = FACTOR_REGULARIZATION * np.eye(factors.shape[1])
    for row, (indices, ratings) in enumerate(ratings_of_rows):
        others = fixed_factors[indices]
        unbiased = ratings - fixed_biases[indices]
        residual_sum = RESIDUAL_PRECISION * (unbiased - others @ factors[row]).sum()
        biases[row] = residual_sum / (RESIDUAL_PRECISION * len(indices) + BIAS_REGULARIZATION)
        left = (others[:, :, None] * others[:, None, :]).sum(axis=0)
        right = (others * (unbiased - biases[row])[:, None]).sum(axis=0)
        factors[row] = np.linalg.solve(
            RESIDUAL_PRECISION * left + ridge, RESIDUAL_PRECISION * right
        )


def objective(
    by_user: Rows, users: tuple[np.ndarray, np.ndarray], items: tuple[np.ndarray, np.ndarray]
) -> float:
    """Give the penalized log joint."""
    squared_error = 0.0
    for row, (indices, ratings) in enumerate(by_user):
        prediction = items[0][indices] @ users[0][row] + users[1][row] + items[1][indices]
        squared_error += ((ratings - prediction) ** 2).sum()
    biases = (users[1] ** 2).sum() + (items[1] ** 2).sum()
    factors = (users[0] ** 2).sum() + (items[0] ** 2).sum()
    return -0.5 * (
        RESIDUAL_PRECISION * squared_error
        + BIAS_REGULARIZATION * biases
        + FACTOR_REGULARIZATION * factors
    )


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
