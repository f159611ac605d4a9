"""``dask-als run``."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from dask_als.commands.computing import computing
from dask_als.commands.options import cluster_option, connection_options

if TYPE_CHECKING:
    from dask_als.history import EpochFigures
    from dask_als.job_result import JobResult, StepResult
    from dask_als.prepare import Progress


@click.command()
@click.argument("job_file", metavar="JOB.toml")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a value of the job file."
)
@click.option("--run-id", help="Name of this run in result.json.  [default: a random one]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@cluster_option
@connection_options
def run(
    job_file: str, changes: tuple[str, ...], run_id: str | None, as_json: bool, **options: Any
) -> None:
    r"""Run the steps of a job file; skip what is made already, go on with what was broken off.

    \b
    Example:
        dask-als run jobs/notebook.toml --set train.rank=10
    """
    from dask_als.job_file import read_job
    from dask_als.job_result import recorded
    from dask_als.run_job import run_job
    from dask_als.source import open_source

    job = read_job(job_file, changes)
    screen = Console(stderr=as_json)
    size = {**asdict(job.cluster.local), "kubernetes": job.cluster.kubernetes}
    with recorded(job, run_id) as result:
        seen = list(open_source(job.source.path).files) if "prepare" in job.steps else []
        cluster = {**size, **options}
        with computing(screen, cluster, shared=job.output, seen=seen) as executor:
            run_job(job, executor, result, watcher=_Shown(screen))
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        _say(screen, result)


class _Shown:
    """Shows in the terminal how a job goes."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen

    def started(self, step: str, reason: str, replaced: list[str]) -> None:
        self._print(f"{step}: {reason}")
        for path in replaced:
            self._print(f"{step}: replaces {path}")

    def ended(self, step: StepResult) -> None:
        how = f"{step.seconds:.2f} s" if step.status == "done" else f"skipped, {step.reason}"
        self._print(f"{step.step}: {how}")
        self._print(f"{step.step}: {_in_words(step.figures)}")

    def preparing(self) -> AbstractContextManager[Progress]:
        from dask_als import console

        return console.preparing(self._screen)

    def training(self, n_epochs: int) -> AbstractContextManager[Callable[[EpochFigures], None]]:
        from dask_als import console

        return console.training(self._screen, n_epochs)

    def counting(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        from dask_als import console

        return console.counting(self._screen, what)

    def _print(self, line: str) -> None:
        self._screen.print(line, highlight=False, soft_wrap=True)


def _in_words(figures: dict[str, Any]) -> str:
    """Return named numbers, and groups of them, as text."""
    words = []
    for name, value in figures.items():
        if isinstance(value, dict):
            words.append(f"{name} ({_in_words(value)})")
        elif value is not None:
            words.append(
                f"{name} {value:,.4f}" if isinstance(value, float) else f"{name} {value:,}"
            )
    return ", ".join(words)


def _say(screen: Console, result: JobResult) -> None:
    """Say what ran, what it took and where things are."""
    import pandas as pd

    from dask_als import console

    frame = pd.DataFrame(
        [(step.step, step.status, step.seconds) for step in result.steps],
        columns=["step", "status", "seconds"],
    )
    screen.print(console.table_of(frame, f"Job {result.job}, run {result.run_id}"))
    for step in result.steps:
        screen.print(f"{step.step:9} {step.path}", highlight=False, soft_wrap=True)
    screen.print(f"{'result':9} {result.path}", highlight=False, soft_wrap=True)
