"""Logs of `train` and `run`: text for people, or one JSON object per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import IO, Any

import pandas as pd

from dask_als.cli import console
from dask_als.core import storage
from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.run_events import HalfEpochTimes, Listener, ignore
from dask_als.data.prepare import Progress
from dask_als.jobs.result import JobResult, StepResult
from dask_als.model.initial import InitialModel
from dask_als.monitor.trace import traced

OnHalfEpoch = Callable[[HalfEpochTimes], None]


class TextLog:
    """Lines, bars and tables in a terminal.

    Parameters
    ----------
    screen : console.Screen
    half_epoch : callable, optional
        Called after each half-epoch of a training.
    """

    def __init__(self, screen: console.Screen, half_epoch: OnHalfEpoch = ignore) -> None:
        self._screen = screen
        self._half_epoch = half_epoch

    def say(self, text: str) -> None:
        """Print a line."""
        self._screen.say(text)

    def started(self, step: str, reason: str, replaced: list[str]) -> None:
        """Print that a step of a job starts, and what it replaces."""
        self.say(f"{step}: {reason}")
        for path in replaced:
            self.say(f"{step}: replaces {path}")

    def ended(self, step: StepResult) -> None:
        """Print the result of a step."""
        how = f"{step.seconds:.2f} s" if step.status == "done" else f"skipped, {step.reason}"
        self.say(f"{step.step}: {how}")
        self.say(f"{step.step}: {_in_words(step.figures)}")

    def preparing(self) -> AbstractContextManager[Progress]:
        """Show the stages of `prepare`."""
        return console.preparing(self._screen)

    @contextmanager
    def training(self, n_epochs: int) -> Iterator[Listener]:
        """Show epochs and half-epochs."""
        with console.training(self._screen, n_epochs) as listener:
            yield replace(listener, started_from=self._started_from, half_epoch=self._half_epoch)

    def _started_from(self, initial: InitialModel) -> None:
        self.say(f"start    {initial.path}: {described_start(initial)}")

    def counting(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Show a progress bar that counts."""
        return console.counting(self._screen, what)

    def model(self, path: str, figures: EpochFigures) -> None:
        """Print the figures of a model and its path."""
        self.say(console.described(figures))
        self.say(f"model    {storage.absolute(path)}")

    def result(self, result: JobResult) -> None:
        """Print the steps of a job, their times and the paths of their results."""
        frame = pd.DataFrame(
            [(step.step, step.status, step.seconds) for step in result.steps],
            columns=["step", "status", "seconds"],
        )
        self._screen.print(console.table_of(frame, f"Job {result.job}, run {result.run_id}"))
        for step in result.steps:
            self.say(f"{step.step:9} {step.path}")
        self.say(f"{'result':9} {result.path}")


class JsonLog:
    """One JSON object per line: `time`, `event`, and the values of the event.

    Parameters
    ----------
    file : text file
    half_epoch : callable, optional
        Called after each half-epoch of a training.
    """

    def __init__(self, file: IO[str], half_epoch: OnHalfEpoch = ignore) -> None:
        self._file = file
        self._half_epoch = half_epoch

    def say(self, text: str) -> None:
        """Write a message that is not another event."""
        self._write("message", message=text)

    def started(self, step: str, reason: str, replaced: list[str]) -> None:
        """Write that a step of a job starts, and what it replaces."""
        self._write("started", step=step, reason=reason, replaces=replaced)

    def ended(self, step: StepResult) -> None:
        """Write the result of a step."""
        self._write("ended", **asdict(step))

    @contextmanager
    def preparing(self) -> Iterator[Progress]:
        """Write each completed stage of `prepare`."""

        def show(stage: str, done: int, total: int) -> None:
            if done == total:
                self._write("prepared", stage=stage, parts=total)

        yield show

    @contextmanager
    def training(self, n_epochs: int) -> Iterator[Listener]:
        """Write each epoch."""

        def show(figures: EpochFigures) -> None:
            self._write("epoch", epochs=n_epochs, **figures.to_json())

        def show_start(initial: InitialModel) -> None:
            self._write("started_from", **asdict(initial))

        yield Listener(started_from=show_start, epoch=show, half_epoch=self._half_epoch)

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Write that a count is complete."""

        def show(done: int, total: int) -> None:
            if done == total:
                self._write("counted", what=what, total=total)

        yield show

    def model(self, path: str, figures: EpochFigures) -> None:
        """Write the figures of a model and its path."""
        self._write("model", path=storage.absolute(path), **figures.to_json())

    def result(self, result: JobResult) -> None:
        """Write the result of a job."""
        self._write("result", **result.to_json())

    def _write(self, event: str, **values: Any) -> None:
        line = {"time": datetime.now(UTC).isoformat(), "event": event, **values}
        print(json.dumps(line), file=self._file, flush=True)


def described_start(initial: InitialModel) -> str:
    """Return in words which rows a training takes over from a model."""
    return ", ".join(
        f"{rows.known:,} {name} known, {rows.new:,} new, {rows.gone:,} gone"
        for name, rows in (("users", initial.users), ("items", initial.items))
    )


def _in_words(figures: dict[str, Any]) -> str:
    """Return a text of figures by name; a nested group is in parentheses."""
    words = []
    for name, value in figures.items():
        if isinstance(value, dict):
            words.append(f"{name} ({_in_words(value)})")
        elif value is not None:
            words.append(
                f"{name} {value:,.4f}" if isinstance(value, float) else f"{name} {value:,}"
            )
    return ", ".join(words)


Log = TextLog | JsonLog


@contextmanager
def log_of(log_format: str, trace: str | None, *, to_stderr: bool = False) -> Iterator[Log]:
    """Yield the log that the options select.

    Parameters
    ----------
    log_format : str
        ``text`` or ``json``.
    trace : str, optional
        A file for the times of half-epochs.
    to_stderr : bool, optional
        Write to standard error, because standard output is for the result.

    Raises
    ------
    InputError
        If the trace cannot be written.
    """
    with traced(trace) if trace else nullcontext(ignore) as half_epoch:
        if log_format == "json":
            yield JsonLog(sys.stderr if to_stderr else sys.stdout, half_epoch)
        else:
            yield TextLog(console.Screen(stderr=to_stderr), half_epoch)
