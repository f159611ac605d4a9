"""The Kubernetes cluster that ``KUBECONFIG`` names, and what is asked of it with patience."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import httpx
import kr8s
from kr8s.objects import APIObject, new_class, object_from_spec

from dask_als.errors import InputError, JobError
from dask_als.kubernetes.spec import Manifest

T = TypeVar("T")

# kr8s holds the classes that it makes for such kinds weakly, and may make others, with a kind that
# Kubernetes refuses, from what it asked the server: these stay.
DaskJob = new_class("DaskJob", "kubernetes.dask.org/v1", asyncio=False)
DaskCluster = new_class("DaskCluster", "kubernetes.dask.org/v1", asyncio=False)

_PASSING = (httpx.TransportError, kr8s.APITimeoutError, kr8s.ConnectionClosedError)
_SECONDS_OF_PATIENCE = 120.0
_SECONDS_BETWEEN_TRIES = 1.0


def api_of(namespace: str) -> kr8s.Api:
    """Return what asks the cluster about a namespace.

    Raises
    ------
    JobError
        If there is no cluster to ask.
    """
    # Of what is asked here, older versions than kr8s was tested with know all.
    warnings.filterwarnings("ignore", "Kubernetes version .* is not supported", UserWarning)
    try:
        return kr8s.api(namespace=namespace)
    except (KeyError, OSError, TypeError, ValueError, *_PASSING) as error:
        files = os.environ.get("KUBECONFIG", "~/.kube/config")
        said = str(error) or type(error).__name__
        raise JobError(
            f"no Kubernetes cluster: {said}; KUBECONFIG names {files}, which must say where one is"
        ) from error


def ask(question: Callable[[], T]) -> T:
    """Ask Kubernetes; what may pass is asked again for a while (dask-kubernetes#975).

    Raises
    ------
    InputError
        If it refuses.
    JobError
        If it does not answer for two minutes.
    """
    deadline = time.monotonic() + _SECONDS_OF_PATIENCE
    while True:
        try:
            return question()
        except kr8s.ServerError as error:
            code = error.response.status_code if error.response is not None else 0
            if code < 500 and code != 429:
                raise InputError(f"Kubernetes refused it: {error}") from error
            said = error
        except _PASSING as error:
            said = error  # type: ignore[assignment]
        if time.monotonic() > deadline:
            raise JobError(f"Kubernetes does not answer: {said}") from said
        time.sleep(_SECONDS_BETWEEN_TRIES)


def create(manifest: Manifest, api: kr8s.Api) -> APIObject:
    """Make an object, whose name nobody else gives away."""
    found = object_from_spec(manifest, api=api)

    def make() -> None:
        try:
            found.create()
        except kr8s.ServerError as error:
            # It is there since a try whose answer was lost.
            if error.response is None or error.response.status_code != httpx.codes.CONFLICT:
                raise

    ask(make)
    return found


def delete(found: APIObject) -> None:
    """Take an object away, if it is there."""
    with suppress(kr8s.NotFoundError):
        ask(found.delete)
