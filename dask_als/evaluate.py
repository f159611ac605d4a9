"""How good a model is on held-out ratings, beside what needs no model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dask_als.dataset import Dataset, Partition, read_test_block
from dask_als.exact_sum import exact_sum
from dask_als.executor import Executor
from dask_als.objective import rmse
from dask_als.settings import TrainSettings
from dask_als.train import Training, zero_start

_BIAS_EPOCHS = 15


@dataclass(frozen=True)
class Baselines:
    """Held-out RMSE without factors.

    Attributes
    ----------
    global_mean : float
        Predicting the mean of the training ratings.
    biases : float
        Predicting mean, user bias and item bias, with the same regularization of biases.
    """

    global_mean: float
    biases: float


def baselines(dataset: Dataset, settings: TrainSettings, executor: Executor) -> Baselines:
    """Measure the baselines on a dataset's held-out ratings, of which there must be some."""
    errors = [
        executor.submit(
            _error_of_mean,
            dataset.path,
            number,
            partition,
            dataset.rating_mean,
            key=f"test-mean-{number}",
        )
        for number, partition in enumerate(dataset.users.partitions)
        if partition.test_ratings
    ]
    biases_alone = replace(settings, method="als", rank=1, center=True)
    training = Training(dataset, biases_alone, executor)
    *_, last = training.stretch(zero_start, range(1, _BIAS_EPOCHS + 1))
    assert last.figures.test_rmse is not None, "there are held-out ratings"
    return Baselines(rmse(sum(executor.gather(errors)), dataset.n_test), last.figures.test_rmse)


def _error_of_mean(path: str, number: int, partition: Partition, mean: float) -> int:
    block = read_test_block(path, number, partition)
    return exact_sum((block.ratings.astype(np.float64) - mean) ** 2)
