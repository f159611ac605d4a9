"""Checkpoints: models of epochs on the way, from which training goes on to the same bits."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dask_als.core import outputs, storage
from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.ownership import BEST_MODEL, CHECKPOINT, SAMPLE, Kind, check_inputs
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.model.files import HISTORY, MANIFEST, read_history, read_manifest
from dask_als.settings.training import TrainSettings

_NAMES = {
    re.compile(r"epoch-[0-9]{5,}"): CHECKPOINT,
    re.compile(r"best-[0-9]{5,}"): BEST_MODEL,
    re.compile(r"sample-[0-9]{5,}"): SAMPLE,
}


def kind_of(name: str) -> Kind | None:
    """Return the kind of output that a name in a directory of checkpoints says, if it is one."""
    return next((kind for names, kind in _NAMES.items() if names.fullmatch(name)), None)


def _there(directory: str) -> list[tuple[str, Kind]]:
    """Return the paths in a directory whose names are those of checkpoints and what they need."""
    paths = storage.list_directory(directory)
    kinds = ((path, kind_of(path.rsplit("/", 1)[-1])) for path in paths)
    return [(path, kind) for path, kind in kinds if kind is not None]


def checkpoint_path(directory: str, epoch: int) -> str:
    """Return the path of the checkpoint after an epoch."""
    return storage.join(directory, f"epoch-{epoch:05d}")


def best_path(directory: str, epoch: int) -> str:
    """Return the path of the model that is the best so far, after its epoch."""
    return storage.join(directory, f"best-{epoch:05d}")


def remove_best(directory: str, *, but: str | None = None) -> None:
    """Remove what was the best model once, all but one of them."""
    for path, kind in _there(directory):
        if kind is BEST_MODEL and path != but:
            outputs.remove(path, kind)


def complete_checkpoints(directory: str) -> list[str]:
    """Return the paths of all complete checkpoints, the newest last."""
    found = [path for path, kind in _there(directory) if kind is CHECKPOINT]
    return sorted(path for path in found if storage.exists(storage.join(path, MANIFEST)))


def remove_checkpoints(directory: str, *, keep: int) -> None:
    """Remove all but the newest checkpoints, and what a killed run left half-written."""
    found = complete_checkpoints(directory)
    for path in found[: max(0, len(found) - keep)]:
        outputs.remove(path, CHECKPOINT)
    outputs.settle_all(directory, kind_of)


def sample_path(directory: str, epoch: int) -> str:
    """Return the path of the sample of an epoch that is kept for the average."""
    return storage.join(directory, f"sample-{epoch:05d}")


def check_checkpoints(directory: str) -> None:
    """Check that what has the name of a checkpoint, a best model or a sample is one that we made.

    Raises
    ------
    InputError
        If something is not, so that training would fail when it wants the name.
    """
    outputs.settle_all(directory, kind_of)
    for path, kind in _there(directory):
        outputs.check_directory(path, kind, overwrite=True)


def clear_checkpoints(directory: str, *, overwrite: bool, inputs: Sequence[str] = ()) -> None:
    """Make way for the checkpoints of a new training.

    Parameters
    ----------
    inputs : sequence of str, optional
        Paths of what the training reads, which are not removed.

    Raises
    ------
    InputError
        If there are some and they may not be removed.
    """
    check_checkpoints(directory)
    found = complete_checkpoints(directory)
    if found and not overwrite:
        raise InputError(
            f"{found[-1]} is of an earlier training; give --resume to go on from it, or "
            "--overwrite to start anew"
        )
    for path, _ in _there(directory):
        check_inputs(path, inputs)
    for path, kind in _there(directory):
        outputs.remove(path, kind)


def read_whole_history(checkpoint: str) -> list[EpochFigures]:
    """Read the figures of all epochs up to a checkpoint.

    Raises
    ------
    InputError
        If some are missing, or the file is damaged.
    """
    history = read_history(checkpoint)
    epoch = read_manifest(checkpoint).figures.epoch
    if len(history) != epoch:
        path = storage.join(checkpoint, HISTORY)
        raise InputError(f"{path} is damaged: it has {len(history)} epochs, not {epoch}")
    return history


def check_best(best: str, figures: EpochFigures, dataset: Dataset, settings: TrainSettings) -> None:
    """Check that what was kept as the best model is that of an epoch.

    Raises
    ------
    InputError
        If it is another one.
    """
    check_continues(best, dataset, settings)
    if read_manifest(best).figures != figures:
        raise InputError(f"{best} is not the model of epoch {figures.epoch}; start anew")


def check_continues(checkpoint: str, dataset: Dataset, settings: TrainSettings) -> None:
    """Check that training can go on from a checkpoint; only the epochs, or samples, may differ.

    Raises
    ------
    InputError
        If it belongs to other data or other settings, or is past the last epoch.
    """
    manifest = read_manifest(checkpoint)
    if manifest.dataset["fingerprint"] != dataset.fingerprint:
        raise InputError(
            f"{checkpoint} belongs to other data, {manifest.dataset['path']}; "
            "train without --resume, into another --checkpoint directory"
        )
    before, now = manifest.settings.to_json(), settings.to_json()
    differing = [
        f"{name.replace('_', '-')} was {before[name]!r} and is {now[name]!r}"
        for name in now
        if name not in ("epochs", "samples") and before[name] != now[name]
    ]
    if differing:
        raise InputError(f"{checkpoint} belongs to other settings: {', '.join(differing)}")
    if manifest.figures.epoch > settings.epochs:
        raise InputError(
            f"{checkpoint} is past the last of {settings.epochs} epochs; give more --epochs"
        )
