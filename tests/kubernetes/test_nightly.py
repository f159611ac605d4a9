"""A schedule on a real Kubernetes: nights with new ratings, one of them killed half-way."""

import json
import threading
from collections import Counter

import numpy as np
import pytest
import support.kubernetes_cluster as cluster
from support.kubernetes_cluster import IMAGE, NAMESPACE, there

from dask_als.core.executor import SerialExecutor
from dask_als.data.dataset import open_dataset
from dask_als.data.prepare import prepare
from dask_als.model.manifest import read_manifest
from dask_als.model.model import ALSModel

pytestmark = [
    pytest.mark.kubernetes,
    pytest.mark.skipif(cluster.why_not() is not None, reason=cluster.why_not() or ""),
]
ROWS = (0, 60_000, 75_000, 90_000, None)
JOB = f"""
name = "nightly"
output = "nightly"
steps = ["prepare", "train"]
source.path = "ratings"

[train]
rank = 8
epochs = 5

[checkpoint]
every = 100

[schedule]
cron = "* * * * *"
epochs = 1000
keep = 2
history = 2

[cluster.kubernetes]
image = "{IMAGE}"
namespace = "{NAMESPACE}"
workers = 1
cpu = "100m"
memory = "1Gi"
volume_claim = "dask-als"
"""


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A directory that all pods see, with an empty folder of ratings."""
    volume = tmp_path_factory.mktemp("volume")
    for parent in (volume.parent, volume.parent.parent):
        parent.chmod(0o755)
    cluster.set_up(volume)
    (volume / "ratings").mkdir()
    yield volume
    cluster.wipe()


@pytest.fixture
def schedule(volume, tmp_path):
    """A schedule of minutes, with the ratings of the first night."""
    arrive(volume, 1)
    (tmp_path / "nightly.toml").write_text(JOB)
    schedule_id = cluster.done(
        "submit", tmp_path / "nightly.toml", f"--set=cluster.kubernetes.volume_path={volume}"
    ).strip()
    yield schedule_id
    if schedule_id in cluster.done("list", f"--namespace={NAMESPACE}"):
        cluster.done("delete", schedule_id, f"--namespace={NAMESPACE}")


def arrive(volume, night):
    """Put the ratings of a night into the source, in one step."""
    header, *rows = (cluster.RATINGS / "ratings.csv").read_text().splitlines()
    path = volume / "ratings" / f"night-{night}.csv"
    partial = volume / f"night-{night}.partial"
    partial.write_text("\n".join([header, *rows[ROWS[night - 1] : ROWS[night]], ""]))
    partial.rename(path)


class Reader(threading.Thread):
    """Load the served model again and again, and predict with it."""

    def __init__(self, model):
        super().__init__(daemon=True)
        self.model, self.loaded, self.error = model, Counter(), None
        self.must_end = threading.Event()

    def run(self):
        while not self.must_end.is_set():
            try:
                model = ALSModel.load(self.model)
                assert np.isfinite(model.predict(model.users.ids[:50], model.items.ids[:50])).all()
                self.loaded[model.manifest.dataset["fingerprint"]] += 1
            except BaseException as error:
                self.error = error
                return

    def ended(self):
        """Return how often each model was loaded."""
        self.must_end.set()
        self.join()
        if self.error is not None:
            raise self.error
        return self.loaded


def status(schedule_id):
    return json.loads(cluster.done("status", schedule_id, f"--namespace={NAMESPACE}", "--json"))


def states(schedule_id):
    return {run["job_id"]: run["state"] for run in status(schedule_id)["runs"]}


def trains_now():
    """Return the run that has trained some epochs and still runs; None if there is none."""
    for runner in there("pods", component="job-runner"):
        is_running = runner["status"].get("phase") == "Running"
        if is_running and "epoch " in cluster.kubectl("logs", cluster.name_of(runner)):
            return runner["metadata"]["labels"]["dask-als/job"]
    return None


def dataset_of(model):
    return read_manifest(str(model)).dataset["fingerprint"]


def test_nights(volume, schedule):
    """New ratings each night; a complete model is served at every moment, also of a killed run."""
    output = volume / "nightly"
    model = output / "model"
    # By hand, without waiting for its time; Kubernetes starts all others.
    cluster.done("launch", schedule, f"--namespace={NAMESPACE}")
    cluster.wait_for(lambda: (model / "model.json").exists(), seconds=240)
    first = dataset_of(model)
    reader = Reader(str(model))
    reader.start()

    arrive(volume, 2)
    cluster.wait_for(lambda: dataset_of(model) != first, seconds=300)
    second = dataset_of(model)

    arrive(volume, 3)
    killed = cluster.wait_for(trains_now, seconds=300)
    pods = [cluster.name_of(pod) for pod in there("pods", job=killed)]
    cluster.kubectl("delete", "pods", *pods, "--force", "--grace-period=0", "--wait=false")
    cluster.wait_for(lambda: states(schedule)[killed] == "Lost", seconds=60)
    assert dataset_of(model) == second, "it ended before it was killed: train longer"

    arrive(volume, 4)
    at_once = prepare(str(volume / "ratings"), str(volume / "at-once"), SerialExecutor())
    cluster.wait_for(lambda: dataset_of(model) == at_once.fingerprint, seconds=300)
    cluster.wait_for(lambda: not there("pods", job=killed), seconds=120)
    cluster.done("stop", schedule, f"--namespace={NAMESPACE}")
    assert status(schedule)["state"] == "Stopped"

    loaded = reader.ended()
    # Another run may have come between the last two nights.
    assert set(loaded) >= {first, second, at_once.fingerprint}
    assert len(loaded) <= 4
    assert open_dataset(str(output / "dataset")).fingerprint == at_once.fingerprint
    kept = sorted(output.glob("model-*"))
    assert len(kept) == 2
    assert read_manifest(str(kept[-1])) == read_manifest(str(model))
    assert read_manifest(str(model)).initial is not None
    assert len(states(schedule)) <= 2
    cluster.done("delete", schedule, f"--namespace={NAMESPACE}")
    assert not there("cronjobs")
    assert cluster.done("list", f"--namespace={NAMESPACE}") == ""
