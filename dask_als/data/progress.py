"""How far the stages of `prepare` are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_als.core.executor import Executor

Progress = Callable[[str, int, int], None]
"""Called with the stage, the number of its completed tasks and the number of all its tasks."""


def completed(executor: Executor, progress: Progress, stage: str, handles: list[Any]) -> None:
    """Wait for tasks and report progress."""
    progress(stage, 0, len(handles))
    for done, _ in enumerate(executor.as_completed(handles), start=1):
        progress(stage, done, len(handles))
