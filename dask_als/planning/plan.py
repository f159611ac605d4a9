"""What a training will need, before it runs: memory of a worker, room on disk, tasks, and time.

An estimate from a dataset's manifest, the settings and the shape of a cluster. It reads no ratings
and runs nothing but, for the time, the kernel on a small block made up for it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np

from dask_als.cluster.placement import Placement
from dask_als.core.blocks import PREDICTIONS_AT_ONCE, Block, concatenated, random_factors
from dask_als.core.executor import Shape
from dask_als.core.side import SIDES, USERS, Side, side_named
from dask_als.data.dataset import Dataset, Partition
from dask_als.data.partitioning import default_partitions
from dask_als.errors import InputError
from dask_als.settings.training import CheckpointPolicy, StopSettings, TrainSettings
from dask_als.solvers.base import HalfEpoch, SolvedSide, held_out_error
from dask_als.solvers.methods import method_of

# A worker that has imported all, loaded the kernel and trained on next to nothing, and what the
# allocators keep for each thread once it has read and written; measured.
PROCESS_BYTES = 260 << 20
THREAD_BYTES = 16 << 20
# Dask's nanny ends a worker that uses more than this share of its limit.
USABLE = 0.95

_BYTES_A_RATING = 8  # int32 index, float32 rating
_BYTES_A_ROW = 8  # int64 of indptr
# Arrow's allocator keeps the room of the column that is dropped beside the two that stay.
_KEPT_A_RATING = 4
# File, table and the int64 differences that check its order.
_READ_BYTES_A_RATING = 44
# Row numbers, predictions and errors of held-out ratings, beside the gathered factors.
_TEST_BYTES_A_RATING = 40
# Draws, their concatenation and their quotient are float64.
_START_BYTES_A_FACTOR = 24
_BYTES_A_PREDICTION = 8
# Arrow arrays, pages and compressed pages, as multiples of the rows written.
_WRITE_COPIES = 4
# Samples as they are read, side by side, and divided, besides.
_AVERAGE_COPIES = _WRITE_COPIES + 3
# Random numbers of a part's rows, as blocks and joined.
_DRAW_COPIES = 2

_SECONDS_A_TASK = 0.001
# From the end of one stage, through the scheduler, to the start of the next.
_SECONDS_A_STAGE = 0.005
# From worker to worker; a gigabit network has 0.12e9, processes of one machine that send and
# receive at once 0.45e9 to 1.2e9.
_BYTES_A_SECOND = 0.8e9
# Rows at random from main memory, where a fixed side exceeds the one that was measured.
_GATHERED_A_SECOND = 5e9

# Written by one thread to memory that is new to the process: 2e9 to 5e9.
_NEW_BYTES_A_SECOND = 3e9

# A model's parts as files: ids and counts beside the numbers, which compress little.
_WRITTEN_BYTES_A_ROW = 4
_COMPRESSED = 0.93
# One thread: pages, their compression and the file's checksum.
_WRITTEN_A_SECOND = 0.15e9
# Samples: arrays as they are, with a checksum.
_SAMPLE_WRITTEN_A_SECOND = 1e9
_SAMPLE_READ_A_SECOND = 1e9
# Directories, manifest and history.
_SECONDS_A_MODEL = 0.03

# Shorter tasks are mostly the scheduler's; more of them than threads even out.
_SECONDS_OF_A_GOOD_TASK = 0.1
_TASKS_A_THREAD = 3

_CALIBRATION_FLOPS = 1e9
_CALIBRATION_RATINGS = 2_000_000
_CALIBRATION_BYTES = 64 << 20
_CALIBRATION_TEST_RATINGS = 20_000
# Of the logarithms of ratings a row: what MovieLens has, between its users and its items.
_SPREAD = 1.3


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of the worker that needs the most, at its peak.

    Attributes
    ----------
    process : int
        Python, libraries and kernel.
    blocks : int
        Its share of the ratings by user, by item and held out.
    states : int
        Both sides' biases and factors: those that are fixed, new, and still held.
    temporaries : int
        What its threads' tasks hold besides.
    phase : {"reading", "epochs", "writing"}
        When the peak is.
    """

    process: int
    blocks: int
    states: int
    temporaries: int
    phase: str

    @property
    def peak(self) -> int:
        """All of them."""
        return self.process + self.blocks + self.states + self.temporaries


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes on disk, besides the dataset.

    Attributes
    ----------
    model : int
        The model that is written at the end.
    checkpoints : int
        What is there besides before: the newest checkpoints, as many as are kept by default, and
        with gibbs all samples. Without --checkpoint they are removed at the end.
    """

    model: int
    checkpoints: int


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What one thread does in a second.

    Attributes
    ----------
    flops : dict of str to float
        By the name of the solved side, whose rows differ in their number of ratings.
    test_ratings : float
        Held-out ratings predicted.
    """

    flops: dict[str, float]
    test_ratings: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training will need.

    Attributes
    ----------
    shape : Shape
        The cluster's.
    memory : Memory
    disk : Disk
    partitions : dict of str to int
        Of each side, as the dataset has them.
    best_partitions : int
        Of each side, for this job and cluster.
    tasks_per_epoch : int
    epoch_seconds : float
        Of all epochs alike; samples are written besides.
    training_seconds : float
        Of all epochs, and of writing samples and model.
    fits : bool
        Whether the workers' memory limit is enough.
    """

    shape: Shape
    memory: Memory
    disk: Disk
    partitions: dict[str, int]
    best_partitions: int
    tasks_per_epoch: int
    epoch_seconds: float
    training_seconds: float
    fits: bool

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON values."""
        value = asdict(self)
        value["memory"]["peak"] = self.memory.peak
        return value


