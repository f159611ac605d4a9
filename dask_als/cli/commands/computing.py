"""The cluster that the options of a command name."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from dask_als.cli.commands.options import settings_of
from dask_als.errors import InputError
from dask_als.settings.cluster_size import KubernetesSize

if TYPE_CHECKING:
    from dask_als.cluster.settings import ClusterSettings
    from dask_als.core.executor import Executor, Shape

SERIAL = "serial"
"""Value of ``--cluster`` without a cluster: every task runs in this process, in order."""

_LOG = logging.getLogger(__name__)


class Output(Protocol):
    """A screen or a log."""

    def say(self, text: str, /) -> None:
        """Print a line."""
        ...


@contextmanager
def computing(
    screen: Output,
    options: dict[str, Any],
    *,
    shared: str | None = None,
    seen: Sequence[str] = (),
) -> Iterator[Executor]:
    """Connect to the cluster that the options select, and print the address of the dashboard.

    Parameters
    ----------
    shared : str, optional
        A directory that all workers must be able to read and write.
    seen : sequence of str, optional
        Files that all workers must be able to read.
    """
    from dask_als.cluster.checks import check_builds, check_files, check_storage, check_versions
    from dask_als.cluster.connect import connected
    from dask_als.cluster.dask_executor import DaskExecutor
    from dask_als.cluster.guard import guard
    from dask_als.cluster.performance_report import performance_report

    report_path = options.pop("performance_report", None)
    if options["address"] == SERIAL:
        yield _serial_executor(report_path)
        return
    settings = cluster_settings(options)
    with connected(settings) as client:
        _LOG.info("connected to %s", client.scheduler.address)
        screen.say(f"dashboard {client.dashboard_link}")
        if settings.address == "local" and not settings.private:
            what = "see it" if settings.security else "see it and run code as you"
            screen.say(f"the cluster is not private: other users of this machine can {what}")
        if settings.address != "local":
            check_versions(client)
            # The guard first: it covers workers that join while the others are checked.
            guard(client, screen.say)
            check_builds(client)
            if shared is not None:
                check_storage(client, shared)
            check_files(client, seen)
        with performance_report(client, report_path) if report_path else nullcontext():
            yield DaskExecutor(client, patience=settings.worker_timeout)


def _serial_executor(report_path: str | None) -> Executor:
    from dask_als.core.executor import SerialExecutor

    if report_path:
        raise InputError(
            f"--performance-report needs Dask, but --cluster is {SERIAL}; choose another cluster"
        )
    _LOG.info("every task runs in this process, without Dask")
    return SerialExecutor()


def cluster_settings(options: dict[str, Any]) -> ClusterSettings:
    """Remove the options of a cluster from all options, and return them as settings."""
    from dask_als.cluster.settings import ClusterSettings

    _check_address(options.get("address", "local"))
    options.setdefault("kubernetes", _kubernetes_size(options.pop("pods", ())))
    settings: ClusterSettings = settings_of(ClusterSettings, options)
    return settings


def _check_address(address: str) -> None:
    """Check the syntax of an address before a client tries to connect."""
    try:
        _ = urlsplit(address).port
    except ValueError as error:
        raise InputError(f"--cluster is {address!r}: {error}") from None
    if not address.isprintable():
        raise InputError(f"--cluster is {address!r}; it has characters not allowed in an address")


def _kubernetes_size(pairs: tuple[str, ...]) -> KubernetesSize:
    defaults = {f.name: f.default for f in dataclasses.fields(KubernetesSize)}
    settable = [name for name, value in defaults.items() if value is not dataclasses.MISSING]
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in settable:
            names = ", ".join(settable)
            raise InputError(f"--pods {pair}: write NAME=VALUE; NAME is one of {names}")
        if isinstance(defaults[name], tuple):
            values[name] = tuple(filter(None, value.split(",")))
            continue
        is_number = isinstance(defaults[name], int)
        if is_number and not re.fullmatch(r"[0-9]{1,9}", value):
            raise InputError(f"--pods {pair[:80]}: {name} must be a whole number of 1 to 9 digits")
        values[name] = int(value) if is_number else value
    return KubernetesSize(**values)


def shape_of(options: dict[str, Any]) -> Shape:
    """Return the shape of the cluster that the options select, without starting a local one."""
    from dask_als.cluster.connect import connected
    from dask_als.cluster.dask_executor import DaskExecutor
    from dask_als.core.executor import SerialExecutor

    if options["address"] == SERIAL:
        return SerialExecutor.shape
    settings = cluster_settings(options)
    if settings.address == "local":
        return settings.shape
    with connected(settings) as client:
        return DaskExecutor(client).shape
