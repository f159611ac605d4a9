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

from dask_als.history import EpochFigures
from dask_als.monitor.metrics import METRICS
from dask_als.monitor.run import RunInfo, RunState

_MENU = "training"
_SECONDS_FOR_LAST_LOOKS = 1.5


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
        self.name = handler_name(run)
        self._run = run
        self._client = client
        self._state = RunState(info, tasks)
        self._scheduler: Any = None

    def start(self, scheduler: Any) -> None:
        """Begin to watch."""
        self._scheduler = scheduler
        scheduler.handlers[self.name] = self.tell
        METRICS.show(self._run, self._state)
        _board_of(scheduler).put_up(self._run, self._state)

    def transition(self, key: Any, start: str, finish: str, *args: Any, **about: Any) -> None:
        """Take in what becomes of a task."""
        if finish == "memory" and start == "processing" and isinstance(key, str):
            self._state.task_ended(key, about["worker"], about["startstops"], self._threads)

    def tell(self, epochs: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
        """Take in the figures of epochs; return how far the training is.

        Parameters
        ----------
        last : bool
            Whether the training has ended; the plugin goes, and half-epochs are returned as well.
        """
        for figures in epochs:
            self._state.told(EpochFigures(**figures))
        if last:
            self._end()
            return {"half_epochs": [half.to_json() for half in self._state.half_epochs]}
        progress = self._state.progress()
        return {"progress": None if progress is None else vars(progress)}

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
        self._scheduler.handlers.pop(self.name, None)
        self._scheduler.plugins.pop(self.name, None)

    def _threads(self) -> Mapping[str, int]:
        return {address: its.nthreads for address, its in self._scheduler.workers.items()}


def handler_name(run: str) -> str:
    """Return the name by which the scheduler knows the plugin of a training, and its handler."""
    return f"dask-als-{run}"


class _Board:
    """The page of a scheduler: there while something is trained, if there is a dashboard."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._runs: dict[str, RunState] = {}
        self._page: Any = None
        self._menu: list[str] = []

    def put_up(self, run: str, state: RunState) -> None:
        self._runs[run] = state
        dashboard = self._dashboard()
        if self._page is None and dashboard is not None:
            self._open(dashboard.prefix)

    def take_down(self, run: str) -> None:
        self._runs.pop(run, None)
        if not self._runs and self._page is not None:
            self._close()

    def _dashboard(self) -> Any:
        # By name: Bokeh is not imported where there is no dashboard.
        for application in self._scheduler.http_application.applications:
            if type(application).__name__ == "DaskBokehTornado":
                return application
        return None

    def _open(self, prefix: str) -> None:
        # Where there is a dashboard, Bokeh is there, and imported.
        from distributed.dashboard.core import BokehApplication
        from distributed.dashboard.scheduler import template_variables

        from dask_als.monitor.page import document

        variables = template_variables(self._scheduler)
        self._page = BokehApplication(
            {f"/{_MENU}": lambda scheduler, extra, doc: document(self._runs, extra, doc)},
            self._scheduler,
            prefix=prefix,
            template_variables=variables,
        )
        self._page.initialize(IOLoop.current())
        self._page.start()
        self._scheduler.http_application.add_application(self._page)
        self._menu = variables["pages"]
        self._menu.append(_MENU)

    def _close(self) -> None:
        page, self._page = self._page, None
        self._menu.remove(_MENU)
        self._scheduler.http_application.applications.remove(page)
        # A browser that is looking gets to see the end.
        IOLoop.current().call_later(_SECONDS_FOR_LAST_LOOKS, page.stop)


_BOARDS: WeakKeyDictionary[Any, _Board] = WeakKeyDictionary()


def _board_of(scheduler: Any) -> _Board:
    return _BOARDS.setdefault(scheduler, _Board(scheduler))
