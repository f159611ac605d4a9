"""Where tasks run. A plan submits tasks by name and does not know who executes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.run_events import Listener, RunInfo


@dataclass(frozen=True)
class Shape:
    """The size of a cluster.

    Attributes
    ----------
    workers : int
    threads : int
        Of each worker.
    memory : int or None
        Limit of each worker in bytes; None is none.
    """

    workers: int
    threads: int
    memory: int | None


class Executor(Protocol):
    """Runs pure tasks. A handle stands for a task's result, also inside lists of arguments.

    A result is kept as long as its handle is; dropping the handle frees it.
    """

    @property
    def threads(self) -> int:
        """How many tasks run at once."""
        ...

    @property
    def workers(self) -> frozenset[str]:
        """The names of those who run them now: others if some left, came back or joined."""
        ...

    @property
    def shape(self) -> Shape:
        """The size of the cluster."""
        ...

    def submit(
        self, function: Callable[..., Any], *args: Any, key: str, worker: str | None = None
    ) -> Any:
        """Start a task and return its handle.

        The key names it to people. It runs on the given worker, or where that is gone or
        another one would be idle, elsewhere.
        """
        ...

    def gather(self, handles: list[Any]) -> list[Any]:
        """Return the results of tasks, in order; raise what one of them raised."""
        ...

    def as_completed(self, handles: list[Any]) -> Iterator[Any]:
        """Yield the results of tasks as they end, in any order."""
        ...

    def watched(
        self, run: RunInfo, listener: Listener
    ) -> AbstractContextManager[Callable[[EpochFigures], None]]:
        """Let people watch a training for a block; what it gives is told of every epoch."""
        ...


class SerialExecutor:
    """Runs each task at once in this process: the twin of the distributed one, for tests."""

    threads = 1
    workers = frozenset({"this process"})
    shape = Shape(workers=1, threads=1, memory=None)

    def submit(
        self, function: Callable[..., Any], *args: Any, key: str, worker: str | None = None
    ) -> Any:
        """Run the task; its result is its handle."""
        return function(*args)

    def gather(self, handles: list[Any]) -> list[Any]:
        """Return the results."""
        return list(handles)

    def as_completed(self, handles: list[Any]) -> Iterator[Any]:
        """Yield the results in order."""
        yield from handles

    def watched(
        self, run: RunInfo, listener: Listener
    ) -> AbstractContextManager[Callable[[EpochFigures], None]]:
        """Let nobody watch."""
        return nullcontext(lambda figures: None)


def reduce_by_tree(
    executor: Executor,
    function: Callable[[list[Any]], Any],
    handles: list[Any],
    *,
    name: str,
    fan_in: int = 8,
) -> Any:
    """Reduce many results to one, a few at a time, so that no task needs all of them.

    Parameters
    ----------
    function : callable
        Takes a list of results and returns one of the same kind; at least one task is run.
    name : str
        Start of the tasks' keys.
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
