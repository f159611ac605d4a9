"""``dask-als run``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import cluster_option, connection_options, watch_options


@click.command()
@click.argument("job_file", metavar="JOB.toml")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a value of the job file."
)
@click.option("--run-id", help="Name of this run in result.json.  [default: a random name]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@watch_options
@cluster_option
@connection_options
def run(
    job_file: str,
    changes: tuple[str, ...],
    run_id: str | None,
    as_json: bool,
    log_format: str,
    trace: str | None,
    **options: Any,
) -> None:
    r"""Run the steps of a job file; skip steps that are up to date, resume interrupted training.

    \b
    Example:
        dask-als run jobs/notebook.toml --set train.rank=10
    """
    from dask_als.cli.log import log_of
    from dask_als.data.source import open_source
    from dask_als.jobs.job_file import read_job
    from dask_als.jobs.result import recorded
    from dask_als.jobs.steps import run_job

    job = read_job(job_file, changes)
    size = {**asdict(job.cluster.local), "kubernetes": job.cluster.kubernetes}
    with log_of(log_format, trace, to_stderr=as_json) as log:
        with recorded(job, run_id) as result:
            seen = (
                list(open_source(job.source.path, job.source.columns).files)
                if "prepare" in job.steps
                else []
            )
            cluster = {**size, **options}
            with computing(log, cluster, shared=job.output, seen=seen) as executor:
                run_job(job, executor, result, watcher=log)
        if as_json:
            click.echo(json.dumps(result.to_json()))
        else:
            log.result(result)
