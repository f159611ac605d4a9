"""``dask-als train``."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.method_choice import choose_method
from dask_als.cli.commands.options import (
    checkpoint_options,
    checkpoint_settings,
    cluster_options,
    json_option,
    overwrite_option,
    settings_of,
    stop_options,
    train_options,
    watch_options,
)
from dask_als.settings.training import StopSettings

if TYPE_CHECKING:
    from dask_als.model.manifest import ModelManifest


@click.command()
@click.argument("dataset")
@click.argument("model")
@train_options
@click.option(
    "--init-from", metavar="MODEL", help="Start from the factors and biases of this model."
)
@stop_options
@checkpoint_options
@overwrite_option
@json_option
@watch_options
@cluster_options
def train(
    dataset: str,
    model: str,
    init_from: str | None,
    checkpoint: str | None,
    overwrite: bool,
    as_json: bool,
    log_format: str,
    trace: str | None,
    **options: Any,
) -> None:
    r"""Train a MODEL on a DATASET.

    \b
    Example:
        dask-als train DATASET MODEL --method als --rank 64 --epochs 15
    """
    from dask_als.cli.log import log_of
    from dask_als.data.dataset import open_dataset
    from dask_als.training.train import train as run

    choice = choose_method(options)
    settings = choice.settings
    stopping = settings_of(StopSettings, options)
    checkpoints = checkpoint_settings(checkpoint, options)
    opened = open_dataset(dataset)
    with log_of(log_format, trace, to_stderr=as_json) as log:
        if choice.reason:
            log.say(choice.described())
        started = time.monotonic()
        with computing(log, options) as executor, log.training(settings.epochs) as listener:
            manifest = run(
                opened,
                model,
                settings,
                executor,
                initial_model=init_from,
                checkpoints=checkpoints,
                stopping=stopping,
                overwrite=overwrite,
                listener=listener,
            )
        if choice.reason:
            log.say(f"cost     {settings.epochs} epochs in {time.monotonic() - started:.1f} s")
        if as_json:
            click.echo(json.dumps(model_json(model, manifest), indent=2))
        else:
            log.model(model, manifest.figures)


def model_json(path: str, manifest: ModelManifest) -> dict[str, Any]:
    """Return the path and the final figures of a model."""
    from dask_als.core import storage

    return {"model": storage.absolute(path), **manifest.figures.to_json()}
