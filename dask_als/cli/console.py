"""What a person sees in the terminal: progress, figures and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dask_als.cli.printable import printable
from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.run_events import Listener
from dask_als.core.run_events import Progress as HalfEpochProgress
from dask_als.evaluation.calibration import Calibration
from dask_als.evaluation.results import Errors, Evaluation, Ranking
from dask_als.planning.memory import in_words
from dask_als.planning.plan import Plan
from dask_als.tuning.search import Tuning


class Screen(Console):
    """A terminal on which text is text: no markup, no highlighting, control characters visible.

    Parameters
    ----------
    **options
        As of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **style: Any) -> Text:
        """Make the text to print of any text: a line, or a table's title or cell."""
        return super().render_str(printable(text), **style)

    def say(self, text: str) -> None:
        """Print a line, however long."""
        self.print(text, soft_wrap=True)


STAGES = ("read", "shuffle", "by user", "by item", "check")


def described(figures: EpochFigures) -> str:
    """Return an epoch's figures in words."""
    test = "" if figures.test_rmse is None else f"  test RMSE {figures.test_rmse:.4f}"
    return f"objective {figures.objective:,.2f}  RMSE {figures.train_rmse:.4f}{test}"


@contextmanager
def preparing(console: Screen) -> Iterator[Callable[[str, int, int], None]]:
    """Show how far `prepare` is, and stages after it; nothing where output is no terminal."""
    with _bar(console, "") as progress:
        tasks = {stage: progress.add_task(f"{stage:8}", total=None) for stage in STAGES}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(f"{stage:8}", total=None)
            progress.update(tasks[stage], completed=done, total=total)

        yield show


@contextmanager
def training(console: Screen, n_epochs: int) -> Iterator[Listener]:
    """Show a training: a bar of epochs and half-epochs in a terminal, a line an epoch elsewhere."""
    if not console.is_terminal:
        yield Listener(
            epoch=lambda figures: console.say(
                f"epoch {figures.epoch:>4}/{n_epochs}  {described(figures)}"
                f"  {figures.seconds:.2f} s"
            )
        )
        return
    with _bar(console, "{task.fields[figures]}") as progress:
        task = progress.add_task("epoch", total=n_epochs, figures="")
        (shown,) = progress.tasks

        def show(figures: EpochFigures) -> None:
            # The half-epochs after it are on the way already.
            completed = max(shown.completed, figures.epoch)
            progress.update(task, completed=completed, figures=described(figures))

        def show_half_epoch(its: HalfEpochProgress) -> None:
            partition = f"{its.done:>{len(str(its.total))}}/{its.total}"
            text = f"epoch, {its.side} {partition}"
            progress.update(task, completed=its.epochs, description=text)

        yield Listener(epoch=show, progress=show_half_epoch)


