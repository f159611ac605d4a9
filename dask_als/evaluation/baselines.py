"""Baselines without factors: the global mean, and biases alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dask_als.core.executor import Executor
from dask_als.core.superaccumulator import exact_sum
from dask_als.data.block_files import read_test_block
from dask_als.data.dataset import Dataset, Partition
from dask_als.settings.training import TrainSettings
from dask_als.solvers.objective import rmse
from dask_als.training.start import zero_start
from dask_als.training.task_graph import Epoch, TaskGraph

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
    """Measure the baselines on the held-out ratings of a dataset that has some."""
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
    last = train_biases(dataset, settings, executor)
    assert last.figures.test_rmse is not None, "there are held-out ratings"
    return Baselines(
        rmse(sum(executor.gather(errors)), dataset.test_weight), last.figures.test_rmse
    )


def train_biases(dataset: Dataset, settings: TrainSettings, executor: Executor) -> Epoch:
    """Train user and item biases alone; return the last epoch, which has whole sides."""
    settings = replace(
        settings,
        rank=1,
        center=True,
        method="als",
        feedback="explicit",
        nonnegative=False,
        attributes=False,
    )
    graph = TaskGraph(dataset, settings, executor, whole_sides=True)
    *_, last = graph.segment(zero_start, range(1, _BIAS_EPOCHS + 1))
    return last


def _error_of_mean(path: str, number: int, partition: Partition, mean: float) -> int:
    block = read_test_block(path, number, partition)
    return exact_sum(block.weighted((block.ratings.astype(np.float64) - mean) ** 2))
