"""The one place that knows Dask's client: where tasks run, and clusters to run them on."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask
from distributed import Client, LocalCluster, as_completed

from dask_als.errors import InputError, JobError


class DaskExecutor:
    """Runs tasks on a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        # Keys of another run on the same cluster must not be taken for ours.
        self._run = uuid.uuid4().hex[:8]

    @property
    def threads(self) -> int:
        """Threads of all workers."""
        return sum(self._client.nthreads().values())

    def submit(self, function: Callable[..., Any], *args: Any, key: str) -> Any:
        """Start a task and return its future."""
        return self._client.submit(function, *args, key=f"{key}-{self._run}", pure=False)

    def gather(self, handles: list[Any]) -> list[Any]:
        """Return the results of tasks, in order."""
        results: list[Any] = self._client.gather(handles)
        return results

    def as_completed(self, handles: list[Any]) -> Iterator[Any]:
        """Yield the results of tasks as they end."""
        for _, result in as_completed(handles, with_results=True):
            yield result


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
        Where a local cluster's dashboard listens; ``:0`` takes any free port.
    """

    address: str = "local"
    workers: int = 1
    threads: int | None = None
    memory: str = "auto"
    dashboard: str = "127.0.0.1:8787"


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
        with _local_cluster(settings) as cluster, Client(cluster) as client:
            yield client
        return
    if "://" not in settings.address:
        raise InputError(
            f"--cluster is {settings.address!r}; it must be local or an address like "
            "tcp://scheduler:8786"
        )
    try:
        client = Client(settings.address, timeout="10s")
    except (OSError, TimeoutError):
        raise JobError(f"there is no scheduler at {settings.address}") from None
    except ValueError as error:
        raise InputError(f"--cluster is {settings.address!r}: {error}") from None
    with client:
        yield client


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
        LocalCluster(processes=False, n_workers=1, dashboard_address=None) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _local_cluster(settings: ClusterSettings) -> LocalCluster:
    # The dashboard asks for nothing but loopback; a port that is taken is no reason to fail.
    with dask.config.set({"distributed.scheduler.allowed-failures": 10}):
        return LocalCluster(
            n_workers=settings.workers,
            threads_per_worker=settings.threads,
            memory_limit=settings.memory,
            dashboard_address=settings.dashboard,
            host="127.0.0.1",
        )
