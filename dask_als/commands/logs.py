"""``dask-als logs``."""

from __future__ import annotations

import click

from dask_als.commands.jobs import job_argument, jobs_in
from dask_als.commands.options import debug_option


@click.command()
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the job ends.")
@debug_option
def logs(job_id: str, namespace: str, follow: bool) -> None:
    r"""Print the log of the runner of a job on Kubernetes.

    \b
    Example:
        dask-als logs -f notebook-1a2b3c
    """
    jobs = jobs_in(namespace)
    for line in jobs.followed(job_id) if follow else jobs.logs(job_id):
        click.echo(line)
