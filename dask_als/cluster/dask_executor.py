"""Run tasks on a Dask cluster, and raise errors when workers or the scheduler are lost."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from dask import annotate
from distributed import CancelledError, Client, Future, KilledWorker, LocalCluster, as_completed
from distributed.comm import CommClosedError

from dask_als.cluster import interrupts
from dask_als.cluster.exchange import DaskPeers
from dask_als.cluster.private import GuardedCluster
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.executor import Shape
from dask_als.core.run_events import Listener, RunInfo
from dask_als.core.task_keys import unique_key
from dask_als.dask_internals import (
    ClosedClientError,
    Dict,
    Graph,
    List,
    Task,
    TaskRef,
    silence_ended_waits,
    workers_of,
)
from dask_als.errors import ClusterLostError, WorkersLostError
from dask_als.monitor.watcher import watched

_SECONDS_BETWEEN_CHECKS = 2.0
_SECONDS_UNTIL_STALLED = 10.0
_SECONDS_BETWEEN_BATCHES = 0.01
# A connection may close while an answer is on its way. Tasks raise other errors for their own.
_SCHEDULER_LOST = (CancelledError, asyncio.CancelledError, ClosedClientError, CommClosedError)


class _Handle:
    """The handle of a task: its key, and its future once the task is submitted to Dask."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.future: Future | None = None


@dataclass(frozen=True)
class _PendingTask:
    """A task that Dask does not have yet; it keeps the handles among its arguments alive."""

    handle: _Handle
    function: Callable[..., Any]
    args: tuple[Any, ...]
    worker: str | None

    @property
    def task(self) -> Task:
        """The same task as Dask represents it."""
        return Task(self.handle.key, self.function, *map(_with_task_refs, self.args))


def _with_task_refs(value: Any) -> Any:
    """Replace handles by Dask's references to tasks, also inside lists and dictionaries."""
    if isinstance(value, _Handle):
        return TaskRef(value.key)
    if isinstance(value, list):
        return List(*map(_with_task_refs, value))
    if isinstance(value, dict):
        return Dict({key: _with_task_refs(item) for key, item in value.items()})
    return value


class DaskExecutor:
    """Runs tasks on a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    patience : float, optional
        Seconds to wait for a worker when there is none.
    """

    peers = DaskPeers()

    def __init__(self, client: Client, *, patience: float = 300.0) -> None:
        silence_ended_waits()
        self._client = client
        self._address = client.scheduler.address
        self._patience = patience
        # Dask reuses the result of a known key: keys must be unique over executors and clients.
        self._run = uuid.uuid4().hex[:8]
        self._submitted = itertools.count()
        self._pending: list[_PendingTask] = []

    @property
    def threads(self) -> int:
        """Threads of all workers."""
        return sum(_threads_by_worker(self._client).values())

    @property
    def workers(self) -> frozenset[str]:
        """The addresses of all workers."""
        with self._losses_as_errors():
            return frozenset(_threads_by_worker(self._client))

    @property
    def shape(self) -> Shape:
        """The current workers, with the largest number of threads and the lowest memory limit."""
        with self._losses_as_errors(), _timeouts_as_losses():
            workers = workers_of(self._client)
        limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]
        return Shape(
            workers=max(1, len(workers)),
            threads=max((worker["nthreads"] for worker in workers), default=1),
            memory=min(limits, default=None),
        )

    def submit(
        self, function: Callable[..., Any], *args: Any, key: str, worker: str | None = None
    ) -> Any:
        """Return the handle of a new task; it is submitted to Dask when a result is waited for."""
        handle = _Handle(unique_key(key, self._run, next(self._submitted)))
        self._pending.append(_PendingTask(handle, function, args, worker))
        return handle

    def reference(self, handle: Any) -> str:
        """Return the key of a task."""
        key: str = handle.key
        return key

    def _submit_pending(self) -> None:
        # In one graph, because a graph costs the scheduler about as much as a task.
        pending, self._pending = self._pending, []
        if not pending:
            return
        # Not `delayed`: each object holds the graph of all its dependencies: quadratic growth.
        homes = {one.handle.key: [one.worker] if one.worker else [] for one in pending}
        elsewhere = {key: bool(home) for key, home in homes.items()}
        with annotate(workers=homes.__getitem__, allow_other_workers=elsewhere.__getitem__):
            futures = self._client.get(
                Graph((one.handle.key, one.task) for one in pending),
                list(homes),
                sync=False,
                # By default, graphs within 100 ms share a priority, which delays the figures.
                fifo_timeout=0,
            )
        for one, future in zip(pending, futures, strict=True):
            one.handle.future = future

    def gather(self, handles: list[Any]) -> list[Any]:
        """Return the results of tasks, in order.

        Raises
        ------
        WorkersLostError
            If a task lost too many workers, or the scheduler has stalled.
        ClusterLostError
            If the scheduler is gone, or no worker comes back.
        """
        with self._losses_as_errors():
            self._submit_pending()
            futures = [handle.future for handle in handles]
            watch = _WorkerWatch(self._client, self._patience)
            # `Client.gather` and `wait` in this thread hang if all workers are lost meanwhile.
            gathering = asyncio.run_coroutine_threadsafe(
                self._client.gather(futures, asynchronous=True), self._client.loop.asyncio_loop
            )
            try:
                while not concurrent.futures.wait([gathering], _SECONDS_BETWEEN_CHECKS).done:
                    watch.check()
                results: list[Any] = gathering.result()
            finally:
                gathering.cancel()
            return results

    def as_completed(self, handles: list[Any]) -> Iterator[Any]:
        """Yield the results of tasks as they end; raises like `gather`."""
        with self._losses_as_errors():
            self._submit_pending()
            futures = [handle.future for handle in handles]
            watch = _WorkerWatch(self._client, self._patience)
            completed = as_completed(futures, with_results=True, loop=self._client.loop)
            while not completed.is_empty():
                for future, result in completed.next_batch(block=False):
                    # Unlike `next`, a batch contains errors as results.
                    if future.status == "error":
                        raise result[1].with_traceback(result[2])
                    if future.status == "cancelled":
                        raise CancelledError(future.key)
                    yield result
                time.sleep(_SECONDS_BETWEEN_BATCHES)
                watch.check()

    def watched(
        self, run: RunInfo, listener: Listener
    ) -> AbstractContextManager[Callable[[EpochFigures], None]]:
        """Show a training on the scheduler's dashboard and in its metrics during the block."""
        return watched(self._client, self._run, run, listener)

    @contextmanager
    def _losses_as_errors(self) -> Iterator[None]:
        """Raise this package's errors for Dask's errors about lost workers and schedulers."""
        interrupts.raise_if_interrupted()
        try:
            yield
        except KilledWorker as error:
            raise WorkersLostError(f"workers died, one after another, under {error.task}") from None
        except _SCHEDULER_LOST as error:
            raise ClusterLostError(f"the scheduler at {self._address} is gone") from error


