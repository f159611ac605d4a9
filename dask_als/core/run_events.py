"""The events of a running training: its description, progress and times, and their listener."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dask_als.core.epoch_figures import EpochFigures


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The description of a training.

    Attributes
    ----------
    model, dataset : str
        Paths of the directories.
    n_users, n_items, n_ratings, n_test : int
    partitions : dict of str to tuple of int
        For ``users`` and ``items``, the number of ratings in each partition.
    settings : dict
        The settings of the training as plain JSON values.
    """

    model: str
    dataset: str
    n_users: int
    n_items: int
    n_ratings: int
    n_test: int
    partitions: dict[str, tuple[int, ...]]
    settings: dict[str, Any]

    @property
    def epochs(self) -> int:
        """The maximal number of epochs."""
        return int(self.settings["epochs"])


@dataclass(frozen=True)
class PartitionTimes:
    """The times of a partition in a half-epoch, in seconds.

    Attributes
    ----------
    number : int
    worker : str
        The address of the worker that solved it.
    ratings : int
    start : float
        When the solver started, in seconds since 1970.
    solving, waiting : float
        Time in the solver; time to transfer the fixed side.
    """

    number: int
    worker: str
    ratings: int
    start: float
    solving: float
    waiting: float


@dataclass(frozen=True)
class HalfEpochTimes:
    """The times of a half-epoch, in seconds.

    Attributes
    ----------
    epoch : int
    side : str
        The solved side, ``users`` or ``items``.
    start : float
        When the previous half-epoch ended, in seconds since 1970.
    seconds : float
        Time from then to the end of this half-epoch.
    solving, waiting, overhead : float
        Averages over the threads: time in the solver; time to transfer data; the rest, which
        includes work on held-out ratings. They add up to `seconds`.
    partitions : tuple of PartitionTimes
    """

    epoch: int
    side: str
    start: float
    seconds: float
    solving: float
    waiting: float
    overhead: float
    partitions: tuple[PartitionTimes, ...]

    @property
    def slowest(self) -> float:
        """The solver time of the slowest partition, in seconds."""
        return max(partition.solving for partition in self.partitions)

    @property
    def mean(self) -> float:
        """The mean solver time of a partition, in seconds."""
        return sum(partition.solving for partition in self.partitions) / len(self.partitions)

    def to_json(self) -> dict[str, Any]:
        """Return the times as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HalfEpochTimes:
        """Return the times that `to_json` was called on."""
        partitions = tuple(PartitionTimes(**partition) for partition in values["partitions"])
        return cls(**{**values, "partitions": partitions})


@dataclass(frozen=True)
class Progress:
    """The progress of an epoch.

    Attributes
    ----------
    epoch : int
    side : str
        The side that is being solved, ``users`` or ``items``.
    half : int
        The number of completed half-epochs of this epoch, 0 or 1.
    done, total : int
        The number of solved partitions of the side, and of all its partitions.
    """

    epoch: int
    side: str
    half: int
    done: int
    total: int

    @property
    def epochs(self) -> float:
        """The number of completed epochs, including the completed fraction of this one."""
        return self.epoch - 1 + (self.half + self.done / self.total) / 2


def ignore(_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Callbacks for the events of a training.

    Attributes
    ----------
    started_from : callable
        Called with the `InitialModel`, if training starts from a model.
    epoch : callable
        Called with the `EpochFigures` of each epoch.
    progress : callable
        Called with a `Progress` once a second, from another thread, if the cluster reports it.
    half_epoch : callable
        Called with the `HalfEpochTimes` of each completed half-epoch, in the same way.
    """

    started_from: Callable[[Any], None] = ignore
    epoch: Callable[[EpochFigures], None] = ignore
    progress: Callable[[Progress], None] = ignore
    half_epoch: Callable[[HalfEpochTimes], None] = ignore
