"""The handles of solved sides, and what all ways to bring solved rows to the homes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dask_als.cluster.placement import Placement
from dask_als.core.executor import Executor
from dask_als.core.side import Side
from dask_als.core.task_keys import TaskKey
from dask_als.solvers.base import Method
from dask_als.solvers.threads import Threaded


@dataclass(frozen=True)
class SideHandles:
    """The handles of a side after a half-epoch.

    Attributes
    ----------
    whole : handle
        What is known of the whole side: a `SolvedSide`, or an `OfferedSide`.
    parts : list of list of handle
        For each partition, the arguments of `side_at` that say its rows.
    homes : list of handle
        For each home, the fixed side with the rows that the home needs; None if it needs none.
    """

    whole: Any
    parts: list[list[Any]]
    homes: list[Any]


@dataclass(frozen=True)
class Homes:
    """Where the tasks of partitions run.

    Attributes
    ----------
    executor : Executor
    placement : Placement
    threads : int
        Of a home.
    rows : dict of Side to list of range
        The rows of each partition.
    """

    executor: Executor
    placement: Placement
    threads: int
    rows: dict[Side, list[range]]

    def home(self, side: Side, number: int) -> int:
        """Return the home of a partition."""
        return self.placement.home(number, len(self.rows[side]))

    def threaded(self, method: Method, side: Side) -> Threaded:
        """Return a method that solves partitions of a side on all threads of their homes."""
        n_partitions = len(self.rows[side])
        threads = self.placement.threads_of_a_partition(n_partitions, self.threads)
        return Threaded(method, threads)

    def submit_at(self, home: int, function: Callable[..., Any], *args: Any, key: TaskKey) -> Any:
        """Submit a task that runs on a home."""
        worker = self.placement.workers[home]
        return self.executor.submit(function, *args, key=str(key), worker=worker)

    def submit_for(
        self, side: Side, number: int, function: Callable[..., Any], *args: Any, key: TaskKey
    ) -> Any:
        """Submit a task that runs on the home of a partition."""
        return self.submit_at(self.home(side, number), function, *args, key=key)
