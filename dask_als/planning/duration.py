"""Estimate the tasks of an epoch, the time of a training and the best number of partitions."""

from __future__ import annotations

from dataclasses import replace

from dask_als.cluster.placement import Placement
from dask_als.core.executor import Shape
from dask_als.core.side import SIDES, Side
from dask_als.data.dataset import Dataset
from dask_als.data.partitioning import default_partitions
from dask_als.planning import reduction
from dask_als.planning.calibration import CALIBRATION_BYTES, Speed, row_flops
from dask_als.planning.sizes import (
    factors_bytes,
    itemsize,
    most_partitions,
    n_partitions,
    n_test_blocks,
    needs_whole_sides,
    prediction_task_bytes,
    sides_with_attributes,
    threads_of_a_partition,
)
from dask_als.settings.training import TrainSettings

_SECONDS_A_TASK = 0.001
# From the end of one stage, through the scheduler, to the start of the next stage.
_SECONDS_A_STAGE = 0.005
# From worker to worker. A gigabit network reaches 0.12e9; processes on one machine that send and
# receive at once reach 0.45e9 to 1.2e9.
_BYTES_A_SECOND = 0.8e9
# Random rows from main memory, for the part of a fixed side beyond the measured size.
_GATHERED_A_SECOND = 5e9
# One thread writes to newly allocated memory: 2e9 to 5e9.
_NEW_BYTES_A_SECOND = 3e9
# One thread makes Parquet pages, compresses them and computes the file's checksum.
_WRITTEN_A_SECOND = 0.15e9
# Samples are written as plain arrays, with a checksum.
_SAMPLE_WRITTEN_A_SECOND = 1e9
_SAMPLE_READ_A_SECOND = 1e9
# Of the rows of both sides, to fit row priors: noise, target, direction, weights and means.
_ROW_PRIOR_PASSES = 10
# For directories, manifest and history.
_SECONDS_A_MODEL = 0.03
# In shorter tasks, the scheduler's overhead dominates; several per thread balance the load.
_SECONDS_OF_A_GOOD_TASK = 0.1
_TASKS_A_THREAD = 3


def tasks_per_epoch(dataset: Dataset, settings: TrainSettings, shape: Shape) -> int:
    """Return the number of tasks that training submits for an epoch."""
    placement = Placement.on(map(str, range(shape.workers)), most_partitions(dataset))
    partitions = (n_partitions(dataset, side) for side in SIDES)
    whole = needs_whole_sides(dataset, settings)
    return placement.tasks_per_epoch(partitions, n_test_blocks(dataset), whole=whole)


def epoch_seconds(dataset: Dataset, settings: TrainSettings, shape: Shape, speed: Speed) -> float:
    """Estimate how long an epoch takes."""
    threads = shape.workers * shape.threads
    solving = sum(
        _thread_seconds(dataset, side, settings, speed)
        * _rounds(
            n_partitions(dataset, side) * threads_of_a_partition(dataset, side, shape), threads
        )
        for side in SIDES
    )
    solving += _fitting_seconds(dataset, settings) / min(threads, most_partitions(dataset))
    # Held-out ratings are predicted while the next half-epoch is solved.
    predicting = dataset.n_test / speed.test_ratings
    predicting += prediction_task_bytes(dataset.n_test, settings) / _NEW_BYTES_A_SECOND
    testing = predicting / min(threads, max(1, n_test_blocks(dataset)))
    state = sum(factors_bytes(dataset.table(side).n_rows, settings) for side in SIDES)
    # Each home receives the solved rows of all others.
    sent = state * (shape.workers - 1) / shape.workers / _BYTES_A_SECOND
    joined = [side for side in SIDES if n_partitions(dataset, side) > 1]
    joining = sum(factors_bytes(dataset.table(side).n_rows, settings) for side in joined)
    stages = len(SIDES) + len(joined)
    scheduling = (
        tasks_per_epoch(dataset, settings, shape) * _SECONDS_A_TASK + stages * _SECONDS_A_STAGE
    )
    return solving + testing + sent + joining / _NEW_BYTES_A_SECOND + scheduling


