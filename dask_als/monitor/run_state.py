"""The state of a training on the scheduler, derived from completed tasks and epochs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.run_events import HalfEpochTimes, PartitionTimes, Progress, RunInfo
from dask_als.core.task_keys import TaskKind, parse_unique_key
from dask_als.monitor.times import Interval, split_time

_EPOCHS_PER_ESTIMATE = 5
_HALF_EPOCHS_SHOWN = 40
_MAX_UNREPORTED_HALF_EPOCHS = 1_000
_TASKS_OF_HALF_EPOCHS = {
    TaskKind.START,
    TaskKind.SOLVE,
    TaskKind.CHUNK,
    TaskKind.REPLICA,
    TaskKind.OFFER,
    TaskKind.PULL,
}
# With the first of these on a home, the next half-epoch begins there.
_LAST_TASKS = {TaskKind.REPLICA, TaskKind.PULL}


@dataclass
class Totals:
    """Sums over all half-epochs of a side: their number, and times in seconds."""

    half_epochs: int = 0
    solving: float = 0.0
    waiting: float = 0.0
    overhead: float = 0.0

    def add(self, half: HalfEpochTimes) -> None:
        """Add a half-epoch."""
        self.half_epochs += 1
        self.solving += half.solving
        self.waiting += half.waiting
        self.overhead += half.overhead


class RunState:
    """The state of a training, updated by the ends of its tasks and epochs.

    Parameters
    ----------
    info : RunInfo
    tasks : str
        The id of the client in the keys of its tasks.
    """

    def __init__(self, info: RunInfo, tasks: str) -> None:
        self.info = info
        self.history: list[EpochFigures] = []
        # The last half-epochs, and sums over all of them: memory does not grow with their number.
        self.half_epochs: deque[HalfEpochTimes] = deque(maxlen=_HALF_EPOCHS_SHOWN)
        self.totals = {side: Totals() for side in info.partitions}
        self.is_over = False
        self._tasks = tasks
        # The solved partitions of incomplete half-epochs, and the transfers for them.
        self._pending: dict[tuple[int, str], dict[int, PartitionTimes]] = {}
        self._waiting: list[Interval] = []
        self._last: tuple[int, str] | None = None
        self._first = str(info.settings["first"])
        self._unreported: deque[HalfEpochTimes] = deque(maxlen=_MAX_UNREPORTED_HALF_EPOCHS)
        self._stopped: float | None = None
        self._recorded = time.time()

    @property
    def epoch(self) -> int:
        """The last completed epoch; 0 before the first."""
        return self.history[-1].epoch if self.history else 0

    @property
    def version(self) -> tuple[int, int, bool]:
        """A value that changes whenever anything that is shown changes."""
        ended = sum(total.half_epochs for total in self.totals.values())
        return self.epoch, ended, self.is_over

    @property
    def last_half_epochs(self) -> list[HalfEpochTimes]:
        """The last half-epoch of each side."""
        by_side = {half.side: half for half in self.half_epochs}
        return [by_side[side] for side in self.info.partitions if side in by_side]

    @property
    def ratings_per_second(self) -> float | None:
        """Ratings per second in the last epoch; each rating counts once per side."""
        last = self.last_half_epochs
        seconds = sum(half.seconds for half in last)
        return len(last) * self.info.n_ratings / seconds if seconds else None

    def record(self, figures: EpochFigures) -> None:
        """Record the figures of an epoch; if it is trained again, drop it and all later ones."""
        while self.history and self.history[-1].epoch >= figures.epoch:
            self.history.pop()
        self.history.append(figures)
        self._recorded = time.time()

    def seconds_left(self, now: float) -> float | None:
        """Return an estimate of the time for the remaining epochs, in seconds."""
        if not self.history:
            return None
        last = [figures.seconds for figures in self.history[-_EPOCHS_PER_ESTIMATE:]]
        left = self.info.epochs - self.epoch
        return max(0.0, left * sum(last) / len(last) - (now - self._recorded))

    def progress(self) -> Progress | None:
        """Return the progress of the current half-epoch; None if there is none."""
        if self._pending:
            (epoch, side), pending = next(iter(self._pending.items()))
            return self._progress(epoch, side, len(pending))
        if self._last is None:
            return None
        epoch, side = self._last
        if side != self._first:
            return self._progress(epoch + 1, self._first, 0) if epoch < self.info.epochs else None
        (other,) = self.info.partitions.keys() - {side}
        return self._progress(epoch, other, 0)

    def _progress(self, epoch: int, side: str, done: int) -> Progress:
        half = int(side != self._first)
        return Progress(epoch, side, half, done, len(self.info.partitions[side]))

    def take_half_epochs(self) -> list[HalfEpochTimes]:
        """Return the half-epochs that were completed since the last call."""
        taken = list(self._unreported)
        self._unreported.clear()
        return taken

    def task_ended(
        self,
        key: str,
        worker: str,
        startstops: list[dict[str, Any]],
        threads: Callable[[], Mapping[str, int]],
    ) -> None:
        """Record the end of a task.

        Parameters
        ----------
        worker : str
            The address of the worker that ran it.
        startstops : list of dict
            The ``action``, ``start`` and ``stop`` of each step of the task, as Dask reports them.
        threads : callable
            Returns the number of threads of each worker.
        """
        task = parse_unique_key(key, self._tasks)
        if task is None or task.kind not in _TASKS_OF_HALF_EPOCHS or task.side is None:
            return
        kind, side = task.kind, task.side.name
        if kind is TaskKind.START:
            # A new segment starts: incomplete half-epochs were lost or discarded.
            self._pending.clear()
            self._last = None
            return
        half, stop = (task.epoch or 0, side), max(times["stop"] for times in startstops)
        took = {times["action"]: (times["start"], times["stop"]) for times in startstops}
        if "transfer" in took:
            self._waiting.append(Interval(worker, *took["transfer"]))
        if kind is TaskKind.PULL:
            # It does nothing but wait for rows.
            self._waiting.append(Interval(worker, *took["compute"]))
        if kind is TaskKind.SOLVE and task.number is not None:
            start, solved = took["compute"]
            asked, arrived = took.get("transfer", (0.0, 0.0))
            self._pending.setdefault(half, {})[task.number] = PartitionTimes(
                number=task.number,
                worker=worker,
                ratings=self.info.partitions[side][task.number],
                start=start,
                solving=solved - start,
                waiting=arrived - asked,
            )
            if len(self.info.partitions[side]) == 1:
                self._half_ended(half, stop, threads())
        elif kind in _LAST_TASKS and half in self._pending:
            self._half_ended(half, stop, threads())
        elif kind in _LAST_TASKS and half != self._last:
            # The segment starts here: reading and writing before it belongs to no half-epoch.
            self._stopped = stop

    def _half_ended(self, half: tuple[int, str], stop: float, threads: Mapping[str, int]) -> None:
        solved_partitions = self._pending.pop(half)
        partitions = tuple(part for _, part in sorted(solved_partitions.items()))
        solving = [
            Interval(part.worker, part.start, part.start + part.solving) for part in partitions
        ]
        waiting = [interval.start for interval in self._waiting]
        before = waiting if self._stopped is None else [self._stopped]
        # Worker clocks differ: the previous half-epoch may seem to end after a solve starts.
        start = min([*before, *(interval.start for interval in solving)])
        stop = max([stop, *(interval.stop for interval in solving)])
        self._stopped, self._last = stop, half
        solved, waited = split_time(start, stop, threads, solving=solving, waiting=self._waiting)
        self._waiting = [interval for interval in self._waiting if interval.stop > stop]
        seconds = max(stop - start, solved + waited)
        ended = HalfEpochTimes(
            *half,
            start=start,
            seconds=seconds,
            solving=solved,
            waiting=waited,
            overhead=seconds - solved - waited,
            partitions=partitions,
        )
        self.half_epochs.append(ended)
        self._unreported.append(ended)
        self.totals[half[1]].add(ended)
