"""Reject workers of another build that join the cluster during a run.

Dask gives plugins to a worker when it joins, and the worker takes no tasks before they are set up.
So each worker compares its own build with that of the run. If they differ, it leaves before it has
computed anything. The scheduler removes it and reassigns its tasks in one step, and the driver logs
the reason.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from distributed import Client, SchedulerPlugin, WorkerPlugin

from dask_als.cluster.installed_build import build_of_this_process, differences
from dask_als.core import storage
from dask_als.dask_internals import (
    drop_plugin,
    give_to_joining_workers,
    stop_taking_tasks,
    unregister,
)


def guard(client: Client, tell: Callable[[str], object]) -> None:
    """Reject workers of another build that join from now on, until the client closes.

    Afterwards, `checks.check_builds` checks the workers that are there already.

    Parameters
    ----------
    tell : callable
        Called from another thread with one line for each rejected worker.
    """
    name = f"dask-als-guard-{uuid.uuid4().hex[:8]}"
    client.subscribe_topic(name, lambda event: tell(event[1]))
    client.register_plugin(GuardPlugin(name, client.id, build_of_this_process()))


class GuardPlugin(SchedulerPlugin):  # type: ignore[misc]
    """Gives a `GuardedWorker` to workers that join; removed with its client.

    Parameters
    ----------
    name : str
        The name of the plugin, and of the topic for messages about rejected workers.
    client : str
        The id of the client whose run it guards.
    build : dict of str to str
        The build of the run, see `build_of_this_process`.
    """

    def __init__(self, name: str, client: str, build: dict[str, str]) -> None:
        self.name = name
        self._client = client
        self._build = build

    def start(self, scheduler: Any) -> None:
        """Start guarding."""
        give_to_joining_workers(scheduler, self.name, GuardedWorker(self.name, self._build))

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Stop guarding when the client has gone, even if it was killed."""
        if client == self._client:
            drop_plugin(scheduler, self.name)


class GuardedWorker(WorkerPlugin):  # type: ignore[misc]
    """Compares a worker's build with that of the run, before it takes tasks.

    Parameters
    ----------
    name : str
        The name of the plugin, and of the topic for messages about rejected workers.
    build : dict of str to str
        The build of the run, see `build_of_this_process`.
    """

    def __init__(self, name: str, build: Mapping[str, str]) -> None:
        self.name = name
        self._build = build

    async def setup(self, worker: Any) -> None:
        """Compare the builds; leave the cluster if they differ."""
        try:
            # In a thread, as importing numba takes a second.
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
            # Later: the nanny must not restart it, and answers only after this setup has ended.
            worker.loop.add_callback(worker.close, reason=text)
