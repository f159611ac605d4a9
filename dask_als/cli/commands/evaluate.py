"""``dask-als evaluate``."""

from __future__ import annotations

import json
from typing import Any

import click

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import cluster_options, json_option, setting, settings_of
from dask_als.settings.evaluation import EvaluateSettings


@click.command()
@click.argument("model")
@click.argument("dataset")
@setting(EvaluateSettings, "k", "-k", help="Length of the ranked lists.")
@click.option(
    "--relevant-from",
    type=float,
    metavar="RATING",
    help="Lowest held-out rating that makes an item relevant.  [default: any rating]",
)
@json_option
@cluster_options
def evaluate(model: str, dataset: str, as_json: bool, **options: Any) -> None:
    r"""Measure a MODEL and baselines on the held-out ratings of its DATASET.

    Errors are in units of a rating. Ranked lists leave out the items that a user rated in training.
    They are made for each user with a relevant held-out item.

    \b
    Example:
        dask-als evaluate MODEL DATASET -k 10 --relevant-from 4
    """
    from dask_als.cli import console
    from dask_als.data.dataset import open_dataset
    from dask_als.evaluation.evaluate import evaluate as run

    settings = settings_of(EvaluateSettings, options)
    opened = open_dataset(dataset)
    screen = console.Screen(stderr=as_json)
    with (
        computing(screen, options) as executor,
        console.counting(screen, "partitions") as progress,
    ):
        evaluation = run(model, opened, executor, settings, progress=progress)
    if as_json:
        click.echo(json.dumps(evaluation.to_json(), indent=2))
        return
    for title, frame in console.described_evaluation(evaluation):
        screen.print(console.table_of(frame, title))
