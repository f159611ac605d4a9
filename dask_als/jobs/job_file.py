"""A job file in TOML: source, steps, settings of each step, and sizes of clusters.

::

    name = "movielens"
    steps = ["prepare", "train", "evaluate", "recommend"]
    output = "movielens"                # directory of all results

    [source]
    path = "ml-latest-small.zip"        # test, titles; [source.columns]: user, item, rating, time
                                        # user_attributes, item_attributes: files by id

    [prepare]                           # fields of PrepareSettings
    [train]                             # fields of TrainSettings
    [evaluate]                          # fields of EvaluateSettings
    [recommend]                         # fields of RecommendSettings
    [checkpoint]                        # fields of CheckpointPolicy
    [schedule]                          # fields of ScheduleSettings, for a job that runs repeatedly
    [cluster.local]                     # workers, threads, memory, private
    [cluster.kubernetes]                # image, workers, threads, memory, ...
    [cluster.kubernetes.secrets]        # environment variables of the pods, kept in a Secret
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import tomli_w

from dask_als.core import storage
from dask_als.core.side import ITEMS, USERS, Side
from dask_als.core.typed_tables import from_table, to_table
from dask_als.errors import InputError
from dask_als.settings.cluster_size import KubernetesSize, LocalSize
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.evaluation import EvaluateSettings, RecommendSettings
from dask_als.settings.schedule import ScheduleSettings
from dask_als.settings.training import CheckpointPolicy, TrainSettings

STEPS = ("prepare", "train", "evaluate", "recommend")
"""All steps in the order in which they run."""

# ValueError: a number with too many digits. RecursionError: brackets nested too deeply.
_TOML_ERRORS = (tomllib.TOMLDecodeError, ValueError, RecursionError)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """The source of the ratings.

    Attributes
    ----------
    path : str
        A file, a folder or a glob of text or Parquet.
    titles : str or None
        A text file of item titles; None takes that of MovieLens beside the ratings, if any.
    title_column : str or int
        The column of titles.
    title_id_column : str or int or None
        The column of item ids in that file; None takes the same name as in the ratings.
    columns : Columns
    test : str or None
        A source of ratings to hold out, with the same columns.
    user_attributes, item_attributes : str or None
        Files with attributes of users and of items.
    """

    path: str
    titles: str | None = None
    title_column: str | int = "title"
    title_id_column: str | int | None = None
    columns: Columns = Columns()
    test: str | None = None
    user_attributes: str | None = None
    item_attributes: str | None = None

    @property
    def attributes(self) -> dict[Side, str]:
        """The files of attributes by side."""
        files = {USERS: self.user_attributes, ITEMS: self.item_attributes}
        return {side: path for side, path in files.items() if path is not None}


@dataclass(frozen=True, kw_only=True)
class ClusterSizes:
    """The size of the cluster for each kind of cluster."""

    local: LocalSize = field(default_factory=LocalSize)
    kubernetes: KubernetesSize = field(default_factory=KubernetesSize)


@dataclass(frozen=True, kw_only=True)
class Job:
    """The content of a job file.

    Attributes
    ----------
    name : str
        At most 40 lower-case letters, digits and hyphens.
    output : str
        The directory of all results.
    steps : tuple of str
        A subset of `STEPS`. Each step uses the results of earlier steps, of this run or another.
    source : SourceSettings
    prepare : PrepareSettings
    train : TrainSettings
    evaluate : EvaluateSettings
    recommend : RecommendSettings
    checkpoint : CheckpointPolicy
    schedule : ScheduleSettings or None
        Of a job that runs repeatedly: each run updates dataset and model.
    cluster : ClusterSizes

    Raises
    ------
    InputError
        If values are invalid or contradict each other.
    """

    name: str
    output: str
    source: SourceSettings
    steps: tuple[str, ...] = STEPS
    prepare: PrepareSettings = PrepareSettings()
    train: TrainSettings = TrainSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    recommend: RecommendSettings = RecommendSettings()
    checkpoint: CheckpointPolicy = CheckpointPolicy()
    schedule: ScheduleSettings | None = None
    cluster: ClusterSizes = field(default_factory=ClusterSizes)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"name is {self.name!r}; it must be at most 40 lower-case letters, digits and "
                "hyphens"
            )
        if not self.output:
            raise InputError("output is empty; it must be a directory")
        if not self.steps or list(self.steps) != [step for step in STEPS if step in self.steps]:
            raise InputError(
                f"steps are {', '.join(self.steps) or 'none'}; they must be some of "
                f"{', '.join(STEPS)}, in this order"
            )
        if self.schedule is not None and not {"prepare", "train"} <= set(self.steps):
            raise InputError(
                "a job with [schedule] updates dataset and model: its steps must have prepare and "
                "train"
            )
        holds_out = self.prepare.holds_out or self.source.test is not None
        if {"prepare", "evaluate"} <= set(self.steps) and not holds_out:
            raise InputError(
                "the step evaluate needs held-out ratings; set prepare.test_fraction, such as 0.1, "
                "or source.test"
            )

    @property
    def dataset(self) -> str:
        """The directory of the dataset."""
        return storage.join(self.output, "dataset")

    @property
    def model(self) -> str:
        """The directory of the model."""
        return storage.join(self.output, "model")

    @property
    def checkpoints(self) -> str:
        """The directory of the checkpoints."""
        return storage.join(self.output, "checkpoints")

    @property
    def evaluation(self) -> str:
        """The file with the figures of the evaluation."""
        return storage.join(self.output, "evaluation.json")

    @property
    def recommendations(self) -> str:
        """The directory of the recommendations."""
        return storage.join(self.output, "recommendations")

    @property
    def result(self) -> str:
        """The file with the status and the steps of the newest run."""
        return storage.join(self.output, "result.json")

    def sealed(self, secret: str) -> Job:
        """Return the job without secret values; a Secret of the given name holds them."""
        kubernetes = self.cluster.kubernetes.sealed(secret)
        return replace(self, cluster=replace(self.cluster, kubernetes=kubernetes))

    def to_toml(self) -> str:
        """Return the text of a job file with all defaults, but without secret values."""
        return tomli_w.dumps(to_table(self))


def read_job(path: str, changes: Iterable[str] = ()) -> Job:
    """Read a job file from a local disk or an object store.

    Parameters
    ----------
    changes : iterable of str
        Values that replace those of the file, such as ``train.rank=64``.

    Raises
    ------
    InputError
        If the file cannot be read or has errors. The message lists all errors.
    """
    try:
        with storage.opened(path, "r") as file:
            text = file.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8") from None
    try:
        return job_from_toml(text, changes, name=PurePosixPath(path).stem)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def job_from_toml(text: str, changes: Iterable[str] = (), *, name: str | None = None) -> Job:
    """Parse the text of a job file.

    Parameters
    ----------
    changes : iterable of str
        See `read_job`.
    name : str, optional
        Name of the job if the text has none.

    Raises
    ------
    InputError
        If the text has errors. The message lists all errors.
    """
    try:
        table = tomllib.loads(text)
    except _TOML_ERRORS as error:
        raise InputError(f"it is not valid TOML: {storage.first_line(error)}") from None
    if name is not None:
        table.setdefault("name", name)
    for change in changes:
        _set(table, change)
    return from_table(Job, table)


def _set(table: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    *path, name = key.strip().split(".")
    if not equals or not name:
        # Do not print the value after "=": it may be a secret.
        raise InputError(f"--set {key}{equals} is not KEY=VALUE; write it like train.rank=64")
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {key}: {part} is a value, not a table")
    table[name] = _value(text.strip())


def _value(text: str) -> Any:
    """Parse a TOML value; treat invalid TOML as a string without quotation marks."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except _TOML_ERRORS:
        return text
