"""The task graph of training: the tasks of each epoch, and the workers they run on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from dask_als.cluster.placement import Placement
from dask_als.core import storage
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.executor import Executor
from dask_als.core.side import ITEMS, SIDES, USERS, Side, side_named
from dask_als.core.task_keys import TaskKey, TaskKind
from dask_als.data.block_files import read_block, read_test_block
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.model.manifest import read_manifest
from dask_als.planning.sizes import attribute_files, needs_whole_sides, sides_with_attributes
from dask_als.settings.training import TrainSettings
from dask_als.solvers.base import (
    HalfEpoch,
    Method,
    SolvedPart,
    error_of_average,
)
from dask_als.solvers.choice import method_of
from dask_als.solvers.objective import rmse
from dask_als.solvers.row_prior import RegressionMethod
from dask_als.training.home_exchange import HomeExchange
from dask_als.training.home_tasks import held_out_error, predictions_added, side_without_rows
from dask_als.training.pacing import batches, epochs_per_batch, one_ahead
from dask_als.training.prediction_files import predictions_path, read_predictions
from dask_als.training.row_prior_tasks import RowPriorTasks
from dask_als.training.sides import Homes, SideHandles
from dask_als.training.start import Start
from dask_als.training.whole_sides import WholeSides

# The scheduler keeps all ancestors of a live task until the lineage is truncated.
_MAX_TASKS_IN_LINEAGE = 5_000
_MAX_EPOCHS_IN_LINEAGE = 50


@dataclass(frozen=True)
class Epoch:
    """A completed epoch.

    Attributes
    ----------
    figures : EpochFigures
    sides : dict of Side to SideHandles
        The solved sides in the workers' memory.
    predictions : list of handle
        The sum of predictions over the kept epochs so far, for each block of held-out ratings;
        empty before the first kept epoch.
    row_priors : dict of Side to list of handle
        Of the sides with attributes: a replica on each home.
    """

    figures: EpochFigures
    sides: dict[Side, SideHandles]
    predictions: list[Any] = field(default_factory=list)
    row_priors: dict[Side, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _SubmittedEpoch:
    """The handles of a submitted epoch: sides, sums of predictions, held-out errors."""

    number: int
    sides: dict[Side, SideHandles]
    row_priors: dict[Side, list[Any]]
    predictions: list[Any]
    test_errors: list[Any]


class TaskGraph:
    """The tasks that train on a dataset. Its blocks stay in the workers' memory.

    Parameters
    ----------
    dataset : Dataset
    settings : TrainSettings
    executor : Executor
    whole_sides : bool, optional
        Whether `SideHandles.whole` has all rows of a side; otherwise, that is only sure on one
        worker.

    Raises
    ------
    InputError
        If the dataset's ids are corrupt or belong to another dataset.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: TrainSettings,
        executor: Executor,
        *,
        whole_sides: bool = False,
    ) -> None:
        dataset.check_rows()
        self.dataset = dataset
        self.settings = settings
        self.executor = executor
        self.mean = training_mean(dataset, settings)
        self._method = method_of(settings, self.mean)
        self.implicit = sides_with_attributes(dataset, settings)
        self.attribute_files = attribute_files(dataset, settings)
        self._whole_sides = whole_sides or needs_whole_sides(dataset, settings)
        self._homes = self._homes_on(Placement(()), threads=1)
        self._exchange: HomeExchange | WholeSides
        self.redistribute()

    @property
    def max_lineage(self) -> int:
        """The number of epochs after which the lineage must be truncated."""
        partitions = map(len, self._homes.rows.values())
        n_test_blocks = len(self._exchange.test_blocks)
        tasks_per_epoch = self._homes.placement.tasks_per_epoch(
            partitions, n_test_blocks, whole=isinstance(self._exchange, WholeSides)
        )
        # To fit a row prior takes at most twice the tasks of an epoch without one.
        tasks_per_epoch *= 1 + 2 * len({*self.implicit, *self.attribute_files})
        return min(_MAX_EPOCHS_IN_LINEAGE, max(1, _MAX_TASKS_IN_LINEAGE // tasks_per_epoch))

    def redistribute(self) -> None:
        """If the set of workers has changed, read all blocks again on the new set."""
        max_partitions = max(len(self.dataset.table(side).partitions) for side in SIDES)
        placement = Placement.on(self.executor.workers, max_partitions)
        if placement == self._homes.placement:
            return
        self._homes = self._homes_on(placement, self.executor.shape.threads)
        # Free the old blocks first, so that workers need no room for two copies.
        self._exchange = WholeSides(self._homes, self._method, {side: [] for side in SIDES}, {})
        blocks = {side: self._submit_blocks(side) for side in SIDES}
        test_blocks = self._submit_test_blocks()
        homes, method = self._homes, self._method
        if self._whole_sides or placement.n_homes == 1:
            self._exchange = WholeSides(homes, method, blocks, test_blocks)
        else:
            self._exchange = HomeExchange(homes, method, blocks, test_blocks)

    def _homes_on(self, placement: Placement, threads: int) -> Homes:
        rows = {side: [p.rows for p in self.dataset.table(side).partitions] for side in SIDES}
        return Homes(self.executor, placement, threads, rows)

    def home(self, side: Side, number: int) -> int:
        """Return the home of a partition."""
        return self._homes.home(side, number)

    def worker(self, side: Side, number: int) -> str | None:
        """Return the worker that is the home of a partition, or None for any worker."""
        return self._homes.placement.workers[self.home(side, number)]

    def segment(
        self, start: Start, numbers: range, checkpoint: str | None = None
    ) -> Iterator[Epoch]:
        """Train the epochs of a segment.

        Parameters
        ----------
        start : callable
            Returns the factors that the first epoch starts from.
        numbers : range
            The numbers of the epochs.
        checkpoint : str, optional
            The checkpoint with the sums of predictions over earlier epochs.

        Yields
        ------
        Epoch
        """
        clock = before = time.perf_counter()
        pace = math.inf
        submitted = self._submit_epochs(start, numbers, checkpoint)
        batched = batches(submitted, lambda: epochs_per_batch(pace))
        # The next batch is submitted before the figures of this one are awaited.
        for batch, handle in one_ahead((batch, self._submit_figures(batch)) for batch in batched):
            n_epochs, before, since = len(batch), clock, before
            (results,) = self.executor.gather([handle])
            clock = time.perf_counter()
            seconds = (clock - before) / n_epochs
            for value, train_rmse, test_rmse in results:
                epoch = batch.popleft()
                figures = EpochFigures(epoch.number, value, train_rmse, test_rmse, seconds)
                yield Epoch(figures, epoch.sides, epoch.predictions, epoch.row_priors)
                # Free the handles before awaiting the next epochs.
                del epoch
            # Over two batches: a batch may already be complete when the previous figures arrive.
            pace = (clock - since) / n_epochs

    def submit_sides(
        self, start: Start, epoch: int, row_priors: dict[Side, list[Any]] | None = None
    ) -> dict[Side, SideHandles]:
        """Submit both sides as `start` returns them; they are those of `epoch`."""
        first = side_named(self.settings.first)
        parts = {side: self._submit_start(side, start) for side in (first, first.other)}
        if isinstance(self._exchange, WholeSides):
            return self._exchange.start(parts, epoch, row_priors)
        return self._exchange.start(parts, epoch)

    def _submit_epochs(
        self, start: Start, numbers: range, checkpoint: str | None
    ) -> Iterator[_SubmittedEpoch]:
        predicted = self._submit_read_predictions(checkpoint)
        tasks = RowPriorTasks(
            self.settings,
            self.implicit,
            self.attribute_files,
            self.executor,
            self._homes.placement,
            self._exchange.blocks,
        )
        priors = tasks.start(checkpoint)
        method = cast(RegressionMethod, self._method)
        sides = self.submit_sides(start, numbers.start - 1, priors)
        first = side_named(self.settings.first)
        for number in numbers:
            for side in (first, first.other):
                step = HalfEpoch(side, number)
                if side in priors:
                    stepped = tasks.step(method, step, sides[side].homes, priors[side])
                    priors = {**priors, side: stepped}
                solved = self._submit_half_epoch(step, sides, priors.get(side))
                sides = {**sides, side: solved}
            if self.settings.keeps(number):
                predicted = self._submit_predictions(number, sides, predicted)
                errors = self._submit_errors_of_average(number, predicted)
            else:
                errors = self._submit_errors(number, sides)
            yield _SubmittedEpoch(number, sides, priors, predicted, errors)

    def _submit_half_epoch(
        self, step: HalfEpoch, sides: dict[Side, SideHandles], priors: list[Any] | None
    ) -> SideHandles:
        if isinstance(self._exchange, WholeSides):
            return self._exchange.half_epoch(step, sides, priors)
        return self._exchange.half_epoch(step, sides)

    def _submit_errors(self, epoch: int, sides: dict[Side, SideHandles]) -> list[Any]:
        return [
            self._homes.submit_for(
                USERS,
                number,
                held_out_error,
                self._method,
                block,
                sides[ITEMS].homes[self.home(USERS, number)],
                *sides[USERS].parts[number],
                key=TaskKey(TaskKind.TEST, epoch=epoch, number=number),
            )
            for number, block in self._exchange.test_blocks.items()
        ]

    def _submit_predictions(
        self, epoch: int, sides: dict[Side, SideHandles], before: list[Any]
    ) -> list[Any]:
        return [
            self._homes.submit_for(
                USERS,
                number,
                predictions_added,
                block,
                self.mean,
                before[position] if before else None,
                sides[ITEMS].homes[self.home(USERS, number)],
                *sides[USERS].parts[number],
                key=TaskKey(TaskKind.PREDICTIONS, epoch=epoch, number=number),
            )
            for position, (number, block) in enumerate(self._exchange.test_blocks.items())
        ]

    def _submit_errors_of_average(self, epoch: int, predicted: list[Any]) -> list[Any]:
        n_averaged = sum(self.settings.keeps(number) for number in range(1, epoch + 1))
        blocks = self._exchange.test_blocks.items()
        return [
            self._homes.submit_for(
                USERS,
                number,
                error_of_average,
                block,
                total,
                n_averaged,
                key=TaskKey(TaskKind.TEST, epoch=epoch, number=number),
            )
            for (number, block), total in zip(blocks, predicted, strict=True)
        ]

    def _submit_figures(self, epochs: Sequence[_SubmittedEpoch]) -> Any:
        """Compute the figures of a batch in one task: a task can cost as much as an epoch."""
        first = side_named(self.settings.first)
        return self.executor.submit(
            _figures_of_epochs,
            [
                [epoch.sides[first].whole, epoch.sides[first.other].whole, epoch.test_errors]
                for epoch in epochs
            ],
            (self.dataset.n_ratings, self.dataset.train_weight, self.dataset.test_weight),
            self._method,
            key=_key(TaskKind.FIGURES, epoch=epochs[0].number),
        )

    def _submit_start(self, side: Side, start: Start) -> list[Any]:
        return [
            self._homes.submit_for(
                side,
                number,
                _start_part,
                self._method,
                start,
                side,
                rows,
                self.settings,
                key=TaskKey(TaskKind.START, side, number=number),
            )
            for number, rows in enumerate(self._homes.rows[side])
        ]

    def _submit_blocks(self, side: Side) -> list[Any]:
        return [
            self.executor.submit(
                read_block,
                self.dataset.path,
                side,
                number,
                partition,
                key=_key(TaskKind.READ, side, number=number),
                worker=self.worker(side, number),
            )
            for number, partition in enumerate(self.dataset.table(side).partitions)
        ]

    def _submit_test_blocks(self) -> dict[int, Any]:
        """Return the blocks of held-out ratings by the number of their user partition."""
        return {
            number: self.executor.submit(
                read_test_block,
                self.dataset.path,
                number,
                partition,
                key=_key(TaskKind.READ_TEST, number=number),
                worker=self.worker(USERS, number),
            )
            for number, partition in enumerate(self.dataset.users.partitions)
            if partition.test_ratings
        }

    def _submit_read_predictions(self, checkpoint: str | None) -> list[Any]:
        if checkpoint is None:
            return []
        kept = read_manifest(checkpoint).kept
        checksums: Sequence[int | None] = () if kept is None else kept.predictions
        # Older checkpoints have no checksums of their predictions.
        if kept is None and storage.exists(predictions_path(checkpoint, 0)):
            checksums = [None] * len(self._exchange.test_blocks)
        if not checksums:
            return []
        if len(checksums) != len(self._exchange.test_blocks):
            raise InputError(f"{checkpoint} is damaged: it has {len(checksums)} predictions")
        partitions = self.dataset.users.partitions
        return [
            self.executor.submit(
                read_predictions,
                predictions_path(checkpoint, position),
                partitions[number].test_ratings,
                crc32,
                key=_key(TaskKind.READ_PREDICTIONS, number=position),
            )
            for position, (number, crc32) in enumerate(
                zip(self._exchange.test_blocks, checksums, strict=True)
            )
        ]


def training_mean(dataset: Dataset, settings: TrainSettings) -> float:
    """Return the mean that training subtracts from the ratings."""
    return dataset.rating_mean if settings.center and settings.feedback == "explicit" else 0.0


def _key(
    kind: TaskKind, side: Side | None = None, epoch: int | None = None, number: int | None = None
) -> str:
    return str(TaskKey(kind, side, epoch, number))


def _start_part(
    method: Method, start: Start, side: Side, rows: range, settings: TrainSettings
) -> SolvedPart:
    return method.start_part(*start(side, rows, settings))


def _figures_of_epochs(
    epochs: list[tuple[Any, Any, list[int]]],
    totals: tuple[int, float, float],
    method: Method,
) -> list[tuple[float, float, float | None]]:
    n_ratings, train_weight, test_weight = totals
    return [
        (
            *method.figures(
                side_without_rows(first), side_without_rows(last), n_ratings, train_weight
            ),
            rmse(sum(test_errors), test_weight) if test_weight else None,
        )
        for first, last, test_errors in epochs
    ]
