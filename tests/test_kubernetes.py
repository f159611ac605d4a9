"""On a real Kubernetes with the Dask operator."""

import kubernetes_cluster as cluster
import pytest
from kubernetes_cluster import IMAGE, NAMESPACE, NOTEBOOK

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif(cluster.why_not() is not None, reason=cluster.why_not() or ""),
    # Raised within kr8s and httpx, whose sockets are closed by the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*version.*:UserWarning"),
]


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A directory that all pods see at the same path."""
    volume = tmp_path_factory.mktemp("volume")
    for parent in (volume, volume.parent, volume.parent.parent):
        parent.chmod(0o755)
    cluster.set_up(volume)
    cluster.put_ratings(volume / "source")
    code, output = cluster.ended(
        cluster.dask_als(
            "prepare", volume / "source", volume / "ratings", "--partitions", 6, "--dashboard", ":0"
        )
    )
    assert code == 0, output
    yield volume
    cluster.wipe()


@pytest.fixture(scope="module")
def expected(volume):
    """The notebook's model, trained on this machine."""
    code, output = cluster.ended(
        cluster.dask_als(
            "train", volume / "ratings", volume / "expected", *NOTEBOOK, "--dashboard", ":0"
        )
    )
    assert code == 0, output
    return cluster.numbers(volume / "expected")


def train(volume, model, *more, workers=2):
    pods = {
        "image": IMAGE,
        "workers": workers,
        "cpu": "100m",
        "memory": "1Gi",
        "namespace": NAMESPACE,
        "volume_path": volume,
    }
    options = [text for name, value in pods.items() for text in ("--pods", f"{name}={value}")]
    return cluster.dask_als(
        "train", volume / "ratings", model, "--cluster", "kubernetes", *options, *more
    )


def assert_nothing_is_left():
    assert not cluster.there("daskclusters.kubernetes.dask.org")
    cluster.wait_for(
        lambda: not cluster.there("pods", **{"dask.org/component": "worker"}), seconds=90
    )
    cluster.wait_for(
        lambda: not cluster.there("pods", **{"dask.org/component": "scheduler"}), seconds=90
    )


def test_the_same_bits_as_here(volume, expected):
    code, output = cluster.ended(train(volume, volume / "model", *NOTEBOOK))
    assert code == 0, output
    assert cluster.numbers(volume / "model") == expected
    assert_nothing_is_left()


def test_a_training_that_fails_leaves_no_cluster(volume):
    (volume / "closed").mkdir(mode=0o755)  # of this user, in which the pods' user cannot write
    code, output = cluster.ended(
        train(volume, volume / "model-2", *NOTEBOOK, "--checkpoint", volume / "closed")
    )
    assert code == 1, output
    assert "Permission denied" in output
    assert_nothing_is_left()


def a_long_training(volume, model):
    """Start one that takes long enough to disturb it; return it when it trains."""
    long = [*NOTEBOOK, "--epochs", 3000, "--checkpoint", volume / f"{model.name}-checkpoints"]
    process = train(volume, model, *long, workers=1)
    for line in process.stdout:
        if line.startswith("epoch"):
            return process
    raise AssertionError(process.wait())


@pytest.fixture(scope="module")
def long_expected(volume):
    """The notebook's model after more epochs, trained on this machine."""
    model = volume / "long-expected"
    long = [*NOTEBOOK, "--epochs", 3000, "--dashboard", ":0"]
    code, output = cluster.ended(cluster.dask_als("train", volume / "ratings", model, *long))
    assert code == 0, output
    return cluster.numbers(model)


def test_a_worker_is_deleted_and_more_come(volume, long_expected):
    process = a_long_training(volume, volume / "disturbed")
    (worker,) = cluster.there("pods", **{"dask.org/component": "worker"})
    worker.delete()
    (group,) = cluster.there("daskworkergroups.kubernetes.dask.org")
    group.patch({"spec": {"worker": {"replicas": 3}}})
    cluster.wait_for(lambda: sum(pod.ready() for pod in cluster.there("pods")) == 4, seconds=60)
    assert process.poll() is None, "it ended before the workers came: make it longer"
    code, output = cluster.ended(process)
    assert code == 0, output
    assert cluster.numbers(volume / "disturbed") == long_expected


def test_an_image_runs_as_any_user_on_a_root_it_cannot_write(volume, expected):
    job = "touch /app/here && exit 9; dask-als prepare /data/source /data/own/ratings && "
    job += f"dask-als train /data/own/ratings /data/own/model {' '.join(NOTEBOOK)}"
    (volume / "own").mkdir()
    (volume / "own").chmod(0o777)
    pod = cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "any-user", "namespace": NAMESPACE},
            "spec": {
                "restartPolicy": "Never",
                "securityContext": {"runAsNonRoot": True, "runAsUser": 4321, "runAsGroup": 8765},
                "containers": [
                    {
                        "name": "any-user",
                        "image": IMAGE,
                        "imagePullPolicy": "IfNotPresent",
                        "args": ["sh", "-c", job],
                        "securityContext": {"readOnlyRootFilesystem": True},
                        "volumeMounts": [
                            {"name": "tmp", "mountPath": "/tmp"},
                            {"name": "data", "mountPath": "/data"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "tmp", "emptyDir": {}},
                    {"name": "data", "hostPath": {"path": str(volume)}},
                ],
            },
        }
    )

    def is_over():
        pod.refresh()
        return pod.status.phase in ("Succeeded", "Failed")

    cluster.wait_for(is_over, seconds=120)
    assert pod.status.phase == "Succeeded", "\n".join(pod.logs())
    assert cluster.numbers(volume / "own" / "model") == expected
