"""The training loop: segments of epochs, checkpoints between them, and resuming after losses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from dask_als.core import checksums, storage
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.executor import Executor
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import BEST_MODEL, CHECKPOINT, REDUCTION, SAMPLE, Kind
from dask_als.core.side import ITEMS, USERS
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError, WorkersLostError
from dask_als.model import sample_files
from dask_als.model.manifest import MANIFEST, KeptFiles, ModelManifest, read_manifest
from dask_als.settings.reduction import Schedule
from dask_als.settings.training import CheckpointSettings, StopSettings, TrainSettings
from dask_als.training import reduction_files
from dask_als.training.callbacks import Callback, TrainedEpoch
from dask_als.training.checkpoints import (
    best_path,
    check_best,
    check_continues,
    checkpoint_path,
    complete_checkpoints,
    read_whole_history,
    reduction_path,
    remove_best,
    remove_checkpoints,
    remove_samples,
    sample_path,
)
from dask_als.training.early_stopping import best_epoch, reason_to_stop
from dask_als.training.reduction import Reducer, Stack
from dask_als.training.row_prior_writer import write_row_priors
from dask_als.training.start import Start, start_from_model
from dask_als.training.task_graph import Epoch, TaskGraph
from dask_als.training.writers import ModelWriter

_MAX_LOSSES_PER_SEGMENT = 10


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run.

    Attributes
    ----------
    dataset : Dataset
    settings : TrainSettings
    executor : Executor
    checkpoints : CheckpointSettings
    stopping : StopSettings
    start : callable
        Returns the initial factors of a run that does not resume from a checkpoint.
    callbacks : sequence of callable
        Each is called after every epoch.
    """

    dataset: Dataset
    settings: TrainSettings
    executor: Executor
    checkpoints: CheckpointSettings
    stopping: StopSettings
    start: Start
    callbacks: Sequence[Callback]


@dataclass
class _Progress:
    """The progress of a run. It outlives the handles of a task graph.

    Attributes
    ----------
    config : RunConfig
    start : callable
        Returns the factors that the segment starts from.
    checkpoint : str or None
        The checkpoint that the segment starts from, if any.
    history : list of EpochFigures
        The figures of all completed epochs.
    samples : dict of int to int or None
        The CRC-32 of each kept sample's manifest, by epoch; None if unknown.
    reductions : dict of int to int
        The CRC-32 of each reduction's manifest, by epoch.
    losses : int
        How often workers have been lost since the last checkpoint.
    is_over : bool
        Whether the last epoch of the history ends the training.
    """

    config: RunConfig
    start: Start
    checkpoint: str | None = None
    history: list[EpochFigures] = field(default_factory=list)
    samples: dict[int, int | None] = field(default_factory=dict)
    reductions: dict[int, int] = field(default_factory=dict)
    losses: int = 0
    is_over: bool = False

    @property
    def best(self) -> EpochFigures:
        """The epoch with the lowest held-out RMSE."""
        return best_epoch(self.history)

    def record(self, figures: EpochFigures) -> None:
        """Append an epoch, and decide whether training ends with it."""
        self.rewind([*self.history, figures])

    def rewind(self, history: list[EpochFigures]) -> None:
        """Continue after the epochs of a history."""
        self.history = history
        # Those of epochs that are trained again are written again.
        self.reductions = {
            epoch: crc32 for epoch, crc32 in self.reductions.items() if epoch <= len(history)
        }
        all_done = len(history) == self.config.settings.epochs
        self.is_over = all_done or reason_to_stop(history, self.config.stopping) is not None

    def resume(self, checkpoint: str) -> None:
        """Start the next segment from a checkpoint."""
        self.rewind(read_whole_history(checkpoint))
        kept = read_manifest(checkpoint).kept
        if kept is not None:
            numbers = self.sampled_epochs(len(self.history))
            self.samples = dict(zip(numbers, kept.samples, strict=False))
            last = Schedule(self.config.settings).last(len(self.history))
            if kept.reduction is not None and last is not None:
                self.reductions = {last: kept.reduction}
        self.start = start_from_model(checkpoint)
        self.checkpoint = checkpoint
        self.losses = 0

    def sampled_epochs(self, last: int) -> list[int]:
        """Return the epochs up to `last` whose samples are kept."""
        return [number for number in range(1, last + 1) if self.config.settings.keeps(number)]