class _WorkerWatch:
    """Checks every two seconds that there are workers, and that they have tasks to run."""

    def __init__(self, client: Client, patience: float) -> None:
        self._client = client
        self._patience = patience
        self._workers_at = self._tasks_at = self._checked_at = time.monotonic()

    def check(self) -> None:
        """Raise if it is useless to wait any longer.

        Raises
        ------
        ClusterLostError
            If there has been no worker for too long.
        WorkersLostError
            If there are workers, but the scheduler gives them no tasks.
        """
        interrupts.raise_if_interrupted()
        now = time.monotonic()
        if now - self._checked_at < _SECONDS_BETWEEN_CHECKS:
            return
        self._checked_at = now
        _restart_local_workers(self._client)
        tasks = _tasks_by_worker(self._client)
        if tasks:
            self._workers_at = now
        elif now - self._workers_at > self._patience:
            raise ClusterLostError(f"no worker came back within {self._patience:.0f} seconds")
        # If several workers die at once, Dask's scheduler can stall: a task that must run again
        # then waits for a task that the scheduler has already released.
        if any(tasks.values()) or not tasks:
            self._tasks_at = now
        elif now - self._tasks_at > _SECONDS_UNTIL_STALLED:
            raise WorkersLostError("workers were lost, and the scheduler has stalled")


def _threads_by_worker(client: Client) -> dict[str, int]:
    with _timeouts_as_losses():
        threads: dict[str, int] = client.nthreads()
    return threads


def _tasks_by_worker(client: Client) -> dict[str, tuple[str, ...]]:
    with _timeouts_as_losses():
        tasks: dict[str, tuple[str, ...]] = client.processing()
    return tasks


@contextmanager
def _timeouts_as_losses() -> Iterator[None]:
    """Raise CancelledError if the scheduler does not answer.

    Only for calls of the scheduler: an OSError that a task raised must not be mistaken for a loss.
    """
    try:
        yield
    except OSError as error:
        raise CancelledError from error


def _restart_local_workers(client: Client) -> None:
    """Start local workers whose nanny died with them; a living nanny restarts its own worker."""
    cluster = client.cluster
    if isinstance(cluster, LocalCluster | GuardedCluster):
        cluster.scale(len(cluster.worker_spec))
