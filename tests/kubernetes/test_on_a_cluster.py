"""On a real Kubernetes with the Dask operator."""

import base64
import json
import os
import shutil
from types import SimpleNamespace

import fsspec
import pytest
import support.kubernetes_cluster as cluster
import yaml
from support.kubernetes_cluster import IMAGE, NAMESPACE, REPOSITORY, there

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif(cluster.why_not() is not None, reason=cluster.why_not() or ""),
]
NOTEBOOK = REPOSITORY / "jobs" / "notebook.toml"
LONG = 900  # epochs: long enough to disturb a training, also on a busy machine
ENDLESS = 100_000
SETTINGS = {
    "rank": 5,
    "epochs": 100,
    "residual-precision": 1,
    "bias-regularization": 1e-3,
    "factor-regularization": 5e-2,
    "dtype": "float64",
}
OPTIONS = ["--no-center", *(f"--{name}={value}" for name, value in SETTINGS.items())]


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A directory that all pods see at the same path."""
    volume = tmp_path_factory.mktemp("volume")
    for parent in (volume.parent, volume.parent.parent):
        parent.chmod(0o755)
    cluster.set_up(volume)
    shutil.copytree(cluster.RATINGS, volume / "ml-latest-small")
    cluster.done(
        "prepare",
        volume / "ml-latest-small",
        volume / "ratings",
        "--partitions=6",
        "--dashboard=:0",
    )
    yield volume
    cluster.wipe()


@pytest.fixture(scope="module")
def expected(volume):
    """The notebook's model, trained on this machine."""
    model = volume / "expected"
    cluster.done("train", volume / "ratings", model, *OPTIONS, "--dashboard=:0")
    return cluster.numbers(model)


@pytest.fixture(scope="module")
def long_expected(volume):
    """The notebook's model after more epochs, trained on this machine."""
    model = volume / "long-expected"
    long = [*OPTIONS, f"--epochs={LONG}", "--dashboard=:0"]
    cluster.done("train", volume / "ratings", model, *long)
    return cluster.numbers(model)


@pytest.fixture(scope="module")
def s3():
    """An S3 of this process, with the ratings, and what pods need to know of it."""
    moto_server = pytest.importorskip("moto.server", reason="no S3 server: pip install 'moto[s3]'")
    server = moto_server.ThreadedMotoServer(ip_address="0.0.0.0", port=0, verbose=False)
    server.start()
    address = f"http://{cluster.own_address()}:{server.get_host_and_port()[1]}"
    keys = {"key": "test", "secret": "test", "endpoint_url": address}
    files = fsspec.filesystem("s3", **keys, use_listings_cache=False)
    files.mkdir("films")
    files.put(str(cluster.RATINGS), "films/ml-latest-small", recursive=True)
    environ = {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}
    yield SimpleNamespace(files=files, environ=environ)
    server.stop()


def size(volume, workers):
    """Return the size of a cluster that fits the node."""
    return {
        "image": IMAGE,
        "workers": workers,
        "cpu": "100m",
        "memory": "1Gi",
        "namespace": NAMESPACE,
        "volume_path": volume,
    }


def train(volume, model, *more, workers=2, umask=0):
    """Start a training from outside."""
    pods = [f"--pods={name}={value}" for name, value in size(volume, workers).items()]
    cluster_options = ["--cluster=kubernetes", *pods]
    return cluster.dask_als(
        "train", volume / "ratings", model, *cluster_options, *OPTIONS, *more, umask=umask
    )


def job(volume, output, *more, workers=2):
    """Return arguments for the notebook's job, on Kubernetes."""
    changes = {f"cluster.kubernetes.{key}": value for key, value in size(volume, workers).items()}
    changes |= {"source.path": "ml-latest-small", "prepare.partitions": 6, "output": output}
    settings = [f"{key}={value}" for key, value in changes.items()] + list(more)
    return [NOTEBOOK, *(f"--set={setting}" for setting in settings)]


def submit(volume, output, *more, workers=2):
    """Submit the notebook's job and return its id."""
    return cluster.done("submit", *job(volume, output, *more, workers=workers)).strip()


