"""A local cluster that other users of the machine cannot reach.

Everyone who can connect to a Dask scheduler, worker or nanny can run code as its user, and all
users of a machine can connect to its loopback addresses. So each of them demands a certificate that
only this process and its workers have, and the dashboard has a secret path.
"""

from __future__ import annotations

import datetime
import secrets
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dask
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from distributed import Nanny, Scheduler, Security, Worker
from distributed.deploy.spec import SpecCluster

from dask_als.cluster import parent
from dask_als.core.executor import Shape
from dask_als.dask_internals import serve_only_below

OPEN = "/"
"""The path of a dashboard that all users may see."""

_ROLES = ("client", "scheduler", "worker")


def unguessable_path() -> str:
    """Return a secret path for a dashboard."""
    return f"/{secrets.token_urlsafe(16)}"


def temporary_security() -> Security:
    """Return a key and a self-signed certificate, which exist in memory only.

    Unlike those of `Security.temporary`, they are fast to make, and valid even if the machine's
    clock is wrong or is set during a training.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dask-als")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(1970, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_text = certificate.public_bytes(serialization.Encoding.PEM).decode()
    key_text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    return Security(
        require_encryption=True,
        tls_min_version=ssl.TLSVersion.TLSv1_3,
        tls_max_version=None,
        tls_ciphers=None,
        tls_ca_file=certificate_text,
        **{f"tls_{role}_cert": certificate_text for role in _ROLES},
        **{f"tls_{role}_key": key_text for role in _ROLES},
    )


class _GuardedScheduler(Scheduler):  # type: ignore[misc]
    """A scheduler whose HTTP server serves nothing outside of a path."""

    def __init__(self, *, http_prefix: str, **options: Any) -> None:
        self._path = http_prefix.rstrip("/")
        super().__init__(http_prefix=http_prefix, **options)

    def start_http_server(self, *args: Any, **options: Any) -> None:
        """Start the server; from the first request on, it serves nothing outside of the path."""
        super().start_http_server(*args, **options)
        serve_only_below(self, self._path)


class GuardedCluster(SpecCluster):  # type: ignore[misc]
    """Dask's `LocalCluster` with a dashboard below a path.

    Parameters
    ----------
    path : str
        The path of the dashboard.
    worker_class : type
        Nanny for worker processes, Worker for threads of this process.
    size : Shape
        The number of workers, and of threads of each.
    memory : str
        The memory limit of each worker.
    protocol : str
        ``tls``, ``tcp`` or ``inproc``.
    dashboard : str
        The address where the dashboard listens.
    security : Security
    silence_logs : int
        Dask's log messages below this level are not shown.
    """

    def __init__(
        self,
        *,
        path: str,
        worker_class: type[Nanny] | type[Worker],
        size: Shape,
        memory: str,
        protocol: str,
        dashboard: str,
        security: Security,
        silence_logs: int,
    ) -> None:
        host = None if protocol == "inproc" else "127.0.0.1"
        shared = {"host": host, "protocol": f"{protocol}://", "security": security}
        scheduler = {
            **shared,
            "port": 0,
            "dashboard": True,
            "dashboard_address": dashboard,
            "http_prefix": path,
        }
        worker = {
            "cls": worker_class,
            "options": {
                **shared,
                "nthreads": size.threads,
                "memory_limit": memory,
                "dashboard": False,
                # Without it, a worker without a host listens on all interfaces.
                "dashboard_address": "127.0.0.1:0",
                "silence_logs": silence_logs,
                "preload": [parent.PRELOAD],
            },
        }
        self._path = path
        super().__init__(
            scheduler={"cls": _GuardedScheduler, "options": scheduler},
            worker=worker,
            workers=dict.fromkeys(range(size.workers), worker),
            security=security,
            silence_logs=silence_logs,
        )

    @property
    def dashboard_link(self) -> str:
        """The address of the dashboard for a browser."""
        link: str = super().dashboard_link
        return f"{link.removesuffix('status').rstrip('/')}{self._path.rstrip('/')}/status"


@contextmanager
def local_settings(path: str) -> Iterator[None]:
    """Set Dask's configuration for a guarded cluster during the block.

    Parameters
    ----------
    path : str
        The path of its dashboard.
    """
    settings: dict[str, Any] = {}
    if path != OPEN:
        # Each worker has a port for metrics, which the secret path does not protect.
        settings["distributed.worker.http.routes"] = []
    with dask.config.set(settings):
        yield
