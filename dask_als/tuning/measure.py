"""The measure of a trial: RMSE or NDCG over the held-out ratings of all folds."""

from __future__ import annotations

import math

import numpy as np

from dask_als.core.blocks import Block, Factors
from dask_als.core.executor import Executor
from dask_als.core.side import SIDES, USERS
from dask_als.core.superaccumulator import as_float, exact_sum
from dask_als.evaluation.ranking_metrics import measures
from dask_als.model.recommend import rated_by, typical_norm
from dask_als.model.top_k import candidates, top_k
from dask_als.settings.tuning import TuneSettings
from dask_als.solvers.base import SolvedSide
from dask_als.training.task_graph import Epoch
from dask_als.tuning.folds import Fold


class Measure:
    """Measures an epoch of all folds."""

    def __init__(self, executor: Executor, settings: TuneSettings) -> None:
        self.executor = executor
        self.name = "rmse" if settings.feedback == "explicit" else "ndcg"
        self._k = settings.k

    def best(self, values: list[float]) -> float | None:
        """Return the best value; None if there are no values."""
        choose = min if self.name == "rmse" else max
        return choose(values, default=None)

    def is_better(self, value: float, than: float | None) -> bool:
        """Tell whether a value is better than another one, or there is no other."""
        return than is None or (value < than if self.name == "rmse" else value > than)

    def of(self, folds: list[Fold], epochs: tuple[Epoch, ...]) -> float:
        """Return the measure over all folds after an epoch of each."""
        if self.name == "rmse":
            squares = [
                fold.dataset.test_weight * (epoch.figures.test_rmse or 0.0) ** 2
                for fold, epoch in zip(folds, epochs, strict=True)
            ]
            return math.sqrt(math.fsum(squares) / sum(fold.dataset.test_weight for fold in folds))
        figures = self.executor.gather(
            [
                self.executor.submit(
                    ndcg_of_part,
                    block,
                    fold.blocks[USERS][number],
                    *(epoch.sides[side].whole for side in SIDES),
                    self._k,
                    key=f"ndcg-{epoch.figures.epoch}-{number}",
                )
                for fold, epoch in zip(folds, epochs, strict=True)
                for number, block in fold.held_out.items()
            ]
        )
        return as_float(sum(total for total, _ in figures)) / sum(lists for _, lists in figures)


def ndcg_of_part(
    held_out: Block, seen: Block, users: SolvedSide, items: SolvedSide, k: int
) -> tuple[int, int]:
    """Return the exact sum of a partition's NDCG at k, and the number of lists.

    There is a list for each user with a held-out item, of all items but the user's training items.
    """
    rows = np.flatnonzero(held_out.counts)
    own = users.solution[held_out.rows.start : held_out.rows.stop]
    best = top_k(
        Factors(own.bias[rows], own.factors[rows]),
        candidates(
            items.solution, typical_norm=typical_norm(items.solution, len(users.solution.bias))
        ),
        k,
        seen=rated_by(seen, rows),
        mean=0.0,
    )
    indptr = np.concatenate([[0], np.cumsum(held_out.counts[rows])])
    return exact_sum(measures(best.rows, indptr, held_out.indices)["ndcg"]), len(rows)
