"""``dask-als explain``."""

from __future__ import annotations

import json

import click

from dask_als.cli.commands.options import debug_option, json_option


@click.command()
@click.argument("model")
@click.argument("user")
@click.argument("item")
@click.option("-k", "k", default=10, type=click.IntRange(1), help="How many ratings to show.")
@click.option("--dataset", metavar="DIR", help="The training data, if the MODEL does not find it.")
@json_option
@debug_option
def explain(model: str, user: str, item: str, k: int, dataset: str | None, as_json: bool) -> None:
    r"""Show which ratings of a USER a MODEL's prediction for an ITEM comes from.

    A rating's part is what it adds to the prediction, in units of a rating: its weight, which is
    the similarity of the two items to this user, times the rating without mean and biases.

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
