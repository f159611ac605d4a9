"""Options that commands share, and their conversion to settings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import reduce
from typing import Any

import click

from dask_als.core.side import SIDES, Side
from dask_als.errors import InputError
from dask_als.settings.data import Columns, PrepareSettings
from dask_als.settings.training import CheckpointSettings, StopSettings, TrainSettings

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


def together(*options: Decorator) -> Decorator:
    """Add several options to a command, in the given order."""
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
    """Remove the options that are fields of a settings class, and return them as its instance."""
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
        help="Show messages of the logger dask_als from level INFO on.",
    ),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
cluster_option = click.option(
    "--cluster",
    "address",
    default="local",
    metavar="local|ADDRESS|kubernetes|serial",
    help="Where to compute; serial is this process alone, without Dask.",
)
size_options = together(
    click.option(
        "--pods",
        multiple=True,
        metavar="NAME=VALUE",
        help="Size of a cluster on Kubernetes: image, workers, threads, memory, volume_claim, …",
    ),
    click.option("--workers", default=1, help="Worker processes of a local cluster."),
    click.option("--threads", type=int, help="Threads per worker.  [default: all cores]"),
    click.option("--memory", default="auto", help="Memory limit per worker."),
    click.option(
        "--private/--no-private",
        default=True,
        help="Deny other users of this machine access to a local cluster.",
    ),
)
connection_options = together(
    click.option(
        "--dashboard", default="127.0.0.1:8787", help="Address of the dashboard of a local cluster."
    ),
    click.option("--timeout", default="10s", help="How long to wait for a scheduler."),
    click.option(
        "--worker-timeout", default=300.0, help="Seconds to wait for a worker if all are lost."
    ),
    click.option("--tls-ca", metavar="FILE", help="Certificate of the cluster's authority (CA)."),
    click.option("--tls-cert", metavar="FILE", help="Client certificate signed by that authority."),
    click.option("--tls-key", metavar="FILE", help="Key of the client certificate."),
    debug_option,
)
cluster_options = together(cluster_option, size_options, connection_options)
log_format_option = click.option(
    "--log-format",
    default="text",
    type=click.Choice(["text", "json"]),
    help="Log as text, or as one JSON object per line.",
)
watch_options = together(
    log_format_option,
    click.option("--trace", metavar="FILE", help="Write the times of each half-epoch by phase."),
    click.option(
        "--performance-report", metavar="FILE.html", help="Write Dask's performance report."
    ),
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace an existing output.")
column_options = together(
    setting(Columns, "user", "--user-col", help="Column of users: its name, or position from 0."),
    setting(Columns, "item", "--item-col", help="Column of items."),
    setting(Columns, "rating", "--rating-col", help="Column of ratings."),
    click.option("--time-col", "time", help="Column of times.  [default: timestamp, if present]"),
    click.option("--weight-col", "weight", help="Column of the ratings' weights.  [default: none]"),
    setting(Columns, "no_time", is_flag=True, help="Read no times."),
    setting(
        Columns,
        "time_format",
        metavar="FORMAT",
        help="seconds, milliseconds, iso, or a pattern like dd/mm/yyyy.  [default: numbers or iso]",
    ),
    setting(
        Columns,
        "id_type",
        type=click.Choice(["text", "int"]),
        help="What ids are.  [default: int if all of a column are, without leading zeros]",
    ),
    setting(
        Columns,
        "delimiter",
        help="Of text files: any characters, tab, or space.  [default: found]",
    ),
    setting(
        Columns,
        "header",
        "--header/--no-header",
        help="Whether text files start with the names of the columns.  [default: found]",
    ),
    setting(
        Columns,
        "comment",
        metavar="START",
        help="Skip lines that start so.  [default: # or %, before the first record]",
    ),
    setting(Columns, "decimal", type=click.Choice([".", ","]), help="Decimal mark of text files."),
    setting(Columns, "encoding", help="Encoding of text files.  [default: utf-8]"),
)
split_options = together(
    setting(PrepareSettings, "test_fraction", help="Share of the ratings to hold out."),
    setting(
        PrepareSettings,
        "split",
        type=click.Choice(["random", "latest", "time"]),
        help="Hold out random ratings, the latest ratings of each user, or all from a time on.",
    ),
    setting(
        PrepareSettings,
        "test_from",
        type=str,
        metavar="DATE",
        help="First time to hold out, for --split time: a date, or a number as in the source.",
    ),
)
filter_options = together(
    *(
        setting(
            PrepareSettings,
            f"least_{side.singular}_ratings",
            help=f"Leave out {side.name} with fewer ratings of what is kept, repeatedly.",
        )
        for side in SIDES
    )
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
        help="Number of epochs.  [default: 15; with gibbs, burn-in + samples]",
    ),
    setting(TrainSettings, "residual_precision", help="Weight of squared errors (lambda)."),
    setting(TrainSettings, "bias_regularization", help="Weight of squared biases (gamma)."),
    setting(TrainSettings, "factor_regularization", help="Weight of squared factors (tau)."),
    *(
        setting(
            TrainSettings,
            f"{side.singular}_{what}_regularization",
            type=float,
            help=f"The same for {side.name} only.  [default: --{what}-regularization]",
        )
        for side in SIDES
        for what in ("bias", "factor")
    ),
    setting(
        TrainSettings,
        "regularization_scaling",
        type=click.Choice(["plain", "count"]),
        help="With count, multiply these weights by the number of ratings of each row.",
    ),
    setting(
        TrainSettings, "center", "--center/--no-center", help="Subtract the global mean first."
    ),
    setting(
        TrainSettings, "dtype", type=click.Choice(["float32", "float64"]), help="Type of factors."
    ),
    setting(TrainSettings, "seed", help="Seed of the initial factors."),
    setting(
        TrainSettings,
        "first",
        type=click.Choice(["users", "items"]),
        help="The side that an epoch solves first.",
    ),
    click.option(
        "--method",
        type=click.Choice(["als", "gibbs"]),
        help="Maximize the objective (als), or average posterior samples (gibbs).  [default: "
        "gibbs; als with implicit feedback, or with options for als, such as --rank]",
    ),
    setting(TrainSettings, "burn_in", help="With gibbs: epochs before the first sample."),
    setting(TrainSettings, "samples", help="With gibbs: number of samples, one per epoch."),
    setting(
        TrainSettings,
        "model_rank",
        type=int,
        help="With gibbs: rank of the model, the average of the samples.  [default: rank]",
    ),
    setting(
        TrainSettings,
        "keep_samples",
        is_flag=True,
        help="With gibbs: write all samples into the model, for standard deviations.",
    ),
    setting(
        TrainSettings,
        "feedback",
        type=click.Choice(["explicit", "implicit"]),
        help="Fit ratings, or preferences with a confidence that grows with the rating.",
    ),
    setting(
        TrainSettings, "confidence", help="With implicit: confidence of a rating of 1 (alpha)."
    ),
    setting(
        TrainSettings,
        "frequency_exponent",
        help="With implicit: exponent of the frequency-scaled regularization (nu).",
    ),
    setting(
        TrainSettings,
        "nonnegative",
        is_flag=True,
        help="With als: all factors are at least 0; biases have any sign.",
    ),
    setting(
        TrainSettings,
        "implicit_attributes",
        type=click.Choice(["none", "auto", "items", "users", "both"]),
        help="Sides whose prior means follow from who rated what; auto: where data suffice.",
    ),
    setting(
        TrainSettings,
        "attributes",
        "--attributes/--no-attributes",
        help="Use the attributes of users and items that the dataset has.",
    ),
)
attribute_options = together(
    *(
        click.option(
            f"--{side.singular}-attributes",
            metavar="FILE",
            help=f"Attributes of {side.name}: CSV or Parquet with a column of ids.",
        )
        for side in SIDES
    )
)


def attributes_of(options: dict[str, Any]) -> dict[Side, str]:
    """Take the files of attributes out of all options."""
    files = {side: options.pop(f"{side.singular}_attributes") for side in SIDES}
    return {side: path for side, path in files.items() if path is not None}


stop_options = together(
    setting(
        StopSettings,
        "flat",
        "--stop-when-flat",
        type=float,
        metavar="PART",
        help="Stop when an epoch improves the objective by less than this fraction, such as 1e-4.",
    ),
    setting(
        StopSettings,
        "patience",
        type=int,
        metavar="EPOCHS",
        help="Stop after this many epochs without a lower held-out RMSE; keep the best model.",
    ),
)
checkpoint_options = together(
    click.option("--checkpoint", metavar="DIR", help="Write checkpoints to this directory."),
    setting(CheckpointSettings, "every", "--checkpoint-every", help="Epochs between checkpoints."),
    click.option(
        "--checkpoint-minutes",
        "minutes",
        type=float,
        help="Also write a checkpoint when this time has passed.",
    ),
    setting(CheckpointSettings, "keep", "--checkpoint-keep", help="Number of checkpoints to keep."),
    click.option("--resume", is_flag=True, help="Resume from the newest checkpoint, if any."),
)


def checkpoint_settings(
    directory: str | None, options: dict[str, Any]
) -> CheckpointSettings | None:
    """Remove the options of checkpoints from all options, and return them as settings."""
    options["directory"] = directory or ""
    settings: CheckpointSettings = settings_of(CheckpointSettings, options)
    if directory is not None:
        return settings
    if settings.resume or settings.minutes is not None:
        raise InputError("--resume and --checkpoint-minutes need --checkpoint DIR")
    return None
