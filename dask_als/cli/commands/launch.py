"""``dask-als launch``."""

from __future__ import annotations

import json

import click

from dask_als.cli.commands.jobs import job_argument, schedules_in
from dask_als.cli.commands.options import debug_option, json_option
from dask_als.cli.commands.saying import say


@click.command()
@job_argument
@json_option
@debug_option
def launch(job_id: str, namespace: str, as_json: bool) -> None:
    r"""Start a run of a schedule on Kubernetes now; print its id.

    The pods of a schedule run this command. It starts no run while another one is active.

    \b
    Example:
        dask-als launch nightly-1a2b3c
    """
    run_id = schedules_in(namespace).launch(job_id)
    if as_json:
        say(json.dumps({"schedule_id": job_id, "job_id": run_id}))
        return
    say(f"{job_id}: no run was started, as another one is active" if run_id is None else run_id)
