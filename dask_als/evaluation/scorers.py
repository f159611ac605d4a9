"""The model and the baselines that an evaluation compares, as scorers on the workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from dask_als.core.blocks import Factors, zero_factors
from dask_als.core.executor import Executor
from dask_als.core.side import ITEMS, USERS
from dask_als.data.dataset import Dataset, RowsFile
from dask_als.evaluation.baselines import train_biases
from dask_als.model import files as model_files
from dask_als.model import manifest as model_manifest
from dask_als.model.recommend import typical_norm
from dask_als.model.top_k import Candidates, candidates
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import SolvedSide


@dataclass(frozen=True)
class Scorer:
    """Predicts ratings, ranks items, or both.

    Attributes
    ----------
    mean : float
    users : callable
        Returns the state of a range of users.
    items : Factors or None
        None if it does not predict.
    candidates : Candidates or None
        None if it does not rank.
    """

    mean: float
    users: Callable[[range], Factors]
    items: Factors | None
    candidates: Candidates | None


def submit_scorers(
    model: str, dataset: Dataset, settings: TrainSettings, executor: Executor
) -> dict[str, Any]:
    """Return the handles of all scorers by name."""
    n_users, n_items = dataset.users.n_rows, dataset.items.n_rows
    biases = train_biases(dataset, settings, executor).sides
    return {
        "model": executor.submit(_model_scorer, model, n_users, n_items, key="scorer-model"),
        "global mean": executor.submit(
            _mean_scorer, dataset.rating_mean, n_items, key="scorer-global-mean"
        ),
        "biases alone": executor.submit(
            _bias_scorer,
            biases[USERS].whole,
            biases[ITEMS].whole,
            dataset.rating_mean,
            key="scorer-biases-alone",
        ),
        "most popular": executor.submit(
            _popular_scorer, dataset.rows_file(ITEMS), n_items, key="scorer-most-popular"
        ),
    }


def _model_scorer(model: str, n_users: int, n_items: int) -> Scorer:
    manifest = model_manifest.read_manifest(model)
    dtype = manifest.settings.dtype
    items, _ = model_files.read_state(model, ITEMS, range(n_items), dtype)
    # Predictions of implicit feedback are preferences, not ratings.
    predicts = manifest.settings.feedback == "explicit"
    return Scorer(
        manifest.global_mean,
        partial(_read_users, model, dtype),
        items if predicts else None,
        candidates(items, typical_norm=typical_norm(items, n_users)),
    )


def _read_users(model: str, dtype: str, rows: range) -> Factors:
    return model_files.read_state(model, USERS, rows, dtype)[0]


def _mean_scorer(mean: float, n_items: int) -> Scorer:
    return Scorer(mean, _no_users, zero_factors(range(n_items), rank=1, dtype="float64"), None)


def _no_users(rows: range) -> Factors:
    return zero_factors(rows, rank=1, dtype="float64")


def _bias_scorer(users: SolvedSide, items: SolvedSide, mean: float) -> Scorer:
    return Scorer(
        mean, partial(_some_users, users.solution), items.solution, candidates(items.solution)
    )


def _some_users(state: Factors, rows: range) -> Factors:
    return state[rows.start : rows.stop]


def _popular_scorer(items: RowsFile, n_items: int) -> Scorer:
    counts = read_counts(items, range(n_items))
    popularity = Factors(counts.astype(np.float64), np.zeros((n_items, 1)))
    return Scorer(0.0, _no_users, None, candidates(popularity))


def read_counts(file: RowsFile, rows: range) -> np.ndarray:
    """Return the number of training ratings of each row in a range."""
    return file.read(rows, ["count"]).column("count").to_numpy()
