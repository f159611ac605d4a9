"""``dask-als list``."""

from __future__ import annotations

import json

import click

from dask_als.cli.commands.jobs import jobs_in, namespace_option, schedules_in
from dask_als.cli.commands.options import debug_option, json_option
from dask_als.cli.commands.saying import say


@click.command()
@namespace_option
@json_option
@debug_option
def list(namespace: str, as_json: bool) -> None:
    r"""List the schedules and the jobs on Kubernetes, newest first.

    \b
    Example:
        dask-als list
    """
    schedules, jobs = schedules_in(namespace).all(), jobs_in(namespace).all()
    if as_json:
        listed = [*(each.to_json() for each in schedules), *(job.to_json() for job in jobs)]
        click.echo(json.dumps(listed, indent=2))
        return
    for schedule in schedules:
        say(f"{schedule.schedule_id:38} {schedule.state:10} {schedule.submitted}  {schedule.cron}")
    for job in jobs:
        say(f"{job.job_id:38} {job.state:10} {job.submitted}")
