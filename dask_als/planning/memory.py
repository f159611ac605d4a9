"""Estimate the memory of the worker that needs the most."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

from dask_als.core.executor import Shape
from dask_als.core.side import SIDES, Side, side_named
from dask_als.data.dataset import Dataset, Partition
from dask_als.errors import InputError
from dask_als.planning.reduction import task_bytes
from dask_als.planning.sizes import (
    attribute_files,
    busy_threads,
    factors_bytes,
    itemsize,
    most_partitions,
    n_partitions,
    n_test_blocks,
    prediction_task_bytes,
    sides_with_attributes,
    threads_of_a_partition,
)
from dask_als.settings.training import StopSettings, TrainSettings
from dask_als.solvers.choice import kernel_bytes

# Measured: a worker that has loaded all modules and the kernel and trained on tiny data, and the
# memory that allocators keep for each thread after it has read and written.
PROCESS_BYTES = 260 << 20
THREAD_BYTES = 16 << 20
# Dask's nanny kills a worker that uses more than this share of its limit.
USABLE = 0.95
_BYTES_A_RATING = 8  # int32 index, float32 rating
_BYTES_A_ROW = 8  # int64 of indptr
_BYTES_A_WEIGHT = 4  # float32
# Arrow's allocator keeps the memory of the column that is dropped beside the two that stay.
_KEPT_A_RATING = 4
# File, table and the int64 differences that check its order.
_READ_BYTES_A_RATING = 44
# The draws, their concatenation and their quotient are float64.
_START_BYTES_A_FACTOR = 24
_BYTES_A_PREDICTION = 8
# Arrow arrays, pages and compressed pages, as multiples of the written rows.
_WRITE_COPIES = 4
# In addition: samples as they are read, concatenated, and divided.
_AVERAGE_COPIES = _WRITE_COPIES + 3
# Of weights and prior means: the old, the new, and what the step between them is computed from.
_ROW_PRIOR_COPIES = 4
# The matrix of attributes from a file by row and by column: index and float64, and a copy of each.
_MATRIX_BYTES_A_VALUE = 2 * 2 * 12
# Random numbers of a partition's rows, in blocks and concatenated.
_DRAW_COPIES = 2


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The peak memory of the worker that needs the most, in bytes.

    Attributes
    ----------
    process : int
        Python, libraries and kernel.
    blocks : int
        Its share of the ratings by user, by item and held out.
    states : int
        Both sides' biases and factors: the fixed, the new, and earlier ones that are still held.
    temporaries : int
        Further memory of the tasks on its threads.
    phase : {"reading", "epochs", "writing"}
        The phase of the peak.
    """

    process: int
    blocks: int
    states: int
    temporaries: int
    phase: str

    @property
    def peak(self) -> int:
        """The sum of all parts."""
        return self.process + self.blocks + self.states + self.temporaries


