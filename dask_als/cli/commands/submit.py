"""``dask-als submit``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from dask_als.cli.commands.jobs import end_as, jobs_in, schedules_in, waited_for
from dask_als.cli.commands.options import debug_option, json_option
from dask_als.cli.commands.saying import say
from dask_als.errors import InputError

if TYPE_CHECKING:
    from dask_als.jobs.job_file import Job


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

    A job file with [schedule] makes a schedule: Kubernetes starts a run at every time of its cron
    expression. Each run is an ordinary job.

    \b
    Example:
        dask-als submit jobs/notebook.toml --wait
    """
    import yaml

    from dask_als.jobs.job_file import read_job
    from dask_als.kubernetes import spec

    job = read_job(job_file, changes)
    size = job.cluster.kubernetes
    job_id = spec.new_job_id(job.name)
    if wait and job.schedule is not None:
        raise InputError(
            f"{job_file} has a [schedule], which has no end to wait for; leave out --wait"
        )
    if dry_run:
        click.echo(yaml.safe_dump_all(_manifests(job_id, job), sort_keys=False), nl=False)
        return
    if job.schedule is not None:
        schedules_in(size.namespace).submit(job_id, job)
        say(json.dumps({"schedule_id": job_id}) if as_json else job_id)
        return
    jobs = jobs_in(size.namespace)
    jobs.submit(job_id, job)
    if wait:
        say(job_id, err=as_json)
        end_as(waited_for(jobs, job_id, as_json=as_json), as_json=as_json)
        return
    say(json.dumps({"job_id": job_id}) if as_json else job_id)


def _manifests(job_id: str, job: Job) -> list[dict[str, Any]]:
    """Return all objects that `submit` creates for a job or a schedule, without secret values."""
    from dask_als.kubernetes import spec
    from dask_als.settings.credentials import REDACTED

    size = job.cluster.kubernetes
    sealed, redacted = job.sealed(job_id), dict.fromkeys(size.secrets, REDACTED)
    secrets = [spec.secret(job_id, size.namespace, redacted)] if redacted else []
    text = sealed.to_toml()
    if job.schedule is None:
        record = spec.record(job_id, text, size.namespace)
        return [record, *secrets, *spec.attempt(job_id, 1, sealed.cluster.kubernetes)]
    record = spec.schedule_record(job_id, text, size.namespace)
    return [record, *secrets, spec.cron_job(job_id, job.schedule.cron, size)]
