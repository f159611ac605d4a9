"""What is asked of Kubernetes, read without a cluster."""

import json
import re
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dask_als.errors import InputError
from dask_als.jobs.job_file import ClusterSizes, Job, SourceSettings, job_from_toml
from dask_als.kubernetes import spec
from dask_als.settings.cluster_size import KubernetesSize

BASE = Path(__file__).parents[2] / "k8s" / "base"
SIZE = KubernetesSize(
    workers=3,
    threads=2,
    memory="2Gi",
    node_selectors={"disk": "fast"},
    environment={"A": "b"},
    secret_names=("aws",),
)
JOB = Job(
    name="films",
    output="o",
    source=SourceSettings(path="r.csv"),
    steps=("prepare", "train"),
    cluster=ClusterSizes(kubernetes=SIZE),
)
RECORD = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "films-1", "uid": "1-2-3", "labels": {}},
}
CURRENT = kubernetes_validate.latest_version()


def record(job):
    return spec.record("films-1", job.to_toml(), job.cluster.kubernetes.namespace)


def objects():
    """Return all objects of a job, and all of the base."""
    files = [yaml.safe_load_all(path.read_text()) for path in BASE.glob("*.yaml")]
    return [
        record(JOB),
        spec.secret("films-1", SIZE.namespace, {"A_KEY": "b"}, RECORD),
        *spec.attempt("films-1", 1, SIZE),
        spec.schedule_record("films-abc123", JOB.to_toml(), SIZE.namespace),
        spec.cron_job("films-abc123", "0 3 * * *", SIZE),
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


def launcher():
    """Return the spec of the pod that starts the runs of a schedule."""
    cron_job = spec.cron_job("films-abc123", "0 3 * * *", SIZE)
    return cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("found", objects(), ids=lambda found: found["kind"])
def test_a_current_kubernetes_takes_every_object(found):
    if found["kind"] != "DaskJob":
        kubernetes_validate.validate(found, CURRENT, strict=True)


@pytest.mark.parametrize("name", ["runner", "scheduler", "worker"])
def test_a_current_kubernetes_takes_every_pod(name):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pods()[name]}
    kubernetes_validate.validate(pod, CURRENT, strict=True)


@pytest.mark.parametrize("name", ["runner", "scheduler", "worker", "launcher"])
def test_a_pod_is_what_the_level_restricted_demands(name):
    pod = {**pods(), "launcher": launcher()}[name]
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
    assert container["envFrom"] == [{"secretRef": {"name": "aws"}}]
    for kind in ("requests", "limits"):
        assert container["resources"][kind].keys() == {"cpu", "memory"}


def test_only_the_pod_that_starts_runs_has_a_token_and_it_has_nothing_else():
    pod = launcher()
    assert pod["serviceAccountName"] == "dask-als-schedule"
    assert pod["automountServiceAccountToken"] is True
    assert [volume["name"] for volume in pod["volumes"]] == ["tmp"]
    (container,) = pod["containers"]
    assert container["envFrom"] == []
    assert container["args"] == ["dask-als", "launch", "films-abc123", "--namespace", "dask-als"]
    cron_job = spec.cron_job("films-abc123", "0 3 * * *", SIZE)["spec"]
    assert (cron_job["schedule"], cron_job["concurrencyPolicy"]) == ("0 3 * * *", "Forbid")


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?", fullmatch=True), st.datetimes())
def test_the_id_of_a_run_is_the_id_of_a_job(name, now):
    schedule_id = spec.new_job_id(name)
    run_id = spec.new_run_id(name, schedule_id, now.replace(tzinfo=UTC))
    assert len(run_id) <= 37
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", run_id)
    assert run_id.endswith(f"{now:%y%m%d%H%M}-{schedule_id[-6:]}")


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


def with_secrets(**secrets):
    """Return the job with secrets."""
    size = replace(SIZE, secrets=secrets)
    return replace(JOB, cluster=ClusterSizes(kubernetes=size))


def test_secrets_are_in_the_secret_and_nowhere_else():
    job = with_secrets(AWS_SECRET_ACCESS_KEY="hush-1", DB_PASSWORD="hush-2")
    sealed = job.sealed("films-1")
    others = [
        record(sealed),
        *spec.attempt("films-1", 1, sealed.cluster.kubernetes),
        *spec.cluster("films-1", job.cluster.kubernetes.sealed("films-1")),
    ]
    assert "hush" not in json.dumps(others)
    assert "hush" not in repr(job)
    assert "hush" not in job.to_toml()
    values = spec.secret("films-1", "n", job.cluster.kubernetes.secrets)["stringData"]
    assert values == {"AWS_SECRET_ACCESS_KEY": "hush-1", "DB_PASSWORD": "hush-2"}


