import gc

import httpx
import kr8s
import pytest
from kr8s.objects import get_class, object_from_spec

from dask_als.errors import InputError, JobError
from dask_als.jobs import kubernetes as operator
from dask_als.jobs import records
from dask_als.jobs.job_file import job_from_toml
from dask_als.kubernetes import api, spec
from dask_als.kubernetes.api import ask
from dask_als.settings.cluster_size import KubernetesSize


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
    with pytest.raises(InputError, match="Kubernetes refused the request: said no"):
        ask(answering(refused(code)))


def test_patience_ends(soon, monkeypatch):
    monkeypatch.setattr(api, "_SECONDS_OF_RETRIES", 0.05)
    with pytest.raises(JobError, match="Kubernetes does not answer: said no"):
        ask(answering(*[refused(500)] * 100))


class Namespace:
    """Stands for what Kubernetes keeps of one namespace, and refuses one kind."""

    def __init__(self, monkeypatch, refuses=None):
        self.kinds, self._refuses = [], refuses
        self.secret = None
        monkeypatch.setattr(records, "api_of", lambda namespace: self)
        for module in (records, operator):
            monkeypatch.setattr(module, "create", self.create)

    def create(self, manifest, api):
        if manifest["kind"] == self._refuses:
            raise InputError("Kubernetes refused the request")
        self.kinds.append(manifest["kind"])
        if manifest["kind"] == "Secret":
            self.secret = manifest

    def get(self, kind, label_selector):
        for name in [name for name in self.kinds if name == kind.kind]:
            metadata = {"name": "films-1", "uid": "1-2-3"}
            found = {"apiVersion": "v1", "kind": name, "metadata": metadata}
            yield kind(found, api=self, namespace="n")


JOB = job_from_toml(
    'name = "films"\noutput = "o"\nsource.path = "r.csv"\nsteps = ["prepare", "train"]\n'
    "[cluster.kubernetes.secrets]\nA_KEY = '${HERE}'\n"
)


def test_a_job_is_sent_with_a_secret_that_its_record_owns(monkeypatch):
    monkeypatch.setenv("HERE", "hush")
    namespace = Namespace(monkeypatch)
    operator.Jobs("n").submit("films-1", JOB)
    assert namespace.kinds == ["ConfigMap", "Secret", *["NetworkPolicy"] * 3, "DaskJob"]
    assert namespace.secret["stringData"] == {"A_KEY": "hush"}
    (owner,) = namespace.secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("ConfigMap", "1-2-3")


def test_without_its_secret_no_job_is_sent(monkeypatch):
    monkeypatch.delenv("HERE", raising=False)
    namespace = Namespace(monkeypatch)
    with pytest.raises(InputError, match="HERE, which is not set here"):
        operator.Jobs("n").submit("films-1", JOB)
    assert namespace.kinds == []


@pytest.mark.parametrize("kind", ["Secret", "NetworkPolicy", "DaskJob"])
def test_of_a_job_that_is_refused_nothing_is_left(kind, monkeypatch):
    monkeypatch.setenv("HERE", "hush")
    namespace = Namespace(monkeypatch, refuses=kind)
    deleted = []
    monkeypatch.setattr(operator.Jobs, "delete", lambda jobs, job_id: deleted.append(job_id))
    with pytest.raises(InputError, match="Kubernetes refused the request"):
        operator.Jobs("n").submit("films-1", JOB)
    assert (deleted, kind in namespace.kinds) == (["films-1"], False)
