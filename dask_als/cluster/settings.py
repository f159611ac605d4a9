"""Which cluster to compute on: settings that only Dask can check."""

from __future__ import annotations

import math
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass, field

from dask.system import CPU_COUNT
from dask.utils import parse_bytes, parse_timedelta
from distributed import Security

from dask_als.core.executor import Shape
from dask_als.dask_internals import MEMORY_LIMIT
from dask_als.errors import InputError
from dask_als.settings.cluster_size import KubernetesSize, LocalSize


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
        Threads of each worker; None divides the machine's cores among the workers.
    memory : str
        Memory limit of each worker, in Dask's notation: ``4GiB``, ``auto``.
    private : bool
        Exclude other users of this machine from a local cluster, by temporary certificates (unless
        others are given) and by a secret path of the dashboard.
    dashboard : str
        Where a local cluster's dashboard listens; port 0 takes any free one.
    timeout : str
        How long to try to reach an address.
    logs : str
        The lowest level of Dask's own log messages that are shown.
    worker_timeout : float
        Seconds to wait for a worker when there is none.
    tls_ca, tls_cert, tls_key : str or None
        PEM files: the authority that signed all certificates of the cluster, a certificate, and
        the key of the certificate. With them all messages are encrypted, and the cluster accepts
        only peers with a certificate of this authority.
    kubernetes : KubernetesSize
        Size of a cluster on Kubernetes, in place of workers, threads and memory.

    Raises
    ------
    InputError
        If a value is invalid, or values contradict each other.
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
        try:
            LocalSize(workers=self.workers, threads=self.threads)
        except InputError as error:
            raise InputError(f"--{error}") from None
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
            raise InputError(f"{files} cannot be used: {error.strerror or error}") from None
        roles = ("client", "scheduler", "worker")
        return Security(
            require_encryption=True,
            tls_ca_file=self.tls_ca,
            **{f"tls_{role}_cert": self.tls_cert for role in roles},
            **{f"tls_{role}_key": self.tls_key for role in roles},
        )

    @property
    def shape(self) -> Shape:
        """The size of a local cluster, computed as Dask computes threads and memory.

        Raises
        ------
        InputError
            If the memory limit cannot be parsed.
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
    """Return a memory limit in bytes: ``auto``, a fraction of the machine's memory, or a size."""
    if text == "auto":
        return int(MEMORY_LIMIT * share)
    with suppress(ValueError):
        if 0 < float(text) <= 1:
            return int(MEMORY_LIMIT * float(text))
    size: int = parse_bytes(text)
    return size
