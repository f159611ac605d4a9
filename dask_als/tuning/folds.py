"""Split the training ratings of a dataset into folds; its held-out ratings are not used.

Each block is read once, on its home, and split there into the training and the held-out ratings of
each fold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dask_als.core.blocks import Block
from dask_als.core.executor import Executor
from dask_als.core.side import SIDES, USERS, Side
from dask_als.core.superaccumulator import as_float, exact_count, exact_sum
from dask_als.data.block_files import read_block
from dask_als.data.dataset import Dataset, Partition, SideTable
from dask_als.data.split import fold_of
from dask_als.errors import InputError
from dask_als.settings.training import TrainSettings
from dask_als.training.task_graph import TaskGraph


@dataclass(frozen=True)
class Fold:
    """A fold: it trains on the ratings of all other folds, and is measured on its own.

    Attributes
    ----------
    dataset : Dataset
        The dataset as if it had been prepared with this split.
    blocks : dict of Side to list of handle
        The ratings to train on.
    held_out : dict of int to handle
        The fold's own ratings, by the number of their partition of users.
    """

    dataset: Dataset
    blocks: dict[Side, list[Any]]
    held_out: dict[int, Any]


class FoldTraining(TaskGraph):
    """A training on the blocks of a fold, which are shared with other trainings."""

    def __init__(self, fold: Fold, settings: TrainSettings, executor: Executor) -> None:
        self.fold = fold
        # Measures and later starts take all rows.
        super().__init__(fold.dataset, settings, executor, whole_sides=True)

    def _submit_blocks(self, side: Side) -> list[Any]:
        return self.fold.blocks[side]

    def _submit_test_blocks(self) -> dict[int, Any]:
        return self.fold.held_out


def split_into_folds(dataset: Dataset, executor: Executor, *, folds: int, seed: int) -> list[Fold]:
    """Split a dataset's training ratings; read each of its files once.

    Raises
    ------
    InputError
        If a fold would have no training ratings or no held-out ratings.
    """
    whole = {
        side: [
            executor.submit(
                read_block, dataset.path, side, number, part, key=f"read-{side.name}-{number}"
            )
            for number, part in enumerate(dataset.table(side).partitions)
        ]
        for side in SIDES
    }
    counts = executor.gather(
        [
            executor.submit(count_folds, block, folds, seed, key=f"count-folds-{number}")
            for number, block in enumerate(whole[USERS])
        ]
    )
    views = [_view(dataset, counts, fold) for fold in range(folds)]
    return [_fold(view, whole, executor, fold, folds, seed) for fold, view in enumerate(views)]


def _view(dataset: Dataset, counts: list[list[tuple[int, int, int]]], fold: int) -> Dataset:
    """Return the dataset as if a fold were held out; `counts` are by partition of users."""
    n_tests = [of_part[fold][0] for of_part in counts]
    n_test = sum(n_tests)
    n_ratings = dataset.n_ratings - n_test
    if not (n_test and n_ratings):
        raise InputError(f"{dataset.n_ratings:,} ratings are too few for {len(counts[0])} folds")
    of_fold = [sum(of_part[fold][place] for of_part in counts) for place in (1, 2)]
    total = [sum(its[place] for of_part in counts for its in of_part) for place in (1, 2)]
    kept_sum, kept_weight = (whole - own for whole, own in zip(total, of_fold, strict=True))
    weights = dataset.weights
    if weights is not None:
        weights = replace(weights, train=as_float(kept_weight), test=as_float(of_fold[1]))
    return replace(
        dataset,
        users=_with_tests(dataset.users, n_tests),
        n_ratings=n_ratings,
        n_test=n_test,
        rating_mean=as_float(kept_sum) / as_float(kept_weight),
        weights=weights,
    )


def _fold(
    view: Dataset,
    whole: dict[Side, list[Any]],
    executor: Executor,
    fold: int,
    folds: int,
    seed: int,
) -> Fold:
    blocks = {
        side: [
            executor.submit(
                without_fold, block, side, fold, folds, seed, key=f"fold-{fold}-{side.name}-{n}"
            )
            for n, block in enumerate(whole[side])
        ]
        for side in SIDES
    }
    held_out = {
        n: executor.submit(only_fold, block, fold, folds, seed, key=f"fold-{fold}-test-{n}")
        for n, block in enumerate(whole[USERS])
        if view.users.partitions[n].test_ratings
    }
    return Fold(view, blocks, held_out)


def _with_tests(table: SideTable, n_tests: list[int]) -> SideTable:
    parts: list[Partition] = [
        replace(part, ratings=part.ratings - n_test, test_ratings=n_test)
        for part, n_test in zip(table.partitions, n_tests, strict=True)
    ]
    return replace(table, partitions=tuple(parts))


def count_folds(block: Block, folds: int, seed: int) -> list[tuple[int, int, int]]:
    """Return number, weighted sum and total weight of each fold's ratings; the sums are exact."""
    its = _folds_of(block, USERS, folds, seed)
    weighted = block.weighted(block.ratings.astype(np.float64))
    weights = block.weights
    return [
        (
            int(chosen.sum()),
            exact_sum(weighted[chosen]),
            exact_count(int(chosen.sum())) if weights is None else exact_sum(weights[chosen]),
        )
        for chosen in (its == fold for fold in range(folds))
    ]


def without_fold(block: Block, side: Side, fold: int, folds: int, seed: int) -> Block:
    """Return the ratings of a block that are in other folds."""
    return _some(block, _folds_of(block, side, folds, seed) != fold)


def only_fold(block: Block, fold: int, folds: int, seed: int) -> Block:
    """Return the ratings of a block of users that are in a fold."""
    return _some(block, _folds_of(block, USERS, folds, seed) == fold)


def _folds_of(block: Block, side: Side, folds: int, seed: int) -> np.ndarray:
    own, other = block.row_of_rating, block.indices
    user, item = (own, other) if side is USERS else (other, own)
    return fold_of(user, item, folds=folds, seed=seed)


def _some(block: Block, keep: np.ndarray) -> Block:
    indptr = np.concatenate([[0], np.cumsum(keep)])[block.indptr]
    return block.of_ratings(keep, block.rows, indptr)
