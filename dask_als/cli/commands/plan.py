"""``dask-als plan``."""

from __future__ import annotations

import json
from typing import Any

import click

from dask_als.cli.commands.computing import shape_of
from dask_als.cli.commands.method_choice import choose_method
from dask_als.cli.commands.options import (
    cluster_options,
    json_option,
    settings_of,
    stop_options,
    train_options,
)
from dask_als.settings.training import StopSettings


@click.command()
@click.argument("dataset")
@train_options
@stop_options
@json_option
@cluster_options
def plan(dataset: str, as_json: bool, **options: Any) -> None:
    r"""Estimate memory, tasks and time of a training on a DATASET, without running it.

    The time assumes threads as fast as those of this machine.

    \b
    Example:
        dask-als plan DATASET --rank 64 --workers 4 --memory 4GiB
    """
    from dask_als.cli import console, described
    from dask_als.data.dataset import open_dataset
    from dask_als.planning.calibration import measured_speed
    from dask_als.planning.plan import plan as make_plan

    choice = choose_method(options)
    settings = choice.settings
    stopping = settings_of(StopSettings, options)
    opened = open_dataset(dataset)
    shape = shape_of(options)
    made = make_plan(opened, settings, shape, measured_speed(opened, settings), stopping=stopping)
    if as_json:
        click.echo(json.dumps(made.to_json(), indent=2))
        return
    workers = "1 worker" if shape.workers == 1 else f"{shape.workers} workers"
    threads = "1 thread" if shape.threads == 1 else f"{shape.threads} threads"
    title = f"Rank {settings.rank}, {settings.dtype}, on {workers} of {threads}"
    screen = console.Screen()
    if choice.reason:
        screen.say(choice.described())
    screen.print(described.described_plan(made, title))
