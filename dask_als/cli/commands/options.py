"""Options that commands share, and the settings that are made of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import reduce
from typing import Any

import click

from dask_als.core.side import SIDES
from dask_als.errors import InputError
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import CheckpointSettings, StopSettings, TrainSettings

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


def together(*options: Decorator) -> Decorator:
    """Put several options on a command, in the order given."""
    return lambda command: reduce(lambda done, option: option(done), reversed(options), command)


def setting(settings: type, name: str, *names: str, **attributes: Any) -> Decorator:
    """Return an option for a field of a settings class, with its default."""
    default = next(f.default for f in dataclasses.fields(settings) if f.name == name)
    return click.option(
        *(names or [f"--{name.replace('_', '-')}"]), name, default=default, **attributes
    )


def _log_everything(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        logging.getLogger("dask_als").setLevel(logging.INFO)


def settings_of(settings: type, options: dict[str, Any]) -> Any:
    """Take the options that are fields of a settings class out of all options."""
    names = {f.name for f in dataclasses.fields(settings)}
    return settings(**{name: options.pop(name) for name in names & options.keys()})


debug_option = together(
    click.option(
        "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
    ),
    click.option(
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_log_everything,
        help="Show the messages of the logger dask_als from level INFO on.",
    ),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
cluster_option = click.option(
    "--cluster",
    "address",
    default="local",
    metavar="local|ADDRESS|kubernetes|serial",
    help="Where to compute: serial is this process alone, without Dask.",
)
size_options = together(
    click.option(
        "--pods",
        multiple=True,
        metavar="NAME=VALUE",
        help="Of a cluster on Kubernetes: image, workers, threads, memory, volume_claim, …",
    ),
    click.option("--workers", default=1, help="Processes of a local cluster."),
    click.option("--threads", type=int, help="Threads of each of them.  [default: all cores]"),
    click.option("--memory", default="auto", help="Memory limit of each of them."),
    click.option(
        "--private/--no-private",
        default=True,
        help="Let no other user of this machine into a local cluster.",
    ),
)
connection_options = together(
    click.option("--dashboard", default="127.0.0.1:8787", help="Where a local dashboard listens."),
    click.option("--timeout", default="10s", help="How long to wait for a scheduler."),
    click.option(
        "--worker-timeout", default=300.0, help="Seconds to wait for a worker if all are lost."
    ),
    click.option("--tls-ca", metavar="FILE", help="Authority of the cluster's certificates."),
    click.option("--tls-cert", metavar="FILE", help="A certificate it signed."),
    click.option("--tls-key", metavar="FILE", help="The certificate's key."),
    debug_option,
)
cluster_options = together(cluster_option, size_options, connection_options)
log_format_option = click.option(
    "--log-format",
    default="text",
    type=click.Choice(["text", "json"]),
    help="Say things for people, or as a JSON object a line.",
)
watch_options = together(
    log_format_option,
    click.option("--trace", metavar="FILE", help="Write where the time of each half-epoch goes."),
    click.option(
        "--performance-report", metavar="FILE.html", help="Write Dask's performance report."
    ),
)
overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an output that is there."
)
column_options = together(
    setting(Columns, "user", "--user-col", help="The source's column of users."),
    setting(Columns, "item", "--item-col", help="Of items."),
    setting(Columns, "rating", "--rating-col", help="Of ratings."),
    click.option("--time-col", "time", help="Of times.  [default: timestamp, if it is there]"),
)
split_options = together(
    setting(PrepareSettings, "test_fraction", help="Share of the ratings to hold out."),
    setting(
        PrepareSettings,
        "split",
        type=click.Choice(["random", "latest"]),
        help="Hold out any ratings, or each user's last.",
    ),
)
train_options = together(
    setting(
        TrainSettings,
        "rank",
        type=int,
        help="Length of a factor vector.  [default: 64; with gibbs, 32]",
    ),
    setting(
        TrainSettings,
        "epochs",
        type=int,
        help="How often each side is solved.  [default: 15; with gibbs, burn-in + samples]",
    ),
    setting(TrainSettings, "residual_precision", help="Weight of squared errors (lambda)."),
    setting(TrainSettings, "bias_regularization", help="Weight of squared biases (gamma)."),
    setting(TrainSettings, "factor_regularization", help="Weight of squared factors (tau)."),
    *(
        setting(
            TrainSettings,
            f"{side.singular}_{what}_regularization",
            type=float,
            help=f"The same for {side.name} alone.  [default: --{what}-regularization]",
        )
        for side in SIDES
        for what in ("bias", "factor")
    ),
    setting(
        TrainSettings,
        "regularization_scaling",
        type=click.Choice(["plain", "count"]),
        help="Multiply these weights by a row's number of ratings, or not.",
    ),
    setting(TrainSettings, "center", "--center/--no-center", help="Take the mean out first."),
    setting(TrainSettings, "dtype", type=click.Choice(["float32", "float64"])),
    setting(TrainSettings, "seed", help="Seed of the first factors."),
    setting(
        TrainSettings,
        "first",
        type=click.Choice(["users", "items"]),
        help="The side that an epoch solves first.",
    ),
    setting(
        TrainSettings,
        "method",
        type=click.Choice(["als", "gibbs"]),
        help="Best factors, or an average over samples of them.",
    ),
    setting(TrainSettings, "burn_in", help="With gibbs: first epochs, not kept."),
    setting(TrainSettings, "samples", help="With gibbs: epochs that are kept."),
    setting(
        TrainSettings,
        "feedback",
        type=click.Choice(["explicit", "implicit"]),
        help="Fit the ratings, or preferences as sure as the ratings say.",
    ),
    setting(TrainSettings, "confidence", help="Of a rating of 1, if implicit (alpha)."),
    setting(
        TrainSettings,
        "frequency_exponent",
        help="Of a row's total confidence in the weight of its factors, if implicit (nu).",
    ),
    setting(
        TrainSettings,
        "implicit_attributes",
        type=click.Choice(["none", "auto", "items", "users", "both"]),
        help="Sides whose prior means follow from who rated what; auto: where data suffice.",
    ),
)

stop_options = together(
    setting(
        StopSettings,
        "flat",
        "--stop-when-flat",
        type=float,
        metavar="PART",
        help="Stop when an epoch raises the objective by less than this part of it, say 1e-4.",
    ),
    setting(
        StopSettings,
        "patience",
        type=int,
        metavar="EPOCHS",
        help="Stop after so many epochs without a lower held-out RMSE; the best model is kept.",
    ),
)
checkpoint_options = together(
    click.option("--checkpoint", metavar="DIR", help="Write checkpoints to this directory."),
    setting(CheckpointSettings, "every", "--checkpoint-every", help="Epochs from one to the next."),
    click.option(
        "--checkpoint-minutes",
        "minutes",
        type=float,
        help="Write one as well when so many have passed.",
    ),
    setting(CheckpointSettings, "keep", "--checkpoint-keep", help="How many are kept."),
    click.option("--resume", is_flag=True, help="Go on from the newest checkpoint, if any."),
)


def checkpoint_settings(
    directory: str | None, options: dict[str, Any]
) -> CheckpointSettings | None:
    """Take the options of checkpoints out of all options."""
    options["directory"] = directory or ""
    settings: CheckpointSettings = settings_of(CheckpointSettings, options)
    if directory is not None:
        return settings
    if settings.resume or settings.minutes is not None:
        raise InputError("--resume and --checkpoint-minutes need --checkpoint DIR")
    return None
