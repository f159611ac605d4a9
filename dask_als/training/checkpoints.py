"""Checkpoints: models of completed epochs, from which training resumes bit for bit."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence

from fsspec.implementations.local import LocalFileSystem

from dask_als.core import outputs, staging, storage
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.ownership import BEST_MODEL, CHECKPOINT, REDUCTION, SAMPLE, Kind, check_inputs
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.model.files import read_history
from dask_als.model.manifest import HISTORY, MANIFEST, read_manifest
from dask_als.settings.reduction import Schedule
from dask_als.settings.training import TrainSettings

_NAMES = {
    re.compile(r"epoch-[0-9]{5,}"): CHECKPOINT,
    re.compile(r"best-[0-9]{5,}"): BEST_MODEL,
    re.compile(r"sample-[0-9]{5,}"): SAMPLE,
    re.compile(r"reduction-[0-9]{5,}"): REDUCTION,
}


def kind_of(name: str) -> Kind | None:
    """Return the kind of output that has this name in a checkpoint directory, or None."""
    return next((kind for names, kind in _NAMES.items() if names.fullmatch(name)), None)


def _entries(directory: str) -> list[tuple[str, Kind]]:
    """Return path and kind of all checkpoints, best models and samples, judged by name alone."""
    paths = storage.list_directory(directory)
    kinds = ((path, kind_of(path.rsplit("/", 1)[-1])) for path in paths)
    return [(path, kind) for path, kind in kinds if kind is not None]


def checkpoint_path(directory: str, epoch: int) -> str:
    """Return the path of the checkpoint after an epoch."""
    return storage.join(directory, f"epoch-{epoch:05d}")


def best_path(directory: str, epoch: int) -> str:
    """Return the path of the model of the best epoch so far."""
    return storage.join(directory, f"best-{epoch:05d}")


def sample_path(directory: str, epoch: int) -> str:
    """Return the path of the sample that an epoch drew."""
    return storage.join(directory, f"sample-{epoch:05d}")


def reduction_path(directory: str, epoch: int) -> str:
    """Return the path of the samples that were cut down after an epoch."""
    return storage.join(directory, f"reduction-{epoch:05d}")


def remove_samples(directory: str, schedule: Schedule, epoch: int) -> None:
    """Remove samples and reductions that neither this epoch nor a checkpoint needs to go on."""
    checkpoints = {_number_of(path) for path in complete_checkpoints(directory)}
    needed: set[str] = set()
    for number in (epoch, *checkpoints):
        needed.update(sample_path(directory, waiting) for waiting in schedule.waiting(number))
        last = schedule.last(number)
        if last is not None:
            needed.add(reduction_path(directory, last))
    names = {path.rsplit("/", 1)[-1] for path in needed}
    for path, kind in _entries(directory):
        if kind in (SAMPLE, REDUCTION) and path.rsplit("/", 1)[-1] not in names:
            outputs.remove(path, kind)


def _number_of(path: str) -> int:
    return int(path.rpartition("-")[2])


def remove_best(directory: str, *, but: str | None = None) -> None:
    """Remove all best models except `but`."""
    for path, kind in _entries(directory):
        if kind is BEST_MODEL and path != but:
            outputs.remove(path, kind)


def complete_checkpoints(directory: str) -> list[str]:
    """Return the paths of all complete checkpoints, newest last."""
    found = [path for path, kind in _entries(directory) if kind is CHECKPOINT]
    return sorted(path for path in found if storage.exists(storage.join(path, MANIFEST)))


def remove_checkpoints(directory: str, *, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints, and incomplete ones of killed runs."""
    found = complete_checkpoints(directory)
    for path in found[: max(0, len(found) - keep)]:
        outputs.remove(path, CHECKPOINT)
    staging.settle_all(directory, kind_of)


