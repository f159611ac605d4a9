"""``dask-als stop``."""

from __future__ import annotations

import click

from dask_als.cli.commands.jobs import job_argument, jobs_in, print_status
from dask_als.cli.commands.options import debug_option, json_option


@click.command()
@job_argument
@json_option
@debug_option
def stop(job_id: str, namespace: str, as_json: bool) -> None:
    r"""Stop a job on Kubernetes by deleting all its pods; `resume` continues from its checkpoint.

    \b
    Example:
        dask-als stop notebook-1a2b3c
    """
    jobs = jobs_in(namespace)
    jobs.stop(job_id)
    print_status(jobs.status(job_id), as_json=as_json)
