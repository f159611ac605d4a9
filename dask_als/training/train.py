"""Training: half-epochs by turns over the partitions of a dataset, and the model they leave."""

from __future__ import annotations

import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from dask_als.cluster.placement import Placement
from dask_als.core import storage, table_files
from dask_als.core.blocks import Factors, random_factors, zero_factors
from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.executor import Executor
from dask_als.core.limits import ParquetLimit
from dask_als.core.output_lock import held
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import BEST_MODEL, CHECKPOINT, MODEL, SAMPLE, Kind
from dask_als.core.run_events import Listener, RunInfo
from dask_als.core.side import SIDES, USERS, Side, side_named
from dask_als.data.dataset import Dataset, Partition, RowsFile, read_block, read_test_block
from dask_als.errors import ClusterLostError, InputError, NotFiniteError, WorkersLostError
from dask_als.model import files as model_files
from dask_als.model import sample_files
from dask_als.model.files import KeptFiles, ModelManifest, ModelSide
from dask_als.planning.plan import check_fits
from dask_als.settings.training import CheckpointSettings, StopSettings, TrainSettings
from dask_als.solvers.base import (
    HalfEpoch,
    Method,
    SolvedPart,
    SolvedSide,
    add_predictions,
    chunk_of,
    error_of_average,
    solve_side,
)
from dask_als.solvers.methods import method_of
from dask_als.solvers.objective import rmse
from dask_als.training.checkpoints import (
    best_path,
    check_best,
    check_checkpoints,
    check_continues,
    checkpoint_path,
    clear_checkpoints,
    complete_checkpoints,
    read_whole_history,
    remove_best,
    remove_checkpoints,
    sample_path,
)
from dask_als.training.early_stopping import best_epoch, reason_to_stop

T = TypeVar("T")

# Makes what a range of rows starts from, and what is known besides: which of them are rated and the
# residual precision that was drawn; runs as a task.
Start = Callable[[Side, range, TrainSettings], tuple[Factors, np.ndarray | None, float | None]]

# The scheduler keeps every ancestor of a task that is alive: so many before the chain is cut.
_TASKS_IN_A_CHAIN = 5_000
_MOST_EPOCHS_IN_A_CHAIN = 50
# To submit an epoch and to fetch its figures costs milliseconds, and for a few of them hardly more.
_SECONDS_OF_EPOCHS_AT_ONCE = 0.1
_MOST_LOSSES_WITHOUT_A_CHECKPOINT = 10


@dataclass(frozen=True)
class Epoch:
    """An epoch that has ended.

    Attributes
    ----------
    figures : EpochFigures
    sides : dict of Side to list of handle
        The solved sides, which stay where the workers hold them: a copy on each home.
    predictions : list of handle
        Of each block of held-out ratings, the sum over the epochs kept so far; empty before them.
    """

    figures: EpochFigures
    sides: dict[Side, list[Any]]
    predictions: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class _Submitted:
    """An epoch that has been submitted, as handles: of its sides and what is known of held-out."""

    number: int
    sides: dict[Side, list[Any]]
    predictions: list[Any]
    test_errors: list[Any]


@dataclass(frozen=True)
class TrainedEpoch:
    """What a callback is given: an epoch that has ended, and its model.

    Attributes
    ----------
    figures : EpochFigures
    history : tuple of EpochFigures
        Those of all epochs so far.
    """

    figures: EpochFigures
    history: tuple[EpochFigures, ...]
    _write: Callable[[str], ModelManifest] = field(repr=False)

    def save(self, directory: str) -> ModelManifest:
        """Write the model as it is after this epoch, by the workers; with gibbs, its sample.

        Raises
        ------
        InputError
            If `directory` is there already.
        """
        with staged_directory(directory, MODEL, overwrite=False) as staging:
            return self._write(staging)


# Called after each epoch; training ends there if it returns true.
Callback = Callable[[TrainedEpoch], object]


def random_start(side: Side, rows: range, settings: TrainSettings) -> tuple[Factors, None, None]:
    """Start from random factors."""
    state = random_factors(side, rows, rank=settings.rank, seed=settings.seed, dtype=settings.dtype)
    return state, None, None


def zero_start(side: Side, rows: range, settings: TrainSettings) -> tuple[Factors, None, None]:
    """Start from factors of 0, which fits biases alone."""
    return zero_factors(rows, rank=settings.rank, dtype=settings.dtype), None, None


def start_from_model(model: str) -> Start:
    """Start from the factors and biases of a model directory."""
    kept = model_files.read_manifest(model).residual_precision
    return partial(_read_start, storage.absolute(model), kept)


def _read_start(
    model: str, residual_precision: float | None, side: Side, rows: range, settings: TrainSettings
) -> tuple[Factors, np.ndarray, float | None]:
    state, rated = model_files.read_state(model, side, rows, settings.dtype)
    return state, rated, residual_precision


