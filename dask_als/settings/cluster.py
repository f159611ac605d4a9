"""Settings of a cluster: its size, here or on Kubernetes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from dask_als.core import typed_tables
from dask_als.errors import InputError
from dask_als.settings.checks import require, require_whole
from dask_als.settings.credentials import looks_like_credential


@dataclass(frozen=True, kw_only=True)
class LocalSize:
    """A cluster on this machine: its size, and who may use it.

    Attributes
    ----------
    workers : int
        Processes.
    threads : int or None
        Of each of them; None shares out all cores.
    memory : str
        Limit of each of them, like 4GiB.
    private : bool
        Let no other user of this machine see it or run code on it.
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
        The image of runner, scheduler and workers, made by ``k8s/Dockerfile``.
    workers : int
        Pods.
    threads : int
        Of each of them, and the most processors it may use.
    memory : str
        Of each of them, as Kubernetes writes it, like 4Gi.
    cpu : str or None
        Processors that each of them asks for, like 500m; None asks for one a thread.
    namespace : str
    service_account : str
        Of all pods; it needs no rights.
    volume_claim : str
        The persistent volume claim that all pods mount; empty where all paths are object stores.
    volume_path : str
        Where it is mounted; relative paths of a job are below it.
    node_selectors : dict of str to str
        Labels that a node must have.
    environment : dict of str to str
        Variables of all pods; none that looks like a credential.
    secrets : dict of str to str
        Variables of all pods that nobody may read: they go into a Secret of the job, and are never
        shown. ``${NAME}`` stands for a variable of the environment that the job is submitted from.
    secret_names : tuple of str
        Secrets of the namespace that are there already: each key is a variable of all pods.

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
        require(memory is not None, "memory", self.memory, "as Kubernetes writes it, like 4Gi")
        cpu = re.fullmatch(r"[0-9]+m|[0-9]+(\.[0-9]+)?", self.cpu or "1")
        require(cpu is not None, "cpu", self.cpu, "as Kubernetes writes it, like 2 or 500m")
        require(self.volume_path.startswith("/"), "volume_path", self.volume_path, "absolute")
        self._check_credentials()

    def _check_credentials(self) -> None:
        """Check what may be secret; no message has a value."""
        for name, value in self.environment.items():
            if name in self.secrets:
                raise InputError(f"{name} is both in environment and in secrets; keep the secret")
            if looks_like_credential(name, value):
                raise InputError(
                    f"environment.{name} looks like a credential, and who may see the job can read "
                    "its environment; put it into [cluster.kubernetes.secrets], or name a Secret "
                    "that holds it in secret_names"
                )
        for name, value in self.secrets.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or "\0" in value:
                raise InputError(
                    f"the secret {name!r} can be no environment variable: its name must be "
                    "letters, digits and _, and its value has no null byte"
                )
        for name in self.secret_names:
            known = re.fullmatch(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?", name)
            require(known is not None, "secret_names", name, "names of Secrets, like aws")

    def sealed(self, secret: str) -> KubernetesSize:
        """Return the same without secrets; pods get them from the Secret of the given name."""
        if not self.secrets:
            return self
        return replace(self, secrets={}, secret_names=(*self.secret_names, secret))
