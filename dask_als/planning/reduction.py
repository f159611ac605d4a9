"""Estimate what it takes to reduce samples to one rank: memory of a task, disk and time."""

from __future__ import annotations

from dask_als.core.executor import Shape
from dask_als.core.side import SIDES
from dask_als.data.dataset import Dataset
from dask_als.planning.sizes import factors_bytes, itemsize, n_partitions
from dask_als.settings.reduction import Schedule
from dask_als.settings.training import CheckpointPolicy, TrainSettings

# A chunk of a stack as float64: its columns, those in a row, integers, and what rounding left.
ROWS_AT_ONCE = 8192
_CHUNK_COPIES = 5
# Gram matrices of both sides as integers and floats, their roots and the decomposition.
_MATRIX_COPIES = 10
# Operations of two eigenvalue problems and a singular value decomposition, by the cube of their
# size, and how many of them one thread does in a second; and those of exact products.
_DECOMPOSITION_FLOPS = 30
_DECOMPOSED_A_SECOND = 5e9
_MULTIPLIED_A_SECOND = 2e10
_SLICE_PRODUCTS = 3
# Maxima, Gram matrices and products each read the stack.
_PASSES = 3


def stacked_columns(settings: TrainSettings) -> int:
    """Return the most columns of factors that are reduced at once."""
    schedule = Schedule(settings)
    n_samples = min(schedule.batch, settings.samples)
    reduced = schedule.working_rank if settings.samples > schedule.batch else 0
    return reduced + n_samples * settings.rank


def task_bytes(n_rows: int, settings: TrainSettings) -> int:
    """Return what a task allocates that reduces the samples of so many rows."""
    columns, rank = stacked_columns(settings), _new_rank(settings)
    rows = n_rows * (columns * itemsize(settings) + 2 * 8 * rank)
    chunk = min(n_rows, ROWS_AT_ONCE) * columns * 8 * _CHUNK_COPIES
    return rows + chunk + _MATRIX_COPIES * 8 * columns**2


def _new_rank(settings: TrainSettings) -> int:
    """Return the rank of the largest result of a reduction."""
    schedule = Schedule(settings)
    return max(settings.reduced_rank or 0, schedule.working_rank)


def disk_bytes(n_rows: int, settings: TrainSettings) -> int:
    """Return the most room that samples and reductions of so many rows take while training."""
    schedule, policy = Schedule(settings), CheckpointPolicy()
    sample = factors_bytes(n_rows, settings)
    reduction = n_rows * (schedule.working_rank * itemsize(settings) + 8)
    most = 0
    for epoch in range(settings.burn_in + 1, settings.epochs + 1):
        checkpoints = range(policy.every, epoch, policy.every)[-policy.keep :]
        # Before the last reduction, all that it replaces is still there.
        numbers = (epoch, epoch - 1, *checkpoints)
        samples = {waiting for number in numbers for waiting in schedule.waiting(number)}
        reductions = {schedule.last(number) for number in numbers} - {None}
        most = max(most, len(samples | {epoch}) * sample + len(reductions) * reduction)
    return most


def seconds(dataset: Dataset, settings: TrainSettings, shape: Shape) -> float:
    """Estimate how long one reduction takes, besides the tasks that it is made of."""
    threads = shape.workers * shape.threads
    columns, rank = stacked_columns(settings), _new_rank(settings)
    flops = columns * columns + 2 * _SLICE_PRODUCTS * columns * rank
    # On the busiest thread.
    rows = sum(
        dataset.table(side).n_rows
        * -(-n_partitions(dataset, side) // threads)
        / n_partitions(dataset, side)
        for side in SIDES
    )
    decomposition = _DECOMPOSITION_FLOPS * columns**3 / _DECOMPOSED_A_SECOND
    return rows * flops / _MULTIPLIED_A_SECOND + decomposition


def bytes_read(n_rows: float, settings: TrainSettings) -> float:
    """Return what a reduction of so many rows reads."""
    return _PASSES * n_rows * stacked_columns(settings) * itemsize(settings)


def n_reductions(settings: TrainSettings) -> int:
    """Return how often samples are reduced, including for the model."""
    return len(Schedule(settings).reductions(settings.epochs)) + 1