def status(job_id):
    """Return where a job stands."""
    found = cluster.done("status", job_id, f"--namespace={NAMESPACE}", "--json")
    return json.loads(found)


def trains(job_id):
    """Whether a job has begun to train."""
    return "epoch" in cluster.done("logs", job_id, f"--namespace={NAMESPACE}")


def names_of_policies():
    return [cluster.name_of(policy) for policy in there("networkpolicies")]


def assert_nothing_is_left():
    """Check that no cluster is there, nor who may reach it, and that its pods go."""
    assert not there("daskclusters.kubernetes.dask.org")
    # Kubernetes collects what belonged to a deleted object in its own time.
    cluster.wait_for(lambda: names_of_policies() == ["nobody"], seconds=60)
    cluster.wait_for(lambda: not there("pods", component="worker"), seconds=240)
    cluster.wait_for(lambda: not there("pods", component="scheduler"), seconds=240)


def delete(pod):
    """Take a pod away."""
    cluster.kubectl("delete", f"pod/{cluster.name_of(pod)}", "--wait=false")


def test_training_from_outside_gives_the_same_bits(volume, expected):
    code, output = cluster.ended(train(volume, volume / "model"))
    assert code == 0, output
    assert cluster.numbers(volume / "model") == expected
    assert_nothing_is_left()


def test_a_training_that_fails_leaves_no_cluster(volume):
    # Directories that this process makes are not open to the pods' user.
    code, output = cluster.ended(train(volume, volume / "model-2", umask=0o022))
    assert code == 1, output
    assert "Permission denied" in output
    assert_nothing_is_left()


def test_a_worker_is_deleted_and_more_come(volume, long_expected):
    process = train(
        volume,
        volume / "disturbed",
        f"--epochs={LONG}",
        f"--checkpoint={volume / 'disturbed-checkpoints'}",
        workers=1,
    )
    assert any(line.startswith("epoch") for line in process.stdout)
    (worker,) = there("pods", component="worker")
    delete(worker)
    (group,) = there("daskworkergroups.kubernetes.dask.org")
    cluster.kubectl(
        "patch",
        f"daskworkergroups.kubernetes.dask.org/{cluster.name_of(group)}",
        "--type=merge",
        '--patch={"spec": {"worker": {"replicas": 3}}}',
    )

    def three_solve():
        assert process.poll() is None, "it ended before the workers came: train longer"
        ready = sum(map(cluster.is_ready, there("pods", component="worker")))
        return ready == 3 and cluster.solving_workers() == 3

    cluster.wait_for(three_solve, seconds=240)
    code, output = cluster.ended(process)
    assert code == 0, output
    assert cluster.numbers(volume / "disturbed") == long_expected


def test_a_job_gives_the_same_bits(volume, expected):
    code, output = cluster.ended(cluster.dask_als("submit", *job(volume, "job"), "--wait"))
    assert code == 0, output
    job_id = output.splitlines()[0]
    assert cluster.numbers(volume / "job" / "model") == expected
    assert status(job_id)["state"] == "Succeeded"
    assert status(job_id)["result"]["run_id"] == job_id
    assert job_id in cluster.done("list", f"--namespace={NAMESPACE}")
    cluster.wait_for(lambda: not there("daskclusters.kubernetes.dask.org"), seconds=240)
    cluster.done("delete", job_id, f"--namespace={NAMESPACE}")
    assert_nothing_is_left()
    assert job_id not in cluster.done("list", f"--namespace={NAMESPACE}")


def test_the_printed_manifests_are_the_job(volume, expected):
    manifests = cluster.done("submit", *job(volume, "applied"), "--dry-run")
    job_id = next(yaml.safe_load_all(manifests))["metadata"]["name"]
    cluster.kubectl("apply", "--filename=-", text=manifests)
    cluster.wait_for(lambda: status(job_id)["state"] == "Succeeded", seconds=240)
    assert cluster.numbers(volume / "applied" / "model") == expected
    cluster.done("delete", job_id, f"--namespace={NAMESPACE}")


