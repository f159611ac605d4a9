"""The monitor's part on the scheduler: it records completed tasks and serves page and metrics.

Each training registers its own plugin and removes it at the end. The page exists while at least one
training is registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from distributed import SchedulerPlugin
from tornado.ioloop import IOLoop

from dask_als.core.epoch_figures import EpochFigures
from dask_als.core.run_events import RunInfo
from dask_als.dask_internals import add_page, dashboard_of, drop_plugin, remove_page
from dask_als.monitor.metrics import METRICS
from dask_als.monitor.run_state import RunState

HANDLER = "dask_als_tell"
"""The name of the scheduler's handler that calls `tell`."""

_MENU = "training"
_SECONDS_BETWEEN_LOOKS = 1.0


class WatchPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Watches one training.

    Parameters
    ----------
    run : str
        A unique name of the training.
    tasks : str
        The id of the client in the keys of its tasks.
    client : str
        The id of the training's client; the plugin is removed with it.
    info : RunInfo
    """

    def __init__(self, run: str, tasks: str, client: str, info: RunInfo) -> None:
        self.name = f"dask-als-{run}"
        self._run = run
        self._client = client
        self._state = RunState(info, tasks)
        self._scheduler: Any = None

    def start(self, scheduler: Any) -> None:
        """Start watching."""
        self._scheduler = scheduler
        _WATCHING[self._run] = self
        METRICS.show(self._run, self._state)
        try:
            _board_of(scheduler).put_up(self._run, self._state)
        except BaseException:
            self._end()
            raise

    def transition(self, key: Any, start: str, finish: str, *args: Any, **about: Any) -> None:
        """Record a task that has completed."""
        if finish == "memory" and start == "processing" and isinstance(key, str):
            self._state.task_ended(key, about["worker"], about["startstops"], self._threads)

    def tell(self, epochs: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
        """Record the figures of epochs; return the progress, and the completed half-epochs.

        Parameters
        ----------
        last : bool
            Whether the training has ended; the plugin is removed then.
        """
        for figures in epochs:
            self._state.record(EpochFigures(**figures))
        progress = self._state.progress()
        if last:
            self._end()
        return {
            "progress": None if progress is None else vars(progress),
            "half_epochs": [half.to_json() for half in self._state.take_half_epochs()],
        }

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Stop watching when the client has gone."""
        if client == self._client and not self._state.is_over:
            self._end()

    async def close(self) -> None:
        """Stop watching when the scheduler ends."""
        if not self._state.is_over:
            self._end()

    def _end(self) -> None:
        self._state.is_over = True
        METRICS.hide(self._run)
        _board_of(self._scheduler).take_down(self._run)
        drop_plugin(self._scheduler, self.name)
        _WATCHING.pop(self._run, None)

    def _threads(self) -> Mapping[str, int]:
        return {address: worker.nthreads for address, worker in self._scheduler.workers.items()}


def tell(run: str, epochs: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    """Call `WatchPlugin.tell` of a training; drivers call this."""
    return _WATCHING[run].tell(epochs, last=last)


# The plugins of all schedulers of this process, by the name of the run.
_WATCHING: dict[str, WatchPlugin] = {}


class _Board:
    """The page of a scheduler with a dashboard, which exists while there are trainings."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._runs: dict[str, RunState] = {}
        self._page: Any = None
        self._menu: list[str] = []

    def put_up(self, run: str, state: RunState) -> None:
        self._runs[run] = state
        # Not a method of a plugin, because Dask keeps handlers forever.
        self._scheduler.handlers[HANDLER] = tell
        dashboard = dashboard_of(self._scheduler)
        if self._page is None and dashboard is not None:
            self._open(dashboard.prefix)

    def take_down(self, run: str) -> None:
        self._runs.pop(run, None)
        if self._runs:
            return
        self._scheduler.handlers.pop(HANDLER, None)
        if self._page is not None:
            self._close()

    def _open(self, prefix: str) -> None:
        # Only a scheduler with a dashboard has Bokeh.
        from dask_als.monitor.page import document

        self._page, self._menu = add_page(
            self._scheduler,
            f"/{_MENU}",
            prefix,
            lambda scheduler, extra, doc: document(self._runs, extra, doc),
        )
        self._page.initialize(IOLoop.current())
        self._page.start()
        self._scheduler.http_application.add_application(self._page)
        self._menu.append(_MENU)

    def _close(self) -> None:
        page, self._page = self._page, None
        self._menu.remove(_MENU)
        remove_page(self._scheduler, page)
        _stop_unseen(page)


def _stop_unseen(page: Any) -> None:
    """Stop serving a removed page once no browser shows it any more.

    Until then, a browser shows the end of the training, and later trainings.
    """
    if page.get_sessions(f"/{_MENU}"):
        IOLoop.current().call_later(_SECONDS_BETWEEN_LOOKS, _stop_unseen, page)
    else:
        # Without waiting, as this runs in the event loop that it would wait for.
        page.stop(wait=False)


_BOARDS: WeakKeyDictionary[Any, _Board] = WeakKeyDictionary()


def _board_of(scheduler: Any) -> _Board:
    return _BOARDS.setdefault(scheduler, _Board(scheduler))
