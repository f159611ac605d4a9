"""What a training reports while it runs: its description, progress and times, and who listens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dask_als.core.epoch_metrics import EpochFigures


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What is trained, on what.

    Attributes
    ----------
    model, dataset : str
        Paths.
    n_users, n_items, n_ratings, n_test : int
    partitions : dict of str to tuple of int
        For ``users`` and ``items``, the ratings of each partition.
    settings : dict
        Of the training, as plain JSON values.
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
        """How many are to be trained at most."""
        return int(self.settings["epochs"])


@dataclass(frozen=True)
class PartitionTimes:
    """What a partition took in a half-epoch, in seconds.

    Attributes
    ----------
    number : int
    worker : str
        Who solved it.
    ratings : int
    start : float
        When its solving began, in seconds since 1970.
    solving, waiting : float
        In the solver; for the data of the other side.
    """

    number: int
    worker: str
    ratings: int
    start: float
    solving: float
    waiting: float


@dataclass(frozen=True)
class HalfEpochTimes:
    """Where the time of a half-epoch went, in seconds.

    Attributes
    ----------
    epoch : int
    side : str
        The one that was solved.
    start : float
        When the half-epoch before ended, in seconds since 1970.
    seconds : float
        From then to its own end.
    solving, waiting, overhead : float
        Of a thread, on average: in the solver; waiting for data; the rest, which may be spent on
        held-out ratings. They add up to seconds.
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
        """Seconds of solving the slowest partition."""
        return max(partition.solving for partition in self.partitions)

    @property
    def mean(self) -> float:
        """Seconds of solving a partition, on average."""
        return sum(partition.solving for partition in self.partitions) / len(self.partitions)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> HalfEpochTimes:
        """Return what `to_json` was made of."""
        partitions = tuple(PartitionTimes(**partition) for partition in values["partitions"])
        return cls(**{**values, "partitions": partitions})


@dataclass(frozen=True)
class Progress:
    """How far an epoch is.

    Attributes
    ----------
    epoch : int
    side : str
        The one that is solved now.
    half : int
        0 or 1: the half-epochs of this epoch that have ended.
    done, total : int
        Partitions of the side.
    """

    epoch: int
    side: str
    half: int
    done: int
    total: int

    @property
    def epochs(self) -> float:
        """Epochs that are done, with the part of this one."""
        return self.epoch - 1 + (self.half + self.done / self.total) / 2


def ignore(_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who wants to know how a training goes.

    Attributes
    ----------
    epoch : callable
        Told the `EpochFigures` of each epoch.
    progress : callable
        Told a `Progress` once a second, from a thread of its own, if the cluster can tell.
    half_epoch : callable
        Told the `HalfEpochTimes` of each half-epoch that has ended, in the same way.
    """

    epoch: Callable[[EpochFigures], None] = ignore
    progress: Callable[[Progress], None] = ignore
    half_epoch: Callable[[HalfEpochTimes], None] = ignore
