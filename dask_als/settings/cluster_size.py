"""Settings of a cluster: its size, on this machine or on Kubernetes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from dask_als.core import typed_tables
from dask_als.errors import InputError
from dask_als.settings.checks import require, require_whole
from dask_als.settings.credentials import looks_like_credential


@dataclass(frozen=True, kw_only=True)
class LocalSize:
    """The size of a cluster on this machine, and who may use it.

    Attributes
    ----------
    workers : int
        Number of worker processes.
    threads : int or None
        Threads per worker; None divides all cores among the workers.
    memory : str
        Memory limit per worker, like 4GiB.
    private : bool
        Whether other users of this machine can neither see the cluster nor run code on it.
    """

    workers: int = 1
    threads: int | None = None
    memory: str = "auto"
    private: bool = True

    def __post_init__(self) -> None:
        require_whole("workers", self.workers, least=1)
        require_whole("threads", 1 if self.threads is None else self.threads, least=1)


@dataclass(frozen=True, kw_only=True)
class KubernetesSize:
    """A cluster on Kubernetes, and the storage that its pods share.

    Attributes
    ----------
    image : str
        The image of runner, scheduler and workers, built from ``k8s/Dockerfile``.
    workers : int
        Number of worker pods.
    threads : int
        Threads per worker, and the limit of its CPUs.
    memory : str
        Memory per worker in Kubernetes' notation, like 4Gi.
    cpu : str or None
        CPUs that each worker requests, like 500m; None requests one per thread.
    namespace : str
    service_account : str
        The service account of all pods; it needs no rights.
    volume_claim : str
        The persistent volume claim that all pods mount; empty if all paths are on object stores.
    volume_path : str
        The directory where it is mounted; relative paths of a job are below it.
    node_selectors : dict of str to str
        Labels that a node must have.
    environment : dict of str to str
        Environment variables of all pods; none may look like a credential.
    secrets : dict of str to str
        Environment variables of all pods that stay secret: they are stored in a Secret of the job
        and never shown. ``${NAME}`` stands for a variable of the submitting environment.
    secret_names : tuple of str
        Existing Secrets of the namespace; each of their keys is a variable of all pods.

    Raises
    ------
    InputError
        If a value is out of its range.
    """

    image: str = "dask-als:0.2.0"
    workers: int = 2
    threads: int = 1
    memory: str = "4Gi"
    cpu: str | None = None
    namespace: str = "dask-als"
    service_account: str = "dask-als-job"
    volume_claim: str = "dask-als"
    volume_path: str = "/data"
    node_selectors: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(
        default_factory=dict, repr=False, metadata={typed_tables.SECRET: True}
    )
    secret_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(bool(self.image), "image", self.image, "the name of an image")
        require_whole("workers", self.workers, least=1)
        require_whole("threads", self.threads, least=1)
        memory = re.fullmatch(r"[0-9]+([KMGT]i?)?", self.memory)
        require(memory is not None, "memory", self.memory, "in Kubernetes' notation, like 4Gi")
        cpu = re.fullmatch(r"[0-9]+m|[0-9]+(\.[0-9]+)?", self.cpu or "1")
        require(cpu is not None, "cpu", self.cpu, "in Kubernetes' notation, like 2 or 500m")
        require(self.volume_path.startswith("/"), "volume_path", self.volume_path, "absolute")
        self._check_credentials()

    def _check_credentials(self) -> None:
        """Check all variables; no message shows a value."""
        for name, value in self.environment.items():
            if name in self.secrets:
                raise InputError(
                    f"{name} is both in environment and in secrets; keep it in secrets only"
                )
            if looks_like_credential(name, value):
                raise InputError(
                    f"environment.{name} looks like a credential, and everyone who may see the job "
                    "can read its environment; put it into [cluster.kubernetes.secrets], or name a "
                    "Secret that holds it in secret_names"
                )
        for name, value in self.secrets.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
                raise InputError(
                    f"the secret {name!r} cannot be an environment variable: its name must be "
                    "letters, digits and _, and its value must not contain a null byte"
                )
        for name in self.secret_names:
            known = re.fullmatch(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?", name)
            require(known is not None, "secret_names", name, "names of Secrets, like aws")

    def sealed(self, secret: str) -> KubernetesSize:
        """Return the same with the name of a Secret in place of the secrets stored in it."""
        if not self.secrets:
            return self
        return replace(self, secrets={}, secret_names=(*self.secret_names, secret))
