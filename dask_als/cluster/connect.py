"""Connections to a cluster: at an address, on Kubernetes, or a temporary local one."""

from __future__ import annotations

import asyncio
import gc
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import dask
from dask.system import CPU_COUNT
from dask.utils import parse_timedelta
from distributed import Client, Nanny, Security, Worker

from dask_als.cluster import interrupts, lifecycle
from dask_als.cluster.low_latency import send_without_delay
from dask_als.cluster.private import (
    OPEN,
    GuardedCluster,
    local_settings,
    temporary_security,
    unguessable_path,
)
from dask_als.cluster.settings import ClusterSettings
from dask_als.core.executor import Shape
from dask_als.dask_internals import connect, silence_logging_cmgr
from dask_als.errors import ClusterLostError, InputError, JobError

_ANY_PORT = "127.0.0.1:0"
WORKER_ENVIRONMENT = {
    # Arrow's own allocator keeps memory after reading: 100 MB of 900 at 20 M ratings.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # Each epoch reuses the memory of the last. Returning it to the system takes 10 % of the time.
    "MALLOC_MMAP_THRESHOLD_": 4 << 20,
    "MALLOC_TRIM_THRESHOLD_": 64 << 20,
}
_DASK_SETTINGS = {
    **{
        f"distributed.nanny.pre-spawn-environ.{name}": value
        for name, value in WORKER_ENVIRONMENT.items()
    },
    # By default each process samples itself 50 or 100 times a second: 2 % of two cores.
    "distributed.admin.tick.interval": "200ms",
    "distributed.worker.profile.interval": "100ms",
}


@contextmanager
def connected(settings: ClusterSettings) -> Iterator[Client]:
    """Connect to a cluster; a local one is started for the block and closed after it.

    Raises
    ------
    InputError
        If the address is malformed.
    JobError
        If there is no scheduler at the address.
    """
    if settings.address == "local":
        path = unguessable_path() if settings.private else OPEN
        with (
            interrupts.noticed(),
            dask.config.set(_DASK_SETTINGS),
            local_settings(path),
            lifecycle.directory_of_workers(),
            lifecycle.local_cluster(partial(_local_cluster, settings, path)) as cluster,
            lifecycle.connection(Client(cluster)) as client,
        ):
            send_without_delay(client)
            yield client
        return
    if settings.address == "kubernetes":
        with _on_kubernetes(settings) as client:
            yield client
        return
    client = _client_at(settings)
    if isinstance(client, Exception):
        # Collect the failed client now: its finalizer would deadlock if the garbage collector ran
        # it while the next client starts.
        gc.collect()
        raise client
    with interrupts.noticed(), silence_logging_cmgr(settings.logs), lifecycle.connection(client):
        yield client


@contextmanager
def _on_kubernetes(settings: ClusterSettings) -> Iterator[Client]:
    try:
        from dask_als.kubernetes.cluster import kube_cluster
    except ImportError:
        raise InputError("--cluster kubernetes needs: pip install 'dask-als[kubernetes]'") from None
    with (
        interrupts.noticed(),
        silence_logging_cmgr(settings.logs),
        kube_cluster(settings.kubernetes) as cluster,
        lifecycle.connection(Client(cluster, timeout=settings.timeout)) as client,
    ):
        try:
            client.wait_for_workers(settings.kubernetes.workers, timeout=settings.worker_timeout)
        except TimeoutError:
            raise ClusterLostError(
                f"of {settings.kubernetes.workers} workers on Kubernetes, "
                f"{len(client.nthreads())} came within {settings.worker_timeout:g} s"
            ) from None
        yield client


def _client_at(settings: ClusterSettings) -> Client | InputError | JobError:
    try:
        asyncio.run(_check_that_it_answers(settings))
        return Client(settings.address, timeout=settings.timeout, security=settings.security)
    except (OSError, TimeoutError):
        also = ", or it refused these certificates" if settings.tls_ca else ""
        return JobError(f"there is no scheduler at {settings.address}{also}")
    except (TypeError, ValueError) as error:
        return InputError(f"--cluster is {settings.address!r}: {error}")


async def _check_that_it_answers(settings: ClusterSettings) -> None:
    # Dask waits forever for a peer that accepts the connection but never answers.
    security = settings.security or Security()
    connecting = connect(
        settings.address,
        timeout=settings.timeout,
        **security.get_connection_args("client"),
    )
    comm = await asyncio.wait_for(connecting, parse_timedelta(settings.timeout))
    comm.abort()


def current_client() -> Client | None:
    """Return Dask's current client, if there is one."""
    try:
        return Client.current()
    except ValueError:
        return None


@contextmanager
def in_process_client() -> Iterator[Client]:
    """Yield a client that runs tasks in threads of this process."""
    path = unguessable_path()
    with (
        local_settings(path),
        lifecycle.directory_of_workers(),
        lifecycle.local_cluster(partial(_cluster_in_process, path)) as cluster,
        lifecycle.connection(Client(cluster, set_as_default=False)) as client,
    ):
        yield client


def _cluster_in_process(path: str) -> GuardedCluster:
    return GuardedCluster(
        path=path,
        worker_class=Worker,
        size=Shape(workers=1, threads=CPU_COUNT, memory=None),
        memory="auto",
        protocol="inproc",
        dashboard=_ANY_PORT,
        security=Security(),
        silence_logs=logging.WARNING,
    )


def _local_cluster(settings: ClusterSettings, path: str) -> GuardedCluster:
    security = settings.security or (temporary_security() if settings.private else Security())
    with interrupts.deferred(), warnings.catch_warnings():
        # If the port is taken, Dask takes another, and we print the dashboard's address anyway.
        warnings.filterwarnings("ignore", "Port .* is already in use", UserWarning)
        return GuardedCluster(
            path=path,
            worker_class=Nanny,
            size=settings.shape,
            memory=settings.memory,
            protocol="tls" if security.require_encryption else "tcp",
            dashboard=settings.dashboard,
            security=security,
            silence_logs=logging.getLevelName(settings.logs),
        )
