"""``dask-als update``."""

from __future__ import annotations

import json
from typing import Any

import click

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import (
    cluster_options,
    column_options,
    json_option,
    overwrite_option,
    watch_options,
)
from dask_als.cli.commands.prepare import dataset_json, given_of, say_dataset
from dask_als.cli.commands.train import model_json


@click.command()
@click.argument("model")
@click.argument("ratings")
@click.option("--out", required=True, metavar="MODEL2", help="The model to write.")
@click.option(
    "--dataset",
    metavar="DATASET",
    help="The dataset of MODEL, to which RATINGS are appended.  [default: where MODEL says]",
)
@column_options
@click.option("--titles", help="CSV file of item titles.  [default: GroupLens' movies.csv beside]")
@click.option("--title-col", default="title", help="Its column of titles.")
@click.option(
    "--test", metavar="SOURCE", help="New ratings to hold out, if the dataset has a test source."
)
@click.option("--epochs", default=3, help="How often each side is solved; with gibbs, burn-in.")
@click.option("--samples", type=int, help="With gibbs: epochs that are kept.  [default: as before]")
@overwrite_option
@json_option
@watch_options
@cluster_options
def update(
    model: str,
    ratings: str,
    out: str,
    dataset: str | None,
    titles: str | None,
    title_col: str,
    test: str | None,
    epochs: int,
    samples: int | None,
    overwrite: bool,
    as_json: bool,
    log_format: str,
    trace: str | None,
    **options: Any,
) -> None:
    r"""Append RATINGS to the dataset of a MODEL, and train on from the MODEL.

    The dataset is replaced in one step by the larger one. The new model starts from the biases and
    factors of MODEL; new users and items are folded in first. All settings are those of MODEL. If
    a run is killed after RATINGS were appended, the same command does not append them again.

    \b
    Example:
        dask-als update MODEL new-ratings.csv --out MODEL2
    """
    from dask_als.cli.log import log_of
    from dask_als.data.prepare import Titles, columns_of
    from dask_als.model.manifest import read_manifest
    from dask_als.settings.data import Columns
    from dask_als.training.update import NewRatings, UpdateSettings, dataset_to_update
    from dask_als.training.update import update as run

    settings = UpdateSettings(epochs=epochs, samples=samples)
    recorded = columns_of(dataset_to_update(model, read_manifest(model), dataset))
    new = NewRatings(
        path=ratings,
        columns=given_of(Columns, recorded, options),
        titles=None if titles is None else Titles(titles, title_col),
        test=test,
    )
    with log_of(log_format, trace, to_stderr=as_json) as log:
        with computing(log, options) as executor:
            updated = run(
                model,
                new,
                out,
                executor,
                dataset=dataset,
                settings=settings,
                overwrite=overwrite,
                watcher=log,
            )
        if updated.was_appended:
            log.say(f"{ratings} had been appended already, by an earlier run")
        if as_json:
            found = {"dataset": dataset_json(updated.dataset), **model_json(out, updated.model)}
            click.echo(json.dumps(found, indent=2))
            return
        say_dataset(log, updated.dataset)
        log.model(out, updated.model.figures)
