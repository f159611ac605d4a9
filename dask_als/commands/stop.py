"""``dask-als stop``."""

from __future__ import annotations

import click

from dask_als.commands.jobs import job_argument, jobs_in
from dask_als.commands.options import debug_option


@click.command()
@job_argument
@debug_option
def stop(job_id: str, namespace: str) -> None:
    r"""Take all pods of a job on Kubernetes away; `resume` goes on from its checkpoint.

    \b
    Example:
        dask-als stop notebook-1a2b3c
    """
    jobs = jobs_in(namespace)
    jobs.stop(job_id)
    click.echo(f"{job_id}  {jobs.status(job_id).state}")
