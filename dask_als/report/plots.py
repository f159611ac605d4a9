"""The plots of a report, drawn with Bokeh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import (
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
)
from bokeh.models.annotations import LabelSet
from bokeh.palettes import Blues256
from bokeh.plotting import figure

from dask_als.core.side import ITEMS, SIDES, USERS
from dask_als.evaluation.calibration import Calibration
from dask_als.model.model import ALSModel
from dask_als.report import data as report_data
from dask_als.report.data import Errors, Scale

_COLORS = {USERS: "#1f6f8b", ITEMS: "#d1603d"}
_INK, _FAINT = "#2b2f36", "#d9dde3"
_N_IN_THE_PLANE = 400
_N_LABELLED = 14
_N_POLARIZING = 15
_N_OF_BIASES = 60
_LONGEST_NAME = 26


@dataclass(frozen=True)
class Plot:
    """A plot with its heading and explanation.

    Attributes
    ----------
    title, words : str
        The heading, and how to read the plot.
    drawing : bokeh figure
    """

    title: str
    words: str
    drawing: Any


def plots_of(model: ALSModel, errors: Errors | None) -> list[Plot]:
    """Draw all plots that the model, and its errors if they are known, allow."""
    plots = [_objective_plot(model), _rmse_plot(model), _counts_plot(model)]
    if errors is not None:
        manifest = model.manifest
        held_out = model.dataset is not None and model.dataset.n_test > 0
        which = "held-out ratings" if held_out else "ratings it was trained on"
        scale = Scale(manifest.rating_min, manifest.rating_max)
        plots += [_popularity_plot(errors, which), _predictions_plot(errors, scale, which)]
    if model.settings.feedback == "explicit":
        plots.append(_biases_plot(model))
    return [*plots, _plane_plot(model), _polarizing_plot(model)]


def _empty(x: str, y: str, tooltips: list[tuple[str, str]], **options: Any) -> Any:
    """Return empty axes, as wide as the page allows."""
    drawing = figure(
        height=330,
        sizing_mode="stretch_width",
        x_axis_label=x,
        y_axis_label=y,
        tools=[HoverTool(tooltips=tooltips)],
        toolbar_location=None,
        background_fill_color="#ffffff",
        border_fill_color="#ffffff",
        outline_line_color=None,
        **options,
    )
    drawing.min_border_right = 12
    drawing.grid.grid_line_color = _FAINT
    drawing.grid.grid_line_alpha = 0.6
    drawing.axis.axis_line_color = drawing.axis.major_tick_line_color = _FAINT
    drawing.axis.minor_tick_line_color = None
    drawing.axis.axis_label_text_font_style = "normal"
    drawing.axis.axis_label_text_color = drawing.axis.major_label_text_color = _INK
    return drawing


def _lift_legend(drawing: Any) -> None:
    """Put the legend above the axes, where it hides nothing."""
    (legend,) = drawing.legend
    legend.orientation = "horizontal"
    legend.padding = legend.margin = 0
    legend.spacing = 16
    legend.border_line_color = None
    legend.label_text_color = _INK
    drawing.add_layout(legend, "above")


def _objective_plot(model: ALSModel) -> Plot:
    data = {
        "epoch": [figures.epoch for figures in model.history],
        "objective": [figures.objective for figures in model.history],
    }
    drawing = _empty(
        "epoch", "objective", [("epoch", "@epoch"), ("objective", "@objective{0,0.0}")]
    )
    drawing.yaxis.formatter = NumeralTickFormatter(format="0,0")
    drawing.line("epoch", "objective", source=data, color=_INK, line_width=2)
    drawing.scatter("epoch", "objective", source=data, color=_INK, size=5)
    words = "The function that training maximizes, after each epoch."
    if model.settings.method == "gibbs":
        words = "Log density of the ratings given each epoch's sample; it fluctuates in the end."
    return Plot("Objective", words, drawing)


def _rmse_plot(model: ALSModel) -> Plot:
    history = model.history
    drawing = _empty("epoch", "RMSE", [("epoch", "@epoch"), ("RMSE", "@rmse{0.0000}")])
    lines: dict[str, tuple[list[float | None], str]] = {
        "training": ([figures.train_rmse for figures in history], _COLORS[USERS]),
        "held out": ([figures.test_rmse for figures in history], _COLORS[ITEMS]),
    }
    for label, (values, color) in lines.items():
        if any(value is None for value in values):
            continue
        data = {"epoch": [figures.epoch for figures in history], "rmse": values}
        drawing.line("epoch", "rmse", source=data, color=color, line_width=2, legend_label=label)
        drawing.scatter("epoch", "rmse", source=data, color=color, size=5, legend_label=label)
    _lift_legend(drawing)
    words = "Root mean squared error by epoch. Where the held-out line rises, the model overfits."
    if model.settings.method == "gibbs":
        words = (
            "Root mean squared error of each epoch's sample; held out, from epoch "
            f"{model.settings.burn_in + 1} on, that of their mean."
        )
    return Plot("Error by epoch", words, drawing)


def _counts_plot(model: ALSModel) -> Plot:
    tooltips = [("position", "@position{0,0}"), ("ratings", "@ratings{0,0}")]
    drawing = _empty("position", "ratings", tooltips, x_axis_type="log", y_axis_type="log")
    for side in SIDES:
        positions, counts = report_data.counts_by_position(model.rows(side).counts)
        data = {"position": positions, "ratings": counts}
        options = {"source": data, "color": _COLORS[side], "legend_label": side.name}
        drawing.line("position", "ratings", line_width=2, **options)
        drawing.scatter("position", "ratings", size=4, **options)
    _lift_legend(drawing)
    words = "Training ratings per user and per item, in descending order."
    return Plot("Ratings per user and item", words, drawing)


def _popularity_plot(errors: Errors, which: str) -> Plot:
    rows = errors.by_popularity()
    labels = [f"{low:,}" if low == high else f"{low:,}–{high:,}" for low, high, _, _ in rows]
    data = {
        "label": labels,
        "ratings": [ratings for _, _, ratings, _ in rows],
        "rmse": [rmse for *_, rmse in rows],
    }
    tooltips = [("rated", "@label times"), ("RMSE", "@rmse{0.000}"), ("ratings", "@ratings{0,0}")]
    drawing = _empty("training ratings of the item", "RMSE", tooltips, x_range=labels)
    drawing.vbar("label", top="rmse", width=0.8, source=data, color=_COLORS[ITEMS])
    drawing.y_range.start = 0
    drawing.xgrid.grid_line_color = None
    drawing.xaxis.major_label_orientation = 0.9
    return Plot("Error by popularity", f"On {which}, by how often the item was rated.", drawing)


def _predictions_plot(errors: Errors, scale: Scale, which: str) -> Plot:
    levels, places = scale.level_edges, scale.predicted_edges
    shares = errors.table / np.maximum(1, errors.table.sum(axis=1, keepdims=True))
    rows, columns = np.nonzero(errors.table)
    data = {
        "left": levels[rows],
        "right": levels[rows + 1],
        "bottom": places[columns],
        "top": places[columns + 1],
        "share": shares[rows, columns],
        "ratings": errors.table[rows, columns],
    }
    tooltips = [
        ("predicted", "@bottom{0.00} to @top{0.00}"),
        ("ratings", "@ratings{0,0}"),
        ("share of its column", "@share{0.0%}"),
    ]
    drawing = _empty("rating", "prediction", tooltips)
    mapper = LinearColorMapper(palette=Blues256[230::-1], low=0, high=float(shares.max()))
    color = {"field": "share", "transform": mapper}
    drawing.quad("left", "right", "bottom", "top", source=data, fill_color=color, line_color=None)
    drawing.line([scale.low, scale.high], [scale.low, scale.high], color=_INK, line_dash="dashed")
    words = f"On {which}: each column is the distribution of predictions for one rating."
    return Plot("Predictions against ratings", words, drawing)


def calibration_plot(calibration: Calibration) -> Plot:
    """Plot the share of held-out ratings inside each predicted interval."""
    labels = [f"{interval.level:.0%}" for interval in calibration.intervals]
    data = {
        "label": labels,
        "level": [interval.level for interval in calibration.intervals],
        "coverage": [interval.coverage for interval in calibration.intervals],
    }
    tooltips = [("should lie within", "@level{0%}"), ("lie within", "@coverage{0.0%}")]
    drawing = _empty("interval", "share of held-out ratings", tooltips, x_range=labels)
    drawing.vbar("label", top="coverage", width=0.6, source=data, color=_COLORS[USERS])
    drawing.scatter("label", "level", source=data, marker="dash", size=60, color=_INK, line_width=3)
    drawing.y_range.start = 0
    drawing.xgrid.grid_line_color = None
    shares = ", ".join(
        f"{interval.coverage:.1%} in the {interval.level:.0%} interval"
        for interval in calibration.intervals
    )
    words = (
        "The share of held-out ratings in their predicted intervals; dashes mark the ideal share. "
        f"Here {shares}. The mean predicted standard deviation of a rating is "
        f"{calibration.deviation:.2f}."
    )
    return Plot("Calibration", words, drawing)


def _biases_plot(model: ALSModel) -> Plot:
    tooltips = [("bias", "@left{0.00} to @right{0.00}"), ("share", "@share{0.0%}")]
    drawing = _empty("bias", "share of the rows", tooltips)
    biases = {
        side: rows.state.bias[rows.counts > 0]
        for side, rows in ((side, model.rows(side)) for side in SIDES)
    }
    edges = np.histogram_bin_edges(np.concatenate(list(biases.values())), _N_OF_BIASES)
    for side in SIDES:
        shares = np.histogram(biases[side], edges)[0] / max(1, len(biases[side]))
        data: dict[str, Any] = {"left": edges[:-1], "right": edges[1:], "share": shares}
        drawing.quad(
            "left",
            "right",
            bottom=0,
            top="share",
            source=ColumnDataSource(data),
            color=_COLORS[side],
            alpha=0.5,
            line_color=None,
            legend_label=side.name,
        )
    drawing.y_range.start = 0
    _lift_legend(drawing)
    words = "How far above or below the mean users rate, and items are rated."
    return Plot("Biases", words, drawing)


def _plane_plot(model: ALSModel) -> Plot:
    rows = report_data.well_known(model, ITEMS)
    places, shares = report_data.main_directions(model.items.state.factors[rows])
    shown = slice(_N_IN_THE_PLANE)
    names = report_data.names_of(model, rows[shown])
    x, y = places[shown].T
    labelled = _spread_out(x, y)
    data = {
        "x": x,
        "y": y,
        "name": names,
        "ratings": model.items.counts[rows[shown]],
        "label": [_short(name) if i in labelled else "" for i, name in enumerate(names)],
        "align": np.where(x > np.median(x), "right", "left"),
        "offset": np.where(x > np.median(x), -6, 6),
    }
    drawing = _empty(
        f"first direction ({shares[0]:.0%} of the variance)",
        f"second direction ({shares[1]:.0%})",
        [("item", "@name"), ("ratings", "@ratings{0,0}")],
    )
    drawing.height = 420
    source = ColumnDataSource(data)
    drawing.scatter("x", "y", source=source, color=_COLORS[ITEMS], size=6, alpha=0.55)
    drawing.add_layout(
        LabelSet(
            x="x",
            y="y",
            text="label",
            source=source,
            text_font_size="11px",
            text_color=_INK,
            background_fill_color="#ffffff",
            background_fill_alpha=0.7,
            text_align="align",
            x_offset="offset",
            y_offset=3,
        )
    )
    words = (
        f"The {len(x):,} most rated items in the first two principal components of the factors. "
        "Touch a point for its name."
    )
    return Plot("Items in factor space", words, drawing)


def _polarizing_plot(model: ALSModel) -> Plot:
    rows = report_data.well_known(model, ITEMS)
    lengths = report_data.lengths(model.items.state.factors[rows])
    longest = np.argsort(-lengths, kind="stable")[:_N_POLARIZING][::-1]
    names = report_data.names_of(model, rows[longest])
    places = np.arange(len(longest))
    data = {
        "place": places,
        "length": lengths[longest],
        "name": names,
        "ratings": model.items.counts[rows[longest]],
    }
    tooltips = [("item", "@name"), ("length", "@length{0.00}"), ("ratings", "@ratings{0,0}")]
    drawing = _empty("length of the factor vector", "", tooltips)
    drawing.height = 420
    drawing.hbar("place", right="length", height=0.75, source=data, color=_COLORS[USERS])
    drawing.x_range.start = 0
    drawing.ygrid.grid_line_color = None
    drawing.yaxis.ticker = FixedTicker(ticks=places.tolist())
    drawing.yaxis.major_label_overrides = {place: _short(name) for place, name in enumerate(names)}
    words = "Items whose predictions, without biases, differ most from user to user."
    return Plot("Polarizing items", words, drawing)


def _spread_out(x: np.ndarray, y: np.ndarray) -> set[int]:
    """Choose points far from the middle, one a line, so that labels do not cover one another."""
    width, height = max(np.ptp(x), 1e-9), max(np.ptp(y), 1e-9)
    far = np.hypot((x - np.median(x)) / width, (y - np.median(y)) / height)
    chosen: list[int] = []
    for i in np.argsort(-far, kind="stable").tolist():
        if len(chosen) == _N_LABELLED:
            break
        if all(abs(y[i] - y[j]) > 0.055 * height for j in chosen):
            chosen.append(i)
    return set(chosen)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1].rstrip()}…"
