"""Datasets of ratings with weights, for tests of several modules."""

import numpy as np

from dask_als.core.executor import SerialExecutor
from dask_als.data.prepare import prepare
from dask_als.settings.data import Columns, PrepareSettings
from support.data import generated, write_csv

WEIGHTED = Columns(weight="weight")
HEADER = ("userId", "movieId", "rating", "timestamp", "weight")
FIRST = 1_500_000_000


def weighted_rows(seed=0, weights=None):
    """Return rows of user, item, rating, time and weight; some pairs have several."""
    rng = np.random.default_rng(seed)
    rows = generated(40, 30, 600)
    rows += [rows[n] for n in rng.integers(0, len(rows), 60)]
    times = FIRST + rng.integers(0, 400 * 86_400, len(rows))
    if weights is None:
        weights = rng.choice([0.25, 0.5, 1.0, 2.0, 3.0], len(rows))
    return [
        (user, item, rating, int(time), float(weight))
        for (user, item, rating), time, weight in zip(rows, times, weights, strict=True)
    ]


def prepared_with(folder, rows, name="dataset", columns=WEIGHTED, **settings):
    """Return a dataset of such rows."""
    source = write_csv(folder / f"{name}.csv", rows, HEADER)
    settings = PrepareSettings(**{"partitions": 1, "test_fraction": 0.2, **settings})
    path, executor = str(folder / name), SerialExecutor()
    return prepare(str(source), path, executor, columns=columns, settings=settings)
