"""Evaluate a model on ratings that its dataset does not hold: a test file, or ratings in memory.

The ratings are prepared as a dataset of their own, so that ids are distinct and duplicates are
merged. Users and items that the model does not know are cold: means and biases predict them, and
an unknown relevant item is one that no list contains.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_als.core import storage
from dask_als.core.blocks import Block, Factors
from dask_als.core.executor import Executor, SerialExecutor
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.core.wording import option_words
from dask_als.data.dataset import Dataset, Partition, read_block
from dask_als.data.frames import columns_of_table, table_of, write_table
from dask_als.data.prepare import prepare
from dask_als.evaluation.evaluate import evaluation_of, relevant_ratings, summed
from dask_als.evaluation.results import Evaluation
from dask_als.evaluation.sums import (
    PartSums,
    described,
    error_sums,
    has_factors,
    ranking_sums,
    set_of,
    weight_of,
)
from dask_als.model.model import ALSModel
from dask_als.model.rows import UNKNOWN
from dask_als.model.top_k import Candidates, candidates, top_k
from dask_als.model.training_data import seen_by
from dask_als.settings.data import Columns
from dask_als.settings.evaluation import EvaluateSettings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _OnModel:
    """What the tasks of all partitions need.

    Attributes
    ----------
    model : ALSModel
    rows : dict of Side to ndarray
        The row in the model of each user and each item of the ratings; -1 if it is unknown.
    mean : float or None
        Of the training ratings, if it is known.
    lists : dict of str to Candidates
        By predictor; empty if the training ratings are not found, which lists exclude.
    """

    model: ALSModel
    rows: dict[Side, np.ndarray]
    mean: float | None
    lists: dict[str, Candidates]


def evaluate_in_memory(
    model: ALSModel, ratings: Any, columns: Columns, settings: EvaluateSettings
) -> Evaluation:
    """Measure a model in this process; see `ALSModel.evaluate`."""
    with tempfile.TemporaryDirectory(prefix="dask-als-") as scratch:
        if isinstance(ratings, str | os.PathLike):
            source = os.fspath(ratings)
        else:
            source = storage.join(scratch, "ratings")
            storage.make_directory(source)
            table = table_of(ratings, columns)
            write_table(table, source)
            columns = columns_of_table(table.column_names, columns)
        executor = SerialExecutor()
        path = storage.join(scratch, "dataset")
        test = prepare(source, path, executor, columns=columns)
        return evaluate_on(model, test, executor, settings)


def evaluate_file(
    model: str,
    ratings: str,
    executor: Executor,
    settings: EvaluateSettings,
    *,
    scratch: str,
    columns: Columns = Columns(),
    dataset: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure a model on the ratings in a file.

    Parameters
    ----------
    model : str
        A model directory that all workers can read.
    ratings : str
        A source that `prepare` reads.
    scratch : str
        A directory for the prepared ratings that all workers can read and write.
    columns : Columns, optional
        Of `ratings`.
    dataset : str, optional
        The dataset that the model was trained on, if the model does not find it.
    progress : callable, optional
        Called with the number of partitions that are done, and of all partitions.

    Raises
    ------
    InputError
        If model, dataset or ratings cannot be used.
    """
    loaded = executor.submit(
        _load,
        storage.absolute(model),
        dataset and storage.absolute(dataset),
        key="model-to-evaluate",
    )
    executor.gather([executor.submit(_check, loaded, key="check-model")])
    path = storage.join(scratch, "dataset")
    test = prepare(ratings, path, executor, columns=columns)
    n_rejected = test.source["rejected"]
    if n_rejected:
        _LOG.warning("%s: %s rows are not usable and were left out", ratings, f"{n_rejected:,}")
    return evaluate_on(loaded, test, executor, settings, progress=progress)


def _load(model: str, dataset: str | None) -> ALSModel:
    with option_words():
        loaded = ALSModel.load(model, dataset)
    # Every worker can read the dataset where it is.
    loaded.owns_dataset = False
    return loaded


def _check(model: ALSModel) -> None:
    """Raise the error of a model that cannot be loaded before ratings are read."""