def memory_of_a_worker(
    dataset: Dataset,
    settings: TrainSettings,
    shape: Shape,
    *,
    stopping: StopSettings = StopSettings(),
) -> Memory:
    """Estimate the memory of the worker that needs the most.

    Notes
    -----
    Blocks are assumed to be distributed evenly; every worker holds a replica of both sides. An
    epoch starts while the driver still waits for the figures of the one before. So a worker holds
    both sides as they were, the side solved first, and the side solved last; each of the latter two
    in parts and joined, if it has several partitions. A replica's memory is kept for the side's
    next replica, so it is idle while the other side is joined. With patience, a worker also holds
    both sides of the best epoch so far.
    """
    state = {side: factors_bytes(dataset.table(side).n_rows, settings) for side in SIDES}
    both = sum(state.values())
    best = both if stopping.patience is not None else 0
    first = side_named(settings.first)
    threads = {side: threads_of_a_partition(dataset, side, shape) for side in SIDES}
    copies = {side: 1 + (n_partitions(dataset, side) > 1 or threads[side] > 1) for side in SIDES}

    solving = _solving_threads(dataset, shape) * kernel_bytes(settings)
    if settings.method == "gibbs":
        drawing = _DRAW_COPIES * (settings.rank + 1) * itemsize(settings)
        solving += _most(dataset, shape, lambda part: len(part.rows) * drawing)
    test = max(part.test_ratings for part in dataset.users.partitions)
    testing = busy_threads(n_test_blocks(dataset), shape) * prediction_task_bytes(test, settings)
    # Of weights, the file and the table.
    a_rating = _READ_BYTES_A_RATING + 2 * _bytes_a_weight(dataset)
    reading = _most(dataset, shape, lambda part: part.ratings * a_rating)
    start = settings.rank * _START_BYTES_A_FACTOR
    starting = _most(dataset, shape, lambda part: len(part.rows) * start)
    writing = _writing_bytes(dataset, settings, shape)
    reducing = 0
    if settings.reduced_rank is not None:
        reducing = _most(dataset, shape, lambda part: task_bytes(len(part.rows), settings))
    last = first.other
    solved = max(
        copies[first] * state[first] + (copies[last] - 1) * state[last],
        state[first] + copies[last] * state[last],
    )
    share = -(-n_partitions(dataset, first) // shape.workers) / n_partitions(dataset, first)
    both += _row_prior_bytes(dataset, settings, state)
    moments = [
        ("reading", both, max(reading, starting)),
        ("epochs", both + best + solved, solving),
        ("epochs", both + best + int(share * state[first]), testing),
        # The next epochs are solved while the samples of this one are reduced.
        ("epochs", both + best + solved, reducing),
        ("writing", both + best, writing),
    ]
    phase, states, temporaries = max(moments, key=lambda moment: moment[1] + moment[2])
    return Memory(
        process=PROCESS_BYTES + shape.threads * THREAD_BYTES,
        blocks=_block_bytes(dataset, shape) + _prediction_bytes(dataset, settings, shape),
        states=states,
        temporaries=temporaries,
        phase=phase,
    )


def _row_prior_bytes(dataset: Dataset, settings: TrainSettings, state: dict[Side, int]) -> int:
    """Return what the row priors of all sides with attributes take on each worker."""
    implicit, files = sides_with_attributes(dataset, settings), attribute_files(dataset, settings)
    total = 0
    for side in {*implicit, *files}:
        # Means are rows of the side, and weights of implicit attributes those of the other.
        rows = state[side] + (state[side.other] if side in implicit else 0)
        if side in files:
            its = files[side].side_attributes
            rows += factors_bytes(its.n_columns, settings)
            # With its first column of ones.
            total += (its.n_values + files[side].n_rows) * _MATRIX_BYTES_A_VALUE
        total += _ROW_PRIOR_COPIES * rows
    return total


def check_fits(
    dataset: Dataset,
    settings: TrainSettings,
    shape: Shape,
    *,
    stopping: StopSettings = StopSettings(),
) -> None:
    """Check that a training can fit the workers' memory limit.

    Raises
    ------
    InputError
        If it cannot.
    """
    memory = memory_of_a_worker(dataset, settings, shape, stopping=stopping)
    if not fits_limit(memory, shape):
        raise InputError(
            f"a worker would need {in_words(memory.peak)} (process {in_words(memory.process)}, "
            f"blocks {in_words(memory.blocks)}, states {in_words(memory.states)}, temporaries "
            f"{in_words(memory.temporaries)}), and Dask kills it at {USABLE:.0%} of its limit of "
            f"{in_words(shape.memory or 0)}; give {_ways_out(dataset, settings, shape, stopping)}"
        )


def in_words(n_bytes: float) -> str:
    """Return a number of bytes as text, in MiB or GiB."""
    mebibytes = n_bytes / (1 << 20)
    return f"{mebibytes:,.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:,.1f} GiB"


def fits_limit(memory: Memory, shape: Shape) -> bool:
    """Tell whether a worker's peak stays below the share of its limit that Dask allows."""
    return not shape.memory or memory.peak <= USABLE * shape.memory


def _ways_out(
    dataset: Dataset, settings: TrainSettings, shape: Shape, stopping: StopSettings
) -> str:
    """Return the changes each of which would make it fit."""

    def works(settings: TrainSettings, shape: Shape) -> bool:
        return fits_limit(memory_of_a_worker(dataset, settings, shape, stopping=stopping), shape)

    peak = memory_of_a_worker(dataset, settings, shape, stopping=stopping).peak
    ways = [f"workers more memory (--memory {-(-peak * 100 // int(USABLE * 100) >> 20)}MiB)"]
    # Whole partitions are distributed, so more workers than partitions do not help.
    more = range(shape.workers + 1, most_partitions(dataset) + 1)
    least = bisect_left(more, True, key=lambda n: works(settings, replace(shape, workers=n)))
    if least < len(more):
        ways.append(f"more workers (--workers {more[least]})")
    rank = settings.rank // 2
    while rank and not works(replace(settings, rank=rank), shape):
        rank //= 2
    if rank:
        ways.append(f"a smaller --rank ({rank})")
    if works(replace(settings, dtype="float32"), shape):
        ways.append("--dtype float32")
    if stopping.patience is not None and fits_limit(
        memory_of_a_worker(dataset, settings, shape), shape
    ):
        ways.append("no --patience")
    return ", or ".join(ways)


def _writing_bytes(dataset: Dataset, settings: TrainSettings, shape: Shape) -> int:
    """Return what the tasks hold that write the model."""
    columns, copies = (settings.reduced_rank or settings.rank) + 1, _WRITE_COPIES
    if settings.keep_samples and settings.n_kept > 1:
        columns, copies = settings.n_kept * columns, _AVERAGE_COPIES
    row = copies * columns * itemsize(settings)
    return _most(dataset, shape, lambda part: len(part.rows) * row)


def _block_bytes(dataset: Dataset, shape: Shape) -> int:
    """Return the bytes of blocks on the worker that has the most."""
    ratings = 2 * dataset.n_ratings + dataset.n_test
    rows = dataset.users.n_rows * (1 + (dataset.n_test > 0)) + dataset.items.n_rows
    a_rating = _BYTES_A_RATING + _KEPT_A_RATING + _bytes_a_weight(dataset)
    total = ratings * a_rating + rows * _BYTES_A_ROW
    n_blocks = most_partitions(dataset)
    return total * -(-n_blocks // shape.workers) // n_blocks


def _bytes_a_weight(dataset: Dataset) -> int:
    """Return the bytes of a rating's weight; 0 without weights."""
    return 0 if dataset.weights is None else _BYTES_A_WEIGHT


def _prediction_bytes(dataset: Dataset, settings: TrainSettings, shape: Shape) -> int:
    """Return a worker's share of the sums of predictions, of an epoch and its two neighbours."""
    sums = 3 if settings.n_kept > 1 else 0
    return (
        sums
        * _BYTES_A_PREDICTION
        * dataset.n_test
        // min(shape.workers, n_test_blocks(dataset) or 1)
    )


def _most(dataset: Dataset, shape: Shape, bytes_of: Callable[[Partition], int]) -> int:
    """Return the bytes of the largest tasks that the threads of a worker can run at once."""
    sizes = sorted(
        (bytes_of(part) for side in SIDES for part in dataset.table(side).partitions), reverse=True
    )
    return sum(sizes[: busy_threads(len(sizes), shape)])


def _solving_threads(dataset: Dataset, shape: Shape) -> int:
    """Return how many threads of a worker solve rows at once."""
    return max(
        busy_threads(
            n_partitions(dataset, side) * threads_of_a_partition(dataset, side, shape), shape
        )
        for side in SIDES
    )