def test_the_record_says_which_secrets_a_later_attempt_takes():
    made = record(with_secrets(A_KEY="hush").sealed("films-1"))
    size = job_from_toml(made["data"]["job.toml"]).cluster.kubernetes
    assert (size.secret_names, size.secrets) == (("aws", "films-1"), {})
    spec_of_job = spec.attempt("films-1", 2, size)[-1]["spec"]
    cluster = spec_of_job["cluster"]["spec"]
    pods = (spec_of_job["job"]["spec"], cluster["scheduler"]["spec"], cluster["worker"]["spec"])
    for pod in pods:
        (container,) = pod["containers"]
        named = [each["secretRef"]["name"] for each in container["envFrom"]]
        assert named == ["aws", "films-1"]


def test_a_job_owns_its_secret():
    secret = spec.secret("films-1", "n", {"A": "b"}, RECORD)
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "films-1", "uid": "1-2-3"}
    assert secret["metadata"]["ownerReferences"] == [owner]
    assert "ownerReferences" not in spec.secret("films-1", "n", {"A": "b"})["metadata"]


def test_a_job_without_secrets_is_sent_as_it_is():
    assert JOB.sealed("films-1") == JOB


def test_who_submits_may_make_secrets_but_not_read_them():
    accounts = yaml.safe_load_all((BASE / "service-accounts.yaml").read_text())
    (role,) = (found for found in accounts if found["kind"] == "Role")
    (rule,) = (rule for rule in role["rules"] if "secrets" in rule["resources"])
    assert (rule["resources"], rule["verbs"]) == (["secrets"], ["create"])


CREDENTIALS = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "API_KEY",
    "KEYS",
    "github.token",
    "PGPASSWORD",
    "DB_PASSWORD",
    "client-secret",
    "GOOGLE_CREDENTIALS",
    "STORAGE_APIKEY",
    "awsSecretKey",
]
HARMLESS = [
    "KEYBOARD",
    "MONKEY",
    "SECRETARY_NAME",
    "TOKENIZERS_PARALLELISM",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "PATH",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "KEYRING_BACKEND",
    "NUMBA_CACHE_DIR",
]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_credential_is_no_part_of_the_environment(name):
    with pytest.raises(InputError, match=r"cluster\.kubernetes\.secrets") as raised:
        KubernetesSize(environment={name: "hush"})
    assert name in str(raised.value)
    assert "hush" not in str(raised.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_reminds_of_a_credential_may_be_in_the_environment(name):
    assert KubernetesSize(environment={name: "a"}).environment == {name: "a"}


def test_a_url_with_a_password_is_a_credential():
    with pytest.raises(InputError, match=r"environment\.HTTPS_PROXY looks like a credential"):
        KubernetesSize(environment={"HTTPS_PROXY": "http://me:hush@proxy:3128"})
    KubernetesSize(environment={"HTTPS_PROXY": "http://proxy:3128"})


@pytest.mark.parametrize(
    ("wrong", "mistake"),
    [
        ({"secrets": {"A B": "hush"}}, "the secret 'A B' cannot be an environment variable"),
        ({"secrets": {"A": "hush\0"}}, "the secret 'A' cannot be an environment variable"),
        ({"secrets": {"A": "hush"}, "environment": {"A": "b"}}, "A is both in environment"),
        ({"secret_names": ("Aws",)}, "secret-names is 'Aws'"),
    ],
)
def test_secrets_that_cannot_be(wrong, mistake):
    with pytest.raises(InputError, match=mistake) as raised:
        KubernetesSize(**wrong)
    assert "hush" not in str(raised.value)


def test_without_a_volume_nothing_is_mounted():
    manifest = spec.cluster("c", KubernetesSize(volume_claim=""))
    assert "persistentVolumeClaim" not in json.dumps(manifest)


@pytest.mark.parametrize(
    "wrong", [{"memory": "4 GB"}, {"cpu": "half"}, {"workers": 0}, {"volume_path": "data"}]
)
def test_a_size_that_cannot_be(wrong):
    with pytest.raises(InputError, match=next(iter(wrong)).replace("_", "-")):
        KubernetesSize(**wrong)
