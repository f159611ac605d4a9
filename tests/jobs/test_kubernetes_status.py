"""Where a job stands, judged from what Kubernetes was seen to say."""

import json

import pytest

from dask_als.jobs.kubernetes_status import judged


def record(**annotations):
    """Return a job's ConfigMap, at its second attempt."""
    return {
        "metadata": {
            "labels": {"dask-als/job": "films-1"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"dask-als/attempt": "2", **annotations},
        }
    }


def labelled(component=None, attempt=2):
    """Return metadata of an object of an attempt."""
    labels = {"dask-als/job": "films-1", "dask-als/attempt": str(attempt)}
    if component:
        labels["dask.org/component"] = component
    return {"name": f"films-1-{component}", "labels": labels}


def dask_job(**status):
    """Return a DaskJob; its own status says Running, whatever happens (dask-kubernetes#975)."""
    status = {"jobStatus": "Running", "jobRunnerPodName": "films-1-runner"} | status
    return {"metadata": labelled(), "status": status}


def runner(state=None, phase="Running", leaving=False, **status):
    """Return the runner's pod."""
    metadata = labelled("job-runner") | ({"deletionTimestamp": "now"} if leaving else {})
    containers = [{"state": state}] if state else []
    return {
        "metadata": metadata,
        "status": {"phase": phase, "containerStatuses": containers, **status},
    }


def ended(code, message="", **more):
    """Return the state of a container that has ended."""
    return {"terminated": {"exitCode": code, "message": message, **more}}


WELL = json.dumps({"status": "succeeded", "steps": []})
CUT = json.dumps({"status": "succeeded", "steps": ["long"] * 1000})[-4096:]


@pytest.mark.parametrize(
    ("pod", "state", "code", "message"),
    [
        (runner({"running": {}}), "Running", None, ""),
        (runner(ended(0, WELL), phase="Succeeded"), "Succeeded", 0, ""),
        (runner(ended(0, ""), phase="Succeeded"), "Failed", 0, "without a result"),
        (runner(ended(0, CUT), phase="Succeeded"), "Succeeded", 0, ""),
        (runner(ended(1, "a\nlast line\n"), phase="Failed"), "Failed", 1, "last line"),
        (runner(ended(137, reason="OOMKilled"), phase="Failed"), "Failed", 137, "OOMKilled"),
        (runner(ended(137), phase="Failed", leaving=True), "Lost", None, "deleted"),
        (runner(ended(143), phase="Failed"), "Lost", None, "evicted"),
        (runner({"running": {}}, leaving=True), "Lost", None, "deleted"),
        (runner(ended(0, WELL), phase="Succeeded", leaving=True), "Succeeded", 0, ""),
        (runner(phase="Failed", reason="Evicted", message="low disk"), "Lost", None, "low disk"),
        (
            runner(ended(137), phase="Failed", reason="Evicted", message="low disk"),
            "Lost",
            None,
            "low disk",
        ),
        (
            runner({"waiting": {"reason": "ErrImagePull", "message": "no such"}}, phase="Pending"),
            "Waiting",
            None,
            "ErrImagePull no such",
        ),
        (
            runner(
                phase="Pending",
                conditions=[{"type": "PodScheduled", "status": "False", "message": "too few cpu"}],
            ),
            "Waiting",
            None,
            "too few cpu",
        ),
    ],
)
def test_a_runner_tells(pod, state, code, message):
    status = judged(record(), [dask_job()], [pod])
    assert (status.state, status.exit_code) == (state, code)
    assert message in status.message
    assert status.attempt == 2


def test_the_result_of_one_that_succeeded():
    status = judged(record(), [dask_job()], [runner(ended(0, WELL), phase="Succeeded")])
    assert status.result == json.loads(WELL)


def test_a_runner_that_is_gone_or_not_there_yet():
    assert judged(record(), [dask_job()], []).state == "Lost"
    assert judged(record(), [dask_job(jobRunnerPodName="")], []).state == "Waiting"
    assert judged(record(), [], []).state == "Lost"


def test_what_an_earlier_attempt_left_does_not_count():
    old = runner(ended(1), phase="Failed")
    old["metadata"]["labels"]["dask-als/attempt"] = "1"
    assert judged(record(), [dask_job()], [old, runner({"running": {}})]).state == "Running"


def test_a_stopped_job():
    assert judged(record(**{"dask-als/stopped": "now"}), [], []).state == "Stopped"


def test_workers_that_are_ready():
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    pods = [runner({"running": {}}), {"metadata": labelled("worker"), "status": ready}]
    pods += [{"metadata": labelled("worker"), "status": {"phase": "Pending"}}]
    assert judged(record(), [dask_job()], pods).workers == 1
