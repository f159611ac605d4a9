"""Options and output that the commands for jobs on Kubernetes share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from dask_als.cli.commands.options import together
from dask_als.cli.commands.saying import say
from dask_als.errors import InputError, JobError
from dask_als.settings.cluster_size import KubernetesSize

if TYPE_CHECKING:
    from dask_als.jobs.kubernetes import Jobs
    from dask_als.jobs.kubernetes_status import JobStatus
    from dask_als.jobs.schedules import Schedules, ScheduleStatus

_RESUMPTIONS = 3

namespace_option = click.option(
    "--namespace", default=KubernetesSize().namespace, help="Kubernetes namespace of the jobs."
)
job_argument = together(click.argument("job_id", metavar="JOB_ID"), namespace_option)


def jobs_in(namespace: str) -> Jobs:
    """Return the jobs in a namespace of the cluster that KUBECONFIG selects."""
    try:
        from dask_als.jobs.kubernetes import Jobs
    except ImportError:
        raise InputError("jobs on Kubernetes need: pip install 'dask-als[kubernetes]'") from None
    return Jobs(namespace)


def schedules_in(namespace: str) -> Schedules:
    """Return the schedules in a namespace of the cluster that KUBECONFIG selects."""
    jobs_in(namespace)
    from dask_als.jobs.schedules import Schedules

    return Schedules(namespace)


def waited_for(jobs: Jobs, job_id: str, *, as_json: bool = False) -> JobStatus:
    """Print the log of a job until it ends, resume it if its runner is lost, return its status.

    With JSON output, the log goes to standard error.
    """
    from dask_als.jobs.kubernetes_status import JobState

    for resumptions in range(_RESUMPTIONS + 1):
        waiting = _Waiting()
        for line in jobs.followed(job_id, waiting.hear):
            say(line, err=as_json)
        status = jobs.status(job_id)
        if status.state is not JobState.LOST or resumptions == _RESUMPTIONS:
            break
        say(f"{job_id}: {status.message}; resuming", err=True)
        jobs.resume(job_id)
    return status


class _Waiting:
    """Prints why a job waits, once for each reason."""

    def __init__(self) -> None:
        self._said = ""

    def hear(self, status: JobStatus) -> None:
        from dask_als.jobs.kubernetes_status import JobState

        if status.state is JobState.WAITING and status.message != self._said:
            self._said = status.message
            say(f"{status.job_id} waits: {status.message}", err=True)


def described_status(status: JobStatus) -> str:
    """Return a status as lines of text."""
    lines = [f"{status.job_id}  {status.state}  attempt {status.attempt}"]
    if status.workers:
        lines.append(f"workers   {status.workers} ready")
    if status.exit_code is not None:
        lines.append(f"exit code {status.exit_code}")
    if status.message:
        lines.append(status.message)
    for step in (status.result or {}).get("steps", []):
        lines.append(f"{step['step']:9} {step['status']:8} {step['seconds']:.2f} s  {step['path']}")
    return "\n".join(lines)


def described_schedule(status: ScheduleStatus) -> str:
    """Return the status of a schedule as lines of text."""
    lines = [f"{status.schedule_id}  {status.state}  {status.cron}"]
    if status.last:
        lines.append(f"last start {status.last}")
    lines += [f"{run.job_id:38} {run.state:10} {run.submitted}" for run in status.runs]
    return "\n".join(lines)


def print_schedule(status: ScheduleStatus, *, as_json: bool) -> None:
    """Print the status of a schedule, as text or as JSON."""
    say(json.dumps(status.to_json(), indent=2) if as_json else described_schedule(status))


def print_status(status: JobStatus, *, as_json: bool) -> None:
    """Print a status, as text or as JSON."""
    say(json.dumps(status.to_json(), indent=2) if as_json else described_status(status))


def end_as(status: JobStatus, *, as_json: bool = False) -> None:
    """Print how a job ended, and end the command with the exit code of its runner.

    Raises
    ------
    JobError
        If it did not succeed.
    """
    from dask_als.jobs.kubernetes_status import JobState

    print_status(status, as_json=as_json)
    if status.state is not JobState.SUCCEEDED:
        error = JobError(f"{status.job_id} is {status.state}")
        error.exit_code = status.exit_code or JobError.exit_code
        raise error