def check_writable(directory: str) -> None:
    """Check that checkpoints can be written into an existing directory.

    An existing lock file can be opened in a read-only directory, so this creates a directory, as
    a checkpoint does. On an object store the lease has already been written.

    Raises
    ------
    InputError
        If the directory is not writable.
    """
    filesystem, inner = storage.file_system(directory)
    if not isinstance(filesystem, LocalFileSystem):
        return
    try:
        with tempfile.TemporaryDirectory(dir=inner):
            pass
    except OSError as error:
        reason = storage.first_line(error)
        raise InputError(f"{directory} cannot be written: {reason}") from None


def check_checkpoints(directory: str) -> None:
    """Check that dask-als wrote every entry named like a checkpoint, best model or sample.

    Raises
    ------
    InputError
        If it did not write one of them. Training would fail later, when it needs that name.
    """
    staging.settle_all(directory, kind_of)
    for path, kind in _entries(directory):
        outputs.check_directory(path, kind, overwrite=True)


def clear_checkpoints(directory: str, *, overwrite: bool, inputs: Sequence[str] = ()) -> None:
    """Remove the checkpoints of an earlier run.

    Parameters
    ----------
    directory : str
    overwrite : bool
        Whether existing checkpoints may be removed.
    inputs : sequence of str, optional
        Paths that training reads; they are never removed.

    Raises
    ------
    InputError
        If there are checkpoints and `overwrite` is false, or one of them is an input.
    """
    check_checkpoints(directory)
    found = complete_checkpoints(directory)
    if found and not overwrite:
        raise InputError(
            f"{found[-1]} belongs to an earlier run; give --resume to continue it, or "
            "--overwrite to start again"
        )
    for path, _ in _entries(directory):
        check_inputs(path, inputs)
    for path, kind in _entries(directory):
        outputs.remove(path, kind)


def read_whole_history(checkpoint: str) -> list[EpochFigures]:
    """Read the figures of all epochs up to a checkpoint.

    Raises
    ------
    InputError
        If epochs are missing, or the file is corrupt.
    """
    history = read_history(checkpoint)
    epoch = read_manifest(checkpoint).figures.epoch
    if len(history) != epoch:
        path = storage.join(checkpoint, HISTORY)
        raise InputError(f"{path} is damaged: it has {len(history)} epochs, not {epoch}")
    return history


def check_best(best: str, figures: EpochFigures, dataset: Dataset, settings: TrainSettings) -> None:
    """Check that a best model belongs to the epoch with these figures.

    Raises
    ------
    InputError
        If it belongs to another epoch, dataset or run.
    """
    check_continues(best, dataset, settings)
    if read_manifest(best).figures != figures:
        raise InputError(f"{best} is not the model of epoch {figures.epoch}; start again")


def check_continues(checkpoint: str, dataset: Dataset, settings: TrainSettings) -> None:
    """Check that training can resume from a checkpoint; only epochs and samples may change.

    Until the first samples are cut down, it may also change whether and to which rank they are.

    Raises
    ------
    InputError
        If the checkpoint belongs to other data or settings, or is past the last epoch.
    """
    manifest = read_manifest(checkpoint)
    if manifest.dataset["fingerprint"] != dataset.fingerprint:
        raise InputError(
            f"{checkpoint} belongs to other data, {manifest.dataset['path']}; "
            "train without --resume into another --checkpoint directory"
        )
    before, now = manifest.settings.to_json(), settings.to_json()
    free = {"epochs", "samples"}
    if manifest.kept is None or manifest.kept.reduction is None:
        free |= {"keep_samples", "model_rank"}
    differing = [
        f"{name.replace('_', '-')} was {before[name]!r} and is {now[name]!r}"
        for name in now
        if name not in free and before[name] != now[name]
    ]
    if differing:
        raise InputError(f"{checkpoint} belongs to other settings: {', '.join(differing)}")
    if manifest.figures.epoch > settings.epochs:
        raise InputError(
            f"{checkpoint} is past the last of {settings.epochs} epochs; give more --epochs"
        )
