"""``dask-als generate``."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click

from dask_als.cli.commands.options import debug_option, json_option
from dask_als.cli.commands.saying import say


@click.command()
@click.argument("output")
@click.option("--users", default=610, help="Number of users.")
@click.option("--items", default=9_724, help="Number of items.")
@click.option("--ratings", default=100_836, help="Number of ratings.")
@click.option(
    "--like",
    type=click.Choice(["ml-latest-small", "ml-25m"]),
    help="Use the counts of this dataset.",
)
@click.option("--rank", default=8, help="Rank of the true factors.")
@click.option("--noise", default=0.7, help="Standard deviation of the noise.")
@click.option("--seed", default=0, help="Seed of all random numbers.")
@json_option
@debug_option
def generate(
    output: str,
    like: str | None,
    users: int,
    items: int,
    ratings: int,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Write ratings in the shape of MovieLens to OUTPUT: a folder of Parquet, or a .csv file.

    \b
    Example:
        dask-als generate ratings.csv --like ml-latest-small
    """
    from dask_als.cli import console
    from dask_als.data import synthetic as generator

    shapes = {
        "ml-latest-small": generator.MOVIELENS_SMALL,
        "ml-25m": generator.MOVIELENS_25M,
        None: generator.GenerateSettings(n_users=users, n_items=items, n_ratings=ratings),
    }
    settings = dataclasses.replace(shapes[like], **options)
    with console.counting(console.Screen(stderr=as_json), "ratings") as progress:
        generator.write_ratings(settings, output, progress=progress)
    if as_json:
        click.echo(json.dumps({"output": output, **dataclasses.asdict(settings)}, indent=2))
        return
    say(f"wrote {settings.n_ratings:,} ratings to {output}")
