"""``dask-als recommend``."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dask_als.cli.commands import saying
from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import (
    cluster_options,
    json_option,
    overwrite_option,
    setting,
    settings_of,
)
from dask_als.errors import InputError
from dask_als.settings.evaluation import RecommendSettings

if TYPE_CHECKING:
    from dask_als.model.model import ALSModel
    from dask_als.model.rows import ModelRows


@click.command()
@click.argument("model")
@click.argument("dataset", required=False)
@click.option(
    "--out",
    metavar="DIR|FILE",
    help="Directory of Parquet to write, or a file: .csv or .jsonl, also with .gz, .bz2, .zst.",
)
@click.option("--to", metavar="ID", help="Print recommendations for this user or item only.")
@click.option(
    "--to-file", metavar="FILE", help="Recommend only to the ids in this file, one per line."
)
@setting(
    RecommendSettings,
    "side",
    "--for",
    type=click.Choice(["users", "items"]),
    help="Side that gets recommendations of the other side.",
)
@setting(RecommendSettings, "k", "-k", help="Length of each list.")
@setting(
    RecommendSettings,
    "seen",
    "--seen/--no-seen",
    help="Whether lists may contain pairs with a training rating.",
)
@click.option(
    "--include", metavar="FILE", help="Recommend only the ids in this file, one per line."
)
@click.option(
    "--exclude", metavar="FILE", help="Do not recommend the ids in this file, one per line."
)
@setting(
    RecommendSettings,
    "std",
    "--std",
    is_flag=True,
    help="Add the standard deviation of each rating; needs a model trained by gibbs.",
)
@setting(RecommendSettings, "rows_at_once", help="Rows per task; fewer rows need less memory.")
@overwrite_option
@json_option
@cluster_options
def recommend(
    model: str,
    dataset: str | None,
    out: str | None,
    to: str | None,
    to_file: str | None,
    include: str | None,
    exclude: str | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    r"""Recommend the pairs with the highest ratings of a MODEL; by default unrated items to users.

    Without DATASET, the one that the MODEL was trained on is used, if it is found.

    \b
    Example:
        dask-als recommend MODEL DATASET --out DIR -k 10
        dask-als recommend MODEL DATASET --out best.csv
        dask-als recommend MODEL DATASET --to 307
    """
    from dask_als.cli import console
    from dask_als.core.side import side_named
    from dask_als.model.model import ALSModel
    from dask_als.model.recommend import recommend as run
    from dask_als.model.recommendation_text import (
        check_text_path,
        text_format,
        text_of_recommendations,
    )

    settings = settings_of(RecommendSettings, options)
    if (out is None) == (to is None):
        raise InputError("give either --out DIR, or --to ID for a single user or item")
    loaded = ALSModel.load(model, dataset)
    side = side_named(settings.side)
    lists: dict[str, Any] = {
        "include": _ids(loaded.rows(side.other), include),
        "exclude": _ids(loaded.rows(side.other), exclude) or [],
    }
    if to is not None:
        _print_one(loaded, to, settings, lists, as_json=as_json)
        return
    assert out is not None
    only = _ids(loaded.rows(side), to_file)
    screen = console.Screen(stderr=as_json)
    is_text = text_format(out) is not None
    if is_text:
        check_text_path(out, overwrite=overwrite)
    with (
        computing(screen, options) as executor,
        console.counting(screen, "tasks") as progress,
        text_of_recommendations(out) if is_text else nullcontext(out) as directory,
    ):
        made = run(
            model,
            loaded.training_data(side),
            directory,
            executor,
            settings,
            only=only,
            overwrite=overwrite,
            progress=progress,
            **lists,
        )
    if as_json:
        click.echo(json.dumps({"out": out, **asdict(made)}, indent=2))
        return
    unknown = f", {made.unknown:,} of them unknown" if made.unknown else ""
    screen.say(
        f"{made.recommendations:,} recommendations for {made.rows:,} {side.name}{unknown}: {out}"
    )


def _print_one(
    model: ALSModel,
    to: str,
    settings: RecommendSettings,
    lists: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from dask_als.cli import console
    from dask_als.core.side import side_named
    from dask_als.model.rows import UNKNOWN

    side = side_named(settings.side)
    identifier = model.rows(side).parse(to)
    if model.rows(side).rows([identifier])[0] == UNKNOWN:
        saying.say(
            f"{side.singular} {identifier!r} is not in the model; it gets the overall best "
            f"{side.other.name}",
            err=True,
        )
    frame = model.recommend_to(
        side,
        identifier,
        settings.k,
        seen=settings.seen,
        std=settings.std,
        unknown="ignore",
        **lists,
    )
    if as_json:
        click.echo(frame.to_json(orient="records", indent=2))
        return
    console.Screen().print(console.table_of(frame, f"Recommended to {side.singular} {identifier}"))


def _ids(rows: ModelRows, path: str | None) -> list[Any] | None:
    """Read ids from a file, one per line."""
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # Not UTF-8, or not a valid path.
        raise InputError(f"{path} cannot be read: {error}") from None
    return [rows.parse(line.strip()) for line in lines if line.strip()]