def test_a_job_without_a_volume_and_its_credentials(volume, expected, s3, monkeypatch):
    monkeypatch.setenv("HUSH", "hush-of-the-environment")
    secrets = {"AWS_ACCESS_KEY_ID": "hush-of-the-job", "AWS_SECRET_ACCESS_KEY": "${HUSH}"}
    changes = {
        "source.path": "s3://films/ml-latest-small",
        "output": "s3://films/o",
        "cluster.kubernetes.volume_claim": "",
        **{f"cluster.kubernetes.environment.{name}": value for name, value in s3.environ.items()},
        **{f"cluster.kubernetes.secrets.{name}": value for name, value in secrets.items()},
    }
    settings = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    code, output = cluster.ended(cluster.dask_als("submit", *job(volume, "", *settings), "--wait"))
    assert code == 0, output
    s3.files.get("films/o/model", str(volume / "from-s3"), recursive=True)
    assert cluster.numbers(volume / "from-s3") == expected
    job_id = output.splitlines()[0]
    (secret,) = there("secrets", job=job_id)
    values = {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
    assert values == secrets | {"AWS_SECRET_ACCESS_KEY": "hush-of-the-environment"}
    kinds = "configmaps,daskjobs.kubernetes.dask.org,pods,events"
    assert job_id in (all_else := json.dumps(there(kinds)))
    assert "hush" not in all_else
    assert "hush" not in output
    assert "hush" not in cluster.done("logs", job_id, f"--namespace={NAMESPACE}")
    assert b"hush" not in s3.files.cat("films/o/result.json")
    cluster.done("delete", job_id, f"--namespace={NAMESPACE}")
    cluster.wait_for(lambda: not there("secrets", job=job_id), seconds=60)


def test_a_training_from_outside_takes_its_credentials_along(volume):
    hush = "cluster.kubernetes.secrets.A_TOKEN=hush"
    source = f"source.path={volume / 'ml-latest-small'}"
    arguments = [*job(volume, volume / "secret", source, hush), "--cluster=kubernetes", "--json"]
    code, output = cluster.ended(cluster.dask_als("run", *arguments))
    assert code == 0, output
    assert "hush" not in output
    assert_nothing_is_left()
    assert not [found for found in there("secrets") if found["metadata"].get("labels")]


def test_a_job_that_fails_says_why(volume):
    arguments = [*job(volume, "failing"), "--set=source.path=nothing-there"]
    code, output = cluster.ended(cluster.dask_als("submit", *arguments, "--wait"))
    assert code == 2, output  # of `run`: the mistake is in what was given
    found = status(output.splitlines()[0])
    assert found["state"] == "Failed"
    assert found["exit_code"] == 2
    assert "nothing-there" in found["message"].splitlines()[-1]


def test_a_job_that_fails_at_work_ends_with_1(volume, expected):
    output = volume / "taken"
    shutil.copytree(volume / "expected", output / "model")
    output.chmod(0o1777)  # as in /tmp: nobody takes away what is another user's
    code, output = cluster.ended(cluster.dask_als("submit", *job(volume, "taken"), "--wait"))
    assert code == 1, output
    found = status(output.splitlines()[0])
    assert (found["state"], found["exit_code"]) == ("Failed", 1)
    assert "taken/model" in found["message"].splitlines()[-1]


def test_a_job_whose_worker_and_runner_are_deleted_goes_on(volume, long_expected):
    arguments = job(volume, "long", f"train.epochs={LONG}")
    process = cluster.dask_als("submit", *arguments, "--wait")
    job_id = process.stdout.readline().strip()
    assert any(line.startswith("epoch") for line in process.stdout)
    delete(there("pods", component="worker", job=job_id)[0])
    checkpoints = volume / "long" / "checkpoints"
    cluster.wait_for(lambda: any(checkpoints.glob("epoch-*/model.json")), seconds=240)
    (runner,) = there("pods", component="job-runner", job=job_id)
    delete(runner)
    code, output = cluster.ended(process)
    assert code == 0, output
    assert f"{job_id}: " in output
    assert status(job_id)["attempt"] == 2
    second = cluster.done("logs", job_id, f"--namespace={NAMESPACE}")
    assert f"epoch    1/{LONG}" not in second
    assert cluster.numbers(volume / "long" / "model") == long_expected


def test_a_job_keeps_others_off_its_output_and_stopped_leaves_no_pod(volume):
    job_id = submit(volume, "stopped", f"train.epochs={ENDLESS}")
    cluster.wait_for(lambda: trains(job_id), seconds=240)
    assert status(job_id)["state"] == "Running"
    code, output = cluster.ended(cluster.dask_als("submit", *job(volume, "stopped"), "--wait"))
    assert code == 2, output
    assert f"{volume}/stopped is in use by run {job_id} on " in output
    cluster.done("stop", job_id, f"--namespace={NAMESPACE}")
    assert not there("pods", job=job_id)
    assert status(job_id)["state"] == "Stopped"


def test_strangers_reach_no_pod_of_a_job(volume):
    job_id = submit(volume, "guarded", f"train.epochs={ENDLESS}")
    cluster.create(*(cluster.stranger(name) for name in ("stranger", "listener")))
    cluster.wait_for(lambda: all(map(cluster.is_ready, cluster.strangers())), seconds=240)
    cluster.wait_for(lambda: trains(job_id), seconds=240)
    if cluster.reaches("stranger", "listener", cluster.LISTENS):
        cluster.done("stop", job_id, f"--namespace={NAMESPACE}")
        pytest.skip("this cluster accepts network policies, but does not enforce them")
    # What it trains with shows that its own pods reach each other.
    for component, port in (("scheduler", 8786), ("worker", 8788), ("job-runner", 8787)):
        pod = cluster.name_of(there("pods", component=component, job=job_id)[0])
        assert not cluster.reaches("stranger", pod, port)
    cluster.done("stop", job_id, f"--namespace={NAMESPACE}")


def test_a_pod_with_rights_is_not_let_in(volume):
    container = {"name": "c", "image": IMAGE, "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "mighty"}}
    pod["spec"] = {"containers": [container], "hostNetwork": True}
    if cluster.version() < (1, 25):
        pytest.skip("Kubernetes before 1.25 does not enforce pod security levels")
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        cluster.create(pod)


def test_the_accounts_rights(volume):
    def can(account, verb, kind):
        who = f"--as=system:serviceaccount:{NAMESPACE}:{account}"
        command = ["kubectl", "auth", "can-i", verb, kind, who, f"--namespace={NAMESPACE}"]
        return os.system(" ".join(command) + " > /dev/null") == 0

    assert can("dask-als-submit", "create", "daskjobs.kubernetes.dask.org")
    assert can("dask-als-submit", "get", "pods/log")
    assert not can("dask-als-submit", "create", "pods")
    assert can("dask-als-submit", "create", "secrets")
    for verb in ("get", "list", "delete"):
        assert not can("dask-als-submit", verb, "secrets")
    for verb, kind in (("get", "pods"), ("list", "secrets"), ("get", "configmaps")):
        assert not can("dask-als-job", verb, kind)


def test_the_image_runs_as_any_user_on_a_root_it_cannot_write(volume, expected):
    command = "! touch /app/here && ls /tmp/numba/* > /tmp/before && "
    command += "dask-als run /jobs/notebook.toml"
    command += " --set source.path=/data/ml-latest-small --set output=/data/own"
    command += " && ls /tmp/numba/* | diff /tmp/before -"  # no kernel was compiled
    jobs = {"name": "jobs", "hostPath": {"path": str(REPOSITORY / "jobs")}}
    data = {"name": "data", "hostPath": {"path": str(volume)}}
    container = {
        "name": "any-user",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "args": ["sh", "-c", command],
        "securityContext": {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "data", "mountPath": "/data"},
            {"name": "jobs", "mountPath": "/jobs"},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 4321, "runAsGroup": 8765},
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}, data, jobs],
    }
    metadata = {"name": "any-user"}
    cluster.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod})

    def phase():
        (found,) = [pod for pod in there("pods") if cluster.name_of(pod) == "any-user"]
        return found["status"]["phase"]

    cluster.wait_for(lambda: phase() in ("Succeeded", "Failed"), seconds=240)
    assert phase() == "Succeeded", cluster.kubectl("logs", "any-user")
    assert cluster.numbers(volume / "own" / "model") == expected
