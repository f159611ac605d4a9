"""``dask-als list``."""

from __future__ import annotations

import json

import click

from dask_als.cli.commands.jobs import jobs_in, namespace_option
from dask_als.cli.commands.options import debug_option, json_option
from dask_als.cli.commands.saying import say


@click.command()
@namespace_option
@json_option
@debug_option
def list(namespace: str, as_json: bool) -> None:
    r"""List the jobs on Kubernetes, newest first.

    \b
    Example:
        dask-als list
    """
    jobs = jobs_in(namespace).all()
    if as_json:
        click.echo(json.dumps([job.to_json() for job in jobs], indent=2))
        return
    for job in jobs:
        say(f"{job.job_id:38} {job.state:10} {job.submitted}")
