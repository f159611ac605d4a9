"""Training: half-epochs by turns over the partitions of a dataset, and the model they leave."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from dask_als import model_files, storage
from dask_als.blocks import State, random_state, zero_state
from dask_als.dataset import Dataset, Partition, read_block, read_test_block
from dask_als.errors import InputError
from dask_als.executor import Executor
from dask_als.half_epoch import (
    SolvedPart,
    SolvedSide,
    held_out_error,
    join_parts,
    solve_part,
    unsolved_part,
)
from dask_als.history import EpochFigures
from dask_als.model_files import ModelManifest, ModelSide
from dask_als.objective import objective, rmse
from dask_als.settings import TrainSettings
from dask_als.side import ITEMS, SIDES, USERS, Side, side_named

T = TypeVar("T")

# Makes the state that a range of rows starts from; runs as a task.
Start = Callable[[Side, range, TrainSettings], State]


@dataclass(frozen=True)
class Epoch:
    """An epoch that has ended.

    Attributes
    ----------
    figures : EpochFigures
    sides : dict of Side to handle
        The solved sides, which stay where the workers hold them.
    """

    figures: EpochFigures
    sides: dict[Side, Any]


def random_start(side: Side, rows: range, settings: TrainSettings) -> State:
    """Start from random factors."""
    return random_state(side, rows, rank=settings.rank, seed=settings.seed, dtype=settings.dtype)


def zero_start(side: Side, rows: range, settings: TrainSettings) -> State:
    """Start from factors of 0, which fits biases alone."""
    return zero_state(rows, rank=settings.rank, dtype=settings.dtype)


def start_from_model(model: str, dataset: Dataset, settings: TrainSettings) -> Start:
    """Start from the factors and biases of a model directory.

    Raises
    ------
    InputError
        If model, dataset and settings do not belong together.
    """
    manifest = model_files.read_manifest(model)
    model_files.check_same_ids(manifest, dataset, model)
    if manifest.settings.rank != settings.rank:
        raise InputError(
            f"{model} has rank {manifest.settings.rank}, the settings say {settings.rank}; "
            f"give --rank {manifest.settings.rank}"
        )
    return partial(_read_start, storage.absolute(model))


def _read_start(model: str, side: Side, rows: range, settings: TrainSettings) -> State:
    return model_files.read_state(model, side, rows, settings.dtype)


def epochs(
    dataset: Dataset, settings: TrainSettings, executor: Executor, *, start: Start = random_start
) -> Iterator[Epoch]:
    """Train, an epoch at a time.

    Parameters
    ----------
    dataset : Dataset
    settings : TrainSettings
    executor : Executor
    start : callable, optional
        Makes the state that training starts from.

    Yields
    ------
    Epoch
    """
    clock = time.perf_counter()
    # While the figures of an epoch are waited for, the next one is already submitted.
    for number, sides, handle in _one_ahead(_submitted_epochs(dataset, settings, executor, start)):
        ((value, train_rmse, test_rmse),) = executor.gather([handle])
        now = time.perf_counter()
        yield Epoch(EpochFigures(number, value, train_rmse, test_rmse, now - clock), sides)
        clock = now


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield each item only when the one after it has been produced."""
    waiting = next(items)
    for item in items:
        yield waiting
        waiting = item
    yield waiting


def _submitted_epochs(
    dataset: Dataset, settings: TrainSettings, executor: Executor, start: Start
) -> Iterator[tuple[int, dict[Side, Any], Any]]:
    mean = training_mean(dataset, settings)
    blocks = {side: _submit_blocks(dataset, side, executor) for side in SIDES}
    test_blocks = _submit_test_blocks(dataset, executor)
    sides = {side: _submit_start(dataset, side, settings, executor, start) for side in SIDES}
    first = side_named(settings.first)
    for epoch in range(1, settings.epochs + 1):
        for side in (first, first.other):
            own, fixed = sides[side], sides[side.other]
            solved = [
                executor.submit(
                    solve_part,
                    block,
                    own,
                    fixed,
                    mean,
                    settings,
                    key=f"solve-{side.name}-{epoch}-{part}",
                )
                for part, block in enumerate(blocks[side])
            ]
            joined = executor.submit(join_parts, solved, key=f"broadcast-{side.name}-{epoch}")
            sides = {**sides, side: joined}
        errors = [
            executor.submit(
                held_out_error, block, sides[USERS], sides[ITEMS], mean, key=f"test-{epoch}-{part}"
            )
            for part, block in enumerate(test_blocks)
        ]
        figures = executor.submit(
            _epoch_figures,
            sides[first],
            sides[first.other],
            errors,
            (dataset.n_ratings, dataset.n_test),
            settings,
            key=f"figures-{epoch}",
        )
        yield epoch, sides, figures


