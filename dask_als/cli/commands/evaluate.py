"""``dask-als evaluate``."""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING, Any

import click

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import (
    cluster_options,
    column_options,
    json_option,
    setting,
    settings_of,
)
from dask_als.errors import InputError
from dask_als.settings.data import Columns
from dask_als.settings.evaluation import EvaluateSettings

if TYPE_CHECKING:
    from dask_als.data.dataset import Dataset
    from dask_als.evaluation.results import Evaluation


@click.command()
@click.argument("model")
@click.argument("dataset", required=False)
@click.option("--on", metavar="FILE", help="Measure on the ratings in this file instead.")
@column_options
@click.option(
    "--scratch",
    metavar="DIR",
    help="With --on: where its ratings are prepared; all workers must see it.",
)
@setting(EvaluateSettings, "k", "-k", help="Length of the ranked lists.")
@click.option(
    "--relevant-from",
    type=float,
    metavar="RATING",
    help="The lowest held-out rating that makes an item relevant.  [default: any]",
)
@json_option
@cluster_options
def evaluate(
    model: str,
    dataset: str | None,
    on: str | None,
    scratch: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Measure a MODEL, beside baselines, on the held-out ratings of its DATASET, or on a file.

    Errors are in units of a rating. Ranked lists are of all items but those a user has rated in
    training, for each user with a relevant held-out item. Without DATASET, the one that the MODEL
    was trained on is used.

    \b
    Example:
        dask-als evaluate MODEL DATASET -k 10 --relevant-from 4
    """
    from dask_als.cli import console, described

    settings = settings_of(EvaluateSettings, options)
    columns = settings_of(Columns, options)
    screen = console.Screen(stderr=as_json)
    if on is None:
        if scratch is not None or columns != Columns():
            raise InputError("--scratch and the options of columns need --on FILE")
        evaluation = _on_dataset(screen, options, model, _dataset(model, dataset), settings)
    else:
        evaluation = _on_file(screen, options, model, dataset, settings, (on, columns, scratch))
    if as_json:
        click.echo(json.dumps(evaluation.to_json(), indent=2))
        return
    for title, frame in described.described_evaluation(evaluation):
        if not frame.empty:
            screen.print(console.table_of(frame, title))


def _dataset(model: str, dataset: str | None) -> Dataset:
    from dask_als.data.dataset import open_dataset
    from dask_als.model.training_data import found_dataset

    return found_dataset(model) if dataset is None else open_dataset(dataset)


def _on_dataset(
    screen: Any,
    options: dict[str, Any],
    model: str,
    dataset: Dataset,
    settings: EvaluateSettings,
) -> Evaluation:
    from dask_als.cli import console
    from dask_als.evaluation.evaluate import evaluate as run

    with (
        computing(screen, options) as executor,
        console.counting(screen, "partitions") as progress,
    ):
        return run(model, dataset, executor, settings, progress=progress)


def _on_file(
    screen: Any,
    options: dict[str, Any],
    model: str,
    dataset: str | None,
    settings: EvaluateSettings,
    source: tuple[str, Columns, str | None],
) -> Evaluation:
    from dask_als.cli import console
    from dask_als.evaluation.own_ratings import evaluate_file

    file, columns, above = source
    try:
        scratch = tempfile.TemporaryDirectory(prefix="dask-als-", dir=above)
    except OSError as error:
        raise InputError(f"--scratch is {above!r}: {error.strerror}") from None
    with (
        scratch as folder,
        computing(screen, options, shared=folder, seen=[model]) as executor,
        console.counting(screen, "partitions") as progress,
    ):
        return evaluate_file(
            model,
            file,
            executor,
            settings,
            columns=columns,
            dataset=dataset,
            scratch=folder,
            progress=progress,
        )
