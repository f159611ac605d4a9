"""The entry point of training: input checks, output directories and error messages."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

from dask_als.core import storage
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.executor import Executor
from dask_als.core.output_lock import held
from dask_als.core.outputs import staged_directory
from dask_als.core.ownership import MODEL
from dask_als.core.run_events import Listener, RunInfo
from dask_als.core.side import SIDES
from dask_als.data.dataset import Dataset
from dask_als.errors import ClusterLostError, InputError, NotFiniteError, WorkersLostError
from dask_als.model import manifest as model_manifest
from dask_als.model.initial import InitialModel, MatchedRows
from dask_als.model.manifest import ModelManifest
from dask_als.planning.memory import check_fits
from dask_als.planning.sizes import attribute_files
from dask_als.settings.training import CheckpointSettings, StopSettings, TrainSettings
from dask_als.training.callbacks import Callback, callback_for_figures
from dask_als.training.carried_over import carry_over
from dask_als.training.checkpoints import (
    check_checkpoints,
    check_writable,
    clear_checkpoints,
    complete_checkpoints,
)
from dask_als.training.longer_start import added_length
from dask_als.training.run import Run, RunConfig
from dask_als.training.start import (
    Start,
    check_start,
    has_same_rows,
    random_start,
    start_from_model,
)

_START = "start"


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
    dataset : Dataset
    model : str
        The directory to write.
    settings : TrainSettings
    executor : Executor
    initial_model : str, optional
        A model directory to start from; random factors if None. Rows are matched by id: new ones
        are folded in, and those that the dataset does not have are left out.
    checkpoints : CheckpointSettings, optional
        Where checkpoints are kept; without it they are removed when training ends.
    stopping : StopSettings, optional
        The conditions for early stopping.
    overwrite : bool, optional
        Whether to replace an existing model and the checkpoints of an earlier run.
    on_epoch : callable, optional
        Called with the figures of each epoch.
    callbacks : sequence of callable, optional
        Each is called with a `TrainedEpoch` after every epoch; a true return value ends training.
        Epochs that are trained again after a loss of workers are reported again.
    listener : Listener, optional
        Receives the figures of each epoch and, if the cluster can be watched, its half-epochs.

    Returns
    -------
    ModelManifest

    Raises
    ------
    InputError
        If `model` already exists, the checkpoint directory is not writable or in use by another
        run, an input does not belong to the dataset, `stopping` does not suit the method or needs
        held-out ratings that the dataset lacks, or the workers have too little memory.
    JobError
        If workers or the whole cluster were lost and did not come back.
    """
    if initial_model is not None:
        check_start(initial_model, dataset, settings)
    _check_stopping(stopping, dataset, settings)
    _check_attributes(dataset, settings)
    check_fits(dataset, settings, executor.shape, stopping=stopping)
    inputs = [dataset.path, *([] if initial_model is None else [initial_model])]
    with (
        nullcontext()
        if checkpoints is None
        else held(checkpoints.directory, uuid.uuid4().hex[:12]),
        staged_directory(model, MODEL, overwrite=overwrite, inputs=inputs) as staging,
        executor.watched(_run_info(dataset, model, settings), listener) as watch,
    ):
        temporary = storage.join(staging, "checkpoints")
        if checkpoints is not None:
            check_writable(checkpoints.directory)
            check_checkpoints(checkpoints.directory)
            if not checkpoints.resume:
                clear_checkpoints(checkpoints.directory, overwrite=overwrite, inputs=inputs)
        start, initial = _start_of(initial_model, dataset, settings, executor, staging)
        if initial is not None:
            listener.started_from(initial)
        receivers = (watch, listener.epoch, on_epoch)
        run = Run(
            RunConfig(
                dataset=dataset,
                settings=settings,
                executor=executor,
                checkpoints=checkpoints
                or CheckpointSettings(directory=temporary, every=settings.epochs),
                stopping=stopping,
                start=start,
                callbacks=[*map(callback_for_figures, receivers), *callbacks],
            )
        )
        try:
            for figures in run.resume():
                watch(figures)
            manifest = run.train(staging)
        except (ClusterLostError, WorkersLostError) as lost:
            raise type(lost)(f"{lost}; {_how_to_resume(checkpoints)}") from lost
        except NotFiniteError:
            raise InputError(_overflow_message(dataset, settings)) from None
        storage.remove(temporary)
        storage.remove(storage.join(staging, _START))
        if initial is None:
            return manifest
        manifest = replace(manifest, initial=initial)
        model_manifest.write_manifest(staging, manifest)
        return manifest


def _start_of(
    model: str | None,
    dataset: Dataset,
    settings: TrainSettings,
    executor: Executor,
    staging: str,
) -> tuple[Start, InitialModel | None]:
    """Return what training starts from; a model of other ids or fewer ratings is fitted first."""
    if model is None:
        return random_start, None
    manifest = model_manifest.read_manifest(model)
    if has_same_rows(manifest, dataset) and not added_length(manifest, dataset, settings):
        users, items = (MatchedRows(dataset.table(side).n_rows, 0, 0) for side in SIDES)
        return start_from_model(model), InitialModel(storage.absolute(model), users, items)
    matched = storage.join(staging, _START)
    storage.make_directory(matched)
    initial = carry_over(model, dataset, settings, executor, matched)
    return start_from_model(matched), initial


def _check_stopping(stopping: StopSettings, dataset: Dataset, settings: TrainSettings) -> None:
    if settings.method == "gibbs" and stopping != StopSettings():
        raise InputError(
            "--stop-when-flat and --patience need epochs that converge, but those of gibbs are "
            "random samples; leave them out, and for a shorter training give fewer --samples "
            f"than {settings.samples}"
        )
    if stopping.patience is not None and not dataset.n_test:
        raise InputError(
            f"patience needs held-out ratings and {dataset.path} has none; "
            "prepare it with --test-fraction 0.1"
        )


def _check_attributes(dataset: Dataset, settings: TrainSettings) -> None:
    obstacle = settings.obstacle_to_row_priors
    if obstacle is not None and attribute_files(dataset, settings):
        raise InputError(
            f"{dataset.path} has attributes, which cannot be used with {obstacle}; "
            "give --no-attributes"
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


def _how_to_resume(checkpoints: CheckpointSettings | None) -> str:
    if checkpoints is None:
        return "no checkpoint was kept; with --checkpoint DIR, --resume can continue the run"
    found = complete_checkpoints(checkpoints.directory)
    if not found:
        return f"there is no checkpoint in {checkpoints.directory} yet, so start again"
    return f"the last checkpoint is {found[-1]}; the same command with --resume continues from it"


def _overflow_message(dataset: Dataset, settings: TrainSettings) -> str:
    wider = "; or use --dtype float64" if settings.dtype == "float32" else ""
    return (
        f"numbers became too large for {settings.dtype} in training: ratings range from "
        f"{dataset.rating_min:g} to {dataset.rating_max:g}, residual-precision is "
        f"{settings.residual_precision:g}; scale the ratings down{wider}"
    )
