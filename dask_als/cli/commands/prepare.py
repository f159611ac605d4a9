"""``dask-als prepare``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dask_als.cli.commands.computing import Output, computing
from dask_als.cli.commands.options import (
    attribute_options,
    attributes_of,
    cluster_options,
    column_options,
    filter_options,
    json_option,
    overwrite_option,
    setting,
    settings_of,
    split_options,
)
from dask_als.core.side import SIDES, Side
from dask_als.errors import InputError
from dask_als.settings.data import LEAST_ROWS, Columns, PrepareSettings

if TYPE_CHECKING:
    from dask_als.data.attributes import SideAttributes
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
@attribute_options
@click.option("--test", metavar="SOURCE", help="Hold out the ratings of this source.")
@split_options
@filter_options
@setting(
    PrepareSettings,
    "duplicates",
    type=click.Choice(["last", "mean", "sum", "error"]),
    help="How to merge several ratings of one pair; with --events, the default is sum.",
)
@setting(
    PrepareSettings,
    "half_life",
    type=float,
    metavar="DAYS",
    help="Halve the weight of a rating every so many days before the newest training rating.",
)
@click.option(
    "--partitions",
    type=int,
    help="Partitions of each side.  [default: one per 1 to 2 million ratings]",
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
    title_id_col: str | None,
    test: str | None,
    appends: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Make a DATASET from SOURCE: delimited text, JSON lines or Parquet.

    SOURCE is a file, a folder, a glob, or - for standard input. Text may be compressed.

    \b
    Example:
        dask-als prepare ml-latest-small.zip DATASET --test-fraction 0.1
        dask-als prepare u1.base FOLD --test u1.test
        zcat log.gz | dask-als prepare - DATASET --no-header --user-col 0 --item-col 1 --events
        dask-als prepare --append new-ratings.csv DATASET
    """
    from dask_als.cli import console
    from dask_als.data import prepare as preparing
    from dask_als.data.prepare import Titles

    attributes = attributes_of(options)
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
            titles=None if titles is None else Titles(titles, title_col, title_id_col),
            test=test,
            attributes=attributes,
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
    """Return the path and size of a dataset, and the counts of source rows by outcome."""
    return {
        "dataset": dataset.path,
        "users": dataset.users.n_rows,
        "items": dataset.items.n_rows,
        "fingerprint": dataset.fingerprint,
        "source": dataset.source,
        **{
            f"{side.singular}_attributes": attributes_json(file.side_attributes)
            for side in SIDES
            if (file := dataset.attributes(side)) is not None
        },
        **({} if dataset.weights is None else {"weights": dataclasses.asdict(dataset.weights)}),
    }


def attributes_json(attributes: SideAttributes) -> dict[str, Any]:
    """Return the columns of each attribute that is used, and what is left out."""
    columns = {attribute.name: attribute.n_columns for attribute in attributes.attributes}
    return {"columns": columns, "left_out": list(attributes.left_out), **attributes.counts}


def say_dataset(screen: Output, dataset: Dataset) -> None:
    """Print the counts of source rows by outcome."""
    counts = dataset.source
    if "found" in counts:
        screen.say(f"found in {counts['path']}: {counts['found']}")
    if dataset.growth is not None:
        for appended in dataset.growth.appended[-1:]:
            if appended.found is not None:
                screen.say(f"found in {appended.path}: {appended.found}")
    screen.say(
        f"{counts['rows']:,} rows of {dataset.users.n_rows:,} users and {dataset.items.n_rows:,} "
        f"items: {counts['train']:,} for training, {counts['test']:,} held out, "
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
            f"{counts['cold']:,} held-out ratings are of users or items without training ratings"
        )
    for side in SIDES:
        file = dataset.attributes(side)
        if file is not None:
            say_attributes(screen, side, file.side_attributes)
    if dataset.weights is not None:
        its = dataset.weights
        screen.say(
            f"weights add up to {its.train:,.6g} for training"
            + (f", {its.test:,.6g} held out" if dataset.n_test else "")
        )
    if "untimed" in counts:
        screen.say(
            f"{counts['untimed']:,} ratings without a readable time count as the oldest; give "
            "--time-format, or --no-time"
        )
    if counts["rejected"]:
        screen.say(f"rejected rows, with reasons: {dataset.path}/rejected.parquet")


def say_attributes(screen: Output, side: Side, attributes: SideAttributes) -> None:
    """Print what of a side's attributes is used, and what is not."""
    counts, one = attributes.counts, side.singular
    names = ", ".join(
        attribute.name + (f" ({attribute.n_columns:,})" if attribute.categories else "")
        for attribute in attributes.attributes
    )
    screen.say(
        f"attributes of {side.name}: {names}; {counts['without_ratings']:,} {side.name} have "
        f"attributes and no training rating, {counts['without_attributes']:,} the reverse"
    )
    notes = [
        (counts["without_id"], f"rows without a usable {one} id"),
        (counts["repeated"], f"rows repeated by a later one of the same {one}"),
        (counts["rare_categories"], f"categories of fewer than {LEAST_ROWS} rated {side.name}"),
    ]
    left_out = [f"{number:,} {what}" for number, what in notes if number]
    if attributes.left_out:
        left_out.append(f"attributes that say nothing: {', '.join(attributes.left_out)}")
    if left_out:
        screen.say(f"left out of the attributes of {side.name}: {'; '.join(left_out)}")