def evaluate_on(
    model: Any,
    test: Dataset,
    executor: Executor,
    settings: EvaluateSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure a model on all ratings of a dataset that it was not trained on.

    Parameters
    ----------
    model : ALSModel, or a handle of one
    test : Dataset
        That all workers can read, with ids of its own.
    progress : callable, optional
        Called with the number of partitions that are done, and of all partitions.

    Raises
    ------
    InputError
        If ids of the ratings are of another type than those of the model.
    """
    known = executor.submit(_on_model, model, test, key="on-model")
    parts = [
        executor.submit(
            _evaluate_part, known, test.path, number, partition, settings, key=f"evaluate-{number}"
        )
        for number, partition in enumerate(test.users.partitions)
    ]
    sums = summed(executor.as_completed(parts), len(parts), progress)
    ((n_items, has_lists),) = executor.gather([executor.submit(_size, known, key="size")])
    if not has_lists:
        _LOG.warning("the training ratings are not found, so there are no ranked lists")
    return evaluation_of(sums, None, n_items, settings)


def _size(known: _OnModel) -> tuple[int, bool]:
    """Return the number of items, and whether items can be ranked."""
    return len(known.model.items.ids), bool(known.lists)


def _on_model(model: ALSModel, test: Dataset) -> _OnModel:
    rows = {
        side: model.rows(side).rows(test.read_rows(side).column("id").to_pandas()) for side in SIDES
    }
    lists = {}
    if model.dataset is not None:
        counts = model.items.counts.astype(np.float64)
        popularity = Factors(counts, np.zeros((len(counts), model.items.state.factors.shape[1])))
        lists = {"model": candidates(model.items.state), "most popular": candidates(popularity)}
    mean = model.manifest.global_mean if model.settings.center else None
    if model.dataset is not None:
        mean = model.dataset.rating_mean
    return _OnModel(model, rows, mean, lists)


def _evaluate_part(
    known: _OnModel, path: str, number: int, partition: Partition, settings: EvaluateSettings
) -> PartSums:
    """Return the sums of one partition of users."""
    model, item_rows = known.model, known.rows[ITEMS]
    test = read_block(path, USERS, number, partition)
    own = known.rows[USERS][partition.start : partition.stop]
    users, items = own[test.row_of_rating - partition.start], item_rows[test.indices]
    has_cold_user, has_cold_item = _is_cold(model, USERS, own), _is_cold(model, ITEMS, items)
    is_cold = has_cold_user[test.row_of_rating - partition.start] | has_cold_item
    own_rows = own[test.row_of_rating - partition.start]
    is_described = described(
        (has_cold_user[test.row_of_rating - partition.start], has_cold_item),
        (
            has_factors(model.users.with_unknown)[own_rows],
            has_factors(model.items.with_unknown)[items],
        ),
    )
    bounds = model.manifest.rating_min, model.manifest.rating_max
    errors = {}
    if model.settings.feedback == "explicit":
        predicted = model.scores(users, items)
        errors["model"] = error_sums(test, predicted, is_cold, is_described, bounds)
    if known.mean is not None:
        constant = np.full(len(test.ratings), known.mean)
        errors["global mean"] = error_sums(test, constant, is_cold, is_described, bounds)
    relevant = relevant_ratings(test, settings)
    wanted, indptr, popularity = _relevant_items(relevant, item_rows, model)
    lists = np.flatnonzero(relevant.counts) if known.lists else np.zeros(0, np.int64)
    return PartSums(
        n_test=len(test.ratings),
        n_cold=int(is_cold.sum()),
        n_described=int(is_described.sum()),
        weight=weight_of(test),
        cold_weight=weight_of(test, is_cold),
        described_weight=weight_of(test, is_described),
        cold_users=int(has_cold_user.sum()),
        n_lists=len(lists),
        n_relevant=len(wanted),
        popularity=popularity,
        cold_items=set_of(test.indices[has_cold_item], len(item_rows)),
        errors=errors,
        ranking={
            name: ranking_sums(
                _best(known, name, own[lists], settings.k), indptr, wanted, model.items.counts
            )
            for name in known.lists
        },
    )


def _is_cold(model: ALSModel, side: Side, rows: np.ndarray) -> np.ndarray:
    """Return which rows of a side have no training rating; a row of -1 is unknown."""
    return np.append(model.rows(side).counts, 0)[rows] == 0


def _relevant_items(
    relevant: Block, item_rows: np.ndarray, model: ALSModel
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the relevant items of the users who have some, their indptr, and their popularity.

    Items are rows of the model, ascending for each user; an unknown one is a row beyond the last.
    """
    items = item_rows[relevant.indices]
    popularity = int(np.append(model.items.counts, 0)[items].sum())
    beyond = len(model.items.ids) + relevant.indices.astype(np.int64)
    items = np.where(items == UNKNOWN, beyond, items)
    order = np.lexsort((items, relevant.row_of_rating))
    counts = relevant.counts[relevant.counts > 0]
    return items[order], np.concatenate([[0], np.cumsum(counts)]), popularity


def _best(known: _OnModel, name: str, rows: np.ndarray, k: int) -> np.ndarray:
    """Return the best items of a predictor for users, without those they have rated."""
    model = known.model
    assert model.dataset is not None, "there are lists"
    state = model.users.with_unknown
    own = Factors(state.bias[rows], state.factors[rows])
    if name != "model":
        own = Factors(np.zeros(len(rows)), np.zeros(own.factors.shape))
    mean = model.manifest.global_mean
    seen = seen_by(model.dataset, USERS, rows)
    return top_k(own, known.lists[name], k, seen=seen, mean=mean).rows
