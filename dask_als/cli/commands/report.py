"""``dask-als report``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from dask_als.cli.commands.computing import computing
from dask_als.cli.commands.options import cluster_options


@click.command()
@click.argument("model")
@click.option("--out", default="report.html", help="HTML file to write.")
@click.option("--dataset", help="The training dataset, if it was moved after training.")
@click.option("--json", "as_json", is_flag=True, help="Also print the errors as JSON.")
@cluster_options
def report(model: str, out: str, dataset: str | None, as_json: bool, **options: Any) -> None:
    r"""Write a page of plots of a MODEL: one HTML file that needs no network.

    \b
    Example:
        dask-als report MODEL --out report.html
    """
    from dask_als.cli import console
    from dask_als.core import storage
    from dask_als.core.outputs import check_file
    from dask_als.core.ownership import REPORT
    from dask_als.evaluation.calibration import calibration
    from dask_als.model.model import ALSModel
    from dask_als.report.data import measure_errors
    from dask_als.report.page import report as make_page
    from dask_als.report.page import write_report

    screen = console.Screen(stderr=as_json)
    check_file(out, REPORT)
    path = storage.absolute(model)
    loaded = ALSModel.load(path, dataset)
    errors = calibrated = None
    if loaded.dataset is not None and loaded.settings.feedback == "explicit":
        with (
            computing(screen, options) as executor,
            console.counting(screen, "predict") as progress,
        ):
            errors = measure_errors(loaded, path, loaded.dataset, executor, progress=progress)
            if loaded.manifest.knows_deviations and loaded.dataset.n_test:
                calibrated = calibration(path, loaded.dataset, executor)
    write_report(out, make_page(loaded, errors, name=model, calibration=calibrated))
    if as_json:
        names = ("least", "most", "ratings", "rmse")
        rows = [] if errors is None else errors.by_popularity()
        by_popularity = [dict(zip(names, row, strict=True)) for row in rows]
        value = {
            "report": out,
            "by_popularity": by_popularity,
            "calibration": calibrated and asdict(calibrated),
        }
        click.echo(json.dumps(value, indent=2))
        return
    screen.say(f"report   {storage.absolute(out)}")
