"""Evaluate a model on held-out ratings, and compare it with baselines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from dask_als.core import storage
from dask_als.core.blocks import Block, Factors, predictions
from dask_als.core.executor import Executor
from dask_als.core.side import ITEMS, USERS
from dask_als.data.block_files import read_block, read_test_block
from dask_als.data.dataset import Dataset, Partition, RowsFile
from dask_als.errors import InputError
from dask_als.evaluation.calibration import Calibration, calibration
from dask_als.evaluation.results import Evaluation
from dask_als.evaluation.scorers import Scorer, read_counts, submit_scorers
from dask_als.evaluation.sums import (
    PartSums,
    described,
    error_sums,
    has_factors,
    ranking_sums,
    set_of,
    set_size,
    weight_of,
)
from dask_als.model import manifest as model_manifest
from dask_als.model.recommend import rated_by
from dask_als.model.top_k import top_k
from dask_als.settings.evaluation import EvaluateSettings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Facts:
    """What the tasks of all partitions need to know of the dataset.

    Attributes
    ----------
    item_counts : ndarray of int64
        Training ratings of each item.
    bounds : (float, float)
        The range of the training ratings.
    """

    path: str
    item_counts: np.ndarray
    bounds: tuple[float, float]


def evaluate(
    model: str,
    dataset: Dataset,
    executor: Executor,
    settings: EvaluateSettings,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure a model, and the baselines, on a dataset's held-out ratings.

    Parameters
    ----------
    model : str
        A model directory that all workers can read.
    dataset : Dataset
        With held-out ratings, and the users and items of the model.
    progress : callable, optional
        Called with the number of partitions that are done, and of all partitions.

    Raises
    ------
    InputError
        If the dataset has no held-out ratings, or other users or items than the model.
    """
    if not dataset.n_test:
        raise InputError(
            f"{dataset.path} holds out no ratings; prepare it with --test-fraction 0.1"
        )
    manifest = model_manifest.read_manifest(model)
    model_manifest.check_same_ids(manifest, dataset, model)
    scorers = submit_scorers(storage.absolute(model), dataset, manifest.settings, executor)
    facts = executor.submit(
        _facts,
        dataset.path,
        dataset.rows_file(ITEMS),
        dataset.items.n_rows,
        (dataset.rating_min, dataset.rating_max),
        key="item-counts",
    )
    parts = [
        executor.submit(
            _evaluate_part,
            facts,
            number,
            partition,
            list(scorers),
            list(scorers.values()),
            settings,
            key=f"evaluate-{number}",
        )
        for number, partition in enumerate(dataset.users.partitions)
        if partition.test_ratings
    ]
    sums = summed(executor.as_completed(parts), len(parts), progress)
    of_samples = calibration(model, dataset, executor) if manifest.knows_deviations else None
    return evaluation_of(sums, of_samples, dataset.items.n_rows, settings)


def _facts(path: str, items: RowsFile, n_items: int, bounds: tuple[float, float]) -> _Facts:
    return _Facts(path, read_counts(items, range(n_items)), bounds)


def _evaluate_part(
    facts: _Facts,
    number: int,
    partition: Partition,
    names: list[str],
    scorers: list[Scorer],
    settings: EvaluateSettings,
) -> PartSums:
    """Return the sums of one partition of users."""
    test = read_test_block(facts.path, number, partition)
    seen = read_block(facts.path, USERS, number, partition)
    relevant = relevant_ratings(test, settings)
    has_cold_user = seen.counts == 0
    own = test.row_of_rating - partition.start
    has_cold_item = facts.item_counts[test.indices] == 0
    is_cold = has_cold_user[own] | has_cold_item
    lists = np.flatnonzero(relevant.counts)
    indptr = np.concatenate([[0], np.cumsum(relevant.counts[lists])])
    model = scorers[names.index("model")]
    is_described = np.zeros(len(is_cold), dtype=bool)
    if model.items is not None and is_cold.any():
        known = (
            has_factors(model.users(partition.rows))[own],
            has_factors(model.items)[test.indices],
        )
        is_described = described((has_cold_user[own], has_cold_item), known)
    errors, ranking = {}, {}
    for name, scorer in zip(names, scorers, strict=True):
        users = scorer.users(partition.rows)
        if scorer.items is not None:
            predicted = predictions(users, scorer.items, own, test.indices, mean=scorer.mean)
            errors[name] = error_sums(test, predicted, is_cold, is_described, facts.bounds)
        if scorer.candidates is not None:
            best = top_k(
                Factors(users.bias[lists], users.factors[lists]),
                scorer.candidates,
                settings.k,
                seen=rated_by(seen, lists),
                mean=scorer.mean,
            )
            ranking[name] = ranking_sums(best.rows, indptr, relevant.indices, facts.item_counts)
    return PartSums(
        n_test=len(test.ratings),
        n_cold=int(is_cold.sum()),
        n_described=int(is_described.sum()),
        weight=weight_of(test),
        cold_weight=weight_of(test, is_cold),
        described_weight=weight_of(test, is_described),
        cold_users=int((has_cold_user & (test.counts > 0)).sum()),
        n_lists=len(lists),
        n_relevant=len(relevant.indices),
        popularity=int(facts.item_counts[relevant.indices].sum()),
        cold_items=set_of(test.indices[has_cold_item], len(facts.item_counts)),
        errors=errors,
        ranking=ranking,
    )


def relevant_ratings(test: Block, settings: EvaluateSettings) -> Block:
    """Return the held-out ratings that make an item relevant."""
    if settings.relevant_from is None:
        return test
    keep = test.ratings >= settings.relevant_from
    indptr = np.concatenate([[0], np.cumsum(keep)])[test.indptr]
    return test.of_ratings(keep, test.rows, indptr)


def summed(
    parts: Iterable[PartSums], n_parts: int, progress: Callable[[int, int], None]
) -> PartSums:
    """Add the sums of all partitions, of which there is at least one."""
    total: PartSums | None = None
    progress(0, n_parts)
    for done, part in enumerate(parts, start=1):
        total = part if total is None else total + part
        progress(done, n_parts)
    assert total is not None, "there are held-out ratings"
    return total


def evaluation_of(
    sums: PartSums, calibration: Calibration | None, n_items: int, settings: EvaluateSettings
) -> Evaluation:
    """Return the results that sums over all partitions lead to."""
    if not sums.n_relevant:
        least = f" of at least {settings.relevant_from:g}" if settings.relevant_from else ""
        _LOG.warning("there is no held-out rating%s, so there are no ranked lists", least)
    return Evaluation(
        settings=settings,
        n_test=sums.n_test,
        n_cold=sums.n_cold,
        cold_users=sums.cold_users,
        cold_items=set_size(sums.cold_items),
        n_lists=sums.n_lists,
        held_out_popularity=sums.popularity / max(1, sums.n_relevant),
        errors={
            name: its.errors(sums.weight, sums.cold_weight, sums.described_weight)
            for name, its in sums.errors.items()
        },
        ranking={
            name: its.ranking(sums.n_lists, n_items)
            for name, its in sums.ranking.items()
            if sums.n_lists
        },
        calibration=calibration,
        n_described=sums.n_described,
    )
