"""Workers that join a cluster while it works for us: those of another build are sent away.

Dask gives a worker its plugins when it joins, and the worker reads no tasks before they are set
up. So it is the worker that compares itself with what the run was started with. If it differs, it
leaves before it has computed anything: the scheduler forgets it, in one step with the tasks that
were meant for it, and the driver is told why.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from distributed import Client, SchedulerPlugin, WorkerPlugin

from dask_als.cluster.build import build_of_this_process, differences
from dask_als.core import storage
from dask_als.dask_internals import (
    drop_plugin,
    give_to_joining_workers,
    stop_taking_tasks,
    unregister,
)


def guard(client: Client, tell: Callable[[str], object]) -> None:
    """Send workers of another build away that join from now on, until the client closes.

    Those that are there already are for `cluster_check` to look at, after this.

    Parameters
    ----------
    tell : callable
        Told of each that was sent away, in a line, from another thread.
    """
    name = f"dask-als-guard-{uuid.uuid4().hex[:8]}"
    client.subscribe_topic(name, lambda event: tell(event[1]))
    client.register_plugin(GuardPlugin(name, client.id, build_of_this_process()))


class GuardPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Gives workers that join a `GuardedWorker`; ends with its client.

    Parameters
    ----------
    name : str
        Of the plugin, and of the topic that tells of workers that were sent away.
    client : str
        Whose run it guards.
    build : dict of str to str
        What the run was started with.
    """

    def __init__(self, name: str, client: str, build: dict[str, str]) -> None:
        self.name = name
        self._client = client
        self._build = build

    def start(self, scheduler: Any) -> None:
        """Begin to guard."""
        give_to_joining_workers(scheduler, self.name, GuardedWorker(self.name, self._build))

    def remove_client(self, scheduler: Any, client: str) -> None:
        """End with the client, also if that was killed."""
        if client == self._client:
            drop_plugin(scheduler, self.name)


class GuardedWorker(WorkerPlugin):  # type: ignore[misc]
    """Compares a worker with what the run was started with, before it takes tasks.

    Parameters
    ----------
    name : str
        Of the plugin, and of the topic that tells of workers that were sent away.
    build : dict of str to str
        What the run was started with.
    """

    def __init__(self, name: str, build: Mapping[str, str]) -> None:
        self.name = name
        self._build = build

    async def setup(self, worker: Any) -> None:
        """Compare; if anything differs, leave."""
        try:
            # In a thread: to import numba takes a second.
            differing = differences(self._build, await asyncio.to_thread(build_of_this_process))
        except Exception as error:
            differing = f"no build that it can tell ({storage.first_line(error)})"
        if differing:
            await self._leave(worker, differing)

    async def _leave(self, worker: Any, differing: str) -> None:
        # The scheduler may have sent tasks already.
        stop_taking_tasks(worker)
        text = f"the worker at {worker.contact_address} is not used: it has {differing}"
        try:
            await unregister(worker, reason=f"{self.name}-sent-away")
            await worker.scheduler.log_event(topic=self.name, msg=text)
        finally:
            # Later: its nanny, which must not start it again, answers once it is up.
            worker.loop.add_callback(worker.close, reason=text)
