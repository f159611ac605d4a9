"""``dask-als tune``."""

from __future__ import annotations

import json
from typing import Any

import click

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import (
    cluster_options,
    json_option,
    overwrite_option,
    setting,
    settings_of,
)
from dask_als.settings.training import TrainSettings
from dask_als.settings.tuning import TuneSettings


@click.command()
@click.argument("dataset")
@click.argument("job_file", metavar="OUT.toml")
@setting(TuneSettings, "trials", help="Number of combinations of settings to try.")
@setting(TuneSettings, "minutes", type=float, help="Start no more trials after this time.")
@setting(TuneSettings, "folds", help="Folds of the training ratings; each is held out once.")
@setting(TuneSettings, "epochs", help="Maximum number of epochs of a training.")
@setting(TuneSettings, "at_once", help="Number of trials that run at the same time.")
@setting(TuneSettings, "method", type=click.Choice(["als", "gibbs", "any"]), help="Methods to try.")
@setting(
    TuneSettings,
    "feedback",
    type=click.Choice(["explicit", "implicit"]),
    help="Search for the lowest RMSE (explicit) or the highest NDCG (implicit).",
)
@setting(TuneSettings, "k", "-k", help="Length of the ranked lists with implicit feedback.")
@setting(TuneSettings, "seed", help="Seed of search, folds and initial factors.")
@overwrite_option
@json_option
@cluster_options
def tune(dataset: str, job_file: str, overwrite: bool, as_json: bool, **options: Any) -> None:
    r"""Search for good settings by cross-validation on the training ratings of a DATASET.

    OUT.toml is a job file for `dask-als run`. The held-out ratings of the DATASET are not used.

    \b
    Example:
        dask-als tune DATASET tuned.toml --trials 2 --folds 2
    """
    from dask_als.cli import console, described
    from dask_als.data.dataset import open_dataset
    from dask_als.jobs.tuned_job import check_job_path, tuned_job, write_job
    from dask_als.tuning.search import require_optuna
    from dask_als.tuning.search import tune as run

    require_optuna()
    settings = settings_of(TuneSettings, options)
    check_job_path(job_file, overwrite=overwrite)
    opened = open_dataset(dataset)
    # Before the search: it may take hours.
    tuned_job(opened, TrainSettings(), job_file)
    screen = console.Screen(stderr=as_json)
    with computing(screen, options) as executor, console.tuning(screen) as progress:
        tuning = run(opened, executor, settings, progress=progress)
    measured = (
        f"{tuning.measure} {tuning.value:.4f} by cross-validation, "
        f"{tuning.default_value:.4f} with the default settings"
    )
    write_job(job_file, tuned_job(opened, tuning.settings, job_file), measured)
    if as_json:
        click.echo(json.dumps({"job": job_file, **tuning.to_json()}, indent=2))
        return
    screen.print(console.table_of(described.described_tuning(tuning), "Trials, best first"))
    screen.say(measured)
    screen.say(f"job      {job_file}: dask-als run {job_file}")
