"""All undocumented parts of Dask that this package uses; they may change in any release.

The upper bounds of ``dask`` and ``distributed`` in pyproject.toml exist because of this module.
``tests/cluster/test_dask_internals.py`` names the part that a new version of Dask lacks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from dask._task_spec import Dict, List, Task, TaskRef
from dask.tokenize import normalize_token
from distributed import Client, Nanny, Status, get_worker
from distributed.client import AllExit, ClosedClientError
from distributed.comm import connect
from distributed.protocol import to_serialize
from distributed.protocol.pickle import dumps, loads
from distributed.system import MEMORY_LIMIT
from distributed.utils import offload, silence_logging_cmgr
from tornado.routing import PathMatches, Rule, RuleRouter

__all__ = [
    "MEMORY_LIMIT",
    "NANNY_PROCESS_NAME",
    "ClosedClientError",
    "Dict",
    "Graph",
    "List",
    "Task",
    "TaskRef",
    "add_handler",
    "add_page",
    "ask_worker",
    "connect",
    "dashboard_of",
    "dashboard_templates",
    "drop_plugin",
    "dumps",
    "get_worker",
    "give_to_joining_workers",
    "holders_of",
    "loads",
    "local_results",
    "offload",
    "remove_page",
    "run_on_loop",
    "scheduler_connections",
    "serve_only_below",
    "set_client_interval",
    "set_worker_interval",
    "silence_logging_cmgr",
    "start_no_more_workers",
    "stop_taking_tasks",
    "to_serialize",
    "unregister",
    "workers_of",
]

T = TypeVar("T")

_SECONDS_BETWEEN_LOOKS = 1.0

NANNY_PROCESS_NAME = "Dask Worker process (from Nanny)"
"""The name that a nanny gives to its worker's process; Dask has no list of these processes."""


class Graph(dict[str, Task]):
    """A task graph whose keys are unique, so that they serve as its token.

    ``Client.get`` tokenizes a graph; by default Dask would hash the arguments of every task.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # A scheduler without this package can unpickle a plain dictionary.
        return dict, (dict(self),)


normalize_token.register(Graph, list)


def workers_of(client: Client) -> list[dict[str, Any]]:
    """Return the scheduler's description of each worker.

    ``Client.scheduler_info`` returns a cached answer, which may be one without workers.
    """
    info = client.sync(client.scheduler.identity, n_workers=-1)
    return list(info["workers"].values())


def set_client_interval(client: Client, seconds: float) -> None:
    """Set how long a client collects messages to the scheduler; Dask has no setting for it."""
    client.scheduler_comm.interval = seconds


def scheduler_connections(scheduler: Any) -> Iterable[Any]:
    """Return the batched connections of a scheduler to clients and workers.

    Their attribute ``interval`` says for how many seconds they collect messages.
    """
    return (*scheduler.client_comms.values(), *scheduler.stream_comms.values())


def set_worker_interval(worker: Any, seconds: float) -> None:
    """Set how long a worker collects messages to the scheduler."""
    worker.batched_stream.interval = seconds


def give_to_joining_workers(scheduler: Any, name: str, plugin: Any) -> None:
    """Give a plugin to workers that join from now on.

    ``Client.register_plugin`` would also give it to the workers that the scheduler has already.
    """
    scheduler.worker_plugins[name] = dumps(plugin)


def drop_plugin(scheduler: Any, name: str) -> None:
    """Remove a plugin of the scheduler, and the one that joining workers get, if they exist.

    ``Scheduler.unregister_scheduler_plugin`` is a coroutine; a plugin's callbacks are functions.
    """
    scheduler.plugins.pop(name, None)
    scheduler.worker_plugins.pop(name, None)


def add_handler(worker: Any, name: str, handler: Callable[..., Any]) -> None:
    """Let a worker answer a request of other workers; the handler is a coroutine function."""
    worker.handlers[name] = handler


def local_results(worker: Any, keys: Iterable[str]) -> list[Any] | None:
    """Return the results of tasks that a worker has in its memory; None if one is not there."""
    try:
        return [worker.data[key] for key in keys]
    except KeyError:
        return None


async def ask_worker(worker: Any, address: str, name: str, **arguments: Any) -> Any:
    """Ask another worker through the worker's pool of connections."""
    return await getattr(worker.rpc(address), name)(**arguments)


