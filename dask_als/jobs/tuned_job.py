"""The job file of settings that a search has found: the dataset's own source, split and columns."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from dask_als.core import outputs, storage
from dask_als.core.ownership import TUNED_JOB, marked_text
from dask_als.data.dataset import Dataset
from dask_als.errors import InputError
from dask_als.jobs.job_file import Job, SourceSettings
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import TrainSettings


def tuned_job(dataset: Dataset, settings: TrainSettings, path: str) -> Job:
    """Return the job that prepares a dataset's source as it was, and trains with these settings.

    Parameters
    ----------
    path : str
        Of the job file: its results go beside it, into a directory of the same name.

    Raises
    ------
    InputError
        If the dataset does not say how its source was read.
    """
    source = dataset.source
    if "columns" not in source:
        raise InputError(f"{dataset.path} does not say how it was prepared; prepare it again")
    if dataset.growth is not None and dataset.growth.appended:
        raise InputError(
            f"{dataset.path} was prepared from {source['path']}, and others were appended to it, "
            "which a job file cannot say; prepare a folder of all ratings, and tune on that"
        )
    split = dict(dataset.split or {})
    kind = split.pop("kind", "random")
    if kind != "own":
        split["split"] = kind
    least = (
        {}
        if dataset.growth is None
        else {
            name: getattr(dataset.growth.settings, name)
            for name in ("least_user_ratings", "least_item_ratings")
        }
    )
    titles = source["titles"] or {}
    plain = re.sub("[^a-z0-9]+", "-", PurePosixPath(path).stem.lower())
    return Job(
        name=plain[:40].strip("-") or "tuned",
        output=str(PurePosixPath(path).with_suffix("")) if "://" not in path else path[:-5],
        steps=("prepare", "train", "evaluate") if dataset.split else ("prepare", "train"),
        source=SourceSettings(
            path=source["path"],
            titles=titles.get("path"),
            title_column=titles.get("column", "title"),
            columns=Columns(**{"rating": None, **source["columns"]}),
            test=source.get("test_path"),
        ),
        prepare=PrepareSettings(duplicates=source["kept"], **split, **least),
        train=settings,
    )


def check_job_path(path: str, *, overwrite: bool) -> None:
    """Check that a job file can be written.

    Raises
    ------
    InputError
        If its name does not end in .toml, or it is there already and is not to be replaced.
    """
    if not path.endswith(".toml"):
        raise InputError(f"{path} is no name of a job file; it must end in .toml")
    if storage.exists(path) and not overwrite:
        raise InputError(f"{path} is there already; choose another name or give --overwrite")
    outputs.check_file(path, TUNED_JOB)


def write_job(path: str, job: Job, comment: str) -> None:
    """Write a job file that starts with a comment; one that is there is replaced."""
    text = marked_text(TUNED_JOB, f"# {comment}\n{job.to_toml()}")
    outputs.replace_text(path, TUNED_JOB, text)
