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


def runs_there():
    """Return the ids of the runs that have a record."""
    records = there("configmaps")
    labels = [record["metadata"].get("labels", {}) for record in records]
    return {its["dask-als/job"] for its in labels if "dask-als/job" in its}


def starts(known):
    """Wait for a run that is not known, and return its id."""
    return cluster.wait_for(lambda: runs_there() - set(known), seconds=180).pop()


def has_ended(run):
    """Whether the container of a run's runner has ended."""
    pods = there("pods", component="job-runner", job=run)
    return any(pod["status"].get("phase") in ("Succeeded", "Failed") for pod in pods)


def succeeds(schedule_id, run):
    cluster.wait_for(lambda: has_ended(run), seconds=240)
    logs = cluster.done("logs", run, f"--namespace={NAMESPACE}")
    assert states(schedule_id)[run] == "Succeeded", logs


def is_half_way(run):
    """Whether a run has trained some epochs."""
    (runner,) = there("pods", component="job-runner", job=run) or [None]
    return (
        runner is not None
        and runner["status"].get("phase") == "Running"
        and ("epoch " in cluster.kubectl("logs", cluster.name_of(runner)))
    )


def dataset_of(model):
    return read_manifest(str(model)).dataset["fingerprint"]


def test_nights(volume, schedule):
    """New ratings each night; a complete model is served at every moment, also of a killed run."""
    output, runs, served = volume / "nightly", [], []
    model = output / "model"
    # By hand, without waiting for its time; Kubernetes starts all others.
    runs.append(cluster.done("launch", schedule, f"--namespace={NAMESPACE}").strip())
    succeeds(schedule, runs[-1])
    served.append(dataset_of(model))
    reader = Reader(str(model))
    reader.start()

    arrive(volume, 2)
    runs.append(starts(runs))
    succeeds(schedule, runs[-1])
    served.append(dataset_of(model))

    arrive(volume, 3)
    killed = starts(runs)
    cluster.wait_for(lambda: is_half_way(killed), seconds=120)
    pods = [cluster.name_of(pod) for pod in there("pods", job=killed)]
    cluster.kubectl("delete", "pods", *pods, "--force", "--grace-period=0", "--wait=false")
    cluster.wait_for(lambda: states(schedule)[killed] == "Lost", seconds=60)
    assert dataset_of(model) == served[-1], "it ended before it was killed: train longer"

    arrive(volume, 4)
    runs += [killed, starts([*runs, killed])]
    succeeds(schedule, runs[-1])
    served.append(dataset_of(model))
    cluster.done("stop", schedule, f"--namespace={NAMESPACE}")
    assert status(schedule)["state"] == "Stopped"

    loaded = reader.ended()
    assert list(loaded) == served
    assert len(set(served)) == 3
    at_once = prepare(str(volume / "ratings"), str(volume / "at-once"), SerialExecutor())
    assert served[-1] == at_once.fingerprint
    assert open_dataset(str(output / "dataset")).fingerprint == at_once.fingerprint
    assert sorted(path.name for path in output.glob("model-*")) == ["model-000002", "model-000003"]
    # What the killed run left is gone, and the records of the oldest runs.
    cluster.wait_for(lambda: not there("pods", job=killed), seconds=120)
    assert list(states(schedule)) == [runs[-1], killed]
    cluster.done("delete", schedule, f"--namespace={NAMESPACE}")
    assert not there("cronjobs")
    assert not runs_there()
