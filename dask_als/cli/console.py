"""Progress bars, figures and tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