async def holders_of(worker: Any, keys: Sequence[str]) -> set[str]:
    """Return the workers that have all of some results; none if the scheduler does not answer."""
    try:
        who_has = await worker.scheduler.who_has(keys=list(keys))
    except OSError:
        return set()
    return set.intersection(*(set(who_has.get(key, ())) for key in keys))


def run_on_loop(worker: Any, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a worker's event loop, from a thread of one of its tasks."""
    running = asyncio.run_coroutine_threadsafe(coroutine, worker.loop.asyncio_loop)
    while True:
        try:
            return running.result(timeout=_SECONDS_BETWEEN_LOOKS)
        except concurrent.futures.TimeoutError:
            if running.done():
                raise
            if worker.status in (Status.closed, Status.failed):
                running.cancel()
                raise RuntimeError("the worker is closed") from None


def stop_taking_tasks(worker: Any) -> None:
    """Make a worker start no more tasks, not even those that it has already received."""
    worker.status = Status.closing_gracefully


async def unregister(worker: Any, reason: str) -> None:
    """Remove a worker from its scheduler, in one step with the tasks that it was given.

    With ``expected``, Dask does not suspect these tasks of having killed the worker.
    """
    await worker.scheduler.unregister(
        address=worker.contact_address, stimulus_id=reason, expected=True, close=False
    )


def start_no_more_workers(nanny: Nanny) -> None:
    """Prevent a nanny from starting another worker after its worker was killed."""
    nanny.close_gracefully()


def serve_only_below(scheduler: Any, path: str) -> None:
    """Make a scheduler's HTTP server serve nothing outside of a path.

    With ``http_prefix`` alone, it redirects other requests to the secret path.
    """
    below = PathMatches(rf"{path}(?:/.*)?")
    scheduler.http_server.request_callback = RuleRouter([Rule(below, scheduler.http_application)])


def dashboard_of(scheduler: Any) -> Any:
    """Return the scheduler's dashboard, a web application, or None if it has none."""
    # Compared by name: Bokeh must not be imported for a scheduler without a dashboard.
    for application in scheduler.http_application.applications:
        if type(application).__name__ == "DaskBokehTornado":
            return application
    return None


def add_page(
    scheduler: Any, path: str, prefix: str, document: Callable[..., None]
) -> tuple[Any, list[str]]:
    """Add a page to a scheduler's dashboard.

    Parameters
    ----------
    path : str
        The page's path below the dashboard's.
    prefix : str
        The dashboard's path.
    document : callable
        Takes the scheduler, the template's variables and the Bokeh document to fill.

    Returns
    -------
    application : distributed.dashboard.core.BokehApplication
        The page, for `remove_page`; not started yet.
    pages : list of str
        The entries of the dashboard's menu, which may be changed.
    """
    from distributed.dashboard.core import BokehApplication
    from distributed.dashboard.scheduler import template_variables

    variables = template_variables(scheduler)
    page = BokehApplication(
        {path: document}, scheduler, prefix=prefix, template_variables=variables
    )
    return page, variables["pages"]


def remove_page(scheduler: Any, page: Any) -> None:
    """Remove a page from a scheduler's web server."""
    scheduler.http_application.applications.remove(page)


def dashboard_templates() -> tuple[Any, Any]:
    """Return the Bokeh theme and the Jinja environment of Dask's own pages."""
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env

    return BOKEH_THEME, env


class _WithoutEndedWaits(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what asyncio says of waits for results that Dask itself has ended."""
        return not (record.exc_info and isinstance(record.exc_info[1], AllExit))


_WITHOUT_ENDED_WAITS = _WithoutEndedWaits()


def silence_ended_waits() -> None:
    """Drop tracebacks of `AllExit`: `Client.gather` abandons waits that end if a result is lost."""
    # Added once: a logger ignores a filter that it has.
    logging.getLogger("asyncio").addFilter(_WITHOUT_ENDED_WAITS)
