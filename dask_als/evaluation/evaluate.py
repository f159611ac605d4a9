"""How good a model is on held-out ratings, beside what needs no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from dask_als.core import storage
from dask_als.core.blocks import Block, Factors, predictions, zero_factors
from dask_als.core.executor import Executor
from dask_als.core.side import ITEMS, USERS
from dask_als.core.superaccumulator import as_float, exact_sum
from dask_als.data.dataset import Dataset, Partition, RowsFile, read_block, read_test_block
from dask_als.errors import InputError
from dask_als.evaluation.calibration import Calibration, calibration
from dask_als.evaluation.ranking_metrics import MEASURES, measures
from dask_als.model import files as model_files
from dask_als.model.recommend import rated_by, typical_norm
from dask_als.model.top_k import Candidates, candidates, top_k
from dask_als.settings.evaluation import EvaluateSettings
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import SolvedSide
from dask_als.solvers.objective import rmse
from dask_als.training.train import Epoch, Training, zero_start

COMPARED = ("model", "global mean", "biases alone", "most popular")
_BIAS_EPOCHS = 15


@dataclass(frozen=True)
class Baselines:
    """Held-out RMSE without factors.

    Attributes
    ----------
    global_mean : float
        Predicting the mean of the training ratings.
    biases : float
        Predicting mean, user bias and item bias, with the same regularization of biases.
    """

    global_mean: float
    biases: float


@dataclass(frozen=True)
class Errors:
    """Errors of predicted ratings, in units of a rating.

    Attributes
    ----------
    rmse, mae : float
        Root of the mean squared error, and mean absolute error.
    rmse_clipped, mae_clipped : float
        The same, with predictions clipped to the range of the training ratings.
    rmse_cold : float or None
        The first, over held-out ratings whose user or item has no training rating; None if there
        are none.
    """

    rmse: float
    mae: float
    rmse_clipped: float
    mae_clipped: float
    rmse_cold: float | None


@dataclass(frozen=True)
class Ranking:
    """Ranked lists of k items for each user with a relevant held-out item, means over users.

    Attributes
    ----------
    precision, recall, ndcg, map, hit_rate : float
        As in `ranking.measures`.
    coverage : float
        Share of all items that are in somebody's list.
    popularity : float
        Mean number of training ratings of an item in a list.
    """

    precision: float
    recall: float
    ndcg: float
    map: float
    hit_rate: float
    coverage: float
    popularity: float


@dataclass(frozen=True)
class Evaluation:
    """What held-out ratings say of a model and of the baselines.

    Attributes
    ----------
    settings : EvaluateSettings
    n_test : int
        Held-out ratings; all of them are predicted.
    n_cold : int
        Those whose user or item has no training rating and is scored by the fallback.
    cold_users, cold_items : int
        How many such users and items there are.
    n_lists : int
        Users with a relevant held-out item.
    held_out_popularity : float
        Mean number of training ratings of a relevant held-out item: what `Ranking.popularity`
        compares with.
    errors : dict of str to Errors
        By what predicts: ``model`` (if of explicit feedback), ``global mean``, ``biases alone``.
    ranking : dict of str to Ranking
        By what ranks: ``model``, ``biases alone``, ``most popular``.
    calibration : Calibration or None
        Of a model of samples.
    """

    settings: EvaluateSettings
    n_test: int
    n_cold: int
    cold_users: int
    cold_items: int
    n_lists: int
    held_out_popularity: float
    errors: dict[str, Errors]
    ranking: dict[str, Ranking]
    calibration: Calibration | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Scorer:
    """What predicts ratings, or ranks items, or both.

    Attributes
    ----------
    mean : float
    users : callable
        Makes the state of a range of users.
    items : Factors or None
        None if it cannot predict.
    candidates : Candidates or None
        None if it cannot rank.
    """

    mean: float
    users: Callable[[range], Factors]
    items: Factors | None
    candidates: Candidates | None


@dataclass(frozen=True)
class _Facts:
    """What all partitions' figures need to know of the dataset.

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