def training_mean(dataset: Dataset, settings: TrainSettings) -> float:
    """Return what is taken out of the ratings before training."""
    return dataset.rating_mean if settings.center else 0.0


def train(
    dataset: Dataset,
    model: str,
    settings: TrainSettings,
    executor: Executor,
    *,
    initial_model: str | None = None,
    overwrite: bool = False,
    on_epoch: Callable[[EpochFigures], None] = lambda figures: None,
) -> ModelManifest:
    """Train on a dataset and write the model.

    Parameters
    ----------
    model : str
        The directory to write.
    initial_model : str, optional
        A model directory to start from; None starts from random factors.
    overwrite : bool, optional
        Whether a model that is there is replaced.
    on_epoch : callable, optional
        Told the figures of every epoch.

    Raises
    ------
    InputError
        If `model` is there already, or does not belong to the dataset.
    """
    start: Start = random_start
    if initial_model is not None:
        start = start_from_model(initial_model, dataset, settings)
    with storage.staged_directory(
        model, manifest=model_files.MANIFEST, overwrite=overwrite
    ) as staging:
        history = []
        for last in epochs(dataset, settings, executor, start=start):
            history.append(last.figures)
            on_epoch(last.figures)
        return _write_model(staging, dataset, settings, executor, last, history)


def _submit_blocks(dataset: Dataset, side: Side, executor: Executor) -> list[Any]:
    return [
        executor.submit(
            read_block, dataset.path, side, number, partition, key=f"read-{side.name}-{number}"
        )
        for number, partition in enumerate(dataset.table(side).partitions)
    ]


def _submit_test_blocks(dataset: Dataset, executor: Executor) -> list[Any]:
    return [
        executor.submit(read_test_block, dataset.path, number, partition, key=f"read-test-{number}")
        for number, partition in enumerate(dataset.users.partitions)
        if partition.test_ratings
    ]


def _submit_start(
    dataset: Dataset, side: Side, settings: TrainSettings, executor: Executor, start: Start
) -> Any:
    parts = [
        executor.submit(
            _start_part, start, side, partition.rows, settings, key=f"start-{side.name}-{number}"
        )
        for number, partition in enumerate(dataset.table(side).partitions)
    ]
    return executor.submit(join_parts, parts, key=f"broadcast-{side.name}-0")


def _start_part(start: Start, side: Side, rows: range, settings: TrainSettings) -> SolvedPart:
    return unsolved_part(start(side, rows, settings))


def _epoch_figures(
    first: SolvedSide,
    last: SolvedSide,
    test_errors: list[int],
    counts: tuple[int, int],
    settings: TrainSettings,
) -> tuple[float, float, float | None]:
    n_ratings, n_test = counts
    return (
        objective(first.sums, last.sums, settings),
        rmse(last.sums.squared_error, n_ratings),
        rmse(sum(test_errors), n_test) if n_test else None,
    )


def _mean_bias(side: SolvedSide) -> float:
    return side.mean_bias


def _write_solved_part(
    model: str, dataset: str, side: Side, number: int, partition: Partition, solved: SolvedSide
) -> int:
    return model_files.write_dataset_part(model, dataset, side, number, partition, solved.state)


def _write_model(
    directory: str,
    dataset: Dataset,
    settings: TrainSettings,
    executor: Executor,
    last: Epoch,
    history: list[EpochFigures],
) -> ModelManifest:
    written = [
        executor.submit(
            _write_solved_part,
            directory,
            dataset.path,
            side,
            number,
            partition,
            last.sides[side],
            key=f"write-{side.name}-{number}",
        )
        for side in SIDES
        for number, partition in enumerate(dataset.table(side).partitions)
    ]
    mean_biases = [
        executor.submit(_mean_bias, last.sides[side], key=f"mean-bias-{side.name}")
        for side in SIDES
    ]
    executor.gather(written)
    users, items = (
        ModelSide(
            dataset.table(side).digest,
            mean_bias,
            tuple(
                Partition(part.start, part.stop, part.ratings)
                for part in dataset.table(side).partitions
            ),
        )
        for side, mean_bias in zip(SIDES, executor.gather(mean_biases), strict=True)
    )
    model_files.write_history(directory, history)
    manifest = ModelManifest(
        settings=settings,
        global_mean=training_mean(dataset, settings),
        rating_min=dataset.rating_min,
        rating_max=dataset.rating_max,
        dataset={"path": dataset.path, "fingerprint": dataset.fingerprint},
        users=users,
        items=items,
        figures=history[-1],
    )
    model_files.write_manifest(directory, manifest)
    return manifest
