"""The one place that knows Dask's client: where tasks run, and clusters to run them on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import logging
import math
import re
import ssl
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dask
import distributed
from dask import annotate
from dask._task_spec import Dict, List, Task, TaskRef
from dask.system import CPU_COUNT
from dask.tokenize import normalize_token
from dask.utils import parse_bytes, parse_timedelta
from distributed import (
    CancelledError,
    Client,
    KilledWorker,
    LocalCluster,
    Nanny,
    SchedulerPlugin,
    Security,
    Worker,
    WorkerPlugin,
    as_completed,
)
from distributed.client import ClosedClientError
from distributed.comm import connect
from distributed.system import MEMORY_LIMIT
from distributed.utils import silence_logging_cmgr

from dask_als.cluster import endings, interrupts
from dask_als.cluster.private import (
    OPEN,
    GuardedCluster,
    local_settings,
    temporary_security,
    unguessable_path,
)
from dask_als.core import outputs
from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.executor import Shape
from dask_als.core.ownership import PERFORMANCE_REPORT, marked_text
from dask_als.core.run_events import Listener, RunInfo
from dask_als.core.task_keys import unique_key
from dask_als.errors import ClusterLostError, InputError, JobError, WorkersLostError
from dask_als.monitor.watcher import watched
from dask_als.settings.cluster import KubernetesSize, LocalSize

_ANY_PORT = "127.0.0.1:0"
_SECONDS_BETWEEN_LOOKS = 2.0
_SECONDS_AT_A_STANDSTILL = 10.0
_SECONDS_BETWEEN_BATCHES = 0.01
_SECONDS_OF_MESSAGES = 0.0005
_WORKERS_ENVIRONMENT = {
    # Arrow's own allocator keeps what reading took: 100 MB of 900 at 20 M ratings.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    # What an epoch frees, the next one needs: a tenth of its time if the system gets it back.
    "MALLOC_MMAP_THRESHOLD_": 4 << 20,
    "MALLOC_TRIM_THRESHOLD_": 64 << 20,
}
_LOCAL_SETTINGS = {
    **{
        f"distributed.nanny.pre-spawn-environ.{name}": value
        for name, value in _WORKERS_ENVIRONMENT.items()
    },
    # By default each process looks at itself 50 or 100 times a second: 2 % of two cores.
    "distributed.admin.tick.interval": "200ms",
    "distributed.worker.profile.interval": "100ms",
}


class _Handle:
    """Stands for a task: its key, and its future once it is started."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.future: Any = None


@dataclass(frozen=True)
class _Noted:
    """A task that is not started yet; until then it holds the handles among its arguments."""

    handle: _Handle
    function: Callable[..., Any]
    args: tuple[Any, ...]
    worker: str | None

    @property
    def task(self) -> Task:
        """What Dask calls a task."""
        return Task(self.handle.key, self.function, *map(_known, self.args))


def _known(value: Any) -> Any:
    """Return an argument in which Dask knows the handles, also inside lists and dictionaries."""
    if isinstance(value, _Handle):
        return TaskRef(value.key)
    if isinstance(value, list):
        return List(*map(_known, value))
    if isinstance(value, dict):
        return Dict({key: _known(item) for key, item in value.items()})
    return value


