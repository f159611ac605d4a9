"""``dask-als train``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from dask_als.commands.computing import computing
from dask_als.commands.options import (
    checkpoint_options,
    checkpoint_settings,
    cluster_options,
    json_option,
    overwrite_option,
    settings_of,
    stop_options,
    train_options,
)
from dask_als.settings import StopSettings, TrainSettings

if TYPE_CHECKING:
    from dask_als.cluster import DaskExecutor
    from dask_als.dataset import Dataset
    from dask_als.model_files import ModelManifest


@click.command()
@click.argument("dataset")
@click.argument("model")
@train_options
@click.option("--init-from", metavar="MODEL", help="Start from this model's factors and biases.")
@stop_options
@checkpoint_options
@overwrite_option
@json_option
@cluster_options
def train(
    dataset: str,
    model: str,
    init_from: str | None,
    checkpoint: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Train a MODEL on a DATASET.

    \b
    Example:
        dask-als train DATASET MODEL --rank 64 --epochs 15
    """
    from dask_als.dataset import open_dataset

    settings = settings_of(TrainSettings, options)
    stopping = settings_of(StopSettings, options)
    checkpoints = checkpoint_settings(checkpoint, options)
    opened = open_dataset(dataset)
    screen = Console(stderr=as_json)
    with computing(screen, options) as executor:
        manifest = train_shown(
            screen,
            executor,
            opened,
            model,
            settings,
            initial_model=init_from,
            checkpoints=checkpoints,
            stopping=stopping,
            overwrite=overwrite,
        )
    if as_json:
        click.echo(json.dumps(model_json(model, manifest), indent=2))
        return
    say_model(screen, model, manifest)


def train_shown(
    screen: Console,
    executor: DaskExecutor,
    dataset: Dataset,
    model: str,
    settings: TrainSettings,
    **options: Any,
) -> ModelManifest:
    """Train, and show how it goes."""
    from dask_als import console
    from dask_als.train import train as run

    with console.training(screen, settings.epochs) as on_epoch:
        return run(dataset, model, settings, executor, on_epoch=on_epoch, **options)


def model_json(path: str, manifest: ModelManifest) -> dict[str, Any]:
    """Return where a model is, and how good."""
    from dask_als import storage

    return {"model": storage.absolute(path), **manifest.figures.to_json()}


def say_model(screen: Console, path: str, manifest: ModelManifest) -> None:
    """Say how good a model is, and where."""
    from dask_als import console, storage

    screen.print(f"{console.described(manifest.figures)}", highlight=False, soft_wrap=True)
    screen.print(f"model    {storage.absolute(path)}", highlight=False, soft_wrap=True)
