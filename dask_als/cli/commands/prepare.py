"""``dask-als prepare``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dask_als.cli.commands.computing import Says, computing
from dask_als.cli.commands.options import (
    cluster_options,
    column_options,
    filter_options,
    json_option,
    overwrite_option,
    setting,
    settings_of,
    split_options,
)
from dask_als.errors import InputError
from dask_als.settings.data import Columns, PrepareSettings

if TYPE_CHECKING:
    from dask_als.data.dataset import Dataset


@click.command()
@click.argument("source")
@click.argument("dataset")
@column_options
@click.option(
    "--events",
    is_flag=True,
    help="Each row is an event, not a rating; a pair's rating counts them.",
)
@click.option("--titles", help="CSV file of item titles.  [default: GroupLens' movies.csv beside]")
@click.option("--title-col", default="title", help="Its column of titles.")
@click.option("--test", metavar="SOURCE", help="Hold out the ratings of this source.")
@split_options
@filter_options
@setting(
    PrepareSettings,
    "duplicates",
    type=click.Choice(["last", "mean", "sum", "error"]),
    help="What becomes of several ratings of one pair; with --events, sum unless given.",
)
@click.option(
    "--partitions", type=int, help="Of each side.  [default: one for 1 to 2 million ratings]"
)
@setting(PrepareSettings, "seed", help="Seed of the random split.")
@click.option(
    "--append",
    "appends",
    is_flag=True,
    help="Append to DATASET, by the settings that it was prepared with.",
)
@overwrite_option
@json_option
@cluster_options
def prepare(
    source: str,
    dataset: str,
    events: bool,
    titles: str | None,
    title_col: str,
    test: str | None,
    appends: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Make a DATASET of SOURCE: CSV (.csv, .gz, .zip) or Parquet; a file, a folder or a glob.

    \b
    Example:
        dask-als prepare ml-latest-small.zip DATASET --test-fraction 0.1
        dask-als prepare --append new-ratings.csv DATASET
    """
    from dask_als.cli import console
    from dask_als.data import prepare as preparing
    from dask_als.data.prepare import Titles

    if events:
        options["rating"] = None
        if _is_default("duplicates"):
            options["duplicates"] = "sum"
    if appends:
        if overwrite:
            raise InputError("--append replaces the dataset by a larger one; leave out --overwrite")
        run: Callable[..., Dataset] = partial(
            preparing.append, **_settings_to_append(dataset, events, options)
        )
    else:
        run = partial(
            preparing.prepare,
            columns=settings_of(Columns, options),
            settings=settings_of(PrepareSettings, options),
            overwrite=overwrite,
        )
    screen = console.Screen(stderr=as_json)
    with computing(screen, options) as executor, console.preparing(screen) as progress:
        made = run(
            source,
            dataset,
            executor,
            titles=None if titles is None else Titles(titles, title_col),
            test=test,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(dataset_json(made), indent=2))
        return
    say_dataset(screen, made)


def _settings_to_append(path: str, events: bool, options: dict[str, Any]) -> dict[str, Any]:
    """Return the dataset's columns and settings, but for the options that were given."""
    from dask_als.data.dataset import open_dataset
    from dask_als.data.prepare import columns_of, growth_of

    dataset = open_dataset(path)
    columns, settings = columns_of(dataset), growth_of(dataset).settings
    if events:
        columns = dataclasses.replace(columns, rating=None)
        settings = dataclasses.replace(settings, duplicates=options["duplicates"])
    return {
        "columns": given_of(Columns, columns, options),
        "settings": given_of(PrepareSettings, settings, options),
    }


def given_of(kind: type, recorded: Any, options: dict[str, Any]) -> Any:
    """Take the options of a settings class out of all; those given replace recorded ones."""
    names = [field.name for field in dataclasses.fields(kind) if field.name in options]
    values = {name: options.pop(name) for name in names}
    given = {name: value for name, value in values.items() if not _is_default(name)}
    return dataclasses.replace(recorded, **given)


def _is_default(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is ParameterSource.DEFAULT


def dataset_json(dataset: Dataset) -> dict[str, Any]:
    """Return where a dataset is, its size, and what became of the rows of its source."""
    return {
        "dataset": dataset.path,
        "users": dataset.users.n_rows,
        "items": dataset.items.n_rows,
        "fingerprint": dataset.fingerprint,
        "source": dataset.source,
    }


def say_dataset(screen: Says, dataset: Dataset) -> None:
    """Say what became of the rows of a source."""
    counts = dataset.source
    screen.say(
        f"{counts['rows']:,} rows of {dataset.users.n_rows:,} users and {dataset.items.n_rows:,} "
        f"items: {counts['train']:,} to train on, {counts['test']:,} held out, "
        f"{counts['duplicates']:,} duplicates merged, {counts['rejected']:,} rejected"
    )
    if "filtered" in counts:
        screen.say(
            f"left out: {counts['filtered']:,} rows of {counts['filtered_users']:,} users and "
            f"{counts['filtered_items']:,} items with too few ratings, "
            f"in {counts['filter_rounds']} rounds"
        )
    if counts.get("cold"):
        screen.say(
            f"{counts['cold']:,} of those held out are of users or items without training ratings"
        )
    if counts["rejected"]:
        screen.say(f"rejected rows, with reasons: {dataset.path}/rejected.parquet")