class _Graph(dict[str, Task]):
    """Tasks by keys that no other tasks have: these are its name, which Dask wants to know."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A scheduler need not have this module.
        return dict, (dict(self),)


normalize_token.register(_Graph, list)


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
        self._address = client.scheduler.address
        self._patience = patience
        # Dask takes a task for done if its key is known: no two of ours, on any client, share one.
        self._run = uuid.uuid4().hex[:8]
        self._submitted = itertools.count()
        self._noted: list[_Noted] = []

    @property
    def threads(self) -> int:
        """Threads of all workers."""
        return sum(_threads_by_worker(self._client).values())

    @property
    def workers(self) -> frozenset[str]:
        """The addresses of all workers."""
        with self._losses_told():
            return frozenset(_threads_by_worker(self._client))

    @property
    def shape(self) -> Shape:
        """Workers as they are now: the most threads, and the lowest memory limit, that one has."""
        with self._losses_told():
            workers = _about_workers(self._client)
        limits = [worker["memory_limit"] for worker in workers if worker["memory_limit"]]
        return Shape(
            workers=max(1, len(workers)),
            threads=max((worker["nthreads"] for worker in workers), default=1),
            memory=min(limits, default=None),
        )

    def submit(
        self, function: Callable[..., Any], *args: Any, key: str, worker: str | None = None
    ) -> Any:
        """Note a task down and return its handle; it starts when a result is waited for."""
        handle = _Handle(unique_key(key, self._run, next(self._submitted)))
        self._noted.append(_Noted(handle, function, args, worker))
        return handle

    def _start_noted(self) -> None:
        # All at once: a graph costs the scheduler about as much as a task.
        noted, self._noted = self._noted, []
        if not noted:
            return
        # Not `delayed`: each holds a graph of its own of all it depends on, so they grow squared.
        homes = {one.handle.key: [one.worker] if one.worker else [] for one in noted}
        elsewhere = {key: bool(home) for key, home in homes.items()}
        with annotate(workers=homes.__getitem__, allow_other_workers=elsewhere.__getitem__):
            futures = self._client.get(
                _Graph((one.handle.key, one.task) for one in noted),
                list(homes),
                sync=False,
                # Else what is submitted later has the same priorities, and figures come late.
                fifo_timeout=0,
            )
        for one, future in zip(noted, futures, strict=True):
            one.handle.future = future

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
            self._start_noted()
            futures = [handle.future for handle in handles]
            watch = _Watch(self._client, self._patience)
            # Not `Client.gather`, nor `wait` before it: they hang if all workers go meanwhile.
            gathering = asyncio.run_coroutine_threadsafe(
                self._client.gather(futures, asynchronous=True), self._client.loop.asyncio_loop
            )
            try:
                while not concurrent.futures.wait([gathering], _SECONDS_BETWEEN_LOOKS).done:
                    watch.look()
                results: list[Any] = gathering.result()
            finally:
                gathering.cancel()
            return results

    def as_completed(self, handles: list[Any]) -> Iterator[Any]:
        """Yield the results of tasks as they end; raises like `gather`."""
        with self._losses_told():
            self._start_noted()
            futures = [handle.future for handle in handles]
            watch = _Watch(self._client, self._patience)
            left = as_completed(futures, with_results=True, loop=self._client.loop)
            while not left.is_empty():
                for future, result in left.next_batch(block=False):
                    # A batch, unlike `next`, holds errors as results.
                    if future.status == "error":
                        raise result[1].with_traceback(result[2])
                    if future.status == "cancelled":
                        raise CancelledError(future.key)
                    yield result
                time.sleep(_SECONDS_BETWEEN_BATCHES)
                watch.look()

    def watched(
        self, run: RunInfo, listener: Listener
    ) -> AbstractContextManager[Callable[[EpochFigures], None]]:
        """Show a training on the scheduler's dashboard and among its metrics for the block."""
        return watched(self._client, self._run, run, listener)

    @contextmanager
    def _losses_told(self) -> Iterator[None]:
        interrupts.raise_if_interrupted()
        try:
            yield
        except KilledWorker as error:
            raise WorkersLostError(f"workers died, one after another, under {error.task}") from None
        except (CancelledError, asyncio.CancelledError, ClosedClientError) as error:
            raise ClusterLostError(f"the scheduler at {self._address} is gone") from error


class _Watch:
    """Looks, now and then, whether there are workers, and whether they have something to do."""

    def __init__(self, client: Client, patience: float) -> None:
        self._client = client
        self._patience = patience
        self._seen = self._busy = self._looked = time.monotonic()

    def look(self) -> None:
        """Raise if nothing can be waited for any more.

        Raises
        ------
        ClusterLostError
            If there has been no worker for too long.
        WorkersLostError
            If there are workers, but the scheduler gives them nothing to do.
        """
        interrupts.raise_if_interrupted()
        now = time.monotonic()
        if now - self._looked < _SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        _bring_back_local_workers(self._client)
        tasks = _tasks_by_worker(self._client)
        if tasks:
            self._seen = now
        elif now - self._seen > self._patience:
            raise ClusterLostError(f"no worker came back within {self._patience:.0f} seconds")
        # Dask's scheduler can lose itself when workers die at the same time: a task that has to run
        # again then waits for one that is already given up.
        if any(tasks.values()) or not tasks:
            self._busy = now
        elif now - self._busy > _SECONDS_AT_A_STANDSTILL:
            raise WorkersLostError("workers were lost, and the scheduler is at a standstill")


def _threads_by_worker(client: Client) -> dict[str, int]:
    with _answers():
        threads: dict[str, int] = client.nthreads()
    return threads


def _about_workers(client: Client) -> list[dict[str, Any]]:
    # Not `Client.scheduler_info`: what it returns may be of a look that asked for no workers.
    with _answers():
        info = client.sync(client.scheduler.identity, n_workers=-1)
    return list(info["workers"].values())


