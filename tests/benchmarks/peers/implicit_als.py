"""The ALS of implicit, with either of its solvers.

It fits preferences with confidences (Hu, Koren and Volinsky 2008), not the ratings themselves, and
has no biases: it is the best-known fast ALS, and solves systems of the same size for each row.
"""

from __future__ import annotations

import scipy.sparse
from common import Arguments, Training, read_ratings
from implicit.cpu.als import AlternatingLeastSquares

MODEL = "implicit feedback, no biases"
TIMED_BY = "its callback after each epoch"


def train(arguments: Arguments, *, use_cg: bool) -> Training:
    """Train on the ratings as confidences."""
    ratings = read_ratings(arguments.data)
    confidences = scipy.sparse.csr_matrix(
        (ratings.rating, (ratings.user, ratings.item)), (ratings.n_users, ratings.n_items)
    )
    settings = {"use_cg": use_cg, "use_native": True, "regularization": 0.05, "alpha": 1.0}
    model = AlternatingLeastSquares(
        factors=arguments.rank,
        iterations=arguments.epochs,
        num_threads=arguments.threads,
        dtype="float32",
        random_state=0,
        **settings,
    )
    seconds: list[float] = []
    model.fit(
        confidences,
        show_progress=False,
        callback=lambda epoch, elapsed, loss: seconds.append(elapsed),
    )
    return Training(settings, seconds)
