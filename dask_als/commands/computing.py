"""The cluster that the options of a command name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dask_als.commands.options import settings_of

if TYPE_CHECKING:
    from dask_als.cluster import DaskExecutor
    from dask_als.executor import Shape


@contextmanager
def computing(screen: Console, options: dict[str, Any]) -> Iterator[DaskExecutor]:
    """Connect to the cluster that the options name, and say where its dashboard is."""
    from dask_als.cluster import ClusterSettings, DaskExecutor, connected

    settings = settings_of(ClusterSettings, options)
    with connected(settings) as client:
        screen.print(f"dashboard {client.dashboard_link}", soft_wrap=True, highlight=False)
        yield DaskExecutor(client, patience=settings.worker_timeout)


def shape_of(options: dict[str, Any]) -> Shape:
    """Return the shape of the cluster that the options name; a local one is not started."""
    from dask_als.cluster import ClusterSettings, DaskExecutor, connected

    settings = settings_of(ClusterSettings, options)
    if settings.address == "local":
        return settings.shape
    with connected(settings) as client:
        return DaskExecutor(client).shape
