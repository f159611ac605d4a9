"""Calibration of a model of samples: how often held-out ratings lie in predicted intervals."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from dask_als.core import storage
from dask_als.core.blocks import Factors, predictions
from dask_als.core.executor import Executor
from dask_als.core.side import ITEMS, USERS, Side
from dask_als.core.superaccumulator import as_float, exact_sum
from dask_als.data.block_files import read_test_block
from dask_als.data.dataset import Dataset, Partition
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model import sample_files
from dask_als.model.predictive_variance import standard_deviations

LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Interval:
    """The share of held-out ratings that lie in the central intervals predicted for them.

    Attributes
    ----------
    level : float
        The expected share.
    coverage : float
        The measured share.
    """

    level: float
    coverage: float


@dataclass(frozen=True)
class Calibration:
    """How well the predicted intervals of held-out ratings hold.

    Attributes
    ----------
    intervals : tuple of Interval
        One for each of `LEVELS`: within as many standard deviations of the prediction as a Normal
        variable lies at this level.
    deviation : float
        The mean standard deviation of a rating.
    """

    intervals: tuple[Interval, ...]
    deviation: float


@dataclass(frozen=True)
class _Sampled:
    """Rows of a model of samples.

    Attributes
    ----------
    state : Factors
        As in any model.
    biases : ndarray, shape (n_rows, n_samples)
        Biases of each sample.
    """

    state: Factors
    biases: np.ndarray

    @property
    def samples(self) -> Factors:
        """The argument of `standard_deviations`."""
        return Factors(self.biases, self.state.factors)


def calibration(model: str, dataset: Dataset, executor: Executor) -> Calibration:
    """Measure the calibration of a model of samples on a dataset's held-out ratings.

    Raises
    ------
    InputError
        If the model has no samples or does not belong to the dataset, or the dataset has no
        held-out ratings.
    """
    manifest = model_manifest.read_manifest(model)
    model_manifest.check_same_ids(manifest, dataset, model)
    residual_precision = sample_files.check_has_samples(manifest, model)
    if not dataset.n_test:
        raise InputError(
            f"{dataset.path} holds out no ratings; prepare it with --test-fraction 0.1"
        )
    model = storage.absolute(model)
    items = executor.submit(
        _read_rows, model, ITEMS, range(dataset.items.n_rows), key="samples-items"
    )
    parts = [
        executor.submit(
            _calibration_of_part,
            (model, dataset.path),
            number,
            partition,
            items,
            (manifest.global_mean, residual_precision),
            key=f"calibration-{number}",
        )
        for number, partition in enumerate(dataset.users.partitions)
        if partition.test_ratings
    ]
    within = [0] * len(LEVELS)
    deviations = 0
    for part_within, part_deviations in executor.as_completed(parts):
        within = [sum(counts) for counts in zip(within, part_within, strict=True)]
        deviations += part_deviations
    return Calibration(
        tuple(
            Interval(level, count / dataset.n_test)
            for level, count in zip(LEVELS, within, strict=True)
        ),
        as_float(deviations) / dataset.n_test,
    )


def _read_rows(model: str, side: Side, rows: range) -> _Sampled:
    dtype = model_manifest.read_manifest(model).settings.dtype
    state, _ = model_files.read_state(model, side, rows, dtype)
    return _Sampled(state, model_files.read_biases_of_samples(model, side, rows))


def _calibration_of_part(
    paths: tuple[str, str],
    number: int,
    partition: Partition,
    items: _Sampled,
    known: tuple[float, float],
) -> tuple[list[int], int]:
    """Return the number of ratings within each interval and the exact sum of deviations."""
    (model, dataset), (mean, residual_precision) = paths, known
    users = _read_rows(model, USERS, partition.rows)
    block = read_test_block(dataset, number, partition)
    rows = block.row_of_rating - partition.start, block.indices
    predicted = predictions(users.state, items.state, *rows, mean=mean)
    deviation = standard_deviations(
        users.samples, items.samples, *rows, residual_precision=residual_precision
    )
    if block.weights is not None:
        # The precision of a rating is its weight times that of a rating of weight 1.
        of_rating = (1 / block.weights.astype(np.float64) - 1) / residual_precision
        deviation = np.sqrt(deviation.astype(np.float64) ** 2 + of_rating)
    surprise = np.abs(block.ratings - predicted) / deviation
    widths = [NormalDist().inv_cdf((1 + level) / 2) for level in LEVELS]
    return [int((surprise <= width).sum()) for width in widths], exact_sum(deviation)
