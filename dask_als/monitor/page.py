"""The page of a training on the scheduler's dashboard: a Bokeh document."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any

from bokeh.document import Document
from bokeh.models import (
    BasicTickFormatter,
    ColumnDataSource,
    CustomJSTickFormatter,
    Div,
    FactorRange,
    HoverTool,
    InlineStyleSheet,
    NumeralTickFormatter,
)
from bokeh.palettes import Category10
from bokeh.plotting import figure
from jinja2 import ChoiceLoader, FileSystemLoader

from dask_als.dask_internals import dashboard_templates
from dask_als.monitor.run_state import RunState

_MILLISECONDS_BETWEEN_UPDATES = 500
_MOST_EPOCHS = 1_000
_HEIGHT = 280
_LEAST_SECONDS = 1e-6
_PHASES = {"solving": "#2c7fb8", "waiting": "#fdae61", "overhead": "#bdbdbd"}
_WORKER_COLORS = Category10[10]
_TRAIN, _TEST = "#2c7fb8", "#d95f02"


def document(runs: Mapping[str, RunState], extra: dict[str, Any], doc: Document) -> None:
    """Fill a Bokeh document with the page of the newest training.

    Parameters
    ----------
    runs : mapping of str to RunState
        The current trainings, the newest last.
    extra : dict
        Variables for the template's menu.
    """
    page = _Page(runs)
    for root in page.roots:
        doc.add_root(root)
    theme, templates = dashboard_templates()
    loader = ChoiceLoader([FileSystemLoader(Path(__file__).parent), templates.loader])
    doc.template = templates.overlay(loader=loader).get_template("page.html")
    doc.template_variables.update(extra)
    doc.theme = theme
    doc.title = "dask-als: training"
    doc.add_periodic_callback(page.update, _MILLISECONDS_BETWEEN_UPDATES)


class _Page:
    """The contents of the page, and their updates."""

    def __init__(self, runs: Mapping[str, RunState]) -> None:
        self._runs = runs
        self._state: RunState | None = None
        self._version: tuple[int, int, bool] | None = None
        self._history = ColumnDataSource({"epoch": [], "objective": [], "train": [], "test": []})
        self._halves = ColumnDataSource({name: [] for name in ("half", "rate", *_PHASES)})
        names = ("partition", "seconds", "worker", "ratings", "color")
        self._partitions = ColumnDataSource({name: [] for name in names})
        self._summary, self._about = _text("summary"), _text("about")
        times = _times(self._halves)
        partitions = _partitions(self._partitions)
        self._half_names, self._partition_names = times.x_range, partitions.x_range
        rmse = _rmse(self._history)
        self.roots = [
            self._summary,
            rmse,
            _objective(self._history),
            times,
            partitions,
            self._about,
        ]
        self.update()

    def update(self) -> None:
        """Show changes since the last call."""
        if self._runs:
            newest = list(self._runs.values())[-1]
            if newest is not self._state:
                self._state, self._version = newest, None
        state = self._state
        if state is None:
            self._summary.text = "No training is running."
            return
        self._summary.text = _summary(state)
        if state.version == self._version:
            return
        if self._version is None:
            self._about.text = _about(state)
        self._version = state.version
        self._show_history(state)
        self._show_half_epochs(state)
        self._show_partitions(state)

    def _show_history(self, state: RunState) -> None:
        every = 1 + len(state.history) // _MOST_EPOCHS
        shown = state.history[::-every][::-1]
        nan = float("nan")
        self._history.data = {
            "epoch": [figures.epoch for figures in shown],
            "objective": [figures.objective for figures in shown],
            "train": [figures.train_rmse for figures in shown],
            "test": [nan if f.test_rmse is None else f.test_rmse for f in shown],
        }

    def _show_half_epochs(self, state: RunState) -> None:
        # Epochs that were trained again after a loss appear once.
        last = {f"{half.epoch} {half.side}": half for half in state.half_epochs}
        n_ratings = state.info.n_ratings
        self._half_names.factors = list(last)
        self._halves.data = {
            "half": list(last),
            "rate": [n_ratings / max(half.seconds, _LEAST_SECONDS) for half in last.values()],
            **{phase: [getattr(half, phase) for half in last.values()] for phase in _PHASES},
        }

    def _show_partitions(self, state: RunState) -> None:
        solved = [(half.side, part) for half in state.last_half_epochs for part in half.partitions]
        workers = sorted({part.worker for _, part in solved})
        names = [(side, str(part.number)) for side, part in solved]
        self._partition_names.factors = names
        self._partitions.data = {
            "partition": names,
            "seconds": [part.solving for _, part in solved],
            "worker": [part.worker for _, part in solved],
            "ratings": [part.ratings for _, part in solved],
            "color": [
                _WORKER_COLORS[workers.index(part.worker) % len(_WORKER_COLORS)]
                for _, part in solved
            ],
        }


def _text(name: str) -> Div:
    # By default, Bokeh makes it as narrow as its content.
    whole_width = InlineStyleSheet(css=".bk-clearfix { display: block !important; }")
    return Div(name=name, sizing_mode="stretch_width", margin=0, stylesheets=[whole_width])


def _plot(name: str, **options: Any) -> Any:
    plot = figure(
        name=name,
        height=_HEIGHT,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        **options,
    )
    plot.axis.minor_tick_line_color = None
    plot.yaxis.formatter = BasicTickFormatter(use_scientific=False)
    return plot


def _rmse(source: ColumnDataSource) -> Any:
    plot = _plot("rmse")
    for column, color, label in (("train", _TRAIN, "training"), ("test", _TEST, "held out")):
        plot.line("epoch", column, source=source, color=color, line_width=2, legend_label=label)
        plot.scatter("epoch", column, source=source, color=color, size=4)
    plot.add_tools(
        HoverTool(
            tooltips=[("epoch", "@epoch"), ("training", "@train{0.0000}"), ("held out", "@test")]
        )
    )
    _legend_above(plot)
    _whole_epochs(plot)
    return plot


def _objective(source: ColumnDataSource) -> Any:
    plot = _plot("objective")
    plot.line("epoch", "objective", source=source, color=_TRAIN, line_width=2)
    plot.scatter("epoch", "objective", source=source, color=_TRAIN, size=4)
    plot.add_tools(HoverTool(tooltips=[("epoch", "@epoch"), ("objective", "@objective{0,0.00}")]))
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    _whole_epochs(plot)
    return plot


def _whole_epochs(plot: Any) -> None:
    plot.xaxis.ticker.min_interval = 1
    plot.xaxis.formatter = NumeralTickFormatter(format="0")


def _times(source: ColumnDataSource) -> Any:
    plot = _plot("times", x_range=FactorRange())
    plot.vbar_stack(
        list(_PHASES),
        x="half",
        width=0.8,
        source=source,
        color=list(_PHASES.values()),
        legend_label=[{"waiting": "waiting for data"}.get(phase, phase) for phase in _PHASES],
    )
    plot.add_tools(
        HoverTool(
            tooltips=[
                ("epoch", "@half"),
                *((phase, f"@{phase}{{0.000}} s") for phase in _PHASES),
                ("ratings per second", "@rate{0.0a}"),
            ]
        )
    )
    # Forty labels do not fit: only the users' half-epochs are labelled, with the epoch.
    plot.xaxis.formatter = CustomJSTickFormatter(
        code="const [epoch, side] = tick.split(' '); return side == 'users' ? epoch : ''"
    )
    _bars(plot)
    _legend_above(plot)
    return plot


def _partitions(source: ColumnDataSource) -> Any:
    plot = _plot("partitions", x_range=FactorRange())
    plot.vbar("partition", top="seconds", width=0.8, source=source, color="color")
    plot.add_tools(
        HoverTool(
            tooltips=[
                ("partition", "@partition"),
                ("seconds", "@seconds{0.000}"),
                ("ratings", "@ratings{0,0}"),
                ("worker", "@worker"),
            ]
        )
    )
    plot.xaxis.major_label_text_font_size = "0px"
    _bars(plot)
    return plot


def _bars(plot: Any) -> None:
    plot.y_range.start = 0
    plot.xaxis.major_tick_line_color = None
    plot.xgrid.grid_line_color = None


def _legend_above(plot: Any) -> None:
    legend = plot.legend[0]
    legend.orientation = "horizontal"
    legend.padding = legend.margin = 2
    legend.border_line_color = None
    plot.add_layout(legend, "above")


def _summary(state: RunState) -> str:
    info = state.info
    cells = {"epoch": f"{state.epoch} of {info.epochs}"}
    if state.history:
        last = state.history[-1]
        cells["training RMSE"] = f"{last.train_rmse:.4f}"
        if last.test_rmse is not None:
            cells["held-out RMSE"] = f"{last.test_rmse:.4f}"
        cells["objective"] = f"{last.objective:,.0f}"
        cells["seconds per epoch"] = f"{last.seconds:.3g}"
    if state.ratings_per_second is not None:
        cells["ratings per second"] = f"{state.ratings_per_second:,.0f}"
    left = state.seconds_left(time.time())
    if state.is_over:
        cells["state"] = "ended"
    elif left is not None:
        cells["time left"] = _clock(left)
    shown = "".join(
        f'<div style="margin-right:2.2em"><div style="color:#666;font-size:12px">{name}</div>'
        f'<div style="font-size:20px;white-space:nowrap">{value}</div></div>'
        for name, value in cells.items()
    )
    return (
        f'<div style="font-size:15px;margin-bottom:6px"><b>{_name(info.model)}</b> on '
        f"{_name(info.dataset)}</div>"
        f'<div style="display:flex;flex-wrap:wrap;row-gap:8px">{shown}</div>'
    )


def _about(state: RunState) -> str:
    info = state.info
    data = {
        "model": info.model,
        "dataset": info.dataset,
        "users": f"{info.n_users:,}",
        "items": f"{info.n_items:,}",
        "training ratings": f"{info.n_ratings:,}",
        "held-out ratings": f"{info.n_test:,}",
        "partitions": " and ".join(f"{len(p)} of {side}" for side, p in info.partitions.items()),
    }
    given = {name: value for name, value in info.settings.items() if value is not None}
    return _list("Data", data) + '<div style="height:12px"></div>' + _list("Settings", given)


def _list(title: str, values: Mapping[str, Any]) -> str:
    cells = "".join(
        f'<div style="overflow-wrap:anywhere"><span style="color:#666">'
        f"{escape(name.replace('_', ' '))}</span> {escape(str(value))}</div>"
        for name, value in values.items()
    )
    columns = "repeat(auto-fill, minmax(min(100%, 270px), 1fr))"
    return (
        f'<b style="font-size:15px">{title}</b><div style="display:grid;'
        f'grid-template-columns:{columns};gap:2px 20px;font-size:13px">{cells}</div>'
    )


def _name(path: str) -> str:
    return escape(PurePosixPath(path).name)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
