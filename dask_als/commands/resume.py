"""``dask-als resume``."""

from __future__ import annotations

import click

from dask_als.commands.jobs import exit_code, job_argument, jobs_in, said, waited_for
from dask_als.commands.options import debug_option


@click.command()
@job_argument
@click.option("--wait", is_flag=True, help="Show the log; end as the job ends.")
@debug_option
@click.pass_context
def resume(context: click.Context, job_id: str, namespace: str, wait: bool) -> None:
    r"""Start a lost, failed or stopped job on Kubernetes again, from its checkpoint.

    \b
    Example:
        dask-als resume notebook-1a2b3c
    """
    jobs = jobs_in(namespace)
    jobs.resume(job_id)
    if wait:
        status = waited_for(jobs, job_id)
        click.echo(said(status))
        context.exit(exit_code(status))
