"""Where a job stands, judged from what Kubernetes says of its runner, and from its own result.

The DaskJob's own status is not asked: it can say Running for ever (dask-kubernetes#975).
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from dask_als.kubernetes.spec import ATTEMPT_LABEL, JOB_LABEL, STOPPED

Found = dict[str, Any]
_MOST_OF_A_MESSAGE = 4096
_TERMINATED = 128 + signal.SIGTERM
_WAITING = "the Dask operator has not made the runner yet; if that stays so, is it installed?"


class JobState(StrEnum):
    """What can become of a job."""

    WAITING = "Waiting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    LOST = "Lost"
    STOPPED = "Stopped"

    @property
    def is_final(self) -> bool:
        """Whether it stays so; a lost job can be resumed."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED)


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """Where a job stands.

    Attributes
    ----------
    job_id : str
    state : JobState
    submitted : str
        Time, ISO 8601, UTC.
    attempt : int
        0 before the first.
    runner : str
        Name of its pod, as long as that is there.
    workers : int
        Pods of workers that are ready.
    exit_code : int or None
        Of the runner, when it has ended.
    message : str
        Why it waits, failed or is lost: of a failed one, the last lines of its log.
    result : dict
        What the runner wrote down of a job that succeeded.
    """

    job_id: str
    state: JobState
    submitted: str
    attempt: int
    runner: str = ""
    workers: int = 0
    exit_code: int | None = None
    message: str = ""
    result: Found | None = None

    def to_json(self) -> Found:
        """Return the status as plain JSON values."""
        return asdict(self)


def judged(record: Found, dask_jobs: list[Found], pods: list[Found]) -> JobStatus:
    """Judge a job.

    Parameters
    ----------
    record : dict
        Its ConfigMap, as Kubernetes returns it.
    dask_jobs, pods : list of dict
        All that bear its label, likewise.
    """
    metadata = record["metadata"]
    notes = metadata.get("annotations") or {}
    number = int(notes.get(ATTEMPT_LABEL, 0))
    base: Found = {
        "job_id": metadata["labels"][JOB_LABEL],
        "submitted": metadata["creationTimestamp"],
        "attempt": number,
    }
    if STOPPED in notes:
        return JobStatus(**base, state=JobState.STOPPED, message="stopped on request")
    newest = next((job for job in dask_jobs if _attempt(job) == number), None)
    if newest is None:
        message = "it was never started, or its DaskJob was deleted"
        return JobStatus(**base, state=JobState.LOST, message=message)
    own = [pod for pod in pods if _attempt(pod) == number]
    runner = next((pod for pod in own if _component(pod) == "job-runner"), None)
    ready = sum(_component(pod) == "worker" and _is_ready(pod) for pod in own)
    base["workers"] = ready
    if runner is None:
        if (newest.get("status") or {}).get("jobRunnerPodName"):
            return JobStatus(**base, state=JobState.LOST, message="its runner is gone")
        return JobStatus(**base, state=JobState.WAITING, message=_WAITING)
    return JobStatus(**base, runner=runner["metadata"]["name"], **_of_runner(runner))


def _of_runner(pod: Found) -> Found:
    status = pod.get("status") or {}
    containers: list[Found] = status.get("containerStatuses") or [{}]
    container = containers[0].get("state", {})
    is_leaving = "deletionTimestamp" in pod["metadata"]
    if ended := container.get("terminated"):
        if ended["exitCode"] == 0:
            return _of_success(ended.get("message", ""))
        was_terminated = ended["exitCode"] == _TERMINATED
        if not (is_leaving or was_terminated or status.get("reason") == "Evicted"):
            return _of_failure(ended)
    if is_leaving:
        return {"state": JobState.LOST, "message": "its runner was deleted"}
    if status.get("phase") == "Failed":
        reason = f"{status.get('reason', '')} {status.get('message', '')}".strip()
        return {"state": JobState.LOST, "message": f"its runner was taken away: {reason}"}
    if "running" in container:
        return {"state": JobState.RUNNING}
    return {"state": JobState.WAITING, "message": _why_it_waits(status, container)}


def _of_success(message: str) -> Found:
    try:
        result = json.loads(message)
    except ValueError:
        if len(message.encode()) >= _MOST_OF_A_MESSAGE:  # Kubernetes keeps the end of it
            return {"state": JobState.SUCCEEDED, "exit_code": 0}
        said = "its runner ended well, but without a result"
        return {"state": JobState.FAILED, "exit_code": 0, "message": said}
    return {"state": JobState.SUCCEEDED, "exit_code": 0, "result": result}


def _of_failure(ended: Found) -> Found:
    lines = [f"{ended['reason']}"] if ended.get("reason", "Error") != "Error" else []
    lines += [ended.get("message", "").strip()]
    code = ended["exitCode"]
    return {"state": JobState.FAILED, "exit_code": code, "message": "\n".join(filter(None, lines))}


def _why_it_waits(status: Found, container: Found) -> str:
    waiting = container.get("waiting") or {}
    unscheduled = [
        condition.get("message", "")
        for condition in status.get("conditions") or []
        if condition["type"] == "PodScheduled" and condition["status"] == "False"
    ]
    said = [waiting.get("reason", ""), waiting.get("message", ""), *unscheduled]
    return " ".join(filter(None, said)) or "its runner starts"


def _attempt(found: Found) -> int:
    return int(found["metadata"].get("labels", {}).get(ATTEMPT_LABEL, 0))


def _component(pod: Found) -> str:
    component: str = pod["metadata"].get("labels", {}).get("dask.org/component", "")
    return component


def _is_ready(pod: Found) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(known["type"] == "Ready" and known["status"] == "True" for known in conditions)
