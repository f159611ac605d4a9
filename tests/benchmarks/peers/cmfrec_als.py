"""The biased ALS of cmfrec for explicit ratings, with either of its solvers."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable

import scipy.sparse
from cmfrec import CMF
from common import Arguments, Training, read_ratings

MODEL = "explicit ratings, biases"
TIMED_BY = "the line it prints after each epoch"


def train(arguments: Arguments, *, use_cg: bool) -> Training:
    """Train without the steps that only prepare later predictions."""
    ratings = read_ratings(arguments.data)
    matrix = scipy.sparse.coo_matrix(
        (ratings.rating, (ratings.user, ratings.item)), (ratings.n_users, ratings.n_items)
    )
    settings = {
        "method": "als",
        "use_cg": use_cg,
        "finalize_chol": False,
        "lambda_": 0.05,
        "precompute_for_predictions": False,
    }
    model = CMF(
        k=arguments.rank,
        niter=arguments.epochs,
        nthreads=arguments.threads,
        use_float=True,
        random_state=1,
        verbose=True,
        **settings,
    )
    lines = printed_lines(lambda: model.fit(matrix))
    marks = [
        seconds
        for seconds, line in lines
        if line.startswith("Starting ALS") or "Completed ALS iteration" in line
    ]
    return Training(settings, [after - before for before, after in itertools.pairwise(marks)])


def printed_lines(call: Callable[[], object]) -> list[tuple[float, str]]:
    """Call, and give the lines that C code wrote to standard output, each with its time."""
    reader, writer = os.pipe()
    lines: list[tuple[float, str]] = []

    def read() -> None:
        with os.fdopen(reader) as pipe:
            lines.extend((time.monotonic(), line.strip()) for line in pipe)

    thread = threading.Thread(target=read)
    thread.start()
    stdout = os.dup(1)
    os.dup2(writer, 1)
    try:
        call()
    finally:
        os.dup2(stdout, 1)
        os.close(writer)
        thread.join()
    return lines
