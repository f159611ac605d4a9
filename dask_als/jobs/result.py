"""The result of a job: steps, times and paths; written to ``result.json`` after every step."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal

from dask_als.cluster import interrupts
from dask_als.core import outputs, storage
from dask_als.core.output_lock import held
from dask_als.core.ownership import JOB_RESULT
from dask_als.errors import DaskALSError
from dask_als.jobs.job_file import Job


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The result of one step.

    Attributes
    ----------
    step : str
    status : {"done", "skipped", "failed"}
        A step is skipped if its output exists and was made from the same inputs and settings.
    seconds : float
    path : str
        Path of the output.
    reason : str
        Why the step ran, was skipped, or failed.
    replaced : list of str
        Paths of earlier outputs that were replaced or removed.
    figures : dict
        Figures of the output by name.
    """

    step: str
    status: Literal["done", "skipped", "failed"]
    seconds: float
    path: str
    reason: str
    replaced: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class JobResult:
    """The result of a job so far; `recorded` yields it and writes it to disk.

    Attributes
    ----------
    run_id : str
        Identifies this run among all runs of the job.
    job : str
    status : {"running", "succeeded", "failed"}
        A killed run keeps the status running.
    exit_code : int or None
        Exit code of ``dask-als run``; None while it runs.
    error : str or None
        One line.
    started : str
        Start time, ISO 8601, UTC.
    seconds : float
    dask_als, python : str
        Versions.
    steps : list of StepResult
    """

    run_id: str
    job: str
    path: str
    status: Literal["running", "succeeded", "failed"] = "running"
    exit_code: int | None = None
    error: str | None = None
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: float = 0.0
    dask_als: str = field(default_factory=lambda: version("dask-als"))
    python: str = sys.version.split()[0]
    steps: list[StepResult] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)

    def write(self) -> None:
        """Replace ``result.json`` atomically."""
        outputs.replace_json(self.path, JOB_RESULT, self.to_json())

    def add(self, step: StepResult) -> None:
        """Record a step that has ended."""
        self.steps.append(step)
        self.write()


@contextmanager
def recorded(job: Job, run_id: str | None = None) -> Iterator[JobResult]:
    """Yield the record of a run, and write its status at the end of the block.

    Parameters
    ----------
    run_id : str, optional
        A random one by default.

    Raises
    ------
    InputError
        If the output of the job cannot be written, or another run is writing to it.
    """
    run_id = run_id or uuid.uuid4().hex[:12]
    with held(job.output, run_id):
        result = JobResult(run_id=run_id, job=job.name, path=storage.absolute(job.result))
        yield from _written(result)


def _written(result: JobResult) -> Iterator[JobResult]:
    start = time.monotonic()
    result.write()
    try:
        yield result
        result.status, result.exit_code = "succeeded", 0
    except BaseException as error:
        result.status, result.exit_code = "failed", _exit_code(error)
        result.error = in_a_line(error)
        raise
    finally:
        result.seconds = round(time.monotonic() - start, 3)
        result.write()


def in_a_line(error: BaseException) -> str:
    """Return the message of an error as one line, with the class name of unexpected errors."""
    if isinstance(error, KeyboardInterrupt):
        return interrupts.word_for(error)
    text = " ".join(str(error).split())
    return text if isinstance(error, DaskALSError) else f"{type(error).__name__}: {text}"


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return interrupts.exit_code(error)
    return error.exit_code if isinstance(error, DaskALSError) else 1
