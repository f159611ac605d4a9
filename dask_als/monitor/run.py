"""A training as it is seen from outside: what it is, and what has come of it so far."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dask_als.history import EpochFigures
from dask_als.monitor.times import Interval, split_time

_EPOCHS_OF_AN_ESTIMATE = 5


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
class HalfEpoch:
    """Where the time of a half-epoch went, in seconds.

    Attributes
    ----------
    epoch : int
    side : str
        The one that was solved.
    seconds : float
        From the end of the half-epoch before.
    solving, waiting, overhead : float
        Of a thread, on average: in the solver; waiting for data; the rest. They add up to seconds.
    slowest : float
        Seconds of the slowest partition.
    mean : float
        Seconds of a partition, on average.
    """

    epoch: int
    side: str
    seconds: float
    solving: float
    waiting: float
    overhead: float
    slowest: float
    mean: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class SolvedPartition:
    """A partition that was solved: by whom, and when.

    Attributes
    ----------
    number : int
    took : Interval
    """

    number: int
    took: Interval

    @property
    def seconds(self) -> float:
        """How long its solving took."""
        return self.took.stop - self.took.start


@dataclass(frozen=True)
class Progress:
    """How far a half-epoch is: `done` partitions of `total`."""

    epoch: int
    side: str
    done: int
    total: int


def _ignore(_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who wants to know more of a training than its epochs, if the cluster can tell it.

    Attributes
    ----------
    progress : callable
        Told a `Progress` a few times a second, from a thread of its own.
    half_epochs : callable
        Told the list of `HalfEpoch` at the end.
    """

    progress: Callable[[Progress], None] = _ignore
    half_epochs: Callable[[list[HalfEpoch]], None] = _ignore


@dataclass
class _Pending:
    """A half-epoch on the way."""

    partitions: dict[int, SolvedPartition] = field(default_factory=dict)
    waiting: list[Interval] = field(default_factory=list)


class RunState:
    """What is known of a training: put together of its tasks and the figures of its epochs.

    Parameters
    ----------
    info : RunInfo
    tasks : str
        The mark of its tasks' keys.
    """

    def __init__(self, info: RunInfo, tasks: str) -> None:
        self.info = info
        self.history: list[EpochFigures] = []
        self.half_epochs: list[HalfEpoch] = []
        self.partitions: dict[str, dict[int, SolvedPartition]] = {"users": {}, "items": {}}
        self.is_over = False
        self._key = re.compile(rf"(solve|broadcast)-(users|items)-(\d+)-(?:(\d+)-)?{tasks}-\d+$")
        self._pending: dict[tuple[int, str], _Pending] = {}
        self._stopped: float | None = None
        self._told = time.time()

    @property
    def epoch(self) -> int:
        """The last epoch whose figures are known; 0 before the first."""
        return self.history[-1].epoch if self.history else 0

    @property
    def version(self) -> tuple[int, int, bool]:
        """Changes with everything that is shown."""
        return self.epoch, len(self.half_epochs), self.is_over

    @property
    def ratings_per_second(self) -> float | None:
        """Ratings solved in a second of the last epoch: each of them once for either side."""
        last = self.half_epochs[-2:]
        seconds = sum(half.seconds for half in last)
        return len(last) * self.info.n_ratings / seconds if seconds else None

    def told(self, figures: EpochFigures) -> None:
        """Take in the figures of an epoch; one told again takes all after it back."""
        while self.history and self.history[-1].epoch >= figures.epoch:
            self.history.pop()
        self.history.append(figures)
        self._told = time.time()

    def seconds_left(self, now: float) -> float | None:
        """Return about how long the epochs that are left will take."""
        if not self.history:
            return None
        last = [figures.seconds for figures in self.history[-_EPOCHS_OF_AN_ESTIMATE:]]
        left = self.info.epochs - self.epoch
        return max(0.0, left * sum(last) / len(last) - (now - self._told))

    def progress(self) -> Progress | None:
        """Return how far the half-epoch is that is solved now."""
        if not self._pending:
            return None
        (epoch, side), pending = next(iter(self._pending.items()))
        return Progress(epoch, side, len(pending.partitions), len(self.info.partitions[side]))

    def task_ended(
        self,
        key: str,
        worker: str,
        startstops: list[dict[str, Any]],
        threads: Callable[[], Mapping[str, int]],
    ) -> None:
        """Take in a task that ended.

        Parameters
        ----------
        worker : str
            Who ran it.
        startstops : list of dict
            Its ``action``, ``start`` and ``stop``, as Dask reports them.
        threads : callable
            Returns the threads of each worker.
        """
        match = self._key.match(key)
        if match is None:
            return
        kind, side, epoch, number = match.groups()
        if int(epoch) == 0:
            # What a stretch starts from is there: reading and writing before it is no half-epoch.
            self._pending.clear()
            self._stopped = max(times["stop"] for times in startstops)
            return
        half = int(epoch), side
        pending = self._pending.setdefault(half, _Pending())
        for times in startstops:
            interval = Interval(worker, times["start"], times["stop"])
            if times["action"] == "transfer":
                pending.waiting.append(interval)
            elif times["action"] == "compute" and kind == "solve":
                pending.partitions[int(number)] = SolvedPartition(int(number), interval)
        if kind == "broadcast" or len(self.info.partitions[side]) == 1:
            self._half_ended(half, max(times["stop"] for times in startstops), threads())

    def _half_ended(self, half: tuple[int, str], stop: float, threads: Mapping[str, int]) -> None:
        pending = self._pending.pop(half)
        if not pending.partitions:
            return
        solving = [partition.took for partition in pending.partitions.values()]
        start = min([*solving, *pending.waiting], key=lambda interval: interval.start).start
        if self._stopped is not None:
            start = self._stopped
        self._stopped = stop
        self.partitions[half[1]] = pending.partitions
        solved, waited = split_time(start, stop, threads, solving=solving, waiting=pending.waiting)
        seconds = [partition.seconds for partition in pending.partitions.values()]
        total = max(stop - start, solved + waited)
        self.half_epochs.append(
            HalfEpoch(
                *half,
                seconds=total,
                solving=solved,
                waiting=waited,
                overhead=total - solved - waited,
                slowest=max(seconds),
                mean=sum(seconds) / len(seconds),
            )
        )
