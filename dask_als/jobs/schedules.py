"""Jobs that Kubernetes runs again and again: a CronJob starts each run, an ordinary job."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from kr8s.objects import APIObject

from dask_als.errors import InputError
from dask_als.jobs.job_file import Job
from dask_als.jobs.kubernetes import Jobs
from dask_als.jobs.kubernetes_status import JobState, JobStatus
from dask_als.jobs.records import Records
from dask_als.kubernetes import spec
from dask_als.kubernetes.api import ask, cron_job_class, delete
from dask_als.kubernetes.spec import JOB_LABEL, SCHEDULE_LABEL

_ACTIVE = (JobState.WAITING, JobState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class ScheduleStatus:
    """The status of a schedule.

    Attributes
    ----------
    schedule_id : str
    state : {"Scheduled", "Stopped"}
    cron : str
    submitted : str
        Time of submission, ISO 8601, UTC.
    last : str
        Time of the last start by Kubernetes; empty before the first.
    runs : list of JobStatus
        Newest first.
    """

    schedule_id: str
    state: str
    cron: str
    submitted: str
    last: str
    runs: list[JobStatus]

    def to_json(self) -> dict[str, Any]:
        """Return the status as plain JSON values."""
        return asdict(self)


class Schedules:
    """The schedules in a namespace of the cluster that ``KUBECONFIG`` selects.

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
        self._jobs = Jobs(namespace)
        # The records of its runs have the label of a schedule, too.
        self._records = Records(namespace, "schedule", SCHEDULE_LABEL, f",!{JOB_LABEL}")

    def has(self, schedule_id: str) -> bool:
        """Return whether there is such a schedule."""
        return self._records.has(schedule_id)

    def submit(self, schedule_id: str, job: Job) -> None:
        """Create a schedule; the secret values of its job go into a Secret.

        Raises
        ------
        InputError
            If a secret value is missing, or Kubernetes refuses an object. No object is left behind.
        """
        assert job.schedule is not None
        sealed = job.sealed(schedule_id)
        record = spec.schedule_record(schedule_id, sealed.to_toml(), self.namespace)
        cron_job = spec.cron_job(
            schedule_id,
            job.schedule.cron,
            sealed.cluster.kubernetes,
            api_version=cron_job_class(self._records.api).version,
        )
        self._records.create(record, job, [cron_job], self.delete)

    def launch(self, schedule_id: str, now: datetime | None = None) -> str | None:
        """Start a run, unless another run of the schedule is active; remove records of old runs.

        Returns
        -------
        str or None
            The id of the run; None if another one is active.
        """
        job = self._records.job(schedule_id)
        assert job.schedule is not None
        runs = self._jobs.all(schedule_id)
        run_id = spec.new_run_id(job.name, schedule_id, now or datetime.now(UTC))
        if any(run.state in _ACTIVE for run in runs):
            return None
        # What is left of a lost run would take the memory of the next one.
        for run in runs:
            if run.state is JobState.LOST:
                self._jobs.remove_pods(run.job_id)
        if all(run.job_id != run_id for run in runs):
            self._jobs.submit(run_id, job, schedule_id)
        elif self._jobs.status(run_id).state is JobState.LOST:
            # An earlier pod of this start died between the record and the DaskJob.
            self._jobs.resume(run_id)
        else:
            return None
        ended = [run for run in runs if run.state not in _ACTIVE]
        for run in ended[job.schedule.history - 1 :]:
            self._jobs.delete(run.job_id)
        return run_id

    def all(self) -> list[ScheduleStatus]:
        """Return all schedules, newest first."""
        schedules = [self._status(record) for record in self._records.all()]
        return sorted(schedules, key=lambda schedule: schedule.submitted, reverse=True)

    def status(self, schedule_id: str) -> ScheduleStatus:
        """Return the status of a schedule.

        Raises
        ------
        InputError
            If the schedule does not exist.
        """
        return self._status(self._records.one(schedule_id))

    def stop(self, schedule_id: str) -> None:
        """Start no more runs, and stop the active one; `resume` ends that."""
        self._suspend(schedule_id, is_suspended=True)
        for run in self._jobs.all(schedule_id):
            if run.state in _ACTIVE:
                self._jobs.stop(run.job_id)

    def resume(self, schedule_id: str) -> None:
        """Let Kubernetes start runs again.

        Raises
        ------
        InputError
            If the schedule is not stopped.
        """
        if self.status(schedule_id).state != "Stopped":
            raise InputError(f"{schedule_id} is not stopped; there is nothing to resume")
        self._suspend(schedule_id, is_suspended=False)

    def delete(self, schedule_id: str) -> None:
        """Stop a schedule and delete its record and the records of its runs; keep their files."""
        record = self._records.one(schedule_id)
        for cron_job in self._cron_jobs(schedule_id):
            delete(cron_job)
        for run in self._jobs.all(schedule_id):
            self._jobs.delete(run.job_id)
        ask(record.delete)

    def _suspend(self, schedule_id: str, *, is_suspended: bool) -> None:
        self._records.one(schedule_id)
        for cron_job in self._cron_jobs(schedule_id):
            ask(lambda found=cron_job: found.patch({"spec": {"suspend": is_suspended}}))  # type: ignore[misc]

    def _status(self, record: APIObject) -> ScheduleStatus:
        metadata = record.raw.to_dict()["metadata"]
        schedule_id = metadata["labels"][SCHEDULE_LABEL]
        found = next(iter(self._cron_jobs(schedule_id)), None)
        cron_job: dict[str, Any] = {} if found is None else found.raw.to_dict()
        is_running = found is not None and not cron_job["spec"].get("suspend")
        return ScheduleStatus(
            schedule_id=schedule_id,
            state="Scheduled" if is_running else "Stopped",
            cron=cron_job.get("spec", {}).get("schedule", ""),
            submitted=metadata["creationTimestamp"],
            last=(cron_job.get("status") or {}).get("lastScheduleTime") or "",
            runs=self._jobs.all(schedule_id),
        )

    def _cron_jobs(self, schedule_id: str) -> list[APIObject]:
        return self._records.owned(cron_job_class(self._records.api), schedule_id)
