"""``dask-als stop``."""

from __future__ import annotations

import click

from dask_als.cli.commands.jobs import (
    job_argument,
    jobs_in,
    print_schedule,
    print_status,
    schedules_in,
)
from dask_als.cli.commands.options import debug_option, json_option


@click.command()
@job_argument
@json_option
@debug_option
def stop(job_id: str, namespace: str, as_json: bool) -> None:
    r"""Stop a job on Kubernetes by deleting all its pods; `resume` continues from its checkpoint.

    A schedule that is stopped starts no more runs, and its active run is stopped.

    \b
    Example:
        dask-als stop notebook-1a2b3c
    """
    schedules = schedules_in(namespace)
    if schedules.has(job_id):
        schedules.stop(job_id)
        print_schedule(schedules.status(job_id), as_json=as_json)
        return
    jobs = jobs_in(namespace)
    jobs.stop(job_id)
    print_status(jobs.status(job_id), as_json=as_json)
