"""``dask-als similar``."""

from __future__ import annotations

import click

from dask_als.cli.commands.options import debug_option, json_option
from dask_als.core.side import side_named


@click.command()
@click.argument("model")
@click.argument("identifier", metavar="ID")
@click.option(
    "--for",
    "side",
    type=click.Choice(["items", "users"]),
    default="items",
    help="Whether ID is an item or a user.",
)
@click.option("-k", "k", default=10, help="Length of the list.")
@click.option(
    "--measure",
    type=click.Choice(["cosine", "inner-product"]),
    default="cosine",
    help="Compare only the directions of factors, or also their lengths.",
)
@click.option(
    "--least-ratings",
    default=0,
    type=click.IntRange(0),
    help="Leave out rows with fewer training ratings.",
)
@click.option(
    "--dataset", metavar="DIR", help="The dataset with the titles, if it was moved after training."
)
@json_option
@debug_option
def similar(
    model: str,
    identifier: str,
    side: str,
    k: int,
    measure: str,
    least_ratings: int,
    dataset: str | None,
    as_json: bool,
) -> None:
    r"""Find the items of a MODEL most similar to the item ID, or the users similar to a user.

    \b
    Example:
        dask-als similar MODEL 296 --least-ratings 30
    """
    from dask_als.cli import console
    from dask_als.model.model import ALSModel

    loaded = ALSModel.load(model, dataset)
    if loaded.dataset is None and side == "items":
        place = loaded.manifest.dataset["path"]
        click.echo(
            f"titles are not known: the dataset is not at {place}; name it with --dataset", err=True
        )
    chosen = side_named(side)  # type: ignore[arg-type]
    one = loaded.rows(chosen).parse(identifier)
    frame = loaded.similar(
        chosen,
        one,
        k,
        least_ratings=least_ratings,
        measure=measure,  # type: ignore[arg-type]
    )
    if as_json:
        click.echo(frame.to_json(orient="records", indent=2))
        return
    name = loaded.name_of(one) if side == "items" else f"user {one}"
    console.Screen().print(console.table_of(frame, f"Most like {name}"))
