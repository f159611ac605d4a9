"""What is asked of Kubernetes, read without a cluster."""

import json
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from dask_als.errors import InputError
from dask_als.kubernetes import spec
from dask_als.settings import KubernetesSize

BASE = Path(__file__).parents[1] / "k8s" / "base"
SIZE = KubernetesSize(
    workers=3,
    threads=2,
    memory="2Gi",
    node_selectors={"disk": "fast"},
    environment={"A": "b"},
)
CURRENT = kubernetes_validate.latest_version()


def objects():
    """Return all objects of a job, and all of the base."""
    files = [yaml.safe_load_all(path.read_text()) for path in BASE.glob("*.yaml")]
    return [
        spec.record("films-1", "name = 'films'\n", SIZE),
        *spec.attempt("films-1", 1, SIZE),
        *(found for file in files for found in file if found["kind"] != "Kustomization"),
    ]


def pods():
    """Return the specs of the three kinds of pods of a job."""
    job = spec.attempt("films-1", 1, SIZE)[-1]["spec"]
    cluster = job["cluster"]["spec"]
    return {
        "runner": job["job"]["spec"],
        "scheduler": cluster["scheduler"]["spec"],
        "worker": cluster["worker"]["spec"],
    }


@pytest.mark.parametrize("found", objects(), ids=lambda found: found["kind"])
def test_a_current_kubernetes_takes_every_object(found):
    if found["kind"] != "DaskJob":
        kubernetes_validate.validate(found, CURRENT, strict=True)


@pytest.mark.parametrize("name", ["runner", "scheduler", "worker"])
def test_a_current_kubernetes_takes_every_pod(name):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pods()[name]}
    kubernetes_validate.validate(pod, CURRENT, strict=True)


@pytest.mark.parametrize("name", ["runner", "scheduler", "worker"])
def test_a_pod_is_what_the_level_restricted_demands(name):
    pod = pods()[name]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    kinds = {key for volume in pod["volumes"] for key in volume if key != "name"}
    assert kinds <= {"emptyDir", "configMap", "persistentVolumeClaim"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert not any("hostPort" in port for port in container.get("ports", []))


@pytest.mark.parametrize("name", ["runner", "scheduler", "worker"])
def test_a_pod_has_no_rights_and_its_limits(name):
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["nodeSelector"] == {"disk": "fast"}
    (container,) = pod["containers"]
    assert container["env"] == [{"name": "A", "value": "b"}]
    for kind in ("requests", "limits"):
        assert container["resources"][kind].keys() == {"cpu", "memory"}


def test_a_worker_may_use_what_was_asked_for():
    (worker,) = pods()["worker"]["containers"]
    assert worker["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert worker["args"][worker["args"].index("--memory-limit") + 1] == "2Gi"
    assert worker["args"][worker["args"].index("--nthreads") + 1] == "2"


def test_a_runner_that_failed_is_not_started_again():
    assert pods()["runner"]["restartPolicy"] == "Never"


def test_who_reaches_the_pods_of_a_cluster():
    reached = {}
    for policy in spec.network_policies("films-1", SIZE, {}):
        (target,) = policy["spec"]["podSelector"]["matchExpressions"][0]["values"]
        reached[target] = {
            (peer["podSelector"]["matchLabels"]["dask.org/cluster-name"], source)
            for rule in policy["spec"]["ingress"]
            for peer in rule["from"]
            for source in peer["podSelector"]["matchExpressions"][0]["values"]
        }
    assert reached == {
        "scheduler": {("films-1", "worker"), ("films-1", "job-runner")},
        "worker": {("films-1", "scheduler"), ("films-1", "worker")},
        "job-runner": set(),
    }


def test_a_cluster_for_a_client_elsewhere_has_the_policies_of_a_job():
    *policies, dask_cluster = spec.cluster("films-1", SIZE)
    assert policies == spec.network_policies("films-1", SIZE, {})
    assert (dask_cluster["kind"], dask_cluster["metadata"]["name"]) == ("DaskCluster", "films-1")


def test_no_attempt_takes_an_earlier_ones_name():
    names = [spec.attempt_name("films-1", number) for number in (1, 2, 3)]
    assert len(set(names)) == 3


def test_without_a_volume_nothing_is_mounted():
    manifest = spec.cluster("c", KubernetesSize(volume_claim=""))
    assert "persistentVolumeClaim" not in json.dumps(manifest)


@pytest.mark.parametrize(
    "wrong", [{"memory": "4 GB"}, {"cpu": "half"}, {"workers": 0}, {"volume_path": "data"}]
)
def test_a_size_that_cannot_be(wrong):
    with pytest.raises(InputError, match=next(iter(wrong)).replace("_", "-")):
        KubernetesSize(**wrong)
