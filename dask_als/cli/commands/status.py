"""``dask-als status``."""

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
def status(job_id: str, namespace: str, as_json: bool) -> None:
    r"""Print the status of a job on Kubernetes, or of a schedule and its runs.

    \b
    Example:
        dask-als status notebook-1a2b3c
    """
    schedules = schedules_in(namespace)
    if schedules.has(job_id):
        print_schedule(schedules.status(job_id), as_json=as_json)
        return
    print_status(jobs_in(namespace).status(job_id), as_json=as_json)