def check_start(model: str, dataset: Dataset, settings: TrainSettings) -> None:
    """Check that training can start from a model.

    Raises
    ------
    InputError
        If model, dataset and settings do not belong together.
    """
    manifest = model_files.read_manifest(model)
    model_files.check_same_ids(manifest, dataset, model)
    if manifest.samples > 1:
        raise InputError(f"{model} is an average of samples; start from a model that is none")
    if manifest.settings.rank != settings.rank:
        raise InputError(
            f"{model} has rank {manifest.settings.rank}, the settings say {settings.rank}; "
            f"give --rank {manifest.settings.rank}"
        )


class Training:
    """A dataset's partitions in the workers' memory, trained a stretch of epochs at a time.

    Parameters
    ----------
    dataset : Dataset
    settings : TrainSettings
    executor : Executor

    Raises
    ------
    InputError
        If the ids of the dataset are damaged, or of another one.
    """

    def __init__(self, dataset: Dataset, settings: TrainSettings, executor: Executor) -> None:
        dataset.check_rows()
        self.dataset = dataset
        self.settings = settings
        self.executor = executor
        self._mean = training_mean(dataset, settings)
        self._method = method_of(settings, self._mean)
        self._placement = Placement(())
        self._blocks: dict[Side, list[Any]] = {}
        self._test_blocks: dict[int, Any] = {}
        self.share_out()

    @property
    def longest_chain(self) -> int:
        """After how many epochs the chain of tasks is to be cut."""
        solves = sum(len(blocks) for blocks in self._blocks.values())
        tasks_an_epoch = solves + len(self._test_blocks) + len(SIDES) * self._placement.n_homes + 1
        return min(_MOST_EPOCHS_IN_A_CHAIN, max(1, _TASKS_IN_A_CHAIN // tasks_an_epoch))

    def share_out(self) -> None:
        """Have all blocks read anew if the workers changed, so that each of them gets its share."""
        most = max(len(self.dataset.table(side).partitions) for side in SIDES)
        placement = Placement.on(self.executor.workers, most)
        if placement == self._placement:
            return
        self._placement = placement
        # Dropped first: workers need not have room for all blocks twice.
        self._blocks, self._test_blocks = {}, {}
        self._blocks = {side: self._submit_blocks(side) for side in SIDES}
        self._test_blocks = self._submit_test_blocks()

    def stretch(
        self, start: Start, numbers: range, checkpoint: str | None = None
    ) -> Iterator[Epoch]:
        """Train some epochs.

        Parameters
        ----------
        start : callable
            Makes what the first of them starts from.
        numbers : range
            The epochs' numbers.
        checkpoint : str, optional
            Where the sums of the predictions of kept epochs before are.

        Yields
        ------
        Epoch
        """
        clock = before = time.perf_counter()
        pace = math.inf
        submitted = self._submitted(start, numbers, self._predictions_of(checkpoint))
        batches = _batches(submitted, lambda: _epochs_at_once(pace))
        # While figures are waited for, the epochs after them are already submitted.
        for batch, handle in _one_ahead((batch, self._submit_figures(batch)) for batch in batches):
            n_epochs, before, since = len(batch), clock, before
            (results,) = self.executor.gather([handle])
            clock = time.perf_counter()
            seconds = (clock - before) / n_epochs
            for value, train_rmse, test_rmse in results:
                epoch = batch.popleft()
                figures = EpochFigures(epoch.number, value, train_rmse, test_rmse, seconds)
                yield Epoch(figures, epoch.sides, epoch.predictions)
                # What it holds is of no use while the next ones are waited for.
                del epoch
            # By two batches: one may be done already when the figures of the one before arrive.
            pace = (clock - since) / n_epochs

    def write(
        self,
        epoch: Epoch,
        history: list[EpochFigures],
        directory: str,
        kept: KeptFiles | None = None,
    ) -> ModelManifest:
        """Write the model of an epoch: the parts by the workers, then history and manifest.

        Parameters
        ----------
        kept : KeptFiles, optional
            Of a checkpoint, whose other files are written already.
        """
        ids = {side: self.dataset.rows_file(side) for side in SIDES}
        write_part = partial(_write_solved_part, directory, ids)
        written, mean_biases, residual_precision = self._write_parts(epoch, write_part)
        return self._completed(
            directory,
            epoch.figures,
            history,
            self._model_sides(mean_biases, written),
            residual_precision,
            kept=kept,
        )

    def write_sample(self, epoch: Epoch, directory: str) -> int:
        """Write the sample that an epoch has drawn: the parts by the workers, then the manifest.

        Returns
        -------
        int
            The manifest's CRC-32.
        """
        written, mean_biases, residual_precision = self._write_parts(
            epoch, partial(_write_sample_part, directory)
        )
        assert residual_precision is not None, "a method that samples draws it"
        sides = {
            side: sample_files.SampleSide(mean_biases[side], tuple(written[side])) for side in SIDES
        }
        manifest = sample_files.SampleManifest(sides, residual_precision)
        return sample_files.write_manifest(directory, manifest)

    def _write_parts(
        self, epoch: Epoch, write_part: Callable[[Side, int, Partition, SolvedSide], int]
    ) -> tuple[dict[Side, list[int]], dict[Side, float], float | None]:
        """Have the parts of both sides written; return their CRC-32, and what is known of sides."""
        written = {
            side: [
                self.executor.submit(
                    write_part,
                    side,
                    number,
                    partition,
                    epoch.sides[side][self._home(side, number)],
                    key=f"write-{side.name}-{number}",
                    worker=self._worker(side, number),
                )
                for number, partition in enumerate(self.dataset.table(side).partitions)
            ]
            for side in SIDES
        }
        figures = [
            self.executor.submit(
                _side_figures, epoch.sides[side][0], key=f"side-figures-{side.name}"
            )
            for side in SIDES
        ]
        checksums = self._gathered(written)
        by_side = dict(zip(SIDES, self.executor.gather(figures), strict=True))
        mean_biases = {side: mean_bias for side, (mean_bias, _) in by_side.items()}
        _, residual_precision = by_side[side_named(self.settings.first).other]
        return checksums, mean_biases, residual_precision

    def _gathered(self, handles: dict[Side, list[Any]]) -> dict[Side, list[Any]]:
        """Return the results of both sides' tasks."""
        results = iter(self.executor.gather([handle for its in handles.values() for handle in its]))
        return {side: [next(results) for _ in its] for side, its in handles.items()}

    def write_average(
        self,
        samples: dict[str, int | None],
        figures: EpochFigures,
        history: list[EpochFigures],
        directory: str,
    ) -> ModelManifest:
        """Write the average of samples that were kept: the parts by the workers, then the rest.

        Parameters
        ----------
        samples : dict of str to int or None
            Their paths, and the CRC-32 of their manifests, where it is known.
        """
        manifests = [
            sample_files.read_manifest(sample, crc32=crc32) for sample, crc32 in samples.items()
        ]
        for sample, its in zip(samples, manifests, strict=True):
            for side in SIDES:
                if len(its.sides[side].checksums) != len(self.dataset.table(side).partitions):
                    raise InputError(f"{sample} is of other partitions; start anew")
        written = {
            side: [
                self.executor.submit(
                    _write_average_part,
                    directory,
                    self.dataset.rows_file(side),
                    side,
                    number,
                    partition,
                    [
                        (path, manifest.sides[side].checksums[number])
                        for path, manifest in zip(samples, manifests, strict=True)
                    ],
                    key=f"average-{side.name}-{number}",
                )
                for number, partition in enumerate(self.dataset.table(side).partitions)
            ]
            for side in SIDES
        }
        mean_biases = {
            side: fmean(manifest.sides[side].mean_bias for manifest in manifests) for side in SIDES
        }
        return self._completed(
            directory,
            figures,
            history,
            self._model_sides(mean_biases, self._gathered(written)),
            # Variances have a mean, of which this is the inverse.
            1 / fmean(1 / manifest.residual_precision for manifest in manifests),
            samples=len(samples),
        )

    def write_predictions(self, epoch: Epoch, directory: str) -> tuple[int, ...]:
        """Write the sums of predictions of held-out ratings, to go on with them.

        Returns
        -------
        tuple of int
            CRC-32 of the files.
        """
        written = [
            self.executor.submit(
                _write_predictions, directory, number, predicted, key=f"write-predictions-{number}"
            )
            for number, predicted in enumerate(epoch.predictions)
        ]
        return tuple(self.executor.gather(written))

    def _predictions_of(self, checkpoint: str | None) -> list[Any]:
        if checkpoint is None:
            return []
        kept = model_files.read_manifest(checkpoint).kept
        checksums: Sequence[int | None] = () if kept is None else kept.predictions
        if kept is None and storage.exists(_predictions_path(checkpoint, 0)):
            checksums = [None] * len(self._test_blocks)
        if not checksums:
            return []
        if len(checksums) != len(self._test_blocks):
            raise InputError(f"{checkpoint} is damaged: it has {len(checksums)} predictions")
        partitions = self.dataset.users.partitions
        return [
            self.executor.submit(
                _read_predictions,
                _predictions_path(checkpoint, position),
                partitions[number].test_ratings,
                crc32,
                key=f"read-predictions-{position}",
            )
            for position, (number, crc32) in enumerate(
                zip(self._test_blocks, checksums, strict=True)
            )
        ]

    def _model_sides(
        self, mean_biases: dict[Side, float], checksums: dict[Side, list[int]]
    ) -> tuple[ModelSide, ModelSide]:
        """Return what the manifest says of users and items, whose parts are written."""
        users, items = (
            _model_side(self.dataset, side, mean_biases[side]).written(checksums[side])
            for side in SIDES
        )
        return users, items

    def _completed(
        self,
        directory: str,
        figures: EpochFigures,
        history: list[EpochFigures],
        sides: tuple[ModelSide, ModelSide],
        residual_precision: float | None,
        samples: int = 1,
        kept: KeptFiles | None = None,
    ) -> ModelManifest:
        users, items = sides
        history_crc32 = model_files.write_history(directory, history)
        manifest = ModelManifest(
            settings=self.settings,
            global_mean=self._mean,
            rating_min=self.dataset.rating_min,
            rating_max=self.dataset.rating_max,
            dataset={"path": self.dataset.path, "fingerprint": self.dataset.fingerprint},
            users=users,
            items=items,
            figures=figures,
            samples=samples,
            residual_precision=residual_precision,
            history_crc32=history_crc32,
            kept=kept,
        )
        model_files.write_manifest(directory, manifest)
        return manifest

    def _home(self, side: Side, number: int) -> int:
        """Return the home of a partition."""
        return self._placement.home(number, len(self.dataset.table(side).partitions))

    def _worker(self, side: Side, number: int) -> str | None:
        """Return the worker that is a partition's home."""
        return self._placement.workers[self._home(side, number)]

    def sides_of(self, start: Start, epoch: int) -> dict[Side, list[Any]]:
        """Return the handles of both sides as they are after an epoch, from where it was kept."""
        return {side: self._submit_start(HalfEpoch(side, epoch), start) for side in SIDES}

    def _submitted(
        self, start: Start, numbers: range, predicted: list[Any]
    ) -> Iterator[_Submitted]:
        sides = self.sides_of(start, numbers.start - 1)
        first = side_named(self.settings.first)
        for number in numbers:
            for side in (first, first.other):
                sides = {**sides, side: self._submit_half_epoch(HalfEpoch(side, number), sides)}
            if self.settings.keeps(number):
                predicted = self._submit_predictions(number, sides, predicted)
                errors = self._submit_errors_of_average(number, predicted)
            else:
                errors = self._submit_errors(number, sides)
            yield _Submitted(number, sides, predicted, errors)

    def _submit_half_epoch(self, step: HalfEpoch, sides: dict[Side, list[Any]]) -> list[Any]:
        side, name = step.side, f"{step.side.name}-{step.epoch}"
        own, fixed = sides[side], sides[side.other]
        blocks = self._blocks[side]
        if len(blocks) == 1:
            # One task after another less, which counts where an epoch takes milliseconds.
            solved = self.executor.submit(
                solve_side, self._method, step, *blocks, own[0], fixed[0], key=f"solve-{name}-0"
            )
            return [solved] * self._placement.n_homes
        parts = [
            self.executor.submit(
                self._method.solve_part,
                step,
                block,
                own[self._home(side, number)],
                fixed[self._home(side, number)],
                key=f"solve-{name}-{number}",
                worker=self._worker(side, number),
            )
            for number, block in enumerate(blocks)
        ]
        return self._submit_join(step, parts, name)

    def _submit_join(self, step: HalfEpoch, parts: list[Any], name: str) -> list[Any]:
        """Put a side together on every home, of what each home has solved of it.

        Each link carries each byte once, both ways at once. That a whole side is pulled from the
        worker that joined it takes three to six times as long on 4 to 16 hosts (measured, see
        docs/scaling.md), and lasts longer with each one more.
        """
        workers = self._placement.workers
        chunks: list[Any] = []
        for home, own in self._placement.by_home(parts):
            if len(workers) == 1 or len(own) == 1:
                chunks += own
                continue
            key = f"chunk-{name}-{home}"
            chunks.append(self.executor.submit(chunk_of, own, key=key, worker=workers[home]))
        return [
            self.executor.submit(
                self._method.join_parts, step, chunks, key=f"broadcast-{name}-{home}", worker=worker
            )
            for home, worker in enumerate(workers)
        ]

    def _submit_errors(self, epoch: int, sides: dict[Side, list[Any]]) -> list[Any]:
        return [
            self.executor.submit(
                self._method.held_out_error,
                block,
                *(sides[side][self._home(USERS, number)] for side in SIDES),
                key=f"test-{epoch}-{number}",
                worker=self._worker(USERS, number),
            )
            for number, block in self._test_blocks.items()
        ]

    def _submit_predictions(
        self, epoch: int, sides: dict[Side, list[Any]], before: list[Any]
    ) -> list[Any]:
        return [
            self.executor.submit(
                add_predictions,
                block,
                *(sides[side][self._home(USERS, number)] for side in SIDES),
                self._mean,
                before[position] if before else None,
                key=f"predictions-{epoch}-{number}",
                worker=self._worker(USERS, number),
            )
            for position, (number, block) in enumerate(self._test_blocks.items())
        ]

    def _submit_errors_of_average(self, epoch: int, predicted: list[Any]) -> list[Any]:
        n_kept = sum(self.settings.keeps(number) for number in range(1, epoch + 1))
        return [
            self.executor.submit(
                error_of_average,
                block,
                total,
                n_kept,
                key=f"test-{epoch}-{number}",
                worker=self._worker(USERS, number),
            )
            for (number, block), total in zip(self._test_blocks.items(), predicted, strict=True)
        ]

    def _submit_figures(self, epochs: Sequence[_Submitted]) -> Any:
        """Have the figures of some epochs made by one task: where epochs are short, tasks count."""
        first = side_named(self.settings.first)
        return self.executor.submit(
            _figures_of_epochs,
            [
                [epoch.sides[first][0], epoch.sides[first.other][0], epoch.test_errors]
                for epoch in epochs
            ],
            (self.dataset.n_ratings, self.dataset.n_test),
            self._method,
            key=f"figures-{epochs[0].number}",
        )

    def _submit_start(self, step: HalfEpoch, start: Start) -> list[Any]:
        name = step.side.name
        parts = [
            self.executor.submit(
                _start_part,
                self._method,
                start,
                step.side,
                partition.rows,
                self.settings,
                key=f"start-{name}-{number}",
                worker=self._worker(step.side, number),
            )
            for number, partition in enumerate(self.dataset.table(step.side).partitions)
        ]
        return self._submit_join(step, parts, f"{name}-0")

    def _submit_blocks(self, side: Side) -> list[Any]:
        return [
            self.executor.submit(
                read_block,
                self.dataset.path,
                side,
                number,
                partition,
                key=f"read-{side.name}-{number}",
                worker=self._worker(side, number),
            )
            for number, partition in enumerate(self.dataset.table(side).partitions)
        ]

    def _submit_test_blocks(self) -> dict[int, Any]:
        """Return the blocks of held-out ratings, by the number of their partition of users."""
        return {
            number: self.executor.submit(
                read_test_block,
                self.dataset.path,
                number,
                partition,
                key=f"read-test-{number}",
                worker=self._worker(USERS, number),
            )
            for number, partition in enumerate(self.dataset.users.partitions)
            if partition.test_ratings
        }


def train(
    dataset: Dataset,
    model: str,
    settings: TrainSettings,
    executor: Executor,
    *,
    initial_model: str | None = None,
    checkpoints: CheckpointSettings | None = None,
    stopping: StopSettings = StopSettings(),
    overwrite: bool = False,
    on_epoch: Callable[[EpochFigures], None] = lambda figures: None,
    callbacks: Sequence[Callback] = (),
    listener: Listener = Listener(),
) -> ModelManifest:
    """Train on a dataset and write the model.

    Parameters
    ----------
    model : str
        The directory to write.
    initial_model : str, optional
        A model directory to start from; None starts from random factors.
    checkpoints : CheckpointSettings, optional
        Without them, none outlive the training.
    stopping : StopSettings, optional
        What ends the training before its last epoch.
    overwrite : bool, optional
        Whether a model that is there, and checkpoints of an earlier training, are replaced.
    on_epoch : callable, optional
        Told the figures of every epoch.
    callbacks : sequence of callable, optional
        Each is given a `TrainedEpoch` after every epoch; one that returns true ends the training.
        An epoch that has to be trained again, after workers were lost, is told again.
    listener : Listener, optional
        Told of epochs as well, and of half-epochs where the cluster can be watched.

    Raises
    ------
    InputError
        If `model` is there already, something does not belong to the dataset, `stopping` does not
        go with the method or has no held-out ratings to go by, the workers have too little memory,
        or another training uses the same checkpoints.
    JobError
        If workers, or the whole cluster, were lost and did not come back.
    """
    if initial_model is not None:
        check_start(initial_model, dataset, settings)
    _check_stopping(stopping, dataset, settings)
    check_fits(dataset, settings, executor.shape, stopping=stopping)
    read = [dataset.path, *([] if initial_model is None else [initial_model])]
    with (
        nullcontext()
        if checkpoints is None
        else held(checkpoints.directory, uuid.uuid4().hex[:12]),
        staged_directory(model, MODEL, overwrite=overwrite, inputs=read) as staging,
        executor.watched(_run_info(dataset, model, settings), listener) as watch,
    ):
        own = storage.join(staging, "checkpoints")
        if checkpoints is not None:
            check_checkpoints(checkpoints.directory)
            if not checkpoints.resume:
                clear_checkpoints(checkpoints.directory, overwrite=overwrite, inputs=read)
        run = _Run(
            dataset=dataset,
            settings=settings,
            executor=executor,
            checkpoints=checkpoints or CheckpointSettings(directory=own, every=settings.epochs),
            stopping=stopping,
            on_epoch=on_epoch,
            watch=watch,
            listener=listener,
            callbacks=callbacks,
            start=random_start if initial_model is None else start_from_model(initial_model),
        )
        try:
            manifest = run.into(staging)
        except (ClusterLostError, WorkersLostError) as lost:
            raise type(lost)(f"{lost}; {_how_to_go_on(checkpoints)}") from lost
        except NotFiniteError:
            raise InputError(_what_overflows(dataset, settings)) from None
        storage.remove(own)
        return manifest


def _check_stopping(stopping: StopSettings, dataset: Dataset, settings: TrainSettings) -> None:
    if settings.method == "gibbs" and stopping != StopSettings():
        raise InputError(
            "--stop-when-flat and --patience stop epochs that come to rest, and those of gibbs are "
            f"samples, which do not; leave them out, and give fewer --samples than "
            f"{settings.samples} for a shorter training"
        )
    if stopping.patience is not None and not dataset.n_test:
        raise InputError(
            f"patience needs held-out ratings and {dataset.path} has none; "
            "prepare it with --test-fraction 0.1"
        )


def _run_info(dataset: Dataset, model: str, settings: TrainSettings) -> RunInfo:
    return RunInfo(
        model=storage.absolute(model),
        dataset=dataset.path,
        n_users=dataset.users.n_rows,
        n_items=dataset.items.n_rows,
        n_ratings=dataset.n_ratings,
        n_test=dataset.n_test,
        partitions={
            side.name: tuple(partition.ratings for partition in dataset.table(side).partitions)
            for side in SIDES
        },
        settings=settings.to_json(),
    )


def _how_to_go_on(checkpoints: CheckpointSettings | None) -> str:
    if checkpoints is None:
        return "nothing was kept; with --checkpoint DIR, --resume could go on from there"
    found = complete_checkpoints(checkpoints.directory)
    if not found:
        return f"there was no checkpoint in {checkpoints.directory} yet, so start anew"
    return f"the last checkpoint is {found[-1]}; the same command with --resume goes on from it"


@dataclass
class _Run:
    """A training from its start, or a checkpoint, to its model, whatever is lost on the way."""

    dataset: Dataset
    settings: TrainSettings
    executor: Executor
    checkpoints: CheckpointSettings
    stopping: StopSettings
    on_epoch: Callable[[EpochFigures], None]
    watch: Callable[[EpochFigures], None]
    listener: Listener
    callbacks: Sequence[Callback]
    start: Start
    history: list[EpochFigures] = field(default_factory=list)
    checkpoint: str | None = None
    losses: int = 0
    is_over: bool = False
    # With patience: the best epoch, unless a checkpoint has written it.
    best: Epoch | None = None
    # Of the samples that were kept, by epoch: the CRC-32 of their manifests, where it is known.
    samples: dict[int, int | None] = field(default_factory=dict)

    def into(self, directory: str) -> ModelManifest:
        """Train and write the model."""
        found = complete_checkpoints(self.checkpoints.directory)
        if found:
            check_continues(found[-1], self.dataset, self.settings)
            self.go_on_from(found[-1])
            for figures in self.history:
                self.watch(figures)
            self.check_best_is_kept(found[-1])
        while True:
            try:
                return self.all_stretches(directory)
            except WorkersLostError as lost:
                self.losses += 1
                if self.losses == _MOST_LOSSES_WITHOUT_A_CHECKPOINT:
                    raise WorkersLostError(f"{lost}, {self.losses} times in a row") from None
                found = complete_checkpoints(self.checkpoints.directory)
                self.set_back(read_whole_history(found[-1]) if found else [])

    def all_stretches(self, directory: str) -> ModelManifest:
        """Train what is left, a stretch at a time, and write the model."""
        training = Training(self.dataset, self.settings, self.executor)
        while True:
            last = self.one_stretch(training)
            if self.is_over:
                return self.write_model(training, self.kept(training, last), directory)
            self.write_checkpoint(training, last)
            # What it holds keeps all tasks before it alive.
            del last
            training.share_out()

    def one_stretch(self, training: Training) -> Epoch:
        """Train up to the next checkpoint, or the end; return the last epoch."""
        deadline = time.monotonic() + 60 * (self.checkpoints.minutes or math.inf)
        every = min(self.checkpoints.every, training.longest_chain)
        done = len(self.history)
        stop = min(self.settings.epochs, (done // every + 1) * every)
        if self.is_over:
            return Epoch(self.history[-1], training.sides_of(self.start, done))
        for epoch in training.stretch(self.start, range(done + 1, stop + 1), self.checkpoint):
            self.take_in(training, epoch)
            if epoch.figures.epoch == stop or self.is_over or time.monotonic() > deadline:
                return epoch
            # What it holds is of no use while the next one is waited for.
            del epoch
        raise AssertionError("a stretch ends with its last epoch")

    def take_in(self, training: Training, epoch: Epoch) -> None:
        """Note an epoch down, tell of it, and decide whether it is the last."""
        self.history.append(epoch.figures)
        self.decide()
        if self.stopping.patience is not None and best_epoch(self.history) == epoch.figures:
            self.best = epoch
        if self.settings.keeps(epoch.figures.epoch):
            self.write_sample(training, epoch)
        for tell in (self.watch, self.listener.epoch, self.on_epoch):
            tell(epoch.figures)
        if self.callbacks:
            history = list(self.history)
            write = partial(training.write, epoch, history)
            trained = TrainedEpoch(epoch.figures, tuple(history), write)
            # All are told, whatever the first one answers.
            answers = [callback(trained) for callback in self.callbacks]
            self.is_over = self.is_over or any(answers)

    def decide(self) -> None:
        """Decide by the history whether its last epoch is the last of all."""
        all_done = len(self.history) == self.settings.epochs
        self.is_over = all_done or reason_to_stop(self.history, self.stopping) is not None

    def kept(self, training: Training, last: Epoch) -> Epoch:
        """Return the epoch whose model is written: the last, or with patience the best."""
        if self.stopping.patience is None:
            return last
        figures = best_epoch(self.history)
        if figures == last.figures:
            return last
        if self.best is not None:
            return self.best
        path = best_path(self.checkpoints.directory, figures.epoch)
        return Epoch(figures, training.sides_of(start_from_model(path), figures.epoch))

    def write_model(self, training: Training, epoch: Epoch, directory: str) -> ModelManifest:
        """Write the model of an epoch, or the average of those that were kept up to it."""
        samples = {
            sample_path(self.checkpoints.directory, number): self.samples.get(number)
            for number in self.kept_epochs(epoch.figures.epoch)
        }
        if not samples:
            return training.write(epoch, self.history, directory)
        return training.write_average(samples, epoch.figures, self.history, directory)

    def write_checkpoint(self, training: Training, last: Epoch) -> None:
        """Write a checkpoint and go on from it, which cuts the chain of tasks."""
        if self.best is not None:
            best = best_path(self.checkpoints.directory, self.best.figures.epoch)
            self.write_epoch(training, self.best, best, BEST_MODEL)
        path = checkpoint_path(self.checkpoints.directory, last.figures.epoch)
        self.write_epoch(training, last, path, CHECKPOINT)
        if self.best is not None:
            # Only now: until the checkpoint was there, its forerunner's best was needed.
            remove_best(self.checkpoints.directory, but=best)
        remove_checkpoints(self.checkpoints.directory, keep=self.checkpoints.keep)
        self.go_on_from(path)

    def write_epoch(self, training: Training, epoch: Epoch, path: str, kind: Kind) -> None:
        """Write the model of an epoch as a checkpoint."""
        history = self.history[: epoch.figures.epoch]
        with staged_directory(path, kind, overwrite=True) as staging:
            predictions = training.write_predictions(epoch, staging)
            numbers = self.kept_epochs(epoch.figures.epoch)
            kept = KeptFiles(predictions, tuple(self.samples.get(number) for number in numbers))
            training.write(epoch, history, staging, kept)

    def write_sample(self, training: Training, epoch: Epoch) -> None:
        """Write the sample of an epoch beside the checkpoints."""
        path = sample_path(self.checkpoints.directory, epoch.figures.epoch)
        with staged_directory(path, SAMPLE, overwrite=True) as staging:
            self.samples[epoch.figures.epoch] = training.write_sample(epoch, staging)

    def kept_epochs(self, last: int) -> list[int]:
        """Return the epochs up to one whose samples are kept."""
        return [number for number in range(1, last + 1) if self.settings.keeps(number)]

    def go_on_from(self, checkpoint: str) -> None:
        """Start the next stretch from a checkpoint."""
        self.set_back(read_whole_history(checkpoint))
        kept = model_files.read_manifest(checkpoint).kept
        if kept is not None:
            numbers = self.kept_epochs(len(self.history))
            self.samples = dict(zip(numbers, kept.samples, strict=False))
        self.start = start_from_model(checkpoint)
        self.checkpoint = checkpoint
        self.losses = 0

    def set_back(self, history: list[EpochFigures]) -> None:
        """Go on after these epochs."""
        self.history = history
        self.best = None
        self.decide()

    def check_best_is_kept(self, checkpoint: str) -> None:
        """Check that the best model of the epochs up to a checkpoint is still there.

        Raises
        ------
        InputError
            If it is not, because those epochs were trained without patience.
        """
        if self.stopping.patience is None:
            return
        best = best_path(self.checkpoints.directory, best_epoch(self.history).epoch)
        if not storage.exists(storage.join(best, model_files.MANIFEST)):
            raise InputError(
                f"{checkpoint} was trained without --patience, so the best model up to there was "
                "not kept; resume without --patience, or start anew"
            )
        check_best(best, best_epoch(self.history), self.dataset, self.settings)


def _what_overflows(dataset: Dataset, settings: TrainSettings) -> str:
    """Say why a training cannot go on with numbers that are not finite, and what to do."""
    wider = "; or use --dtype float64" if settings.dtype == "float32" else ""
    return (
        f"the training's numbers became too large for {settings.dtype}: ratings are from "
        f"{dataset.rating_min:g} to {dataset.rating_max:g}, residual-precision is "
        f"{settings.residual_precision:g}; scale the ratings down{wider}"
    )


def training_mean(dataset: Dataset, settings: TrainSettings) -> float:
    """Return what is taken out of the ratings before training."""
    return dataset.rating_mean if settings.center and settings.feedback == "explicit" else 0.0


def _start_part(
    method: Method, start: Start, side: Side, rows: range, settings: TrainSettings
) -> SolvedPart:
    return method.start_part(*start(side, rows, settings))


def _epochs_at_once(seconds: float) -> int:
    """Return how many epochs to submit together, by the seconds that one takes at most."""
    return max(1, int(_SECONDS_OF_EPOCHS_AT_ONCE / seconds))


def _batches(items: Iterator[T], size: Callable[[], int]) -> Iterator[deque[T]]:
    """Yield items in batches, each as long as `size` says when it is asked for."""
    while batch := deque(islice(items, size())):
        yield batch


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield each item only when the one after it has been produced."""
    waiting = next(items)
    for item in items:
        yield waiting
        waiting = item
    yield waiting


def _figures_of_epochs(
    epochs: list[tuple[SolvedSide, SolvedSide, list[int]]],
    counts: tuple[int, int],
    method: Method,
) -> list[tuple[float, float, float | None]]:
    n_ratings, n_test = counts
    return [
        (
            *method.figures(first, last, n_ratings),
            rmse(sum(test_errors), n_test) if n_test else None,
        )
        for first, last, test_errors in epochs
    ]


def _side_figures(side: SolvedSide) -> tuple[float, float | None]:
    return side.mean_bias, side.residual_precision


def _model_side(dataset: Dataset, side: Side, mean_bias: float) -> ModelSide:
    table = dataset.table(side)
    partitions = tuple(Partition(part.start, part.stop, part.ratings) for part in table.partitions)
    return ModelSide(table.digest, mean_bias, partitions)


def _write_solved_part(
    model: str,
    ids: dict[Side, RowsFile],
    side: Side,
    number: int,
    partition: Partition,
    solved: SolvedSide,
) -> int:
    state = solved.state[partition.start : partition.stop]
    return model_files.write_dataset_part(model, ids[side], side, number, partition.rows, state)


def _write_sample_part(
    sample: str, side: Side, number: int, partition: Partition, solved: SolvedSide
) -> int:
    state = solved.state[partition.start : partition.stop]
    return sample_files.write_part(sample, side, number, state)


def _write_average_part(
    model: str,
    ids: RowsFile,
    side: Side,
    number: int,
    partition: Partition,
    samples: list[tuple[str, int]],
) -> int:
    states = [sample_files.read_part(sample, side, number, crc32) for sample, crc32 in samples]
    state = model_files.average_of_samples(states)
    bias_of_samples = np.stack([sample.bias for sample in states], axis=1)
    return model_files.write_dataset_part(
        model, ids, side, number, partition.rows, state, bias_of_samples
    )


def _predictions_path(checkpoint: str, number: int) -> str:
    return storage.part_of(checkpoint, "predictions", storage.part_name(number))


def _write_predictions(checkpoint: str, number: int, predicted: np.ndarray) -> int:
    table = pa.table({"sum": predicted})
    return table_files.write_parquet(_predictions_path(checkpoint, number), table)


def _read_predictions(path: str, n_ratings: int, crc32: int | None) -> np.ndarray:
    table = table_files.read_parquet(path, ["sum"], crc32=crc32, limit=ParquetLimit(n_ratings, 8))
    return np.asarray(table.column("sum"))
