"""``dask-als status``."""

from __future__ import annotations

import json

import click

from dask_als.commands.jobs import job_argument, jobs_in, said
from dask_als.commands.options import debug_option


@click.command()
@job_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@debug_option
def status(job_id: str, namespace: str, as_json: bool) -> None:
    r"""Say where a job on Kubernetes stands.

    \b
    Example:
        dask-als status notebook-1a2b3c
    """
    found = jobs_in(namespace).status(job_id)
    click.echo(json.dumps(found.to_json(), indent=2) if as_json else said(found))
