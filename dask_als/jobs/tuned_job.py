"""The job file that `tune` writes: source, columns and split of the dataset, and found settings."""

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
    """Return a job that prepares the source of a dataset again and trains with these settings.

    Parameters
    ----------
    path : str
        Path of the job file. The output is a directory of the same name beside it.

    Raises
    ------
    InputError
        If the manifest of the dataset does not record how its source was read.
    """
    source = dataset.source
    if "columns" not in source:
        raise InputError(f"{dataset.path} has no record of its preparation; prepare it again")
    if dataset.growth is not None and dataset.growth.appended:
        raise InputError(
            f"{dataset.path} was prepared from {source['path']}, and others were appended to it, "
            "which a job file cannot say; prepare a folder of all ratings, and tune on that"
        )
    split = dict(dataset.split or {})
    kind = split.pop("kind", "random")
    if kind != "own":
        split["split"] = kind
    others = (
        {}
        if dataset.growth is None
        else {
            name: getattr(dataset.growth.settings, name)
            for name in ("least_user_ratings", "least_item_ratings", "half_life")
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
            title_id_column=titles.get("id_column"),
            columns=Columns(**{"rating": None, **source["columns"]}),
            test=source.get("test_path"),
            user_attributes=source.get("user_attributes"),
            item_attributes=source.get("item_attributes"),
        ),
        prepare=PrepareSettings(duplicates=source["kept"], **split, **others),
        train=settings,
    )


def check_job_path(path: str, *, overwrite: bool) -> None:
    """Check that a job file can be written.

    Raises
    ------
    InputError
        If its name does not end in .toml, or it exists and must not be replaced.
    """
    if not path.endswith(".toml"):
        raise InputError(f"{path} is not the name of a job file; it must end in .toml")
    if storage.exists(path) and not overwrite:
        raise InputError(f"{path} exists already; choose another name or give --overwrite")
    outputs.check_file(path, TUNED_JOB)


def write_job(path: str, job: Job, comment: str) -> None:
    """Write a job file that starts with a comment; replace an existing one."""
    text = marked_text(TUNED_JOB, f"# {comment}\n{job.to_toml()}")
    outputs.replace_text(path, TUNED_JOB, text)
