"""The one place that talks to Kubernetes: jobs through the Dask operator."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import kr8s
from kr8s.objects import APIObject, ConfigMap, NetworkPolicy, Pod

from dask_als.errors import DaskALSError, InputError, JobError
from dask_als.jobs.job_file import Job, job_from_toml
from dask_als.jobs.kubernetes_status import JobState, JobStatus, judged
from dask_als.kubernetes import spec
from dask_als.kubernetes.api import DaskCluster, DaskJob, api_of, ask, create, delete
from dask_als.kubernetes.spec import ATTEMPT_LABEL, JOB_LABEL, STOPPED
from dask_als.settings.credentials import resolved

_SECONDS_BETWEEN_LOOKS = 1.0
_KINDS = (DaskJob, DaskCluster, NetworkPolicy)


class Jobs:
    """The jobs in a namespace of the cluster that ``KUBECONFIG`` names.

    Parameters
    ----------
    namespace : str

    Raises
    ------
    JobError
        If there is no cluster to talk to.
    """

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._api = api_of(namespace)

    def submit(self, job_id: str, job: Job) -> None:
        """Send a job, its secrets apart from it; it starts by itself.

        Raises
        ------
        InputError
            If a secret is not to be had, or Kubernetes refuses something; then nothing is left.
        """
        values = resolved(job.cluster.kubernetes.secrets, os.environ)
        job = job.sealed(job_id)
        create(spec.record(job_id, job.to_toml(), job.cluster.kubernetes.namespace), self._api)
        try:
            if values:
                record = self._record(job_id).raw.to_dict()
                create(spec.secret(job_id, self.namespace, values, record), self._api)
            for manifest in spec.attempt(job_id, 1, job.cluster.kubernetes):
                create(manifest, self._api)
        except InputError:
            with suppress(DaskALSError):
                self.delete(job_id)
            raise

    def resume(self, job_id: str) -> None:
        """Start a job that is lost, failed or stopped anew; it goes on from its checkpoint.

        Raises
        ------
        InputError
            If it still runs, or has succeeded.
        """
        status = self.status(job_id)
        if status.state in (JobState.WAITING, JobState.RUNNING, JobState.SUCCEEDED):
            raise InputError(f"{job_id} is {status.state}; there is nothing to resume")
        record, number = self._record(job_id), status.attempt + 1
        size = job_from_toml(record.raw["data"]["job.toml"]).cluster.kubernetes
        self._remove_running(job_id)
        ask(lambda: record.annotate({ATTEMPT_LABEL: str(number), STOPPED: None}))
        for manifest in spec.attempt(job_id, number, size):
            create(manifest, self._api)

    def all(self) -> list[JobStatus]:
        """Return all jobs, the newest first."""
        selector = {"app.kubernetes.io/name": "dask-als"}
        records, dask_jobs, pods = (self._raw(kind, selector) for kind in (ConfigMap, DaskJob, Pod))
        jobs = [
            judged(
                record,
                [job for job in dask_jobs if _job_of(job) == job_id],
                [pod for pod in pods if _job_of(pod) == job_id],
            )
            for record in records
            if (job_id := _job_of(record))
        ]
        return sorted(jobs, key=lambda job: job.submitted, reverse=True)

    def status(self, job_id: str) -> JobStatus:
        """Return where a job stands.

        Raises
        ------
        InputError
            If there is no such job.
        JobError
            If Kubernetes cannot be asked.
        """
        record = self._record(job_id).raw.to_dict()
        selector = {JOB_LABEL: job_id}
        return judged(record, self._raw(DaskJob, selector), self._raw(Pod, selector))

    def logs(self, job_id: str) -> Iterator[str]:
        """Yield the lines that a job's runner has written so far."""
        runner = self.status(job_id).runner
        for stamped in self._log(runner, since="") if runner else ():
            yield stamped.partition(" ")[2]

    def followed(
        self, job_id: str, on_status: Callable[[JobStatus], None] = lambda status: None
    ) -> Iterator[str]:
        """Yield the lines that a job's runner writes, until it ends or is lost.

        Parameters
        ----------
        on_status : callable, optional
            Is told, about every second, where the job stands.
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
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def stop(self, job_id: str, *, timeout: float = 120.0) -> None:
        """Take all of a job's pods away; what it wrote, and its status, are kept.

        Raises
        ------
        JobError
            If pods are still there when the time is over.
        """
        if self.status(job_id).state.is_final:
            return
        record = self._record(job_id)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ask(lambda: record.annotate({STOPPED: now}))
        self._remove_running(job_id, timeout=timeout)

    def delete(self, job_id: str) -> None:
        """Stop a job, and forget it; files that it wrote are kept.

        Kubernetes deletes its Secret, which its record owns.
        """
        record = self._record(job_id)
        self._remove_running(job_id)
        ask(record.delete)

    def _remove_running(self, job_id: str, *, timeout: float = 120.0) -> None:
        deadline = time.monotonic() + timeout
        selector = {JOB_LABEL: job_id}
        for kind in _KINDS:
            for found in self._get(kind, selector):
                delete(found)
        while pods := self._get(Pod, selector):
            if time.monotonic() > deadline:
                names = ", ".join(pod.name for pod in pods)
                raise JobError(f"{job_id}: pods are still there after {timeout:.0f} s: {names}")
            time.sleep(_SECONDS_BETWEEN_LOOKS)

    def _record(self, job_id: str) -> APIObject:
        for record in self._get(ConfigMap, {JOB_LABEL: job_id}):
            return record
        there = f"no job {job_id!r} in namespace {self.namespace}"
        raise InputError(f"{there}; `dask-als list` shows those that are")

    def _log(self, runner: str, *, since: str) -> list[str]:
        def read() -> list[str]:
            pod = Pod.get(runner, namespace=self.namespace, api=self._api)
            return list(pod.logs(timestamps=True, since_time=since or None))

        try:
            return ask(read)
        except (kr8s.NotFoundError, InputError):  # it is gone, or its container has not started
            return []

    def _get(self, kind: type[Any], selector: dict[str, str]) -> list[APIObject]:
        return ask(lambda: list(self._api.get(kind, label_selector=selector)))  # type: ignore[arg-type]

    def _raw(self, kind: type[Any], selector: dict[str, str]) -> list[dict[str, Any]]:
        return [found.raw.to_dict() for found in self._get(kind, selector)]


def _job_of(found: dict[str, Any]) -> str | None:
    labels: dict[str, str] = found["metadata"].get("labels", {})
    return labels.get(JOB_LABEL)