def plan(
    dataset: Dataset,
    settings: TrainSettings,
    shape: Shape,
    speed: Speed,
    *,
    stopping: StopSettings = StopSettings(),
) -> Plan:
    """Estimate what a training will need.

    Parameters
    ----------
    dataset : Dataset
    settings : TrainSettings
    shape : Shape
        Of the cluster.
    speed : Speed
        Of its threads, see `measured_speed`.
    stopping : StopSettings, optional
        What ends the training before its last epoch.
    """
    memory = memory_of_a_worker(dataset, settings, shape, stopping=stopping)
    return Plan(
        shape=shape,
        memory=memory,
        disk=disk_bytes(dataset, settings),
        partitions={side.name: _n_partitions(dataset, side) for side in SIDES},
        best_partitions=best_partitions(dataset, settings, shape, speed),
        tasks_per_epoch=tasks_per_epoch(dataset, shape),
        epoch_seconds=epoch_seconds(dataset, settings, shape, speed),
        training_seconds=training_seconds(dataset, settings, shape, speed),
        fits=_fits(memory, shape),
    )


# --- memory ---


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
    Blocks are taken to be shared out evenly. States are whole on every worker. An epoch starts
    while the driver still waits for the figures of the one before. So besides both sides' states
    as they were there are the side solved first and the one solved last, each as parts and as the
    whole that they are joined to, if it has several partitions. The memory of a whole that is gone
    is kept for the side's next one, which is idle while the other side is joined.
    With patience, those of the best epoch so far stay as well.
    """
    state = {side: _state_bytes(dataset.table(side).n_rows, settings) for side in SIDES}
    both = sum(state.values())
    best = both if stopping.patience is not None else 0
    first = side_named(settings.first)
    copies = {side: 1 + (_n_partitions(dataset, side) > 1) for side in SIDES}

    solving = _working_threads(dataset, shape) * _kernel_bytes(settings)
    if settings.method == "gibbs":
        drawing = _DRAW_COPIES * (settings.rank + 1) * _itemsize(settings)
        solving += _most(dataset, shape, lambda part: len(part.rows) * drawing)
    test = max(part.test_ratings for part in dataset.users.partitions)
    testing = _threads_on(_n_test_blocks(dataset), shape) * _test_bytes(test, settings)
    reading = _most(dataset, shape, lambda part: part.ratings * _READ_BYTES_A_RATING)
    start = settings.rank * _START_BYTES_A_FACTOR
    starting = _most(dataset, shape, lambda part: len(part.rows) * start)
    kept = settings.n_kept
    writing = _most(dataset, shape, lambda part: kept * _state_bytes(len(part.rows), settings))
    last = first.other
    solved = max(
        copies[first] * state[first] + (copies[last] - 1) * state[last],
        state[first] + copies[last] * state[last],
    )
    share = -(-_n_partitions(dataset, first) // shape.workers) / _n_partitions(dataset, first)
    moments = [
        ("reading", both, max(reading, starting)),
        ("epochs", both + best + solved, solving),
        ("epochs", both + best + int(share * state[first]), testing),
        ("writing", both + best, (_WRITE_COPIES if kept == 1 else _AVERAGE_COPIES) * writing),
    ]
    phase, states, temporaries = max(moments, key=lambda moment: moment[1] + moment[2])
    return Memory(
        process=PROCESS_BYTES + shape.threads * THREAD_BYTES,
        blocks=_block_bytes(dataset, shape) + _prediction_bytes(dataset, settings, shape),
        states=states,
        temporaries=temporaries,
        phase=phase,
    )


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
    if not _fits(memory, shape):
        raise InputError(
            f"a worker would need {in_words(memory.peak)} (process {in_words(memory.process)}, "
            f"blocks {in_words(memory.blocks)}, states {in_words(memory.states)}, temporaries "
            f"{in_words(memory.temporaries)}), and Dask ends it at {USABLE:.0%} of its limit of "
            f"{in_words(shape.memory or 0)}; give {_ways_out(dataset, settings, shape, stopping)}"
        )


def in_words(n_bytes: float) -> str:
    """Return bytes as a person reads them, in MiB or GiB."""
    mebibytes = n_bytes / (1 << 20)
    return f"{mebibytes:,.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:,.1f} GiB"


def _fits(memory: Memory, shape: Shape) -> bool:
    return not shape.memory or memory.peak <= USABLE * shape.memory


def _ways_out(
    dataset: Dataset, settings: TrainSettings, shape: Shape, stopping: StopSettings
) -> str:
    """Return what would make it fit, each by itself."""

    def works(settings: TrainSettings, shape: Shape) -> bool:
        return _fits(memory_of_a_worker(dataset, settings, shape, stopping=stopping), shape)

    peak = memory_of_a_worker(dataset, settings, shape, stopping=stopping).peak
    ways = [f"workers more memory (--memory {-(-peak * 100 // int(USABLE * 100) >> 20)}MiB)"]
    # Blocks are shared out by whole partitions, so more workers than those do not help.
    more = range(shape.workers + 1, _most_partitions(dataset) + 1)
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
    if stopping.patience is not None and _fits(memory_of_a_worker(dataset, settings, shape), shape):
        ways.append("no --patience")
    return ", or ".join(ways)


def _itemsize(settings: TrainSettings) -> int:
    return np.dtype(settings.dtype).itemsize


def _state_bytes(n_rows: int, settings: TrainSettings) -> int:
    return n_rows * (settings.rank + 1) * _itemsize(settings)


def _block_bytes(dataset: Dataset, shape: Shape) -> int:
    """Return the share of the blocks on the worker that has most."""
    ratings = 2 * dataset.n_ratings + dataset.n_test
    rows = dataset.users.n_rows * (1 + (dataset.n_test > 0)) + dataset.items.n_rows
    total = ratings * (_BYTES_A_RATING + _KEPT_A_RATING) + rows * _BYTES_A_ROW
    n_blocks = _most_partitions(dataset)
    return total * -(-n_blocks // shape.workers) // n_blocks


def _prediction_bytes(dataset: Dataset, settings: TrainSettings, shape: Shape) -> int:
    """Return the share of the sums of predictions: those of an epoch and its neighbours."""
    sums = 3 if settings.n_kept > 1 else 0
    return (
        sums
        * _BYTES_A_PREDICTION
        * dataset.n_test
        // min(shape.workers, _n_test_blocks(dataset) or 1)
    )


def _kernel_bytes(settings: TrainSettings) -> int:
    """Return what the kernel works in: systems of a register's lanes, twice, and gathered rows."""
    together = 64 // _itemsize(settings) if settings.rank <= 128 else 1
    side = settings.rank + 32
    return (2 * together + 2) * side * side * _itemsize(settings)


