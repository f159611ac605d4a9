"""The interface to whatever runs tasks, and an implementation that runs them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.run_events import Listener, RunInfo


@dataclass(frozen=True)
class Shape:
    """The size of a cluster.

    Attributes
    ----------
    workers : int
    threads : int
        Threads per worker.
    memory : int or None
        Memory limit per worker in bytes; None if there is no limit.
    """

    workers: int
    threads: int
    memory: int | None


class Peers(Protocol):
    """How tasks ask the workers of other tasks' results for parts of them.

    It travels with tasks; all methods run on workers.
    """

    def offer(self, references: list[Any]) -> Any:
        """Let other workers ask for parts of results that this worker has.

        Parameters
        ----------
        references : list
            See `Executor.reference`; at least one.

        Returns
        -------
        object
            Says where the results are.
        """
        ...

    def ask(
        self,
        requests: list[tuple[Any, tuple[Any, ...]]],
        function: Callable[..., list[np.ndarray]],
        receive: Callable[[int, list[np.ndarray]], None],
    ) -> None:
        """Ask for parts of offered results, of several workers at once.

        Parameters
        ----------
        requests : list of (offer, arguments)
        function : callable
            Runs where the results are; takes them as a list, and the arguments of the request.
        receive : callable
            Takes the number of a request and its answer; called in any order, in other threads.

        Raises
        ------
        WorkersLostError
            If the results are gone.
        """
        ...


class Executor(Protocol):
    """Runs pure tasks.

    Submitting a task returns a handle of its result. Handles may be arguments of other tasks, also
    inside lists. The result is kept until the handle is garbage-collected.
    """

    @property
    def threads(self) -> int:
        """The number of tasks that can run at once."""
        ...

    @property
    def workers(self) -> frozenset[str]:
        """The names of the current workers. A worker that restarts has a new name."""
        ...

    @property
    def shape(self) -> Shape:
        """The size of the cluster."""
        ...

    def submit(
        self, function: Callable[..., Any], *args: Any, key: str, worker: str | None = None
    ) -> Any:
        """Start a task and return its handle.

        The key describes the task on dashboards. The task runs on the given worker; if that worker
        is gone, or another one is idle, it may run elsewhere.
        """
        ...

    @property
    def peers(self) -> Peers:
        """How tasks ask for parts of the results of other tasks."""
        ...

    def reference(self, handle: Any) -> Any:
        """Return what names the result of a task in `Peers.offer`, and is no dependency."""
        ...

    def gather(self, handles: list[Any]) -> list[Any]:
        """Return the results of tasks, in order; raise the exception of a task that failed."""
        ...

    def as_completed(self, handles: list[Any]) -> Iterator[Any]:
        """Yield the results of tasks in the order of their completion."""
        ...

    def watched(
        self, run: RunInfo, listener: Listener
    ) -> AbstractContextManager[Callable[[EpochFigures], None]]:
        """Make a training observable during the block; yield the callback for each epoch's end."""
        ...


class PeersInProcess:
    """Peers that share the memory of a process."""

    def offer(self, references: list[Any]) -> list[Any]:
        """Return the results."""
        return references

    def ask(
        self,
        requests: list[tuple[Any, tuple[Any, ...]]],
        function: Callable[..., list[np.ndarray]],
        receive: Callable[[int, list[np.ndarray]], None],
    ) -> None:
        """Answer one request after another."""
        for number, (offered, arguments) in enumerate(requests):
            receive(number, function(offered, *arguments))


class SerialExecutor:
    """Runs each task immediately, in this process."""

    peers = PeersInProcess()
    threads = 1
    workers = frozenset({"this process"})
    shape = Shape(workers=1, threads=1, memory=None)

    def submit(
        self, function: Callable[..., Any], *args: Any, key: str, worker: str | None = None
    ) -> Any:
        """Run the task; the handle is the result itself."""
        return function(*args)

    def reference(self, handle: Any) -> Any:
        """Return the result."""
        return handle

    def gather(self, handles: list[Any]) -> list[Any]:
        """Return the results."""
        return list(handles)

    def as_completed(self, handles: list[Any]) -> Iterator[Any]:
        """Yield the results in order."""
        yield from handles

    def watched(
        self, run: RunInfo, listener: Listener
    ) -> AbstractContextManager[Callable[[EpochFigures], None]]:
        """Observe nothing."""
        return nullcontext(lambda figures: None)


def reduce_by_tree(
    executor: Executor,
    function: Callable[[list[Any]], Any],
    handles: list[Any],
    *,
    name: str,
    fan_in: int = 8,
) -> Any:
    """Reduce many results to one in a tree, so that no task needs all of them.

    Parameters
    ----------
    function : callable
        Takes a list of results and returns one of the same type. It is called at least once.
    handles : list of handle
    name : str
        Prefix of the keys of the tasks.
    fan_in : int, optional
        The most results that a task takes.

    Returns
    -------
    handle
    """
    level = 0
    while True:
        handles = [
            executor.submit(function, handles[i : i + fan_in], key=f"{name}-{level}-{i // fan_in}")
            for i in range(0, len(handles), fan_in)
        ]
        level += 1
        if len(handles) == 1:
            return handles[0]
