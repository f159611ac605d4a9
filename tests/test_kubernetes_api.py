import gc

import httpx
import kr8s
import pytest
from kr8s.objects import get_class, object_from_spec

from dask_als.errors import InputError, JobError
from dask_als.kubernetes import api, spec
from dask_als.kubernetes.api import ask
from dask_als.settings import KubernetesSize


@pytest.mark.parametrize("name", ["DaskJob", "DaskCluster"])
def test_a_kind_is_what_kubernetes_takes_however_it_was_found_first(name):
    """kr8s forgets classes that nobody holds, and finds them by what the server calls them."""
    size = KubernetesSize()
    manifest = (spec.attempt("a", 1, size) if name == "DaskJob" else spec.cluster("a", size))[-1]
    gc.collect()
    by_server = get_class(name.lower(), "kubernetes.dask.org/v1")
    by_manifest = object_from_spec(manifest, api=object())
    assert by_server is type(by_manifest) is getattr(api, name)
    assert by_manifest.raw["kind"] == name


def refused(code):
    request = httpx.Request("GET", "http://here")
    return kr8s.ServerError("said no", response=httpx.Response(code, request=request))


def answering(*errors):
    """Return a question that fails so often, and is answered then."""
    left = list(errors)

    def question():
        if left:
            raise left.pop(0)
        return "answer"

    return question


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(api, "_SECONDS_BETWEEN_TRIES", 0.01)


def test_what_passes_is_asked_again(soon):
    errors = [refused(503), refused(429), httpx.ConnectError("lost"), kr8s.APITimeoutError("late")]
    assert ask(answering(*errors)) == "answer"


@pytest.mark.parametrize("code", [400, 403, 404, 422])
def test_what_is_refused_is_told(soon, code):
    with pytest.raises(InputError, match="Kubernetes refused it: said no"):
        ask(answering(refused(code)))


def test_patience_ends(soon, monkeypatch):
    monkeypatch.setattr(api, "_SECONDS_OF_PATIENCE", 0.05)
    with pytest.raises(JobError, match="Kubernetes does not answer: said no"):
        ask(answering(*[refused(500)] * 100))
