"""``dask-als status``."""

from __future__ import annotations

import click

from dask_als.cli.commands.jobs import job_argument, jobs_in, tell
from dask_als.cli.commands.options import debug_option, json_option


@click.command()
@job_argument
@json_option
@debug_option
def status(job_id: str, namespace: str, as_json: bool) -> None:
    r"""Say where a job on Kubernetes stands.

    \b
    Example:
        dask-als status notebook-1a2b3c
    """
    tell(jobs_in(namespace).status(job_id), as_json=as_json)
