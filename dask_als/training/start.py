"""The factors that training starts from: random, zero, or those of a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa

from dask_als.core import storage
from dask_als.core.blocks import Factors, random_factors, zero_factors
from dask_als.core.side import SIDES, Side
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.manifest import ModelManifest
from dask_als.settings.training import TrainSettings

Start = Callable[[Side, range, TrainSettings], tuple[Factors, np.ndarray | None, float | None]]
"""Runs on workers. Returns the initial factors of a range of rows, a mask of the rows with ratings
and the sampled residual precision; the last two are None if unknown."""


def random_start(side: Side, rows: range, settings: TrainSettings) -> tuple[Factors, None, None]:
    """Start from random factors; from their absolute values if none may be negative."""
    factors = random_factors(
        side, rows, rank=settings.rank, seed=settings.seed, dtype=settings.dtype
    )
    if settings.nonnegative:
        np.abs(factors.factors, out=factors.factors)
    return factors, None, None


def zero_start(side: Side, rows: range, settings: TrainSettings) -> tuple[Factors, None, None]:
    """Start from zero factors, so that only biases are fitted."""
    return zero_factors(rows, rank=settings.rank, dtype=settings.dtype), None, None


def start_from_model(model: str) -> Start:
    """Start from the biases and factors in a model directory."""
    residual_precision = model_manifest.read_manifest(model).residual_precision
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
        If the model and the settings have different ranks, the ids of the model and of the dataset
        have different types, or the model is an average without its samples.
    """
    manifest = model_manifest.read_manifest(model)
    if manifest.samples > 1 and not manifest.knows_deviations:
        raise InputError(
            f"{model} is an average without its samples; start from the model that it came from"
        )
    rank = manifest.rank if manifest.compact is not None else manifest.settings.rank
    if not _can_have_rank(manifest, settings):
        raise InputError(
            f"{model} has rank {rank}, the settings say {settings.rank}; give --rank {rank}"
        )
    for side in SIDES:
        its = model_files.read_ids(model, manifest, side, 0).schema.field("id").type
        rows = dataset.rows_file(side).read(range(1), ["id"])
        wanted = rows.schema.field("id").type
        if pa.types.is_integer(its) != pa.types.is_integer(wanted):
            raise InputError(
                f"{side.singular} ids are {_in_words(its)} in {model} and {_in_words(wanted)} in "
                f"{dataset.path}; prepare the dataset with ids of the same type"
            )


def _can_have_rank(manifest: ModelManifest, settings: TrainSettings) -> bool:
    if manifest.compact is None:
        return settings.rank == manifest.settings.rank
    # The leading columns are the best approximation of lower rank. Draws fill further columns,
    # which start at zero; solutions of least squares would stay there.
    return settings.rank <= manifest.rank or settings.method == "gibbs"


def has_same_rows(manifest: ModelManifest, dataset: Dataset) -> bool:
    """Tell whether a model is the state of a single epoch, of the same rows as a dataset."""
    tables = [(manifest.side(side), dataset.table(side)) for side in SIDES]
    is_single = manifest.samples == 1 and manifest.compact is None
    return is_single and all(
        (its.digest, its.n_rows) == (table.digest, table.n_rows) for its, table in tables
    )


def _in_words(kind: pa.DataType) -> str:
    return "whole numbers" if pa.types.is_integer(kind) else "text"
