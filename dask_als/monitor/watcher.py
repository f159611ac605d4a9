"""The monitor's part in the driver: it sends figures to the scheduler in batches."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client

from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.run_events import HalfEpochTimes, Listener, Progress, RunInfo
from dask_als.monitor.plugin import HANDLER, WatchPlugin

# Four times as often takes more than 1 % of two cores.
_SECONDS_BETWEEN_BATCHES = 1.0
_MOST_SECONDS_OF_A_BATCH = 5.0
# A user who interrupts a training does not want to wait.
_MOST_SECONDS_AFTER_A_FAILURE = 0.3
_LOG = logging.getLogger(__name__)


@contextmanager
def watched(
    client: Client, tasks: str, info: RunInfo, listener: Listener
) -> Iterator[Callable[[EpochFigures], None]]:
    """Let the scheduler watch a training during the block; no effect if it cannot.

    Parameters
    ----------
    tasks : str
        The id of the client in the keys of the training's tasks.

    Yields
    ------
    callable
        Takes the figures of each epoch; returns at once.
    """
    run = uuid.uuid4().hex[:8]
    try:
        client.register_plugin(WatchPlugin(run, tasks, client.id, info))
    except Exception:
        # The scheduler lacks this package, has another version of it, or refuses plugins.
        yield lambda figures: None
        return
    teller = _Teller(client, run, listener)
    teller.start()
    try:
        yield teller.note
    except BaseException:
        teller.end(_MOST_SECONDS_AFTER_A_FAILURE)
        raise
    teller.end(_MOST_SECONDS_OF_A_BATCH)


class _Teller(threading.Thread):
    """Reports epochs to the scheduler once a second, and the answers to the listener."""

    def __init__(self, client: Client, run: str, listener: Listener) -> None:
        super().__init__(name="dask-als-teller", daemon=True)
        self._client = client
        self._watched_run = run
        self._listener = listener
        self._noted: deque[dict[str, Any]] = deque()
        self._ended = threading.Event()

    def note(self, figures: EpochFigures) -> None:
        """Add the figures of an epoch to the next batch."""
        self._noted.append(figures.to_json())

    def run(self) -> None:
        """Send batches until the end."""
        while not self._ended.wait(_SECONDS_BETWEEN_BATCHES):
            self._tell(_MOST_SECONDS_OF_A_BATCH, last=False)

    def end(self, most_seconds: float) -> None:
        """Send the last batch."""
        self._ended.set()
        self.join(most_seconds)
        self._tell(most_seconds, last=True)

    def _tell(self, most_seconds: float, *, last: bool) -> None:
        epochs = [self._noted.popleft() for _ in range(len(self._noted))]
        try:
            answer: dict[str, Any] = self._client.sync(
                getattr(self._client.scheduler, HANDLER),
                run=self._watched_run,
                epochs=epochs,
                last=last,
                callback_timeout=most_seconds,
            )
        except Exception:
            # The scheduler is gone or slow; the training itself reports that.
            self._noted.extendleft(reversed(epochs))
            return
        try:
            for half in answer["half_epochs"]:
                self._listener.half_epoch(HalfEpochTimes.from_json(half))
            if answer["progress"] and not last:
                self._listener.progress(Progress(**answer["progress"]))
        except Exception:
            # A listener that fails must not cost the model.
            _LOG.exception("the listener of this training failed; it gets no more events")
            self._listener = Listener()
