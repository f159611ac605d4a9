"""The steps prepare and train of a job with a schedule: append what is new, train on.

The first run prepares the whole source and trains from scratch. A later run appends the files that
are new in the source, and trains a few epochs from the newest model. If a file of the source has
changed or is gone, the run prepares the whole source again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from dask_als.core.executor import Executor
from dask_als.core.side import Side
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import Progress, Titles, append
from dask_als.errors import InputError
from dask_als.jobs.job_file import Job
from dask_als.jobs.kept_models import KeptModels
from dask_als.model.manifest import read_manifest
from dask_als.settings.data import Columns
from dask_als.settings.training import TrainSettings
from dask_als.training.start import check_start
from dask_als.training.update import UpdateSettings

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class NewFiles:
    """Files of a source that a dataset does not have yet.

    Attributes
    ----------
    known : dict of str to list
        The states of the files that the dataset was made from.
    new : dict of str to list
        The states of the files to append.
    """

    known: dict[str, Any]
    new: dict[str, Any]


def new_files(noted: dict[str, Any], inputs: dict[str, Any], titles: set[str]) -> NewFiles | str:
    """Compare the inputs of the last preparation with those of this run.

    Parameters
    ----------
    noted, inputs : dict
        The inputs of the step prepare: ``files`` by path, and settings.
    titles : set of str
        Files of titles, which may change: they are read again.

    Returns
    -------
    NewFiles or str
        Why the whole source has to be prepared: a file of ratings has changed or is gone, settings
        differ, or there is no new file.
    """
    before, now = dict(noted.get("files") or {}), dict(inputs["files"])
    settings = [{**each, "files": None} for each in (noted, inputs)]
    known = {path: state for path, state in before.items() if path not in titles}
    if settings[0] != settings[1]:
        return "its settings have changed"
    for path, state in known.items():
        if now.get(path) != state:
            return f"{path} has changed" if path in now else f"{path} is gone"
    new = {path: now[path] for path in sorted(now) if path not in known and path not in titles}
    return NewFiles(known, new) if known and new else "it has no new file"


@dataclass(frozen=True)
class AppendedSource:
    """How the files of a source are appended, and to which dataset."""

    dataset: str
    columns: Columns
    titles: Titles | None
    attributes: Mapping[Side, str]


def append_files(
    source: AppendedSource,
    files: NewFiles,
    executor: Executor,
    show: Callable[[], AbstractContextManager[Progress]],
    on_appended: Callable[[dict[str, Any]], None],
) -> bool:
    """Append new files to a dataset, one after another in the order of their paths.

    Parameters
    ----------
    show : callable
        Returns the progress callback for one file.
    on_appended : callable
        Called after every file with the states of all files that the dataset now has.

    Returns
    -------
    bool
        Whether all files were appended. If not, the whole source has to be prepared.
    """
    done = dict(files.known)
    for path, state in files.new.items():
        try:
            with show() as progress:
                append(
                    path,
                    source.dataset,
                    executor,
                    columns=source.columns,
                    titles=source.titles,
                    attributes=source.attributes,
                    progress=progress,
                )
        except InputError as error:
            _LOG.warning("%s cannot be appended: %s", path, error)
            return False
        done[path] = state
        on_appended(done)
    return True


@dataclass(frozen=True)
class Training:
    """How a run of a schedule trains.

    Attributes
    ----------
    settings : TrainSettings
    initial_model : str or None
        The kept model to start from; None trains from scratch.
    obstacle : str or None
        Why it does not start from the newest model, if there is one.
    """

    settings: TrainSettings
    initial_model: str | None
    obstacle: str | None = None


def training_of(job: Job, kept: KeptModels) -> Training:
    """Return how the next model is trained: from the newest one, if that can be."""
    assert job.schedule is not None, "a job with a schedule"
    update = UpdateSettings(epochs=job.schedule.epochs)
    newest = kept.newest()
    if newest is None:
        return Training(job.train, None)
    before = update.settings_after(read_manifest(newest).settings)
    if before != update.settings_after(job.train):
        return Training(job.train, None, f"{newest} was trained with other settings")
    try:
        check_start(newest, open_dataset(job.dataset), before)
    except InputError as error:
        return Training(job.train, None, str(error))
    return Training(before, newest)
