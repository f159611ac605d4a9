"""A temporary cluster on Kubernetes for a client that runs outside of it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import kr8s
from dask_kubernetes.operator import KubeCluster

from dask_als.errors import JobError
from dask_als.kubernetes import spec
from dask_als.kubernetes.api import DaskCluster, api_of, create, delete
from dask_als.settings.cluster_size import KubernetesSize
from dask_als.settings.credentials import resolved


@contextmanager
def kube_cluster(size: KubernetesSize) -> Iterator[KubeCluster]:
    """Start a cluster for the block, and always delete it at the end.

    Raises
    ------
    InputError
        If a secret value is missing, or Kubernetes refuses an object.
    JobError
        If Kubernetes cannot be reached or the cluster does not start.
    """
    name = f"dask-als-{uuid.uuid4().hex[:6]}"
    values = resolved(size.secrets, os.environ)
    *policies, dask_cluster = spec.cluster(name, size.sealed(name))
    secrets = [spec.secret(name, size.namespace, values)] if values else []
    api = api_of(size.namespace)
    with ExitStack() as made:
        for manifest in (*secrets, *policies):
            made.callback(delete, create(manifest, api))
        # A KubeCluster that failed to start, or lost its client, does not delete its objects.
        made.callback(delete, DaskCluster(dask_cluster, api=api))
        yield _started(dask_cluster, size)


def _started(dask_cluster: spec.Manifest, size: KubernetesSize) -> KubeCluster:
    try:
        return KubeCluster(
            custom_cluster_spec=dask_cluster,
            namespace=size.namespace,
            shutdown_on_close=False,
            resource_timeout=180,
            quiet=True,
        )
    except (OSError, RuntimeError, TimeoutError, kr8s.ServerError) as error:
        raise JobError(f"the cluster on Kubernetes did not start: {error}") from error