def _fitting_seconds(dataset: Dataset, settings: TrainSettings) -> float:
    """Estimate the seconds of one thread in which row priors are fitted in an epoch."""
    sides = len(sides_with_attributes(dataset, settings))
    gathered = 2 * dataset.n_ratings * settings.rank * itemsize(settings)
    rows = factors_bytes(dataset.users.n_rows + dataset.items.n_rows, settings)
    return sides * (gathered / _GATHERED_A_SECOND + _ROW_PRIOR_PASSES * rows / _NEW_BYTES_A_SECOND)


def training_seconds(
    dataset: Dataset, settings: TrainSettings, shape: Shape, speed: Speed
) -> float:
    """Estimate how long all epochs take, including writing samples and the model."""
    epochs = settings.epochs * epoch_seconds(dataset, settings, shape, speed)
    threads = shape.workers * shape.threads
    # On the busiest thread.
    state = sum(
        factors_bytes(dataset.table(side).n_rows, settings)
        * _rounds(n_partitions(dataset, side), threads)
        for side in SIDES
    )
    tasks = sum(n_partitions(dataset, side) for side in SIDES) + len(SIDES)
    overhead = _SECONDS_A_MODEL + tasks * _SECONDS_A_TASK + 2 * _SECONDS_A_STAGE
    model = overhead + settings.n_kept * state / _WRITTEN_A_SECOND
    if settings.method != "gibbs":
        return epochs + model
    samples = settings.samples * (overhead + state / _SAMPLE_WRITTEN_A_SECOND)
    if settings.reduced_rank is None:
        return epochs + samples + settings.samples * state / _SAMPLE_READ_A_SECOND + model
    rows = state / factors_bytes(1, settings)
    a_reduction = (
        reduction.seconds(dataset, settings, shape)
        + reduction.bytes_read(rows, settings) / _SAMPLE_READ_A_SECOND
        # Its stages follow one another: maxima, Gram matrices, decomposition, products.
        + 4 * overhead
    )
    compact = rows * factors_bytes(1, replace(settings, rank=settings.reduced_rank))
    reductions = reduction.n_reductions(settings) * a_reduction
    return epochs + samples + reductions + compact / _WRITTEN_A_SECOND


def best_partitions(dataset: Dataset, settings: TrainSettings, shape: Shape, speed: Speed) -> int:
    """Return the number of partitions that keeps all threads busy with long enough tasks."""
    least = min(_thread_seconds(dataset, side, settings, speed) for side in SIDES)
    threads = shape.workers * shape.threads
    even = 1 if threads == 1 else _TASKS_A_THREAD * threads
    long_enough = min(even, int(least / _SECONDS_OF_A_GOOD_TASK))
    if long_enough > threads:
        long_enough -= long_enough % threads  # no thread is idle in the last round
    wanted = max(long_enough, default_partitions(dataset.n_ratings))
    return max(1, min(wanted, *(dataset.table(side).n_rows for side in SIDES)))


def _thread_seconds(dataset: Dataset, side: Side, settings: TrainSettings, speed: Speed) -> float:
    """Return the seconds that one thread takes to solve a side."""
    flops = row_flops(dataset.table(side).n_rows, dataset.n_ratings, settings.rank)
    fixed = factors_bytes(dataset.table(side.other).n_rows, settings)
    beyond_cache = max(0.0, 1 - CALIBRATION_BYTES / fixed)
    gathered = dataset.n_ratings * settings.rank * itemsize(settings)
    return flops / speed.flops[side.name] + beyond_cache * gathered / _GATHERED_A_SECOND


def _rounds(n_tasks: int, threads: int) -> float:
    """Return the busiest thread's share of equal tasks."""
    return -(-n_tasks // threads) / n_tasks
