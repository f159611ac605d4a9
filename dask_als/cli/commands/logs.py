"""``dask-als logs``."""

from __future__ import annotations

import json

import click

from dask_als.cli import outlets
from dask_als.cli.commands.jobs import job_argument, jobs_in, schedules_in
from dask_als.cli.commands.options import debug_option, json_option
from dask_als.cli.commands.saying import say
from dask_als.errors import InputError


@click.command()
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Follow the log until the job ends.")
@json_option
@debug_option
def logs(job_id: str, namespace: str, follow: bool, as_json: bool) -> None:
    r"""Print the log of the runner of a job on Kubernetes; with --json, one object per line.

    Of a schedule, it is the log of the newest run.

    \b
    Example:
        dask-als logs -f notebook-1a2b3c
    """
    schedules = schedules_in(namespace)
    if schedules.has(job_id):
        runs = schedules.status(job_id).runs
        if not runs:
            raise InputError(f"{job_id} is a schedule that has not started a run yet")
        job_id = runs[0].job_id
    jobs = jobs_in(namespace)
    for line in jobs.followed(job_id) if follow else jobs.logs(job_id):
        say(json.dumps({"job_id": job_id, "line": line}) if as_json else line)
        if not outlets.is_read():
            break
