"""``dask-als fold-in``."""

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
    overwrite_option,
    settings_of,
)
from dask_als.settings.data import Columns


@click.command("fold-in")
@click.argument("ratings")
@click.argument("model")
@click.option("--out", required=True, metavar="DIR", help="The model to write.")
@click.option(
    "--for",
    "side",
    type=click.Choice(["users", "items"]),
    default="users",
    help="Side to fold in; the other side is fixed.",
)
@column_options
@click.option(
    "--partitions",
    type=int,
    help="Partitions of each side.  [default: one per 1 to 2 million ratings]",
)
@overwrite_option
@json_option
@cluster_options
def fold_in(
    ratings: str,
    model: str,
    out: str,
    side: str,
    partitions: int | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Compute factors for users or items new to a MODEL from RATINGS, without training.

    RATINGS are read as by prepare. A user that the model knows gets the factors that the next
    half-epoch would compute from these ratings. The output is a model of these users and all
    items; its folder "ratings" is the dataset that belongs to it.

    \b
    Example:
        dask-als fold-in ratings.csv MODEL --out NEW
        dask-als recommend NEW NEW/ratings --out DIR
    """
    from dask_als.cli import console
    from dask_als.core.side import side_named
    from dask_als.model.fold_in import fold_in as run

    columns = settings_of(Columns, options)
    screen = console.Screen(stderr=as_json)
    with (
        computing(screen, options) as executor,
        console.preparing(screen) as preparing,
    ):
        folded = run(
            ratings,
            model,
            out,
            executor,
            side_named(side),  # type: ignore[arg-type]
            columns=columns,
            partitions=partitions,
            overwrite=overwrite,
            preparing=preparing,
            progress=lambda done, total: preparing("fold in", done, total),
        )
    if as_json:
        click.echo(json.dumps({"out": out, **asdict(folded)}, indent=2))
        return
    other = side_named(side).other.name  # type: ignore[arg-type]
    screen.say(
        f"{folded.rows:,} {side}, {folded.known:,} of them known, from {folded.ratings:,} ratings; "
        f"{folded.ratings_of_unknown:,} ratings of unknown {other} left out: {out}"
    )
