"""Evaluate a model, and baselines, on ratings of a test file or in memory.

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
from dask_als.data.block_files import read_block
from dask_als.data.dataset import Dataset, Partition
from dask_als.data.frames import columns_of_table, table_of, write_table
from dask_als.data.prepare import prepare
from dask_als.evaluation.baselines import train_biases
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
from dask_als.model.manifest import ModelManifest
from dask_als.model.model import ALSModel
from dask_als.model.rows import UNKNOWN, ModelRows
from dask_als.model.scores import scores_of_pairs
from dask_als.model.top_k import Candidates, candidates, top_k
from dask_als.model.training_data import seen_by
from dask_als.settings.data import Columns
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import SolvedSide

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Shared:
    """What the tasks of all partitions need: the model without its users.

    Attributes
    ----------
    manifest : ModelManifest
    dataset : Dataset or None
        The training ratings, if they are found.
    items : ModelRows
    item_rows : ndarray
        The row in the model of each item of the ratings; -1 if it is unknown.
    biases : ndarray or None
        Of "biases alone", with a last one for unknown items; None without the training ratings.
    lists : dict of str to Candidates
        By predictor; empty if the training ratings are not found, which lists exclude.
    """

    manifest: ModelManifest
    dataset: Dataset | None
    items: ModelRows
    item_rows: np.ndarray
    biases: np.ndarray | None
    lists: dict[str, Candidates]


@dataclass(frozen=True)
class _Users:
    """The users of one partition of the ratings, as the model knows them.

    Attributes
    ----------
    rows : ndarray
        Their rows in the model; -1 if they are unknown.
    state : Factors
        Their biases and factors; an unknown one has the mean bias and no factors.
    is_cold : ndarray of bool
        Whether they have no training rating.
    biases : ndarray or None
        Of "biases alone".
    """

    rows: np.ndarray
    state: Factors
    is_cold: np.ndarray
    biases: np.ndarray | None


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
    # One worker has the whole model; the others get its items, and the users of each partition.
    place = min(executor.workers)
    ((dataset, its),) = executor.gather([executor.submit(_trained_on, model, key="trained-on")])
    biases = None if dataset is None else train_biases(dataset, its, executor).sides
    of_side = {side: None if biases is None else biases[side].whole for side in SIDES}
    shared = executor.submit(_shared, model, test, of_side[ITEMS], key="on-model", worker=place)
    parts = [
        executor.submit(
            _evaluate_part,
            shared,
            executor.submit(
                _users_of,
                model,
                test,
                partition,
                of_side[USERS],
                key=f"users-{number}",
                worker=place,
            ),
            test.path,
            number,
            partition,
            settings,
            key=f"evaluate-{number}",
        )
        for number, partition in enumerate(test.users.partitions)
    ]
    sums = summed(executor.as_completed(parts), len(parts), progress)
    (n_items,) = executor.gather([executor.submit(_n_items, shared, key="size")])
    if dataset is None:
        _LOG.warning("the training ratings are not found, so there are no ranked lists")
    return evaluation_of(sums, None, n_items, settings)


def _trained_on(model: ALSModel) -> tuple[Dataset | None, TrainSettings]:
    return model.dataset, model.settings


def _n_items(shared: _Shared) -> int:
    return len(shared.items.ids)


def _rows_in(model: ALSModel, side: Side, test: Dataset) -> np.ndarray:
    """Return the row in the model of each user or item of the ratings."""
    return model.rows(side).rows(test.read_rows(side).column("id").to_pandas())


def _with_unknown(biases: SolvedSide) -> np.ndarray:
    return np.append(biases.solution.bias, biases.mean_bias)


def _shared(model: ALSModel, test: Dataset, biases: SolvedSide | None) -> _Shared:
    lists = {}
    if model.dataset is not None:
        counts = model.items.counts.astype(np.float64)
        popularity = Factors(counts, np.zeros((len(counts), model.items.state.factors.shape[1])))
        lists = {"model": candidates(model.items.state), "most popular": candidates(popularity)}
    return _Shared(
        model.manifest,
        model.dataset,
        model.items,
        _rows_in(model, ITEMS, test),
        None if biases is None else _with_unknown(biases),
        lists,
    )


def _users_of(
    model: ALSModel, test: Dataset, partition: Partition, biases: SolvedSide | None
) -> _Users:
    rows = _rows_in(model, USERS, test)[partition.start : partition.stop]
    state = model.users.with_unknown
    return _Users(
        rows,
        Factors(state.bias[rows], state.factors[rows]),
        _is_cold(model.users, rows),
        None if biases is None else _with_unknown(biases)[rows],
    )


def _evaluate_part(
    shared: _Shared,
    own: _Users,
    path: str,
    number: int,
    partition: Partition,
    settings: EvaluateSettings,
) -> PartSums:
    """Return the sums of one partition of users."""
    manifest, items = shared.manifest, shared.items
    test = read_block(path, USERS, number, partition)
    users, item_rows = test.row_of_rating - partition.start, shared.item_rows[test.indices]
    has_cold_item = _is_cold(items, item_rows)
    is_cold = own.is_cold[users] | has_cold_item
    is_described = described(
        (own.is_cold[users], has_cold_item),
        (has_factors(own.state)[users], has_factors(items.with_unknown)[item_rows]),
    )
    predictions = {}
    if manifest.settings.feedback == "explicit":
        mean = manifest.global_mean
        predictions["model"] = scores_of_pairs(
            own.state, items.with_unknown, users, item_rows, mean=mean
        )
    if shared.dataset is not None:
        predictions["global mean"] = np.full(len(test.ratings), shared.dataset.rating_mean)
    elif manifest.settings.center:
        predictions["global mean"] = np.full(len(test.ratings), manifest.global_mean)
    if shared.dataset is not None and shared.biases is not None and own.biases is not None:
        biases = own.biases[users].astype(np.float64) + shared.biases[item_rows]
        predictions["biases alone"] = shared.dataset.rating_mean + biases
    relevant = relevant_ratings(test, settings)
    wanted, indptr, popularity = _relevant_items(relevant, shared.item_rows, items)
    lists = np.flatnonzero(relevant.counts) if shared.lists else np.zeros(0, np.int64)
    bounds = manifest.rating_min, manifest.rating_max
    return PartSums(
        n_test=len(test.ratings),
        n_cold=int(is_cold.sum()),
        n_described=int(is_described.sum()),
        weight=weight_of(test),
        cold_weight=weight_of(test, is_cold),
        described_weight=weight_of(test, is_described),
        cold_users=int(own.is_cold.sum()),
        n_lists=len(lists),
        n_relevant=len(wanted),
        popularity=popularity,
        cold_items=set_of(test.indices[has_cold_item], len(shared.item_rows)),
        errors={
            name: error_sums(test, predicted, is_cold, is_described, bounds)
            for name, predicted in predictions.items()
        },
        ranking={
            name: ranking_sums(
                _best(shared, name, own, lists, settings.k), indptr, wanted, items.counts
            )
            for name in shared.lists
        },
    )


def _is_cold(side: ModelRows, rows: np.ndarray) -> np.ndarray:
    """Return which rows of a side have no training rating; a row of -1 is unknown."""
    return np.append(side.counts, 0)[rows] == 0


def _relevant_items(
    relevant: Block, item_rows: np.ndarray, known: ModelRows
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the relevant items of the users who have some, their indptr, and their popularity.

    Items are rows of the model, ascending for each user; an unknown one is a row beyond the last.
    """
    items = item_rows[relevant.indices]
    popularity = int(np.append(known.counts, 0)[items].sum())
    beyond = len(known.ids) + relevant.indices.astype(np.int64)
    items = np.where(items == UNKNOWN, beyond, items)
    order = np.lexsort((items, relevant.row_of_rating))
    counts = relevant.counts[relevant.counts > 0]
    return items[order], np.concatenate([[0], np.cumsum(counts)]), popularity


def _best(shared: _Shared, name: str, users: _Users, lists: np.ndarray, k: int) -> np.ndarray:
    """Return the best items of a predictor for some users, without those they have rated."""
    assert shared.dataset is not None, "there are lists"
    own = Factors(users.state.bias[lists], users.state.factors[lists])
    if name != "model":
        own = Factors(np.zeros(len(lists)), np.zeros(own.factors.shape))
    seen = seen_by(shared.dataset, USERS, users.rows[lists])
    return top_k(own, shared.lists[name], k, seen=seen, mean=shared.manifest.global_mean).rows
