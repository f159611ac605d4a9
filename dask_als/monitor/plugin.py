"""The part of watching that lives on the scheduler: it sees tasks end, and serves page and metrics.

Each training brings a plugin of its own and takes it away again; the page is there as long as
there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from distributed import SchedulerPlugin
from tornado.ioloop import IOLoop

from dask_als.core.epoch_metrics import EpochFigures
from dask_als.core.run_events import RunInfo
from dask_als.dask_internals import add_page, dashboard_of, drop_plugin, remove_page
from dask_als.monitor.metrics import METRICS
from dask_als.monitor.run_state import RunState

HANDLER = "dask_als_tell"
"""How a driver calls `tell`."""

_MENU = "training"
_SECONDS_BETWEEN_LOOKS = 1.0


class WatchPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Watches one training.

    Parameters
    ----------
    run : str
        A name that no other training has.
    tasks : str
        The mark of its tasks' keys.
    client : str
        Whose training it is; it ends with its client.
    info : RunInfo
    """

    def __init__(self, run: str, tasks: str, client: str, info: RunInfo) -> None:
        self.name = f"dask-als-{run}"
        self._run = run
        self._client = client
        self._state = RunState(info, tasks)
        self._scheduler: Any = None

    def start(self, scheduler: Any) -> None:
        """Begin to watch."""
        self._scheduler = scheduler
        _WATCHING[self._run] = self
        METRICS.show(self._run, self._state)
        try:
            _board_of(scheduler).put_up(self._run, self._state)
        except BaseException:
            self._end()
            raise

    def transition(self, key: Any, start: str, finish: str, *args: Any, **about: Any) -> None:
        """Take in what becomes of a task."""
        if finish == "memory" and start == "processing" and isinstance(key, str):
            self._state.task_ended(key, about["worker"], about["startstops"], self._threads)

    def tell(self, epochs: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
        """Take in the figures of epochs; return how far it is, and half-epochs that have ended.

        Parameters
        ----------
        last : bool
            Whether the training has ended, with which the plugin goes.
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
        """End with the client."""
        if client == self._client and not self._state.is_over:
            self._end()

    async def close(self) -> None:
        """End with the scheduler."""
        if not self._state.is_over:
            self._end()

    def _end(self) -> None:
        self._state.is_over = True
        METRICS.hide(self._run)
        _board_of(self._scheduler).take_down(self._run)
        drop_plugin(self._scheduler, self.name)
        _WATCHING.pop(self._run, None)

    def _threads(self) -> Mapping[str, int]:
        return {address: its.nthreads for address, its in self._scheduler.workers.items()}


def tell(run: str, epochs: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    """Answer a driver: `WatchPlugin.tell` of the training that it watches."""
    return _WATCHING[run].tell(epochs, last=last)


# By the name of the run, on all schedulers of this process.
_WATCHING: dict[str, WatchPlugin] = {}


class _Board:
    """The page of a scheduler: there while something is trained, if there is a dashboard."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._runs: dict[str, RunState] = {}
        self._page: Any = None
        self._menu: list[str] = []

    def put_up(self, run: str, state: RunState) -> None:
        self._runs[run] = state
        # Not a method of a plugin: Dask never forgets a handler.
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
    """Stop serving a page that is taken down when no browser shows it any more.

    Until then a browser sees the end of the training, and the next ones.
    """
    if page.get_sessions(f"/{_MENU}"):
        IOLoop.current().call_later(_SECONDS_BETWEEN_LOOKS, _stop_unseen, page)
    else:
        # Its loop runs: there is nothing to wait on it with.
        page.stop(wait=False)


_BOARDS: WeakKeyDictionary[Any, _Board] = WeakKeyDictionary()


def _board_of(scheduler: Any) -> _Board:
    return _BOARDS.setdefault(scheduler, _Board(scheduler))
