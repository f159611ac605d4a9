"""``dask-als predict``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import (
    cluster_options,
    column_options,
    json_option,
    settings_of,
)
from dask_als.settings.data import Columns


@click.command()
@click.argument("model")
@click.argument("pairs")
@click.option("--out", metavar="FILE", required=True, help="File to write: .csv or .parquet.")
@column_options
@click.option(
    "--clip/--no-clip", default=False, help="Clip predictions to the range of training ratings."
)
@json_option
@cluster_options
def predict(
    model: str,
    pairs: str,
    out: str,
    clip: bool,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Predict the ratings of PAIRS of users and items, a file that `prepare` could read.

    The output has a line per pair, in the order of PAIRS: user_id, item_id, prediction, and whether
    the MODEL knows the user and the item. Means and biases predict those that it does not know.

    \b
    Example:
        dask-als predict MODEL pairs.csv --out predictions.parquet
    """
    from dask_als.cli import console
    from dask_als.model.predict import predict as run

    columns = settings_of(Columns, options)
    screen = console.Screen(stderr=as_json)
    with (
        computing(screen, options, seen=[model]) as executor,
        console.counting(screen, "chunks") as progress,
    ):
        made = run(model, pairs, out, executor, columns=columns, clip=clip, progress=progress)
    if as_json:
        click.echo(json.dumps({"out": out, **asdict(made)}, indent=2))
        return
    unknown = f", {made.unknown:,} of them with an unknown user or item" if made.unknown else ""
    screen.say(f"{made.pairs:,} predictions{unknown}: {out}")
    if made.rejected:
        screen.say(f"{made.rejected:,} rows were left out, the first because {made.first_reason}")
