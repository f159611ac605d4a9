"""The factors that training starts from: random, zero, or those of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from dask_als.core import storage
from dask_als.core.blocks import Factors, random_factors, zero_factors
from dask_als.core.side import Side
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.settings.training import TrainSettings

Start = Callable[[Side, range, TrainSettings], tuple[Factors, np.ndarray | None, float | None]]
"""Runs on workers. Returns the initial factors of a range of rows, a mask of the rows with ratings
and the sampled residual precision; the last two are None if unknown."""


def random_start(side: Side, rows: range, settings: TrainSettings) -> tuple[Factors, None, None]:
    """Start from random factors."""
    factors = random_factors(
        side, rows, rank=settings.rank, seed=settings.seed, dtype=settings.dtype
    )
    return factors, None, None


def zero_start(side: Side, rows: range, settings: TrainSettings) -> tuple[Factors, None, None]:
    """Start from zero factors, so that only biases are fitted."""
    return zero_factors(rows, rank=settings.rank, dtype=settings.dtype), None, None


def start_from_model(model: str) -> Start:
    """Start from the biases and factors in a model directory."""
    residual_precision = model_files.read_manifest(model).residual_precision
    return partial(_read_start, storage.absolute(model), residual_precision)


def _read_start(
    model: str, residual_precision: float | None, side: Side, rows: range, settings: TrainSettings
) -> tuple[Factors, np.ndarray, float | None]:
    factors, rated = model_files.read_state(model, side, rows, settings.dtype)
    return factors, rated, residual_precision


def check_start(model: str, dataset: Dataset, settings: TrainSettings) -> None:
    """Check that training can start from a model.

    Raises
    ------
    InputError
        If the model and the dataset have different ids, the model and the settings have different
        ranks, or the model is an average of samples.
    """
    manifest = model_files.read_manifest(model)
    model_files.check_same_ids(manifest, dataset, model)
    if manifest.samples > 1:
        raise InputError(
            f"{model} is an average of samples; start from the model of a single epoch"
        )
    if manifest.settings.rank != settings.rank:
        raise InputError(
            f"{model} has rank {manifest.settings.rank}, the settings say {settings.rank}; "
            f"give --rank {manifest.settings.rank}"
        )