def _tasks_by_worker(client: Client) -> dict[str, tuple[str, ...]]:
    with _answers():
        tasks: dict[str, tuple[str, ...]] = client.processing()
    return tasks


@contextmanager
def _answers() -> Iterator[None]:
    """Tell a scheduler that does not answer from an OSError of a task, which never comes here."""
    try:
        yield
    except OSError as error:
        raise CancelledError from error


def _bring_back_local_workers(client: Client) -> None:
    """Start local workers whose nanny died with them; a living nanny restarts its own."""
    cluster = client.cluster
    if isinstance(cluster, LocalCluster | GuardedCluster):
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
    private : bool
        Let no other user of this machine into a local cluster: certificates that exist as long as
        it does (unless others are given), and a dashboard at an address that nobody can guess.
    dashboard : str
        Where a local cluster's dashboard listens; port 0 takes any free one.
    timeout : str
        How long to try to reach an address.
    logs : str
        From which level on Dask's own log messages are shown.
    worker_timeout : float
        Seconds to wait for a worker when there is none.
    tls_ca, tls_cert, tls_key : str or None
        PEM files: the authority that signed all certificates of the cluster, one of them, and its
        key. With them nothing goes over the network unencrypted, and nobody without such a
        certificate takes part.
    kubernetes : KubernetesSize
        Of a cluster on Kubernetes, whose own workers, threads and memory count.

    Raises
    ------
    InputError
        If the values do not go together.
    """

    address: str = "local"
    workers: int = 1
    threads: int | None = None
    memory: str = "auto"
    private: bool = True
    dashboard: str = "127.0.0.1:8787"
    timeout: str = "10s"
    logs: str = "CRITICAL"
    worker_timeout: float = 300.0
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    kubernetes: KubernetesSize = field(default_factory=KubernetesSize)

    def __post_init__(self) -> None:
        if self.address not in ("local", "kubernetes") and "://" not in self.address:
            raise InputError(
                f"--cluster is {self.address!r}; it must be local, kubernetes or an address like "
                "tcp://scheduler:8786"
            )
        if not 0 < self.worker_timeout < math.inf:
            raise InputError(
                f"--worker-timeout is {self.worker_timeout}; it must be a number above 0"
            )
        LocalSize(workers=self.workers, threads=self.threads)
        try:
            is_time = 0 < parse_timedelta(self.timeout) < math.inf
        except (ValueError, KeyError):
            is_time = False
        if not is_time:
            raise InputError(f"--timeout is {self.timeout!r}; write it like 10s")
        port = self.dashboard.rpartition(":")[2]
        if not (re.fullmatch("[0-9]{1,5}", port) and int(port) < 2**16):
            raise InputError(f"--dashboard is {self.dashboard!r}; write it like 127.0.0.1:8787")
        if self.address == "local":
            _ = self.shape
        given = [file is not None for file in (self.tls_ca, self.tls_cert, self.tls_key)]
        if any(given) and not all(given):
            raise InputError("--tls-ca, --tls-cert and --tls-key go together; give all of them")
        if any(given) and self.address.startswith("tcp://"):
            raise InputError(f"--cluster is {self.address}; with --tls-ca it must be tls://…")

    @property
    def security(self) -> Security | None:
        """Certificates of scheduler, workers and client; None leaves them to Dask's settings.

        Raises
        ------
        InputError
            If one of the files cannot be used.
        """
        if self.tls_ca is None or self.tls_cert is None:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
            context.load_cert_chain(self.tls_cert, self.tls_key)
        except OSError as error:
            files = f"{self.tls_ca}, {self.tls_cert} and {self.tls_key}"
            raise InputError(f"{files} are no certificates: {error.strerror or error}") from None
        roles = ("client", "scheduler", "worker")
        return Security(
            require_encryption=True,
            tls_ca_file=self.tls_ca,
            **{f"tls_{role}_cert": self.tls_cert for role in roles},
            **{f"tls_{role}_key": self.tls_key for role in roles},
        )

    @property
    def shape(self) -> Shape:
        """What a local cluster will be like, as Dask understands threads and memory.

        Raises
        ------
        InputError
            If the memory limit cannot be understood.
        """
        threads = self.threads or math.ceil(CPU_COUNT / self.workers)
        try:
            memory = _memory_limit(self.memory, min(1.0, threads / CPU_COUNT))
            if memory < 0:
                raise ValueError("negative")
        except (ValueError, OverflowError):
            raise InputError(f"--memory is {self.memory!r}; write it like 4GiB") from None
        return Shape(self.workers, threads, memory or None)


def _memory_limit(text: str, share: float) -> int:
    """Return bytes of what Dask takes for a limit: ``auto``, a part of the machine's, a size."""
    if text == "auto":
        return int(MEMORY_LIMIT * share)
    with suppress(ValueError):
        if 0 < float(text) <= 1:
            return int(MEMORY_LIMIT * float(text))
    size: int = parse_bytes(text)
    return size


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
        path = unguessable_path() if settings.private else OPEN
        with (
            interrupts.noticed(),
            dask.config.set(_LOCAL_SETTINGS),
            local_settings(path),
            endings.directory_of_workers(),
            endings.local_cluster(partial(_local_cluster, settings, path)) as cluster,
            endings.connection(Client(cluster)) as client,
        ):
            _send_promptly(client)
            yield client
        return
    if settings.address == "kubernetes":
        with _on_kubernetes(settings) as client:
            yield client
        return
    client = _client_at(settings)
    if isinstance(client, Exception):
        # One that failed has to go now: its finalizer, run by the garbage collector while the next
        # one starts, would wait for a lock that the next one holds.
        gc.collect()
        raise client
    with interrupts.noticed(), silence_logging_cmgr(settings.logs), endings.connection(client):
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
        endings.connection(Client(cluster, timeout=settings.timeout)) as client,
    ):
        try:
            client.wait_for_workers(settings.kubernetes.workers, timeout=settings.worker_timeout)
        except TimeoutError:
            raise ClusterLostError(
                f"of {settings.kubernetes.workers} workers on Kubernetes, "
                f"{len(_threads_by_worker(client))} came within {settings.worker_timeout:g} s"
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
    # Dask waits without end for the first word of an address that accepts connections.
    security = settings.security or Security()
    connecting = connect(
        settings.address,
        timeout=settings.timeout,
        **security.get_connection_args("client"),
    )
    comm = await asyncio.wait_for(connecting, parse_timedelta(settings.timeout))
    comm.abort()


def _send_promptly(client: Client) -> None:
    """Let client, scheduler and workers of a local cluster send messages at once.

    They collect them for up to 10 ms, which spares a busy scheduler work, but makes two tasks after
    another cost 14 ms: more than an epoch of small data takes to compute.
    """
    client.scheduler_comm.interval = _SECONDS_OF_MESSAGES
    client.register_plugin(_PromptScheduler())
    client.register_plugin(_PromptWorker())


class _PromptScheduler(SchedulerPlugin):  # type: ignore[misc]
    """Makes messages to every worker leave at once."""

    name = "dask-als-prompt-scheduler"

    def start(self, scheduler: Any) -> None:
        for comm in (*scheduler.client_comms.values(), *scheduler.stream_comms.values()):
            comm.interval = _SECONDS_OF_MESSAGES

    def add_worker(self, scheduler: Any, worker: str) -> None:
        scheduler.stream_comms[worker].interval = _SECONDS_OF_MESSAGES


class _PromptWorker(WorkerPlugin):  # type: ignore[misc]
    """Makes messages of a worker leave at once."""

    name = "dask-als-prompt-worker"

    def setup(self, worker: Any) -> None:
        worker.batched_stream.interval = _SECONDS_OF_MESSAGES


def current_client() -> Client | None:
    """Return the client that Dask would use now, if there is one."""
    try:
        return Client.current()
    except ValueError:
        return None


@contextmanager
def performance_report(client: Client, path: str) -> Iterator[None]:
    """Write Dask's performance report of the block, also if it fails and Dask still answers.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    outputs.check_file(path, PERFORMANCE_REPORT)
    with TemporaryDirectory(prefix="dask-als-") as scratch, client.as_current():
        page = Path(scratch) / "report.html"
        report = distributed.performance_report(filename=str(page))
        report.__enter__()
        try:
            yield
        except BaseException as error:
            with suppress(Exception):
                report.__exit__(type(error), error, error.__traceback__)
                _write_performance_report(path, page)
            raise
        report.__exit__(None, None, None)
        _write_performance_report(path, page)


def _write_performance_report(path: str, page: Path) -> None:
    text = marked_text(PERFORMANCE_REPORT, page.read_text())
    outputs.replace_text(path, PERFORMANCE_REPORT, text)


@contextmanager
def in_process_client() -> Iterator[Client]:
    """Run tasks on threads of this process, for the block."""
    path = unguessable_path()
    with (
        local_settings(path),
        endings.directory_of_workers(),
        endings.local_cluster(partial(_cluster_in_process, path)) as cluster,
        endings.connection(Client(cluster, set_as_default=False)) as client,
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
        # We say where the dashboard is, so it may be where no other one is.
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
