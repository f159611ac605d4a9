"""How sure a model of samples is of its predictions, and whether it is right about that.

The samples' predictions of a pair differ; their variance is what the model does not know about the
pair's mean. A rating varies around that mean with the inverse of the residual precision. Rows
without training ratings have each sample's mean bias, so what is said of them is too sure.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from dask_als import model_files
from dask_als.blocks import State, concatenated
from dask_als.dataset import Dataset, Partition, read_test_block
from dask_als.errors import InputError
from dask_als.executor import Executor
from dask_als.model_files import ModelManifest
from dask_als.side import SIDES, Side

_PAIRS_AT_ONCE = 4096


@dataclass(frozen=True)
class Calibration:
    """How held-out ratings lie in the intervals that a model predicts for them.

    Attributes
    ----------
    level : float
        The share that should lie within.
    coverage : float
        The share that does.
    deviation : float
        The mean standard deviation of a rating.
    """

    level: float
    coverage: float
    deviation: float


def predictions_of_samples(
    users: State, items: State, user_rows: np.ndarray, item_rows: np.ndarray, *, mean: float
) -> np.ndarray:
    """Return what each sample predicts.

    Parameters
    ----------
    users, items : State
        With the biases of all samples, shape (n_rows, n_samples), and their factors as a model has
        them, side by side and divided by the root of `n_samples`.
    user_rows, item_rows : ndarray of int, shape (n,)
    mean : float
        The global mean.

    Returns
    -------
    ndarray of float64, shape (n, n_samples)
    """
    n_samples = users.bias.shape[1]
    by_sample = (len(user_rows), n_samples, -1)
    products = np.einsum(
        "nsk,nsk->ns",
        users.factors[user_rows].reshape(by_sample),
        items.factors[item_rows].reshape(by_sample),
        dtype=np.float64,
    )
    biases = users.bias[user_rows].astype(np.float64) + items.bias[item_rows]
    return mean + biases + n_samples * products


def calibration(
    model: str, dataset: Dataset, executor: Executor, *, level: float = 0.9
) -> Calibration:
    """Measure the calibration of a model of samples on a dataset's held-out ratings.

    Raises
    ------
    InputError
        If the model is not one of samples, or does not belong to the dataset, or nothing is held
        out.
    """
    manifest = model_files.read_manifest(model)
    model_files.check_same_ids(manifest, dataset, model)
    if manifest.samples == 1 or manifest.residual_precision is None:
        raise InputError(f"{model} is no model of samples; train one with --method gibbs")
    if not dataset.n_test:
        raise InputError(
            f"{dataset.path} holds out no ratings; prepare it with --test-fraction 0.1"
        )
    found = executor.gather(
        [
            executor.submit(
                _calibration_of_block,
                model,
                dataset.path,
                number,
                partition,
                level,
                key=f"calibration-{number}",
            )
            for number, partition in enumerate(dataset.users.partitions)
            if partition.test_ratings
        ]
    )
    within, deviations = (sum(values) for values in zip(*found, strict=True))
    return Calibration(level, within / dataset.n_test, deviations / dataset.n_test)


def _calibration_of_block(
    model: str, dataset: str, number: int, partition: Partition, level: float
) -> tuple[int, float]:
    """Return how many held-out ratings lie within, and the sum of their standard deviations."""
    manifest = model_files.read_manifest(model)
    users, items = (_all_samples(model, manifest, side) for side in SIDES)
    block = read_test_block(dataset, number, partition)
    rows, width = block.row_of_rating, NormalDist().inv_cdf((1 + level) / 2)
    within, deviations = 0, 0.0
    for first in range(0, len(rows), _PAIRS_AT_ONCE):
        some = slice(first, first + _PAIRS_AT_ONCE)
        predicted = predictions_of_samples(
            users, items, rows[some], block.indices[some], mean=manifest.global_mean
        )
        assert manifest.residual_precision is not None, "the model is one of samples"
        variance = predicted.var(axis=1) + 1 / manifest.residual_precision
        deviation = np.sqrt(variance)
        error = np.abs(block.ratings[some] - predicted.mean(axis=1))
        within += int((error <= width * deviation).sum())
        deviations += float(deviation.sum())
    return within, deviations


def _all_samples(model: str, manifest: ModelManifest, side: Side) -> State:
    parts = [
        model_files.read_samples(model, side, number, partition)
        for number, partition in enumerate(manifest.side(side).partitions)
    ]
    return concatenated(parts)
