"""``dask-als prepare``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import (
    cluster_options,
    column_options,
    json_option,
    overwrite_option,
    setting,
    settings_of,
    split_options,
)
from dask_als.settings.data import Columns, PrepareSettings

if TYPE_CHECKING:
    from dask_als.cli.console import Screen
    from dask_als.data.dataset import Dataset


@click.command()
@click.argument("source")
@click.argument("dataset")
@column_options
@click.option(
    "--events",
    is_flag=True,
    help="Rows are events without a rating; the rating of a pair is its number of events.",
)
@click.option("--titles", help="Text file of item titles.  [default: that of MovieLens, beside]")
@click.option("--title-col", default="title", help="Column of titles in that file.")
@click.option("--title-id-col", help="Column of item ids in that file.  [default: --item-col]")
@split_options
@setting(
    PrepareSettings,
    "duplicates",
    type=click.Choice(["last", "mean", "sum", "error"]),
    help="How to merge several ratings of one pair; with --events, the default is sum.",
)
@click.option(
    "--partitions",
    type=int,
    help="Partitions of each side.  [default: one per 1 to 2 million ratings]",
)
@setting(PrepareSettings, "seed", help="Seed of the random split.")
@overwrite_option
@json_option
@cluster_options
def prepare(
    source: str,
    dataset: str,
    events: bool,
    titles: str | None,
    title_col: str,
    title_id_col: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Make a DATASET from SOURCE: delimited text, JSON lines or Parquet.

    SOURCE is a file, a folder, a glob, or - for standard input. Text may be compressed.

    \b
    Example:
        dask-als prepare ml-latest-small.zip DATASET --test-fraction 0.1
        dask-als prepare u1.base DATASET
        zcat log.gz | dask-als prepare - DATASET --no-header --user-col 0 --item-col 1 --events
    """
    from dask_als.cli import console
    from dask_als.data.prepare import Titles
    from dask_als.data.prepare import prepare as run

    if events:
        options["rating"] = None
        if _is_default("duplicates"):
            options["duplicates"] = "sum"
    columns = settings_of(Columns, options)
    settings = settings_of(PrepareSettings, options)
    screen = console.Screen(stderr=as_json)
    with computing(screen, options) as executor, console.preparing(screen) as progress:
        made = run(
            source,
            dataset,
            executor,
            columns=columns,
            settings=settings,
            titles=None if titles is None else Titles(titles, title_col, title_id_col),
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(dataset_json(made), indent=2))
        return
    say_dataset(screen, made)


def _is_default(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.DEFAULT


def dataset_json(dataset: Dataset) -> dict[str, Any]:
    """Return the path and size of a dataset, and the counts of source rows by outcome."""
    return {
        "dataset": dataset.path,
        "users": dataset.users.n_rows,
        "items": dataset.items.n_rows,
        "fingerprint": dataset.fingerprint,
        "source": dataset.source,
    }


def say_dataset(screen: Screen, dataset: Dataset) -> None:
    """Print the counts of source rows by outcome."""
    counts = dataset.source
    if "found" in counts:
        screen.say(f"found in {counts['path']}: {counts['found']}")
    screen.say(
        f"{counts['rows']:,} rows of {dataset.users.n_rows:,} users and {dataset.items.n_rows:,} "
        f"items: {counts['train']:,} for training, {counts['test']:,} held out, "
        f"{counts['duplicates']:,} duplicates merged, {counts['rejected']:,} rejected"
    )
    if "untimed" in counts:
        screen.say(
            f"{counts['untimed']:,} ratings without a readable time count as the oldest; give "
            "--time-format, or --no-time"
        )
    if counts["rejected"]:
        screen.say(f"rejected rows, with reasons: {dataset.path}/rejected.parquet")
