"""Access to the Kubernetes cluster that ``KUBECONFIG`` selects, with retries."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import httpx
import kr8s
from kr8s.objects import APIObject, CronJob, new_class, object_from_spec

from dask_als.errors import InputError, JobError
from dask_als.kubernetes.spec import Manifest

T = TypeVar("T")

# kr8s keeps only weak references to such classes. If they are collected, it may create others with
# a kind that Kubernetes refuses. These references keep them alive.
DaskJob = new_class("DaskJob", "kubernetes.dask.org/v1", asyncio=False)
DaskCluster = new_class("DaskCluster", "kubernetes.dask.org/v1", asyncio=False)
# Kubernetes before 1.21 has no other CronJob.
OldCronJob = new_class("CronJob", "batch/v1beta1", asyncio=False)

_TRANSIENT = (httpx.TransportError, kr8s.APITimeoutError, kr8s.ConnectionClosedError)
_SECONDS_OF_RETRIES = 120.0
_SECONDS_BETWEEN_TRIES = 1.0


def api_of(namespace: str) -> kr8s.Api:
    """Return the API client for a namespace.

    Raises
    ------
    JobError
        If no cluster can be reached.
    """
    # All calls made here also work with versions older than those that kr8s was tested with.
    warnings.filterwarnings("ignore", "Kubernetes version .* is not supported", UserWarning)
    try:
        return kr8s.api(namespace=namespace)
    except (KeyError, OSError, TypeError, ValueError, *_TRANSIENT) as error:
        files = os.environ.get("KUBECONFIG", "~/.kube/config")
        reason = str(error) or type(error).__name__
        raise JobError(
            f"no Kubernetes cluster: {reason}; check the cluster in KUBECONFIG ({files})"
        ) from error


def ask(question: Callable[[], T]) -> T:
    """Send a request; retry transient errors for two minutes (dask-kubernetes#975).

    Raises
    ------
    InputError
        If Kubernetes refuses the request.
    JobError
        If Kubernetes does not answer for two minutes.
    """
    deadline = time.monotonic() + _SECONDS_OF_RETRIES
    while True:
        try:
            return question()
        except kr8s.ServerError as error:
            code = error.response.status_code if error.response is not None else 0
            if code < 500 and code != 429:
                raise InputError(f"Kubernetes refused the request: {error}") from error
            last = error
        except _TRANSIENT as error:
            last = error  # type: ignore[assignment]
        if time.monotonic() > deadline:
            raise JobError(f"Kubernetes does not answer: {last}") from last
        time.sleep(_SECONDS_BETWEEN_TRIES)


def create(manifest: Manifest, api: kr8s.Api) -> APIObject:
    """Create an object; its name must be unique, as an existing one counts as created."""
    found = object_from_spec(manifest, api=api)

    def make() -> None:
        try:
            found.create()
        except kr8s.ServerError as error:
            # An earlier try created the object, but its answer was lost.
            if error.response is None or error.response.status_code != httpx.codes.CONFLICT:
                raise

    ask(make)
    return found


def cron_job_class(api: kr8s.Api) -> Any:
    """Return the class of CronJobs in the newest version that the cluster has."""
    resources = ask(lambda: list(api.api_resources()))
    versions = {known["version"] for known in resources if known["kind"] == "CronJob"}
    return CronJob if CronJob.version in versions or not versions else OldCronJob


def delete(found: APIObject) -> None:
    """Delete an object, if it exists."""
    with suppress(kr8s.NotFoundError):
        ask(found.delete)