@contextmanager
def counting(console: Screen, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of something are done; nothing where the output is not a terminal."""
    with _bar(console, "") as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def tuning(console: Screen) -> Iterator[Callable[[int, int, float | None], None]]:
    """Show how many trainings of a search are done and the best measure so far."""
    with _bar(console, "{task.fields[best]}") as progress:
        task = progress.add_task("tune", total=None, best="")

        def show(done: int, total: int, best: float | None) -> None:
            told = "" if best is None else f"best {best:.4f}"
            progress.update(task, completed=done, total=total, best=told)
            if not console.is_terminal and told:
                console.say(f"training {done:>4}/{total}  {told}")

        yield show


def described_tuning(tuning: Tuning, n_rows: int = 10) -> pd.DataFrame:
    """Return the best trials of a search as a table, each with the settings that vary."""
    ended = [trial for trial in tuning.trials if trial.value is not None and not trial.pruned]
    ended.sort(key=lambda trial: trial.value or 0.0, reverse=tuning.measure == "ndcg")
    rows = [{**trial.settings.to_json(), tuning.measure: trial.value} for trial in ended]
    frame = pd.DataFrame(rows, index=[trial.number for trial in ended]).dropna(axis=1, how="all")
    varies = [name for name in frame.columns if frame[name].nunique(dropna=False) > 1]
    shown = [*(name for name in varies if name != tuning.measure), tuning.measure]
    short = {name: name.replace("regularization", "reg.").replace("_", " ") for name in shown}
    return frame[shown].head(n_rows).rename(columns=short).rename_axis("trial").reset_index()


def _bar(console: Screen, text: str) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None if not text else 24),
        MofNCompleteColumn(),
        TextColumn(text, markup=False),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
    )


class Download:
    """A progress bar with tqdm's interface, as pooch wants it."""

    def __init__(self, console: Screen) -> None:
        self._progress = _bar(console, "")
        self._task = self._progress.add_task("download", total=None)
        self.total = 0

    def update(self, n_bytes: int) -> None:
        """Add bytes."""
        self._progress.start()
        self._progress.update(self._task, advance=n_bytes, total=self.total)

    def reset(self) -> None:
        """Start over."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def table_of(frame: pd.DataFrame, title: str) -> Table:
    """Return a data frame as a table to print."""
    title = printable(title)
    table = Table(title=title, title_justify="left", title_style="bold", min_width=cell_len(title))
    for name in frame.columns:
        is_number = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(str(name), justify="right" if is_number else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def described_plan(plan: Plan, title: str) -> Table:
    """Return a plan as a table to print."""
    memory, shape = plan.memory, plan.shape
    have = " and ".join(f"{count} of {side}" for side, count in plan.partitions.items())
    rows = {
        "process": in_words(memory.process),
        "blocks of ratings": in_words(memory.blocks),
        "states of both sides": in_words(memory.states),
        f"temporaries ({memory.phase})": in_words(memory.temporaries),
        "a worker at its peak": in_words(memory.peak),
        "its limit": f"{in_words(shape.memory)}{'' if plan.fits else ': too little'}"
        if shape.memory
        else "none",
        "the model on disk": in_words(plan.disk.model),
        "checkpoints and samples": in_words(plan.disk.checkpoints),
        "partitions": f"{have}; best {plan.best_partitions}",
        "tasks an epoch": f"{plan.tasks_per_epoch:,}",
        "seconds an epoch": f"{plan.epoch_seconds:.3g}",
        "seconds in all": f"{plan.training_seconds:.3g}",
    }
    return table_of(pd.DataFrame({"needs": list(rows), "about": list(rows.values())}), title)


def described_evaluation(evaluation: Evaluation) -> list[tuple[str, pd.DataFrame]]:
    """Return an evaluation as titled tables: errors and ranked lists."""
    cold = (
        f", {evaluation.n_cold:,} of them scored by the fallback: {evaluation.cold_users:,} users "
        f"and {evaluation.cold_items:,} items have no training ratings"
    )
    lists = (
        f"Lists of {evaluation.settings.k} for {evaluation.n_lists:,} users; a relevant item has "
        f"{evaluation.held_out_popularity:,.0f} training ratings on average"
    )
    tables = [
        (
            f"Errors on {evaluation.n_test:,} held-out ratings{cold if evaluation.n_cold else ''}",
            _figures_by_name(evaluation.errors),
        ),
        (lists, _figures_by_name(evaluation.ranking)),
    ]
    if evaluation.calibration is not None:
        title = (
            "Share of held-out ratings in their intervals; a rating's standard deviation is "
            f"{evaluation.calibration.deviation:.3f} on average"
        )
        tables.append((title, _intervals(evaluation.calibration)))
    return tables


def _intervals(calibration: Calibration) -> pd.DataFrame:
    columns = {f"{its.level:.0%}": [its.coverage] for its in calibration.intervals}
    return pd.DataFrame(columns, index=["model"]).rename_axis("").reset_index()


def _figures_by_name(figures: Mapping[str, Errors | Ranking]) -> pd.DataFrame:
    columns = {name: asdict(its) for name, its in figures.items()}
    return pd.DataFrame(columns).rename_axis("").reset_index()


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
