"""``dask-als delete``."""

from __future__ import annotations

import json

import click

from dask_als.cli.commands.jobs import job_argument, jobs_in, schedules_in
from dask_als.cli.commands.options import debug_option, json_option
from dask_als.cli.commands.saying import say


@click.command()
@job_argument
@json_option
@debug_option
def delete(job_id: str, namespace: str, as_json: bool) -> None:
    r"""Stop a job or a schedule on Kubernetes and delete its record; keep the files that it wrote.

    With a schedule, the records of its runs are deleted, too.

    \b
    Example:
        dask-als delete notebook-1a2b3c
    """
    schedules = schedules_in(namespace)
    (schedules if schedules.has(job_id) else jobs_in(namespace)).delete(job_id)
    say(json.dumps({"job_id": job_id, "state": "Deleted"}) if as_json else f"{job_id}  deleted")