@dataclass(frozen=True)
class _PartFigures:
    """Exact sums over some users' held-out ratings: those of all users are the sum of these.

    Attributes
    ----------
    sums : dict of str to int
        Counts, and exact sums (`exact_sum`), by name.
    items : dict of str to ndarray of uint8
        Sets of items, a bit each, by name.
    """

    sums: dict[str, int]
    items: dict[str, np.ndarray]

    def __add__(self, other: _PartFigures) -> _PartFigures:
        return _PartFigures(
            {name: value + other.sums[name] for name, value in self.sums.items()},
            {name: value | other.items[name] for name, value in self.items.items()},
        )


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
        A model directory that all workers see.
    dataset : Dataset
        With held-out ratings, and the users and items of the model.
    progress : callable, optional
        Told how many partitions are done, and of how many.

    Raises
    ------
    InputError
        If the dataset holds out nothing, or does not belong to the model.
    """
    if not dataset.n_test:
        raise InputError(
            f"{dataset.path} holds out no ratings; prepare it with --test-fraction 0.1"
        )
    manifest = model_files.read_manifest(model)
    model_files.check_same_ids(manifest, dataset, model)
    scorers = _submit_scorers(storage.absolute(model), dataset, manifest.settings, executor)
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
    figures = _summed(executor.as_completed(parts), len(parts), progress)
    of_samples = calibration(model, dataset, executor) if manifest.knows_deviations else None
    return _evaluation(figures, of_samples, dataset, settings)


def baselines(dataset: Dataset, settings: TrainSettings, executor: Executor) -> Baselines:
    """Measure the baselines on a dataset's held-out ratings, of which there must be some."""
    errors = [
        executor.submit(
            _error_of_mean,
            dataset.path,
            number,
            partition,
            dataset.rating_mean,
            key=f"test-mean-{number}",
        )
        for number, partition in enumerate(dataset.users.partitions)
        if partition.test_ratings
    ]
    last = _biases_alone(dataset, settings, executor)
    assert last.figures.test_rmse is not None, "there are held-out ratings"
    return Baselines(rmse(sum(executor.gather(errors)), dataset.n_test), last.figures.test_rmse)


def _biases_alone(dataset: Dataset, settings: TrainSettings, executor: Executor) -> Epoch:
    settings = replace(settings, rank=1, center=True, method="als", feedback="explicit")
    training = Training(dataset, settings, executor)
    *_, last = training.stretch(zero_start, range(1, _BIAS_EPOCHS + 1))
    return last


def _error_of_mean(path: str, number: int, partition: Partition, mean: float) -> int:
    block = read_test_block(path, number, partition)
    return exact_sum((block.ratings.astype(np.float64) - mean) ** 2)


def _submit_scorers(
    model: str, dataset: Dataset, settings: TrainSettings, executor: Executor
) -> dict[str, Any]:
    """Return handles of what is compared, by name."""
    n_users, n_items = dataset.users.n_rows, dataset.items.n_rows
    biases = _biases_alone(dataset, settings, executor).sides
    return {
        "model": executor.submit(_model_scorer, model, n_users, n_items, key="scorer-model"),
        "global mean": executor.submit(
            _mean_scorer, dataset.rating_mean, n_items, key="scorer-global-mean"
        ),
        "biases alone": executor.submit(
            _bias_scorer,
            biases[USERS][0],
            biases[ITEMS][0],
            dataset.rating_mean,
            key="scorer-biases-alone",
        ),
        "most popular": executor.submit(
            _popular_scorer, dataset.rows_file(ITEMS), n_items, key="scorer-most-popular"
        ),
    }


def _model_scorer(model: str, n_users: int, n_items: int) -> Scorer:
    manifest = model_files.read_manifest(model)
    dtype = manifest.settings.dtype
    items, _ = model_files.read_state(model, ITEMS, range(n_items), dtype)
    # Preferences are no ratings.
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
    return Scorer(mean, partial(_some_users, users.state), items.state, candidates(items.state))


def _some_users(state: Factors, rows: range) -> Factors:
    return state[rows.start : rows.stop]


def _popular_scorer(items: RowsFile, n_items: int) -> Scorer:
    counts = _read_counts(items, range(n_items))
    popularity = Factors(counts.astype(np.float64), np.zeros((n_items, 1)))
    return Scorer(0.0, _no_users, None, candidates(popularity))


def _facts(path: str, items: RowsFile, n_items: int, bounds: tuple[float, float]) -> _Facts:
    return _Facts(path, _read_counts(items, range(n_items)), bounds)


def _read_counts(file: RowsFile, rows: range) -> np.ndarray:
    return file.read(rows, ["count"]).column("count").to_numpy()


