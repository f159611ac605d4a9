"""Train one trial along a path of factor regularizations, one epoch at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from dask_als.core.blocks import Factors
from dask_als.core.executor import Executor
from dask_als.core.side import ITEMS, SIDES, USERS, Side
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import SolvedSide
from dask_als.training.start import Start, random_start
from dask_als.training.task_graph import Epoch
from dask_als.tuning.folds import Fold, FoldTraining
from dask_als.tuning.measure import Measure

_STAGES = 6
_EPOCHS_OF_A_STAGE = 4
_STEP = math.sqrt(2)


def _stages(settings: TrainSettings) -> list[TrainSettings]:
    """Return the settings along a trial's path."""
    if settings.method == "gibbs":
        return [settings]
    weights = [settings.factor_regularization * _STEP**stage for stage in range(_STAGES)]
    return [replace(settings, factor_regularization=weight) for weight in weights]


@dataclass(eq=False)
class Walk:
    """A trial on its path, an epoch at a time.

    Attributes
    ----------
    settings : TrainSettings
        The settings of the first stage.
    best : TrainSettings
        The settings of the best stage so far.
    value : float or None
        The best measure so far; with gibbs, the measure of the mean of the samples so far.
    """

    settings: TrainSettings
    folds: list[Fold]
    measure: Measure
    best: TrainSettings = field(init=False)
    value: float | None = None

    def __post_init__(self) -> None:
        self.best = self.settings

    @property
    def may_be_pruned(self) -> bool:
        """Whether its epochs can be compared with those of other trials; samples cannot."""
        return self.settings.method == "als"

    def epochs(self) -> Iterator[float]:
        """Train all stages; yield the best measure so far after each epoch."""
        starts: list[Any] = [random_start] * len(self.folds)
        n_epochs = self.settings.epochs
        for stage in _stages(self.settings):
            before = self.value
            for epochs in train_folds(stage, self.folds, starts, n_epochs, self.measure.executor):
                value = self.measure.of(self.folds, epochs)
                if not self.may_be_pruned or self.measure.is_better(value, self.value):
                    self.value, self.best = value, stage
                assert self.value is not None, "it was set at the first epoch"
                yield self.value
            if self.value == before:
                return
            starts = [self._start_from(epoch) for epoch in epochs]
            n_epochs = _EPOCHS_OF_A_STAGE

    def _start_from(self, epoch: Epoch) -> Any:
        """Return the handle of a start from an epoch's factors; they stay on the workers."""
        sides = [epoch.sides[side].whole for side in SIDES]
        return self.measure.executor.submit(start_from_sides, *sides, key="start-from-stage")


def start_from_sides(users: SolvedSide, items: SolvedSide) -> Start:
    """Return a start from solved sides."""
    return partial(_rows_of, {USERS: users.solution, ITEMS: items.solution})


def _rows_of(
    states: dict[Side, Factors], side: Side, rows: range, settings: TrainSettings
) -> tuple[Factors, None, None]:
    return states[side][rows.start : rows.stop], None, None


def train_folds(
    settings: TrainSettings,
    folds: list[Fold],
    starts: list[Any],
    n_epochs: int,
    executor: Executor,
) -> Iterator[tuple[Epoch, ...]]:
    """Train all folds in parallel; yield an epoch of each."""
    segments = [
        FoldTraining(fold, settings, executor).segment(start, range(1, n_epochs + 1))
        for fold, start in zip(folds, starts, strict=True)
    ]
    return zip(*segments, strict=True)
