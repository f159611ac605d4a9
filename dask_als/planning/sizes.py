"""Sizes of a training's factors and tasks that several estimates share."""

from __future__ import annotations

import numpy as np

from dask_als.cluster.placement import Placement
from dask_als.core.blocks import PREDICTIONS_AT_ONCE
from dask_als.core.executor import Shape
from dask_als.core.side import SIDES, Side
from dask_als.data.attributes import AttributesFile
from dask_als.data.dataset import Dataset
from dask_als.settings.training import TrainSettings
from dask_als.solvers.threads import worthwhile_threads

# Row numbers, predictions and errors of held-out ratings, beside the gathered factors.
_TEST_BYTES_A_RATING = 40


def itemsize(settings: TrainSettings) -> int:
    """Return the bytes per number of the model."""
    return np.dtype(settings.dtype).itemsize


def factors_bytes(n_rows: int, settings: TrainSettings) -> int:
    """Return the bytes of the biases and factors of a number of rows."""
    return n_rows * (settings.rank + 1) * itemsize(settings)


def prediction_task_bytes(n_ratings: int, settings: TrainSettings) -> int:
    """Return the bytes that a task which predicts held-out ratings allocates."""
    gathered = 2 * min(n_ratings, PREDICTIONS_AT_ONCE) * settings.rank * itemsize(settings)
    return gathered + n_ratings * _TEST_BYTES_A_RATING


def busy_threads(n_tasks: int, shape: Shape) -> int:
    """Return how many threads of a worker are busy if tasks are distributed evenly."""
    return min(shape.threads, -(-n_tasks // shape.workers))


def threads_of_a_partition(dataset: Dataset, side: Side, shape: Shape) -> int:
    """Return how many threads solve each partition of a side."""
    placement = Placement.on(map(str, range(shape.workers)), most_partitions(dataset))
    threads = placement.threads_of_a_partition(n_partitions(dataset, side), shape.threads)
    return worthwhile_threads(threads, dataset.n_ratings // n_partitions(dataset, side))


def n_partitions(dataset: Dataset, side: Side) -> int:
    """Return the number of partitions of a side."""
    return len(dataset.table(side).partitions)


def most_partitions(dataset: Dataset) -> int:
    """Return the number of partitions of the side that has more."""
    return max(n_partitions(dataset, side) for side in SIDES)


def sides_with_attributes(dataset: Dataset, settings: TrainSettings) -> tuple[Side, ...]:
    """Return the sides whose rows have implicit attributes."""
    return settings.sides_with_attributes({side: dataset.table(side).n_rows for side in SIDES})


def attribute_files(dataset: Dataset, settings: TrainSettings) -> dict[Side, AttributesFile]:
    """Return the attributes from files that training uses, by side."""
    found = {side: dataset.attributes(side) for side in SIDES}
    return {side: file for side, file in found.items() if file and settings.attributes}


def needs_whole_sides(dataset: Dataset, settings: TrainSettings) -> bool:
    """Tell whether each worker needs all rows of both sides, not only those it uses."""
    return settings.method == "gibbs" or bool(
        sides_with_attributes(dataset, settings) or attribute_files(dataset, settings)
    )


def n_test_blocks(dataset: Dataset) -> int:
    """Return the number of user partitions with held-out ratings."""
    return sum(part.test_ratings > 0 for part in dataset.users.partitions)
