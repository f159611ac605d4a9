"""The status of a job, derived from the state of its runner pod and from its result.

The status of the DaskJob is not used: it can stay Running forever (dask-kubernetes#975).
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from dask_als.kubernetes.spec import ATTEMPT_LABEL, JOB_LABEL, STOPPED

Found = dict[str, Any]
_MAX_MESSAGE_BYTES = 4096
_TERMINATED = 128 + signal.SIGTERM
_WAITING = "the Dask operator has not created the runner yet; check that the operator is installed"


class JobState(StrEnum):
    """The states of a job."""

    WAITING = "Waiting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    LOST = "Lost"
    STOPPED = "Stopped"

    @property
    def is_final(self) -> bool:
        """Whether the job has ended; a lost job can be resumed."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.STOPPED)


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """The status of a job.

    Attributes
    ----------
    job_id : str
    state : JobState
    submitted : str
        Time of submission, ISO 8601, UTC.
    attempt : int
        Number of the attempt; 0 before the first.
    runner : str
        Name of the runner pod while it exists.
    workers : int
        Number of worker pods that are ready.
    exit_code : int or None
        Exit code of the runner after it has ended.
    message : str
        Why the job waits, failed or is lost. For a failed job, the last lines of its log.
    result : dict
        The result of a job that succeeded.
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
    """Derive the status of a job from its objects, as Kubernetes returns them.

    Parameters
    ----------
    record : dict
        The ConfigMap of the job.
    dask_jobs, pods : list of dict
        All DaskJobs and pods with the label of the job.
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
        message = "the job was never started, or its DaskJob was deleted"
        return JobStatus(**base, state=JobState.LOST, message=message)
    own = [pod for pod in pods if _attempt(pod) == number]
    runner = next((pod for pod in own if _component(pod) == "job-runner"), None)
    ready = sum(_component(pod) == "worker" and _is_ready(pod) for pod in own)
    base["workers"] = ready
    if runner is None:
        if (newest.get("status") or {}).get("jobRunnerPodName"):
            return JobStatus(**base, state=JobState.LOST, message="the runner is gone")
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
        return {"state": JobState.LOST, "message": "the runner was deleted"}
    if status.get("phase") == "Failed":
        reason = f"{status.get('reason', '')} {status.get('message', '')}".strip()
        return {"state": JobState.LOST, "message": f"the runner was evicted: {reason}"}
    if "running" in container:
        return {"state": JobState.RUNNING}
    return {"state": JobState.WAITING, "message": _why_it_waits(status, container)}


def _of_success(message: str) -> Found:
    try:
        result = json.loads(message)
    except ValueError:
        if len(message.encode()) >= _MAX_MESSAGE_BYTES:  # Kubernetes truncated the result.
            return {"state": JobState.SUCCEEDED, "exit_code": 0}
        problem = "the runner exited with code 0, but without a result"
        return {"state": JobState.FAILED, "exit_code": 0, "message": problem}
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
    reasons = [waiting.get("reason", ""), waiting.get("message", ""), *unscheduled]
    return " ".join(filter(None, reasons)) or "the runner is starting"


def _attempt(found: Found) -> int:
    return int(found["metadata"].get("labels", {}).get(ATTEMPT_LABEL, 0))


def _component(pod: Found) -> str:
    component: str = pod["metadata"].get("labels", {}).get("dask.org/component", "")
    return component


def _is_ready(pod: Found) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(known["type"] == "Ready" and known["status"] == "True" for known in conditions)
