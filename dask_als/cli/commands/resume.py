"""``dask-als resume``."""

from __future__ import annotations

import click

from dask_als.cli.commands.jobs import (
    end_as,
    job_argument,
    jobs_in,
    print_schedule,
    print_status,
    schedules_in,
    waited_for,
)
from dask_als.cli.commands.options import debug_option, json_option
from dask_als.errors import InputError


@click.command()
@job_argument
@click.option("--wait", is_flag=True, help="Show the log; exit with the exit code of the job.")
@json_option
@debug_option
def resume(job_id: str, namespace: str, wait: bool, as_json: bool) -> None:
    r"""Resume a lost, failed or stopped job on Kubernetes from its checkpoint, or a schedule.

    \b
    Example:
        dask-als resume notebook-1a2b3c
    """
    schedules = schedules_in(namespace)
    if schedules.has(job_id):
        if wait:
            raise InputError(f"{job_id} is a schedule, which has no end; leave out --wait")
        schedules.resume(job_id)
        print_schedule(schedules.status(job_id), as_json=as_json)
        return
    jobs = jobs_in(namespace)
    jobs.resume(job_id)
    if wait:
        end_as(waited_for(jobs, job_id, as_json=as_json), as_json=as_json)
    else:
        print_status(jobs.status(job_id), as_json=as_json)
