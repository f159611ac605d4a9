"""``dask-als export``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from dask_als.cli.commands.options import (
    debug_option,
    json_option,
    overwrite_option,
    setting,
    settings_of,
)
from dask_als.settings.evaluation import IndexSettings


@click.command()
@click.argument("model")
@click.argument("dataset")
@click.option(
    "--index", "out", required=True, metavar="DIR", help="Directory to write the vector index to."
)
@setting(IndexSettings, "k", "-k", help="Length of the lists that recall is measured with.")
@setting(IndexSettings, "measured_users", help="Number of users that recall is measured with.")
@setting(IndexSettings, "connectivity", help="Links of a vector in the index (HNSW's M).")
@setting(IndexSettings, "expansion", help="Candidates of a search in the index (HNSW's ef).")
@setting(IndexSettings, "seed", help="Seed of the choice of users.")
@overwrite_option
@json_option
@debug_option
def export(
    model: str, dataset: str, out: str, overwrite: bool, as_json: bool, **options: Any
) -> None:
    r"""Write the items of a MODEL as a vector index, with a query vector for each user.

    The inner product of a query and an item ranks items as the MODEL does. The recall of the index
    is measured against exact lists; both leave out the items that the DATASET says a user rated.

    \b
    Example:
        dask-als export MODEL DATASET --index DIR
    """
    from dask_als.cli import console
    from dask_als.data.dataset import open_dataset
    from dask_als.model.vector_index import export_index

    settings = settings_of(IndexSettings, options)
    screen = console.Screen(stderr=as_json)
    with console.counting(screen, "partitions") as progress:
        made = export_index(
            model, open_dataset(dataset), out, settings, overwrite=overwrite, progress=progress
        )
    if as_json:
        click.echo(json.dumps({"out": out, **asdict(made)}, indent=2))
        return
    screen.say(
        f"{made.items:,} items and queries of {made.users:,} users: {out}; recall of the best "
        f"{made.k} for {made.measured_users:,} users: {made.recall:.1%}"
    )