def _evaluate_part(
    facts: _Facts,
    number: int,
    partition: Partition,
    names: list[str],
    scorers: list[Scorer],
    settings: EvaluateSettings,
) -> _PartFigures:
    """Return the figures of one partition of users."""
    test = read_test_block(facts.path, number, partition)
    seen = read_block(facts.path, USERS, number, partition)
    relevant = _relevant(test, settings)
    users_are_cold = seen.counts == 0
    own = test.row_of_rating - partition.start
    is_cold = users_are_cold[own] | (facts.item_counts[test.indices] == 0)
    lists = np.flatnonzero(relevant.counts)
    n_items = len(facts.item_counts)
    sums = {
        "test": len(test.ratings),
        "cold": int(is_cold.sum()),
        "cold users": int((users_are_cold & (test.counts > 0)).sum()),
        "lists": len(lists),
        "relevant": len(relevant.indices),
        "popularity": int(facts.item_counts[relevant.indices].sum()),
    }
    items = {"cold": _bits(test.indices[facts.item_counts[test.indices] == 0], n_items)}
    for name, scorer in zip(names, scorers, strict=True):
        users = scorer.users(partition.rows)
        if scorer.items is not None:
            predicted = predictions(users, scorer.items, own, test.indices, mean=scorer.mean)
            for what, value in _error_sums(test.ratings, predicted, is_cold, facts.bounds).items():
                sums[f"{name}: {what}"] = value
        if scorer.candidates is not None:
            best = top_k(
                Factors(users.bias[lists], users.factors[lists]),
                scorer.candidates,
                settings.k,
                seen=rated_by(seen, lists),
                mean=scorer.mean,
            )
            indptr = np.concatenate([[0], np.cumsum(relevant.counts[lists])])
            for what, values in measures(best.rows, indptr, relevant.indices).items():
                sums[f"{name}: {what}"] = exact_sum(values)
            found = best.rows[best.rows >= 0]
            sums[f"{name}: recommended"] = len(found)
            sums[f"{name}: popularity"] = int(facts.item_counts[found].sum())
            items[name] = _bits(found, n_items)
    return _PartFigures(sums, items)


def _relevant(test: Block, settings: EvaluateSettings) -> Block:
    """Return the held-out ratings that make an item relevant."""
    if settings.relevant_from is None:
        return test
    keep = test.ratings >= settings.relevant_from
    indptr = np.concatenate([[0], np.cumsum(keep)])[test.indptr]
    return Block(test.rows, indptr, test.indices[keep], test.ratings[keep])


def _error_sums(
    ratings: np.ndarray, predicted: np.ndarray, is_cold: np.ndarray, bounds: tuple[float, float]
) -> dict[str, int]:
    error = ratings - predicted
    clipped = ratings - np.clip(predicted, *bounds)
    return {
        "squared": exact_sum(error**2),
        "absolute": exact_sum(np.abs(error)),
        "squared clipped": exact_sum(clipped**2),
        "absolute clipped": exact_sum(np.abs(clipped)),
        "squared cold": exact_sum(error[is_cold] ** 2),
    }


def _bits(items: np.ndarray, n_items: int) -> np.ndarray:
    """Return a set of items, a bit each."""
    there = np.zeros(n_items, dtype=bool)
    there[items] = True
    return np.packbits(there)


def _summed(
    parts: Iterable[_PartFigures], n_parts: int, progress: Callable[[int, int], None]
) -> _PartFigures:
    total: _PartFigures | None = None
    progress(0, n_parts)
    for done, part in enumerate(parts, start=1):
        total = part if total is None else total + part
        progress(done, n_parts)
    assert total is not None, "there are held-out ratings"
    return total


def _evaluation(
    figures: _PartFigures,
    calibration: Calibration | None,
    dataset: Dataset,
    settings: EvaluateSettings,
) -> Evaluation:
    sums = figures.sums
    return Evaluation(
        settings=settings,
        n_test=sums["test"],
        n_cold=sums["cold"],
        cold_users=sums["cold users"],
        cold_items=int(np.bitwise_count(figures.items["cold"]).sum()),
        n_lists=sums["lists"],
        held_out_popularity=sums["popularity"] / max(1, sums["relevant"]),
        errors={name: _errors(name, sums) for name in COMPARED if f"{name}: squared" in sums},
        ranking={
            name: _ranking(name, figures, dataset.items.n_rows)
            for name in COMPARED
            if name in figures.items and sums["lists"]
        },
        calibration=calibration,
    )


def _errors(name: str, sums: dict[str, int]) -> Errors:
    n, cold = sums["test"], sums["cold"]
    return Errors(
        rmse=rmse(sums[f"{name}: squared"], n),
        mae=as_float(sums[f"{name}: absolute"]) / n,
        rmse_clipped=rmse(sums[f"{name}: squared clipped"], n),
        mae_clipped=as_float(sums[f"{name}: absolute clipped"]) / n,
        rmse_cold=rmse(sums[f"{name}: squared cold"], cold) if cold else None,
    )


def _ranking(name: str, figures: _PartFigures, n_items: int) -> Ranking:
    sums = figures.sums
    means = {what: as_float(sums[f"{name}: {what}"]) / sums["lists"] for what in MEASURES}
    return Ranking(
        **means,
        coverage=int(np.bitwise_count(figures.items[name]).sum()) / n_items,
        popularity=sums[f"{name}: popularity"] / max(1, sums[f"{name}: recommended"]),
    )
