"""The data of a report: from the model itself, and its errors, measured by partition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from dask_als.core.blocks import Block, Factors, predictions
from dask_als.core.executor import Executor
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.core.superaccumulator import as_float, exact_sum
from dask_als.data.block_files import read_block, read_test_block
from dask_als.data.dataset import Dataset
from dask_als.model import files as model_files
from dask_als.model.model import ALSModel

N_LEVELS = 10
N_PREDICTED = 60
_MOST_DOUBLINGS = 48
_MOST_POINTS_OF_A_CURVE = 200


@dataclass(frozen=True)
class Scale:
    """The bins of ratings and predictions.

    Attributes
    ----------
    low, high : float
        The range of the ratings, which has `N_LEVELS` bins.
    """

    low: float
    high: float

    @property
    def margin(self) -> float:
        """How far predictions are shown beyond the range of the ratings; the rest are clipped."""
        return 0.25 * (self.high - self.low)

    @property
    def level_edges(self) -> np.ndarray:
        """Edges of the bins of ratings; the extreme ratings are in the middle of their bins."""
        half = 0.5 * (self.high - self.low) / (N_LEVELS - 1)
        return np.linspace(self.low - half, self.high + half, N_LEVELS + 1)

    @property
    def predicted_edges(self) -> np.ndarray:
        """Edges of the bins of predictions."""
        return np.linspace(self.low - self.margin, self.high + self.margin, N_PREDICTED + 1)

    def table(self, ratings: np.ndarray, predicted: np.ndarray) -> np.ndarray:
        """Count ratings by their bin and that of their prediction.

        Returns
        -------
        ndarray of int64, shape (N_LEVELS, N_PREDICTED)
        """
        levels = _classes(ratings, self.level_edges)
        places = _classes(predicted, self.predicted_edges)
        counts = np.bincount(levels * N_PREDICTED + places, minlength=N_LEVELS * N_PREDICTED)
        return counts.reshape(N_LEVELS, N_PREDICTED)


@dataclass(frozen=True)
class Errors:
    """Errors of predictions over some ratings; ``+`` adds those of partitions exactly.

    Attributes
    ----------
    table : ndarray of int64, shape (N_LEVELS, N_PREDICTED)
        Number of ratings by their bin and that of their prediction.
    counts : ndarray of int64, shape (n_classes,)
        Number of ratings by their item's training ratings: 0, 1, 2 to 3, 4 to 7, ….
    squared : ndarray of object, shape (n_classes,)
        Exact sums of their squared errors, each times its weight.
    weights : ndarray of object, shape (n_classes,)
        Exact sums of their weights; without weights, of ones.
    """

    table: np.ndarray
    counts: np.ndarray
    squared: np.ndarray
    weights: np.ndarray

    def __add__(self, other: Errors) -> Errors:
        return Errors(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def by_popularity(self) -> list[tuple[int, int, int, float]]:
        """Return (least count, greatest count, ratings, RMSE) of each class with ratings."""
        return [
            (
                0 if number == 0 else 1 << (number - 1),
                0 if number == 0 else (1 << number) - 1,
                int(self.counts[number]),
                float(np.sqrt(as_float(self.squared[number]) / as_float(self.weights[number]))),
            )
            for number in np.flatnonzero(self.counts).tolist()
        ]


def errors_on(block: Block, users: Factors, items: Factors, known: Known) -> Errors:
    """Measure the errors of predictions over a block of ratings by user.

    Parameters
    ----------
    block : Block
    users, items : Factors
    known : Known
    """
    predicted = predictions(users, items, block.row_of_rating, block.indices, mean=known.mean)
    squared = block.weighted((block.ratings - predicted) ** 2)
    weights = block.weighted(np.ones(len(squared)))
    doublings = np.frexp(known.item_counts[block.indices].astype(np.float64))[1]
    sums, of_weights = (
        [exact_sum(values[doublings == number]) for number in range(_MOST_DOUBLINGS)]
        for values in (squared, weights)
    )
    return Errors(
        known.scale.table(block.ratings, predicted),
        np.bincount(doublings, minlength=_MOST_DOUBLINGS),
        np.array(sums, dtype=object),
        np.array(of_weights, dtype=object),
    )


@dataclass(frozen=True)
class Known:
    """What measuring errors needs in addition to factors and ratings.

    Attributes
    ----------
    mean : float
        The model's global mean.
    item_counts : ndarray of int64, shape (n_items,)
        Training ratings of each item.
    scale : Scale
    """

    mean: float
    item_counts: np.ndarray
    scale: Scale


def measure_errors(
    model: ALSModel,
    path: str,
    dataset: Dataset,
    executor: Executor,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Errors:
    """Measure a model's errors on a dataset's held-out ratings, or else on the training ratings.

    Parameters
    ----------
    path : str
        The path of the model; workers read it from there.
    progress : callable, optional
        Called with the number of partitions that are done, and of all.
    """
    manifest = model.manifest
    states = [
        executor.submit(
            _read_side, path, side, dataset, manifest.settings.dtype, key=f"read-{side.name}"
        )
        for side in SIDES
    ]
    scale = Scale(manifest.rating_min, manifest.rating_max)
    known = executor.submit(Known, manifest.global_mean, model.items.counts, scale, key="known")
    numbers = [
        number
        for number, partition in enumerate(dataset.users.partitions)
        if partition.test_ratings or not dataset.n_test
    ]
    handles = [
        executor.submit(_errors_of_part, dataset, number, *states, known, key=f"errors-{number}")
        for number in numbers
    ]
    total: Any = None
    for done, errors in enumerate(executor.as_completed(handles), start=1):
        total = errors if total is None else total + errors
        progress(done, len(handles))
    return total


def _read_side(path: str, side: Side, dataset: Dataset, dtype: str) -> Factors:
    return model_files.read_state(path, side, range(dataset.table(side).n_rows), dtype)[0]


def _errors_of_part(
    dataset: Dataset, number: int, users: Factors, items: Factors, known: Known
) -> Errors:
    partition = dataset.users.partitions[number]
    if dataset.n_test:
        block = read_test_block(dataset.path, number, partition)
    else:
        block = read_block(dataset.path, USERS, number, partition)
    return errors_on(block, users, items, known)


def counts_by_position(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ratings per row in descending order, thinned out for a plot.

    Returns
    -------
    positions, counts : ndarray of int64
        Positions from 1, evenly spaced on a logarithmic scale; rows without ratings are left out.
    """
    descending = np.sort(counts[counts > 0])[::-1]
    if not len(descending):
        return descending, descending
    positions = np.unique(np.geomspace(1, len(descending), _MOST_POINTS_OF_A_CURVE).round())
    positions = positions.astype(np.int64)
    return positions, descending[positions - 1]


