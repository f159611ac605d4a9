"""A model's report as one HTML page that needs no network."""

from __future__ import annotations

from importlib.resources import files

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment

from dask_als.core import outputs
from dask_als.core.ownership import REPORT, marked_text
from dask_als.evaluation.calibration import Calibration
from dask_als.model.model import ALSModel
from dask_als.report.data import Errors
from dask_als.report.plots import calibration_plot, plots_of


def report(
    model: ALSModel, errors: Errors | None, *, name: str, calibration: Calibration | None = None
) -> str:
    """Return a model's report as a page of HTML.

    Parameters
    ----------
    model : ALSModel
    errors : Errors or None
        Its errors on the ratings of its dataset; None leaves out the plots that need them.
    name : str
        The name of the model on the page.
    calibration : Calibration, optional
        The calibration of a model of samples, on held-out ratings.
    """
    plots = plots_of(model, errors)
    if calibration is not None:
        plots.append(calibration_plot(calibration))
    script, blocks = components([plot.drawing for plot in plots])
    page = Environment(autoescape=True, trim_blocks=True).from_string(
        files("dask_als.report").joinpath("report.html").read_text(encoding="utf-8")
    )
    return page.render(
        name=name,
        figures=_summary(model),
        settings=model.settings.to_json().items(),
        plots=list(zip(plots, blocks, strict=True)),
        bokeh=Resources(mode="inline", components=["bokeh"]).render_js(),
        script=script,
        left_out=_left_out(model) if errors is None else None,
    )


def _left_out(model: ALSModel) -> str:
    """Return which plots are left out without errors, and why."""
    what = "Errors by popularity, and predictions against ratings, are left out"
    if model.settings.feedback == "implicit":
        return f"{what}: implicit feedback has no ratings to predict. It has no biases either."
    return f"{what}: the dataset that this model was trained on does not exist any more."


def write_report(path: str, page: str) -> None:
    """Write a report's page; replace an earlier report, but nothing else."""
    outputs.replace_text(path, REPORT, marked_text(REPORT, page))


def _summary(model: ALSModel) -> list[tuple[str, str]]:
    last = model.manifest.figures
    rows = [
        ("users", f"{len(model.users.ids):,}"),
        ("items", f"{len(model.items.ids):,}"),
        ("training ratings", f"{int(model.users.counts.sum()):,}"),
        ("epochs", f"{last.epoch}"),
        ("objective", _number(last.objective)),
        ("RMSE in training", _number(last.train_rmse)),
        ("RMSE held out", _number(last.test_rmse)),
    ]
    return [(label, value) for label, value in rows if value]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4f}"