class Run:
    """A training run, from the start or the newest checkpoint to the written model.

    Parameters
    ----------
    config : RunConfig
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._progress = _Progress(config, config.start)

    def resume(self) -> list[EpochFigures]:
        """Resume from the newest checkpoint, if there is one; return the epochs before it.

        Raises
        ------
        InputError
            If the checkpoint belongs to another dataset or other settings, or the best model that
            patience needs was not kept.
        """
        found = complete_checkpoints(self.config.checkpoints.directory)
        if found:
            check_continues(found[-1], self.config.dataset, self.config.settings)
            self._progress.resume(found[-1])
            self._check_best_is_kept(found[-1])
        return list(self._progress.history)

    def train(self, directory: str) -> ModelManifest:
        """Train the remaining epochs, and write the model.

        Raises
        ------
        WorkersLostError
            If workers are lost repeatedly without reaching a checkpoint in between.
        """
        while True:
            try:
                return _Attempt(self.config, self._progress).train(directory)
            except WorkersLostError as lost:
                self._progress.losses += 1
                if self._progress.losses == _MAX_LOSSES_PER_SEGMENT:
                    times = self._progress.losses
                    raise WorkersLostError(f"{lost}, {times} times in a row") from None
                found = complete_checkpoints(self.config.checkpoints.directory)
                self._progress.rewind(read_whole_history(found[-1]) if found else [])

    def _check_best_is_kept(self, checkpoint: str) -> None:
        if self.config.stopping.patience is None:
            return
        figures = self._progress.best
        best = best_path(self.config.checkpoints.directory, figures.epoch)
        if not storage.exists(storage.join(best, MANIFEST)):
            raise InputError(
                f"{checkpoint} was trained without --patience, so the best model up to there was "
                "not kept; resume without --patience, or start again"
            )
        check_best(best, figures, self.config.dataset, self.config.settings)


class _Attempt:
    """One attempt at a run: it ends when the model is written, or when workers are lost."""

    def __init__(self, config: RunConfig, progress: _Progress) -> None:
        self._config = config
        self._progress = progress
        self._graph = TaskGraph(config.dataset, config.settings, config.executor)
        self._writer = ModelWriter(self._graph)
        self._schedule = Schedule(config.settings)
        # With patience: the best epoch, until a checkpoint writes its model.
        self._best: Epoch | None = None

    @property
    def _directory(self) -> str:
        return self._config.checkpoints.directory

    @property
    def _has_patience(self) -> bool:
        return self._config.stopping.patience is not None

    def train(self, directory: str) -> ModelManifest:
        """Train segment by segment, and write the model."""
        while True:
            last = self._train_segment()
            if self._progress.is_over:
                return self._write_model(self._epoch_to_keep(last), directory)
            self._write_checkpoint(last)
            # Its handles would keep all earlier tasks alive.
            del last
            self._graph.redistribute()

    def _train_segment(self) -> Epoch:
        """Train up to the next checkpoint or the end, and return the last epoch."""
        checkpoints, progress = self._config.checkpoints, self._progress
        deadline = time.monotonic() + 60 * (checkpoints.minutes or math.inf)
        every = min(checkpoints.every, self._graph.max_lineage)
        done = len(progress.history)
        stop = min(self._config.settings.epochs, (done // every + 1) * every)
        if progress.is_over:
            return Epoch(progress.history[-1], self._graph.submit_sides(progress.start, done))
        numbers = range(done + 1, stop + 1)
        for epoch in self._graph.segment(progress.start, numbers, progress.checkpoint):
            self._record(epoch)
            if epoch.figures.epoch == stop or progress.is_over or time.monotonic() > deadline:
                return epoch
            # Free the handles before awaiting the next epoch.
            del epoch
        raise AssertionError("a segment ends with its last epoch")

    def _record(self, epoch: Epoch) -> None:
        """Record an epoch, write its sample, and call the callbacks."""
        progress = self._progress
        progress.record(epoch.figures)
        if self._has_patience and progress.best == epoch.figures:
            self._best = epoch
        if self._config.settings.keeps(epoch.figures.epoch):
            self._write_sample(epoch)
            self._reduce_samples(epoch.figures.epoch)
        history = tuple(progress.history)
        write = partial(self._writer.write_model, epoch, history)
        trained = TrainedEpoch(epoch.figures, history, write)
        # A list, so that every callback is called whatever an earlier one returns.
        answers = [callback(trained) for callback in self._config.callbacks]
        progress.is_over = progress.is_over or any(answers)

    def _epoch_to_keep(self, last: Epoch) -> Epoch:
        """Return the epoch whose model is written: the last one, or with patience the best."""
        if not self._has_patience:
            return last
        figures = self._progress.best
        if figures == last.figures:
            return last
        if self._best is not None:
            return self._best
        start = start_from_model(best_path(self._directory, figures.epoch))
        return Epoch(figures, self._graph.submit_sides(start, figures.epoch))

    def _write_model(self, epoch: Epoch, directory: str) -> ModelManifest:
        """Write the model of an epoch, or of the samples up to it."""
        figures, history = epoch.figures, self._progress.history
        numbers = self._progress.sampled_epochs(figures.epoch)
        if not numbers:
            return self._writer.write_model(epoch, history, directory)
        rank = self._config.settings.reduced_rank
        if rank is None:
            return self._writer.write_average(self._samples(numbers), figures, history, directory)
        self._reduce_samples(figures.epoch)
        stack = self._stack(figures.epoch, self._schedule.last(figures.epoch))
        return self._writer.write_compact(stack, rank, figures, history, directory)

    def _samples(self, numbers: Iterable[int]) -> dict[str, int | None]:
        return {
            sample_path(self._directory, number): self._progress.samples.get(number)
            for number in numbers
        }

    def _stack(self, epoch: int, last: int | None) -> Stack:
        """Return all samples up to an epoch: the last reduction, and those after it."""
        directory, progress = self._directory, self._progress
        if last is None:
            return Stack(self._samples(range(self._config.settings.burn_in + 1, epoch + 1)), None)
        reduction = reduction_path(directory, last), progress.reductions[last]
        return Stack(self._samples(range(last + 1, epoch + 1)), reduction)

    def _reduce_samples(self, epoch: int) -> None:
        """Cut down the samples up to an epoch, if enough are waiting, and remove them."""
        done = self._progress.reductions
        # More than one if an earlier release, or --keep-samples, kept the samples of all epochs.
        due = [
            number for number in self._schedule.reductions(epoch) if number > max(done, default=0)
        ]
        for number in due:
            self._write_reduction(number)
        if due:
            remove_samples(self._directory, self._schedule, len(self._progress.history))

    def _write_reduction(self, epoch: int) -> None:
        path = reduction_path(self._directory, epoch)
        stack = self._stack(epoch, max(self._progress.reductions, default=None))
        with staged_directory(path, REDUCTION, overwrite=True) as staging:
            reducer = Reducer(self._graph)
            reducer.write_reduction(stack, self._schedule.working_rank, staging)
        # Only now: leaving the block adds the ownership marks to the manifest.
        crc32 = checksums.crc32_of(storage.join(path, reduction_files.MANIFEST))
        self._progress.reductions[epoch] = crc32

    def _write_checkpoint(self, last: Epoch) -> None:
        """Write a checkpoint and resume from it, which truncates the lineage."""
        best, self._best = self._best, None
        if best is not None:
            self._write_epoch(best, best_path(self._directory, best.figures.epoch), BEST_MODEL)
        path = checkpoint_path(self._directory, last.figures.epoch)
        self._write_epoch(last, path, CHECKPOINT)
        if best is not None:
            # Only now: a resume from the previous checkpoint would have needed it.
            remove_best(self._directory, but=best_path(self._directory, best.figures.epoch))
        remove_checkpoints(self._directory, keep=self._config.checkpoints.keep)
        if self._config.settings.reduced_rank is not None:
            remove_samples(self._directory, self._schedule, last.figures.epoch)
        self._progress.resume(path)

    def _write_epoch(self, epoch: Epoch, path: str, kind: Kind) -> None:
        progress = self._progress
        history = progress.history[: epoch.figures.epoch]
        with staged_directory(path, kind, overwrite=True) as staging:
            predictions = self._writer.write_predictions(epoch, staging)
            numbers = progress.sampled_epochs(epoch.figures.epoch)
            samples = tuple(progress.samples.get(number) for number in numbers)
            reduction = self._schedule.last(epoch.figures.epoch)
            priors = write_row_priors(self._graph, epoch, staging)
            kept = KeptFiles(
                predictions,
                samples,
                None if reduction is None else progress.reductions.get(reduction),
                priors.get(USERS),
                priors.get(ITEMS),
            )
            self._writer.write_model(epoch, history, staging, kept)

    def _write_sample(self, epoch: Epoch) -> None:
        path = sample_path(self._directory, epoch.figures.epoch)
        with staged_directory(path, SAMPLE, overwrite=True) as staging:
            self._writer.write_sample(epoch, staging)
        # Only now: leaving the block adds the ownership marks to the manifest.
        crc32 = checksums.crc32_of(storage.join(path, sample_files.MANIFEST))
        self._progress.samples[epoch.figures.epoch] = crc32
