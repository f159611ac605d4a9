"""``dask-als explain``."""

from __future__ import annotations

import json

import click

from dask_als.cli.commands.options import debug_option, json_option


@click.command()
@click.argument("model")
@click.argument("user")
@click.argument("item")
@click.option("-k", "k", default=10, type=click.IntRange(1), help="Number of ratings to show.")
@click.option("--dataset", metavar="DIR", help="The dataset, if it was moved after training.")
@json_option
@debug_option
def explain(model: str, user: str, item: str, k: int, dataset: str | None, as_json: bool) -> None:
    r"""Show how much each rating of a USER adds to the prediction of a MODEL for an ITEM.

    The part of a rating is in units of a rating. It is the weight of the rating, which measures the
    similarity of the two items for this user, times the residual of the rating after mean and
    biases.

    \b
    Example:
        dask-als explain MODEL 307 969
    """
    from dask_als.cli import console
    from dask_als.model.model import ALSModel

    loaded = ALSModel.load(model, dataset)
    one, target = loaded.users.parse(user), loaded.items.parse(item)
    frame = loaded.explain(one, target)
    told = {"user": one, "item": target, **frame.attrs}
    if as_json:
        ratings = json.loads(frame.head(k).to_json(orient="records"))
        click.echo(json.dumps({**told, "ratings": ratings}, indent=2))
        return
    title = (
        f"Why {loaded.name_of(target)} for user {one}: predicted {told['score']:.3f}, of which "
        f"{told['product']:+.3f} come from {len(frame):,} ratings"
    )
    console.Screen().print(console.table_of(frame.head(k), title))