def well_known(model: ALSModel, side: Side, *, at_least: int = 10) -> np.ndarray:
    """Return the rows with at least some number of ratings, the most rated first.

    If there are none, return all rows with ratings.
    """
    counts = model.rows(side).counts
    order = np.argsort(-counts, kind="stable")
    enough = order[counts[order] >= at_least]
    return enough if len(enough) else order[counts[order] > 0]


def main_directions(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of rows in their first two principal components.

    Parameters
    ----------
    factors : ndarray, shape (n_rows, rank)

    Returns
    -------
    ndarray of float64, shape (n_rows, 2)
        The second coordinate is 0 if the rank is 1.
    shares : ndarray of float64, shape (2,)
        Each component's share of the variance.
    """
    centred = factors.astype(np.float64) - factors.mean(axis=0, dtype=np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    vectors = vectors[:, ::-1][:, :2]
    # The sign of a component is arbitrary: its largest entry is made positive.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(vectors.shape[1])])
    places, shares = np.zeros((len(factors), 2)), np.zeros(2)
    places[:, : vectors.shape[1]] = centred @ vectors
    shares[: vectors.shape[1]] = values[::-1][:2] / max(values.sum(), np.finfo(float).tiny)
    return places, shares


def lengths(factors: np.ndarray) -> np.ndarray:
    """Return the lengths of factor vectors; float64."""
    return np.linalg.norm(factors.astype(np.float64), axis=1)


def names_of(model: ALSModel, rows: np.ndarray) -> list[str]:
    """Return titles of items, or their ids if there are no titles."""
    ids = [str(identifier) for identifier in model.items.ids[rows]]
    if model.dataset is None or not model.dataset.has_titles:
        return ids
    titles = model.dataset.read_rows(ITEMS).column("title").take(rows).to_pylist()
    return [title or identifier for title, identifier in zip(titles, ids, strict=True)]


def _classes(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the bin of each value; values beyond the edges belong to the outermost bins."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
