"""The one place that knows Dask's client: where tasks run, and clusters to run them on."""

from __future__ import annotations

import itertools
import logging
import signal
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

from distributed import CancelledError, Client, KilledWorker, LocalCluster, as_completed, wait
from distributed.comm import CommClosedError

from dask_als.errors import ClusterLostError, InputError, JobError, WorkersLostError

_ANY_PORT = "127.0.0.1:0"
_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_BETWEEN_BATCHES = 0.01


class DaskExecutor:
    """Runs tasks on a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    patience : float, optional
        Seconds to wait for a worker when there is none.
    """

    def __init__(self, client: Client, *, patience: float = 300.0) -> None:
        self._client = client
        self._patience = patience
        # Dask takes a task for done if its key is known: no two of ours, on any client, share one.
        self._run = uuid.uuid4().hex[:8]
        self._submitted = itertools.count()

    @property
    def threads(self) -> int:
        """Threads of all workers."""
        return sum(self._client.nthreads().values())

    def submit(self, function: Callable[..., Any], *args: Any, key: str) -> Any:
        """Start a task and return its future."""
        unique = f"{key}-{self._run}-{next(self._submitted)}"
        return self._client.submit(function, *args, key=unique)

    def gather(self, handles: list[Any]) -> list[Any]:
        """Return the results of tasks, in order.

        Raises
        ------
        WorkersLostError
            If one worker after another died under a task.
        ClusterLostError
            If the scheduler is gone, or no worker comes back.
        """
        with self._losses_told():
            self._wait(handles)
            results: list[Any] = self._client.gather(handles)
            return results

    def as_completed(self, handles: list[Any]) -> Iterator[Any]:
        """Yield the results of tasks as they end; raises like `gather`."""
        with self._losses_told():
            watch = _Watch(self._client, self._patience)
            left = as_completed(handles, with_results=True, loop=self._client.loop)
            while not left.is_empty():
                for future, result in left.next_batch(block=False):
                    if future.status == "error":
                        # A batch, unlike `next`, holds errors as results: type, value, traceback.
                        raise result[1].with_traceback(result[2])
                    yield result
                time.sleep(_SECONDS_BETWEEN_BATCHES)
                watch.look()

    def _wait(self, handles: list[Any]) -> None:
        watch = _Watch(self._client, self._patience)
        while True:
            try:
                with self._client.as_current():
                    wait(handles, timeout=_SECONDS_BETWEEN_LOOKS)
                return
            except TimeoutError:
                watch.look()

    @contextmanager
    def _losses_told(self) -> Iterator[None]:
        address = self._client.scheduler.address if self._client.scheduler else "the address"
        try:
            yield
        except KilledWorker as error:
            raise WorkersLostError(f"workers died, one after another, under {error.task}") from None
        except (CancelledError, CommClosedError) as error:
            raise ClusterLostError(f"the scheduler at {address} is gone") from error


class _Watch:
    """Looks, now and then, whether there are workers."""

    def __init__(self, client: Client, patience: float) -> None:
        self._client = client
        self._patience = patience
        self._seen = self._looked = time.monotonic()

    def look(self) -> None:
        """Raise ClusterLostError if there has been no worker for too long."""
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        _bring_back_local_workers(self._client)
        if self._client.nthreads():
            self._seen = now
        elif now - self._seen > self._patience:
            raise ClusterLostError(f"no worker came back within {self._patience:.0f} seconds")


def _bring_back_local_workers(client: Client) -> None:
    """Start local workers whose nanny died with them; a living nanny restarts its own."""
    cluster = client.cluster
    if isinstance(cluster, LocalCluster):
        cluster.scale(len(cluster.worker_spec))


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """Which cluster to compute on.

    Attributes
    ----------
    address : str
        ``local``, or a scheduler's address: ``tcp://…`` or ``tls://…``.
    workers : int
        Worker processes of a local cluster.
    threads : int or None
        Threads of each of them; None shares out the machine's cores.
    memory : str
        Memory limit of each of them, as Dask writes it: ``4GiB``, ``auto``.
    dashboard : str
        Where a local cluster's dashboard listens; port 0 takes any free one.
    timeout : str
        How long to try to reach an address.
    logs : str
        From which level on a local cluster's own log messages are shown.
    """

    address: str = "local"
    workers: int = 1
    threads: int | None = None
    memory: str = "auto"
    dashboard: str = "127.0.0.1:8787"
    timeout: str = "10s"
    logs: str = "CRITICAL"


@contextmanager
def connected(settings: ClusterSettings) -> Iterator[Client]:
    """Connect to a cluster; a local one is started for the block and closed after it.

    Raises
    ------
    InputError
        If the address cannot be understood.
    JobError
        If there is no scheduler at the address.
    """
    if settings.address == "local":
        with (
            _local_cluster(settings) as cluster,
            Client(cluster) as client,
            _quiet_when_interrupted(),
        ):
            yield client
        return
    if "://" not in settings.address:
        raise InputError(
            f"--cluster is {settings.address!r}; it must be local or an address like "
            "tcp://scheduler:8786"
        )
    try:
        client = Client(settings.address, timeout=settings.timeout)
    except (OSError, TimeoutError):
        raise JobError(f"there is no scheduler at {settings.address}") from None
    except ValueError as error:
        raise InputError(f"--cluster is {settings.address!r}: {error}") from None
    with client, _quiet_when_interrupted():
        yield client


@contextmanager
def _quiet_when_interrupted() -> Iterator[None]:
    """Keep asyncio from complaining of what Dask's client leaves behind when it is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise


def current_client() -> Client | None:
    """Return the client that Dask would use now, if there is one."""
    try:
        return Client.current()
    except ValueError:
        return None


@contextmanager
def in_process_client() -> Iterator[Client]:
    """Run tasks on threads of this process, for the block."""
    with (
        LocalCluster(processes=False, n_workers=1, dashboard_address=_ANY_PORT) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _local_cluster(settings: ClusterSettings) -> LocalCluster:
    with _interrupts_deferred(), warnings.catch_warnings():
        # We say where the dashboard is, so it may be where no other one is.
        warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)
        return LocalCluster(
            n_workers=settings.workers,
            threads_per_worker=settings.threads,
            memory_limit=settings.memory,
            dashboard_address=settings.dashboard,
            host="127.0.0.1",
            silence_logs=logging.getLevelName(settings.logs),
        )


@contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Hold back Ctrl-C for the block.

    A cluster is not interrupted half-started, and its processes, which inherit the block and keep
    it, leave Ctrl-C to this one, which closes them.
    """
    # Python's resource tracker would take the block away when the first process starts it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