def _test_bytes(n_ratings: int, settings: TrainSettings) -> int:
    gathered = 2 * min(n_ratings, PREDICTIONS_AT_ONCE) * settings.rank * _itemsize(settings)
    return gathered + n_ratings * _TEST_BYTES_A_RATING


def _most(dataset: Dataset, shape: Shape, bytes_of: Callable[[Partition], int]) -> int:
    """Return the bytes of the largest tasks that the threads of a worker can run at once."""
    sizes = sorted(
        (bytes_of(part) for side in SIDES for part in dataset.table(side).partitions), reverse=True
    )
    return sum(sizes[: _threads_on(len(sizes), shape)])


def _threads_on(n_tasks: int, shape: Shape) -> int:
    """Return how many of a worker's threads have a task, if so many are shared out."""
    return min(shape.threads, -(-n_tasks // shape.workers))


def _working_threads(dataset: Dataset, shape: Shape) -> int:
    return _threads_on(_most_partitions(dataset), shape)


# --- disk ---


def disk_bytes(dataset: Dataset, settings: TrainSettings) -> Disk:
    """Estimate the room that model, checkpoints and samples take."""
    n_rows = sum(dataset.table(side).n_rows for side in SIDES)
    ids = n_rows * _WRITTEN_BYTES_A_ROW
    state = int(_COMPRESSED * _state_bytes(n_rows, settings))
    # The newest is written before the oldest is removed.
    checkpoints = (CheckpointPolicy().keep + 1) * (state + ids)
    samples = settings.n_kept if settings.method == "gibbs" else 0
    return Disk(
        model=settings.n_kept * state + ids,
        checkpoints=checkpoints + samples * _state_bytes(n_rows, settings),
    )


# --- tasks and time ---


def tasks_per_epoch(dataset: Dataset, shape: Shape) -> int:
    """Return the tasks of an epoch: solve and join both sides, predict, and the figures."""
    solves = sum(_n_partitions(dataset, side) for side in SIDES)
    joins = sum(_tasks_of_a_join(_n_partitions(dataset, side), dataset, shape) for side in SIDES)
    return solves + joins + _n_test_blocks(dataset) + 1


def _tasks_of_a_join(n_partitions: int, dataset: Dataset, shape: Shape) -> int:
    """Return the tasks that put a side together: a copy on each home, of a chunk from each."""
    homes = Placement.on(map(str, range(shape.workers)), _most_partitions(dataset))
    if n_partitions == 1:
        return 0
    if homes.n_homes == 1:
        return 1
    parts = homes.by_home([None] * n_partitions)
    return homes.n_homes + sum(len(own) > 1 for _, own in parts)


def row_flops(n_rows: int, n_ratings: int, rank: int) -> float:
    """Return the operations of solving rows: their normal matrices and the factorizations."""
    return float(n_ratings) * rank * (rank + 1) + n_rows * rank**3 / 3


def epoch_seconds(dataset: Dataset, settings: TrainSettings, shape: Shape, speed: Speed) -> float:
    """Estimate how long an epoch takes."""
    threads = shape.workers * shape.threads
    solving = sum(
        _thread_seconds(dataset, side, settings, speed)
        * _rounds(_n_partitions(dataset, side), threads)
        for side in SIDES
    )
    # Held-out ratings are predicted while the next half-epoch is solved.
    predicting = dataset.n_test / speed.test_ratings
    predicting += _test_bytes(dataset.n_test, settings) / _NEW_BYTES_A_SECOND
    testing = predicting / min(threads, max(1, _n_test_blocks(dataset)))
    state = sum(_state_bytes(dataset.table(side).n_rows, settings) for side in SIDES)
    # Every home gets from each other what that has solved.
    sent = state * (shape.workers - 1) / shape.workers / _BYTES_A_SECOND
    joined = [side for side in SIDES if _n_partitions(dataset, side) > 1]
    joining = sum(_state_bytes(dataset.table(side).n_rows, settings) for side in joined)
    stages = len(SIDES) + len(joined)
    scheduling = tasks_per_epoch(dataset, shape) * _SECONDS_A_TASK + stages * _SECONDS_A_STAGE
    return solving + testing + sent + joining / _NEW_BYTES_A_SECOND + scheduling


def training_seconds(
    dataset: Dataset, settings: TrainSettings, shape: Shape, speed: Speed
) -> float:
    """Estimate how long all epochs take, and what is written: samples, and the model."""
    epochs = settings.epochs * epoch_seconds(dataset, settings, shape, speed)
    threads = shape.workers * shape.threads
    # On the busiest thread.
    state = sum(
        _state_bytes(dataset.table(side).n_rows, settings)
        * _rounds(_n_partitions(dataset, side), threads)
        for side in SIDES
    )
    tasks = sum(_n_partitions(dataset, side) for side in SIDES) + len(SIDES)
    overhead = _SECONDS_A_MODEL + tasks * _SECONDS_A_TASK + 2 * _SECONDS_A_STAGE
    model = overhead + settings.n_kept * state / _WRITTEN_A_SECOND
    if settings.method != "gibbs":
        return epochs + model
    a_sample = state / _SAMPLE_WRITTEN_A_SECOND + state / _SAMPLE_READ_A_SECOND
    samples = settings.n_kept * (overhead + a_sample)
    return epochs + samples + model


def best_partitions(dataset: Dataset, settings: TrainSettings, shape: Shape, speed: Speed) -> int:
    """Return how many partitions of each side keep all threads busy with tasks long enough."""
    least = min(_thread_seconds(dataset, side, settings, speed) for side in SIDES)
    threads = shape.workers * shape.threads
    even = 1 if threads == 1 else _TASKS_A_THREAD * threads
    long_enough = min(even, int(least / _SECONDS_OF_A_GOOD_TASK))
    if long_enough > threads:
        long_enough -= long_enough % threads  # in the last round no thread is idle
    wanted = max(long_enough, default_partitions(dataset.n_ratings))
    return max(1, min(wanted, *(dataset.table(side).n_rows for side in SIDES)))


def measured_speed(dataset: Dataset, settings: TrainSettings) -> Speed:
    """Run the kernel on small blocks like those of a dataset, on one thread of this machine."""
    rng = np.random.default_rng(0)
    return Speed(
        flops={side.name: _measured_flops(dataset, side, settings, rng) for side in SIDES},
        test_ratings=_measured_test_ratings(dataset, settings, rng),
    )


def _thread_seconds(dataset: Dataset, side: Side, settings: TrainSettings, speed: Speed) -> float:
    """Return how long one thread would solve a side."""
    flops = row_flops(dataset.table(side).n_rows, dataset.n_ratings, settings.rank)
    fixed = _state_bytes(dataset.table(side.other).n_rows, settings)
    beyond_cache = max(0.0, 1 - _CALIBRATION_BYTES / fixed)
    gathered = dataset.n_ratings * settings.rank * _itemsize(settings)
    return flops / speed.flops[side.name] + beyond_cache * gathered / _GATHERED_A_SECOND


def _rounds(n_tasks: int, threads: int) -> float:
    """Return the share of equal tasks that the busiest thread has."""
    return -(-n_tasks // threads) / n_tasks


def _measured_flops(
    dataset: Dataset, side: Side, settings: TrainSettings, rng: np.random.Generator
) -> float:
    table = dataset.table(side)
    mean = dataset.n_ratings / table.n_rows
    n_rows = int(_CALIBRATION_FLOPS / row_flops(1, int(mean) + 1, settings.rank))
    n_rows = max(1, min(table.n_rows, n_rows, int(_CALIBRATION_RATINGS / mean)))
    fixed_bytes = _state_bytes(dataset.table(side.other).n_rows, settings)
    n_fixed = dataset.table(side.other).n_rows * min(1.0, _CALIBRATION_BYTES / fixed_bytes)
    block = _made_up_block(n_rows, max(1, int(n_fixed)), mean, rng)
    own, fixed = (_made_up_side(rows, settings) for rows in (n_rows, max(1, int(n_fixed))))
    method = method_of(settings, 0.0)

    def solve() -> None:
        method.solve_part(HalfEpoch(side, 1), block, own, fixed)

    return row_flops(n_rows, len(block.indices), settings.rank) / _fastest(solve)


def _measured_test_ratings(
    dataset: Dataset, settings: TrainSettings, rng: np.random.Generator
) -> float:
    n_rows = max(1, min(_CALIBRATION_TEST_RATINGS, dataset.users.n_rows))
    side = _made_up_side(n_rows, settings)
    block = _made_up_block(n_rows, n_rows, _CALIBRATION_TEST_RATINGS / n_rows, rng)
    return len(block.indices) / _fastest(lambda: held_out_error(block, side, side, 0.0))


def _made_up_block(n_rows: int, n_fixed: int, mean: float, rng: np.random.Generator) -> Block:
    """Return a block of which both sides' rows have log-normal numbers of ratings.

    Indices may repeat in a row.
    """
    normal = NormalDist(sigma=_SPREAD)
    quantiles = np.array([normal.inv_cdf((row + 0.5) / n_rows) for row in range(n_rows)])
    weights = np.exp(quantiles)
    counts = np.maximum(1, np.rint(weights * (mean / weights.mean())).astype(np.int64))
    indptr = np.concatenate([[0], np.cumsum(counts)])
    popularity = rng.lognormal(sigma=_SPREAD, size=n_fixed)
    indices = rng.choice(n_fixed, indptr[-1], p=popularity / popularity.sum()).astype(np.int32)
    return Block(range(n_rows), indptr, indices, np.ones(indptr[-1], dtype=np.float32))


def _made_up_side(n_rows: int, settings: TrainSettings) -> SolvedSide:
    """Return a side as a training has it in memory, whose rows repeat."""
    drawn = min(n_rows, 1024)
    state = random_factors(USERS, range(drawn), rank=settings.rank, seed=0, dtype=settings.dtype)
    method = method_of(settings, 0.0)
    whole, rest = divmod(n_rows, drawn)
    part = method.start_part(concatenated([state] * whole + [state[:rest]]))
    return method.join_parts(HalfEpoch(USERS, 0), [part])


def _fastest(function: Callable[[], object]) -> float:
    """Return the processor's seconds for the fastest of three runs, after one that loads it all.

    What other processes take of this one's time does not count.
    """
    function()
    seconds = []
    for _ in range(3):
        clock = time.thread_time()
        function()
        seconds.append(time.thread_time() - clock)
    return min(seconds)


def _n_partitions(dataset: Dataset, side: Side) -> int:
    return len(dataset.table(side).partitions)


def _most_partitions(dataset: Dataset) -> int:
    return max(_n_partitions(dataset, side) for side in SIDES)


def _n_test_blocks(dataset: Dataset) -> int:
    return sum(part.test_ratings > 0 for part in dataset.users.partitions)
