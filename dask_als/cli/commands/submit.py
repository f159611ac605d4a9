"""``dask-als submit``."""

from __future__ import annotations

import json

import click

from dask_als.cli.commands.jobs import end_as, jobs_in, waited_for
from dask_als.cli.commands.options import debug_option, json_option
from dask_als.cli.commands.saying import say


@click.command()
@click.argument("job_file", metavar="JOB.toml")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a value of the job file."
)
@click.option("--wait", is_flag=True, help="Show the log; exit with the exit code of the job.")
@click.option("--dry-run", is_flag=True, help="Print the manifests without sending them.")
@json_option
@debug_option
def submit(
    job_file: str, changes: tuple[str, ...], wait: bool, dry_run: bool, as_json: bool
) -> None:
    r"""Submit a job to Kubernetes, where it runs on its own Dask cluster; print its id.

    \b
    Example:
        dask-als submit jobs/notebook.toml --wait
    """
    import yaml

    from dask_als.jobs.job_file import read_job
    from dask_als.kubernetes import spec
    from dask_als.settings.credentials import REDACTED

    job = read_job(job_file, changes)
    size = job.cluster.kubernetes
    job_id = spec.new_job_id(job.name)
    if dry_run:
        sealed, redacted = job.sealed(job_id), dict.fromkeys(size.secrets, REDACTED)
        secrets = [spec.secret(job_id, size.namespace, redacted)] if redacted else []
        attempt = spec.attempt(job_id, 1, sealed.cluster.kubernetes)
        manifests = [spec.record(job_id, sealed.to_toml(), size.namespace), *secrets, *attempt]
        click.echo(yaml.safe_dump_all(manifests, sort_keys=False), nl=False)
        return
    jobs = jobs_in(size.namespace)
    jobs.submit(job_id, job)
    if wait:
        say(job_id, err=as_json)
        end_as(waited_for(jobs, job_id, as_json=as_json), as_json=as_json)
        return
    say(json.dumps({"job_id": job_id}) if as_json else job_id)
