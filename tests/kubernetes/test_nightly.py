"""A schedule on a real Kubernetes: nights with new ratings, one of them killed half-way."""

import json
import threading
import time
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
rank = 4
epochs = 5

[checkpoint]
every = 20

[schedule]
cron = "* * * * *"
epochs = 200
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


def next_run(schedule_id, known):
    """Wait for a run that is not known, and return its id."""
    found = cluster.wait_for(lambda: set(states(schedule_id)) - set(known), seconds=180)
    return found.pop()


def succeeds(schedule_id, run):
    cluster.wait_for(
        lambda: states(schedule_id)[run] not in ("Waiting", "Running"), seconds=240
    )
    logs = cluster.done("logs", run, f"--namespace={NAMESPACE}")
    assert states(schedule_id)[run] == "Succeeded", logs


def fingerprint(model):
    return read_manifest(str(model)).dataset["fingerprint"]


def test_nights(volume, schedule):
    output, runs, served = volume / "nightly", [], []
    model = output / "model"

    def night():
        runs.append(next_run(schedule, runs))
        return runs[-1]

    began = time.monotonic()
    say = lambda *a: print(f"{time.monotonic() - began:6.1f}", *a, flush=True)
    succeeds(schedule, night())
    say("first night")
    served.append(fingerprint(model))
    reader = Reader(str(model))
    reader.start()

    arrive(volume, 2)
    succeeds(schedule, night())
    say("second night")
    served.append(fingerprint(model))

    arrive(volume, 3)
    killed = night()
    cluster.wait_for(
        lambda: "epoch" in cluster.done("logs", killed, f"--namespace={NAMESPACE}"), seconds=120
    )
    pods = [cluster.name_of(pod) for pod in there("pods", job=killed)]
    say(states(schedule), pods)
    cluster.kubectl("delete", "pods", *pods, "--force", "--grace-period=0", "--wait=false")
    cluster.wait_for(lambda: states(schedule)[killed] == "Lost", seconds=60)
    say("killed")
    assert fingerprint(model) == served[-1]

    arrive(volume, 4)
    succeeds(schedule, night())
    say("fourth night")
    served.append(fingerprint(model))
    cluster.done("stop", schedule, f"--namespace={NAMESPACE}")
    loaded = reader.ended()
    say(loaded)
    assert set(loaded) == set(served)
    assert len(set(served)) == 3
    say(cluster.kubectl("get", "pods"))
