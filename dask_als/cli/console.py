"""Progress bars, figures and tables for a terminal."""

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
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.run_events import Listener
from dask_als.core.run_events import Progress as HalfEpochProgress
from dask_als.evaluation.calibration import Calibration
from dask_als.evaluation.results import Errors, Evaluation, Ranking
from dask_als.planning.memory import in_words
from dask_als.planning.plan import Plan
from dask_als.tuning.search import Tuning


class Screen(Console):
    """A terminal without markup and highlighting; control characters are made visible.

    Outside a terminal, tables are as wide as their contents.

    Parameters
    ----------
    **options
        Options of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, markup=False, emoji=False, highlight=False)
        if not self.is_terminal and "width" not in options:
            self.width = _UNLIMITED_WIDTH

    def render_str(self, text: str, **style: Any) -> Text:
        """Convert a string to printable text: a line, or the title or a cell of a table."""
        return super().render_str(printable(text), **style)

    def say(self, text: str) -> None:
        """Print a line without wrapping it."""
        self.print(text, soft_wrap=True)


STAGES = ("read", "shuffle", "by user", "by item", "check")
_UNLIMITED_WIDTH = 1 << 20


def described(figures: EpochFigures) -> str:
    """Return a line with the figures of an epoch."""
    test = "" if figures.test_rmse is None else f"  test RMSE {figures.test_rmse:.4f}"
    return f"objective {figures.objective:,.2f}  RMSE {figures.train_rmse:.4f}{test}"


@contextmanager
def preparing(console: Screen) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar for each stage of `prepare`, and for later stages; only in a terminal."""
    with _bar(console, "") as progress:
        tasks = {stage: progress.add_task(f"{stage:8}", total=None) for stage in STAGES}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(f"{stage:8}", total=None)
            progress.update(tasks[stage], completed=done, total=total)

        yield show


@contextmanager
def training(console: Screen, n_epochs: int) -> Iterator[Listener]:
    """Show a training: a bar of epochs and half-epochs in a terminal, else a line per epoch."""
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
            # Half-epochs of the next epoch may have completed before this epoch's figures arrive.
            completed = max(shown.completed, figures.epoch)
            progress.update(task, completed=completed, figures=described(figures))

        def show_half_epoch(current: HalfEpochProgress) -> None:
            partition = f"{current.done:>{len(str(current.total))}}/{current.total}"
            text = f"epoch, {current.side} {partition}"
            progress.update(task, completed=current.epochs, description=text)

        yield Listener(epoch=show, progress=show_half_epoch)


@contextmanager
def counting(console: Screen, what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar that counts; nothing if the output is not a terminal."""
    with _bar(console, "") as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def tuning(console: Screen) -> Iterator[Callable[[int, int, float | None], None]]:
    """Show the number of completed trainings of a search and the best value so far."""
    with _bar(console, "{task.fields[best]}") as progress:
        task = progress.add_task("tune", total=None, best="")

        def show(done: int, total: int, best: float | None) -> None:
            best_text = "" if best is None else f"best {best:.4f}"
            progress.update(task, completed=done, total=total, best=best_text)
            if not console.is_terminal and best_text:
                console.say(f"training {done:>4}/{total}  {best_text}")

        yield show


def described_tuning(tuning: Tuning, n_rows: int = 10) -> pd.DataFrame:
    """Return the best trials of a search as a table, with the settings that vary between them."""
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
    """A progress bar with tqdm's interface, which pooch requires."""

    def __init__(self, console: Screen) -> None:
        self._progress = _bar(console, "")
        self._task = self._progress.add_task("download", total=None)
        self.total = 0

    def update(self, n_bytes: int) -> None:
        """Advance by a number of bytes."""
        self._progress.start()
        self._progress.update(self._task, advance=n_bytes, total=self.total)

    def reset(self) -> None:
        """Reset the bar to zero."""
        self._progress.reset(self._task)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()


def table_of(frame: pd.DataFrame, title: str) -> Table:
    """Return a data frame as a table to print."""
    title = printable(title)
    table = Table(title=title, title_justify="left", title_style="bold", min_width=cell_len(title))
    for name in frame.columns:
        is_number = pd.api.types.is_numeric_dtype(frame[name])
        # In a narrow terminal, long values continue on the next line of their cell.
        table.add_column(str(name), justify="right" if is_number else "left", overflow="fold")
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
        "factors of both sides": in_words(memory.states),
        f"temporaries ({memory.phase})": in_words(memory.temporaries),
        "peak of a worker": in_words(memory.peak),
        "memory limit": f"{in_words(shape.memory)}{'' if plan.fits else ': too little'}"
        if shape.memory
        else "none",
        "model on disk": in_words(plan.disk.model),
        "checkpoints and samples": in_words(plan.disk.checkpoints),
        "partitions": f"{have}; best {plan.best_partitions}",
        "tasks per epoch": f"{plan.tasks_per_epoch:,}",
        "seconds per epoch": f"{plan.epoch_seconds:.3g}",
        "seconds in total": f"{plan.training_seconds:.3g}",
    }
    return table_of(pd.DataFrame({"resource": list(rows), "estimate": list(rows.values())}), title)


def described_evaluation(evaluation: Evaluation) -> list[tuple[str, pd.DataFrame]]:
    """Return an evaluation as tables with titles: errors, ranked lists, calibration."""
    cold = (
        f", {evaluation.n_cold:,} of them scored by the fallback: {evaluation.cold_users:,} users "
        f"and {evaluation.cold_items:,} items have no training ratings"
    )
    lists = (
        f"Ranked lists of {evaluation.settings.k} items for {evaluation.n_lists:,} users; a "
        f"relevant item has {evaluation.held_out_popularity:,.0f} training ratings on average"
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
            "Share of held-out ratings inside their predictive intervals; the mean standard "
            f"deviation is {evaluation.calibration.deviation:.3f}"
        )
        tables.append((title, _intervals(evaluation.calibration)))
    return tables


def _intervals(calibration: Calibration) -> pd.DataFrame:
    columns = {f"{each.level:.0%}": [each.coverage] for each in calibration.intervals}
    return pd.DataFrame(columns, index=["model"]).rename_axis("").reset_index()


def _figures_by_name(figures: Mapping[str, Errors | Ranking]) -> pd.DataFrame:
    columns = {name: asdict(measured) for name, measured in figures.items()}
    return pd.DataFrame(columns).rename_axis("").reset_index()


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
