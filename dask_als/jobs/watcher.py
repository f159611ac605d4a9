"""The interface through which a job reports its progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from dask_als.core.run_events import Listener
from dask_als.data.prepare import Progress
from dask_als.jobs.result import StepResult


class Watcher(Protocol):
    """Receives the progress of a job."""

    def started(self, step: str, reason: str, replaced: list[str]) -> None:
        """Handle the start of a step, with its reason and the paths that it will replace."""
        ...

    def ended(self, step: StepResult) -> None:
        """Handle the end of a step."""
        ...

    def preparing(self) -> AbstractContextManager[Progress]:
        """Return the callback for the stages of `prepare`."""
        ...

    def training(self, n_epochs: int) -> AbstractContextManager[Listener]:
        """Return the listener for epochs and half-epochs."""
        ...

    def counting(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Return the callback for the number of completed partitions or tasks, and the total."""
        ...


class Unwatched:
    """A watcher that ignores all events."""

    def started(self, step: str, reason: str, replaced: list[str]) -> None:
        """Ignore the event."""

    def ended(self, step: StepResult) -> None:
        """Ignore the event."""

    @contextmanager
    def preparing(self) -> Iterator[Progress]:
        """Ignore stages."""
        yield lambda stage, done, total: None

    @contextmanager
    def training(self, n_epochs: int) -> Iterator[Listener]:
        """Ignore epochs."""
        yield Listener()

    @contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int, int], None]]:
        """Ignore counts."""
        yield lambda done, total: None
