"""Measure the speed of one thread with the kernel on synthetic blocks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from dask_als.core.blocks import Block, concatenated, random_factors
from dask_als.core.side import SIDES, USERS, Side
from dask_als.data.dataset import Dataset
from dask_als.planning.sizes import factors_bytes
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import HalfEpoch, SolvedSide, held_out_error
from dask_als.solvers.choice import method_of

_CALIBRATION_FLOPS = 1e9
_CALIBRATION_RATINGS = 2_000_000
CALIBRATION_BYTES = 64 << 20
_CALIBRATION_TEST_RATINGS = 20_000
# Standard deviation of the logarithm of ratings per row: between MovieLens' users and items.
_SPREAD = 1.3


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of one thread.

    Attributes
    ----------
    flops : dict of str to float
        Operations per second, by the name of the solved side: it depends on the ratings per row.
    test_ratings : float
        Held-out ratings predicted per second.
    """

    flops: dict[str, float]
    test_ratings: float


def row_flops(n_rows: int, n_ratings: int, rank: int) -> float:
    """Return the operations of solving rows: for the normal matrices and their factorizations."""
    return float(n_ratings) * rank * (rank + 1) + n_rows * rank**3 / 3


def measured_speed(dataset: Dataset, settings: TrainSettings) -> Speed:
    """Measure the kernel on small blocks like those of a dataset, with one thread."""
    rng = np.random.default_rng(0)
    return Speed(
        flops={side.name: _measured_flops(dataset, side, settings, rng) for side in SIDES},
        test_ratings=_measured_test_ratings(dataset, settings, rng),
    )


def _measured_flops(
    dataset: Dataset, side: Side, settings: TrainSettings, rng: np.random.Generator
) -> float:
    table = dataset.table(side)
    mean = dataset.n_ratings / table.n_rows
    n_rows = int(_CALIBRATION_FLOPS / row_flops(1, int(mean) + 1, settings.rank))
    n_rows = max(1, min(table.n_rows, n_rows, int(_CALIBRATION_RATINGS / mean)))
    fixed_bytes = factors_bytes(dataset.table(side.other).n_rows, settings)
    n_fixed = dataset.table(side.other).n_rows * min(1.0, CALIBRATION_BYTES / fixed_bytes)
    block = _made_up_block(n_rows, max(1, int(n_fixed)), mean, rng)
    if dataset.weights is not None:
        block = replace(block, weights=block.ratings)
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
    """Return a block with log-normal numbers of ratings per row on both sides.

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
    """Return a side as a training holds it in memory; its rows repeat."""
    drawn = min(n_rows, 1024)
    state = random_factors(USERS, range(drawn), rank=settings.rank, seed=0, dtype=settings.dtype)
    method = method_of(settings, 0.0)
    whole, rest = divmod(n_rows, drawn)
    part = method.start_part(concatenated([state] * whole + [state[:rest]]))
    return method.join_parts(HalfEpoch(USERS, 0), [part])


def _fastest(function: Callable[[], object]) -> float:
    """Return the processor time of the fastest of three runs, in seconds, after a warm-up run.

    Processor time does not count the time that other processes take.
    """
    function()
    seconds = []
    for _ in range(3):
        clock = time.thread_time()
        function()
        seconds.append(time.thread_time() - clock)
    return min(seconds)
