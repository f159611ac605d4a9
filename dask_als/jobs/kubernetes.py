"""Submit, watch, stop and resume jobs on Kubernetes through the Dask operator."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import kr8s
from kr8s.objects import ConfigMap, NetworkPolicy, Pod

from dask_als.errors import InputError, JobError
from dask_als.jobs.job_file import Job
from dask_als.jobs.kubernetes_status import JobState, JobStatus, judged
from dask_als.jobs.records import Records
from dask_als.kubernetes import spec
from dask_als.kubernetes.api import DaskCluster, DaskJob, ask, create, delete
from dask_als.kubernetes.spec import ATTEMPT_LABEL, JOB_LABEL, SCHEDULE_LABEL, STOPPED

_SECONDS_BETWEEN_POLLS = 1.0
_OURS = "app.kubernetes.io/name=dask-als"
_KINDS = (DaskJob, DaskCluster, NetworkPolicy)


class Jobs:
    """The jobs in a namespace of the cluster that ``KUBECONFIG`` selects.

    Parameters
    ----------
    namespace : str

    Raises
    ------
    JobError
        If no cluster can be reached.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._records = Records(namespace, "job", JOB_LABEL)

    def submit(self, job_id: str, job: Job, schedule_id: str | None = None) -> None:
        """Submit a job; its secret values go into a Secret, not into its record.

        Parameters
        ----------
        job_id : str
        job : Job
        schedule_id : str, optional
            The schedule that the job is a run of.

        Raises
        ------
        InputError
            If a secret value is missing, or Kubernetes refuses an object. No object is left behind.
        """
        sealed = job.sealed(job_id)
        record = spec.record(job_id, sealed.to_toml(), self.namespace, schedule_id)
        objects = spec.attempt(job_id, 1, sealed.cluster.kubernetes)
        self._records.create(record, job, objects, self.delete)

    def resume(self, job_id: str) -> None:
        """Start a new attempt of a lost, failed or stopped job; it resumes from its checkpoint.

        Raises
        ------
        InputError
            If the job is still running or has succeeded.
        """
        status = self.status(job_id)
        if status.state in (JobState.WAITING, JobState.RUNNING, JobState.SUCCEEDED):
            raise InputError(f"{job_id} is {status.state}; there is nothing to resume")
        record, number = self._records.one(job_id), status.attempt + 1
        size = self._records.job(job_id).cluster.kubernetes
        self.remove_pods(job_id)
        ask(lambda: record.annotate({ATTEMPT_LABEL: str(number), STOPPED: None}))
        for manifest in spec.attempt(job_id, number, size):
            create(manifest, self._records.api)

    def all(self, schedule_id: str | None = None) -> list[JobStatus]:
        """Return all jobs, or the runs of a schedule, newest first."""
        records, dask_jobs, pods = (self._raw(kind, _OURS) for kind in (ConfigMap, DaskJob, Pod))
        jobs = [
            judged(
                record,
                [job for job in dask_jobs if _label_of(job, JOB_LABEL) == job_id],
                [pod for pod in pods if _label_of(pod, JOB_LABEL) == job_id],
            )
            for record in records
            if (job_id := _label_of(record, JOB_LABEL))
            and schedule_id in (None, _label_of(record, SCHEDULE_LABEL))
        ]
        return sorted(jobs, key=lambda job: job.submitted, reverse=True)

    def status(self, job_id: str) -> JobStatus:
        """Return the status of a job.

        Raises
        ------
        InputError
            If the job does not exist.
        JobError
            If Kubernetes does not answer.
        """
        record = self._records.one(job_id).raw.to_dict()
        selector = f"{JOB_LABEL}={job_id}"
        return judged(record, self._raw(DaskJob, selector), self._raw(Pod, selector))

    def logs(self, job_id: str) -> Iterator[str]:
        """Yield the lines that the runner of a job has written so far."""
        runner = self.status(job_id).runner
        for stamped in self._log(runner, since="") if runner else ():
            yield stamped.partition(" ")[2]

    def followed(
        self, job_id: str, on_status: Callable[[JobStatus], None] = lambda status: None
    ) -> Iterator[str]:
        """Yield the lines that the runner of a job writes, until it ends or is lost.

        Parameters
        ----------
        on_status : callable, optional
            Called about every second with the status of the job.
        """
        shown = ""
        while True:
            status = self.status(job_id)
            on_status(status)
            for stamped in self._log(status.runner, since=shown) if status.runner else ():
                stamp, _, line = stamped.partition(" ")
                if stamp > shown:
                    shown = stamp
                    yield line
            if status.state not in (JobState.WAITING, JobState.RUNNING):
                return
            time.sleep(_SECONDS_BETWEEN_POLLS)

    def stop(self, job_id: str, *, timeout: float = 120.0) -> None:
        """Delete all pods of a job; keep its files and its record.

        Raises
        ------
        JobError
            If pods still exist after the timeout.
        """
        if self.status(job_id).state.is_final:
            return
        record = self._records.one(job_id)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ask(lambda: record.annotate({STOPPED: now}))
        self.remove_pods(job_id, timeout=timeout)

    def delete(self, job_id: str) -> None:
        """Stop a job and delete its record; keep its files.

        Kubernetes deletes the Secret of the job together with the record, its owner.
        """
        record = self._records.one(job_id)
        self.remove_pods(job_id)
        ask(record.delete)

    def remove_pods(self, job_id: str, *, timeout: float = 120.0) -> None:
        """Delete all that runs of a job, which is lost or is to end; keep its files and its record.

        Raises
        ------
        JobError
            If pods still exist after the timeout.
        """
        deadline = time.monotonic() + timeout
        for kind in _KINDS:
            for found in self._records.owned(kind, job_id):
                delete(found)
        while pods := self._records.owned(Pod, job_id):
            if time.monotonic() > deadline:
                names = ", ".join(pod.name for pod in pods)
                raise JobError(f"{job_id}: pods still exist after {timeout:.0f} s: {names}")
            time.sleep(_SECONDS_BETWEEN_POLLS)

    def _log(self, runner: str, *, since: str) -> list[str]:
        def read() -> list[str]:
            pod = Pod.get(runner, namespace=self.namespace, api=self._records.api)
            return list(pod.logs(timestamps=True, since_time=since or None))

        try:
            return ask(read)
        except (kr8s.NotFoundError, InputError):  # The pod is gone or its container not started.
            return []

    def _raw(self, kind: type[Any], selector: str) -> list[dict[str, Any]]:
        return [found.raw.to_dict() for found in self._records.find(kind, selector)]


def _label_of(found: dict[str, Any], label: str) -> str | None:
    labels: dict[str, str] = found["metadata"].get("labels", {})
    return labels.get(label)
