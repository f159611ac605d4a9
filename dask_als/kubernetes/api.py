"""The Kubernetes cluster that ``KUBECONFIG`` names."""

from __future__ import annotations

import os
import warnings

import httpx
import kr8s

from dask_als.errors import JobError

PASSING = (httpx.TransportError, kr8s.APITimeoutError, kr8s.ConnectionClosedError)
"""What is raised when Kubernetes does not answer for a moment."""


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
    except (KeyError, OSError, TypeError, ValueError, *PASSING) as error:
        files = os.environ.get("KUBECONFIG", "~/.kube/config")
        said = str(error) or type(error).__name__
        raise JobError(
            f"no Kubernetes cluster: {said}; KUBECONFIG names {files}, which must say where one is"
        ) from error
