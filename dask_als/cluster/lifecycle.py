"""The life cycle of a local cluster: however it ends, it leaves no process and no directory."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

import dask
from distributed import Client, Nanny, SpecCluster

from dask_als.cluster import interrupts
from dask_als.core.ownership import PROJECT
from dask_als.dask_internals import NANNY_PROCESS_NAME, start_no_more_workers

_SECONDS_TO_CLOSE = 1.0
_SECONDS_BETWEEN_KILLS = 0.02
_PREFIX = "dask-als-workers-"
_LOCK = ".lock"
_MARK = f"{PROJECT}: directory of workers\n"


@contextmanager
def local_cluster(start: Callable[[], SpecCluster]) -> Iterator[SpecCluster]:
    """Start a local cluster for the block, and close it; kill its workers after an interrupt.

    After an interrupt nobody needs their results, and closing would wait for a worker that hangs.
    """
    others = set(active_children())
    started: Future[SpecCluster] = Future()
    # In another thread, so that the main thread can be interrupted meanwhile.
    starting = Thread(target=_start_into, args=(started, start), daemon=True)
    try:
        starting.start()
        with _closed_if_uninterrupted(started.result()) as cluster:
            yield cluster
    except KeyboardInterrupt:
        _end_at_once(starting, started, others)
        raise


def _start_into(started: Future[SpecCluster], start: Callable[[], SpecCluster]) -> None:
    try:
        started.set_result(start())
    except BaseException as error:
        started.set_exception(error)


@contextmanager
def connection(client: Client) -> Iterator[Client]:
    """Close a client after the block; after an interrupt, wait for at most a second."""
    try:
        with _closed_if_uninterrupted(client):
            yield client
    except KeyboardInterrupt:
        with suppress(Exception):
            client.close(timeout=_SECONDS_TO_CLOSE)
        raise


@contextmanager
def _closed_if_uninterrupted(opened: Any) -> Iterator[Any]:
    try:
        yield opened
    except KeyboardInterrupt:
        raise
    except BaseException:
        # Before closing, which ends the waits.
        interrupts.silence_abandoned_waits()
        opened.close()
        raise
    opened.close()


def _end_at_once(starting: Thread, started: Future[SpecCluster], others: set[BaseProcess]) -> None:
    """Kill workers until the cluster, which may still be starting, starts no more of them."""
    with _dask_silenced():
        _kill_while_alive(starting, others)
        with suppress(BaseException):
            cluster = started.result(timeout=0)
            for nanny in cluster.workers.values():
                if isinstance(nanny, Nanny):
                    start_no_more_workers(nanny)
            closing = Thread(target=_close, args=(cluster,), daemon=True)
            closing.start()
            _kill_while_alive(closing, others)
        _kill(others)


@contextmanager
def _dask_silenced() -> Iterator[None]:
    """Suppress Dask's messages about lost connections for the block."""
    names = [name for name in logging.Logger.manager.loggerDict if name.startswith("distributed.")]
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _close(cluster: SpecCluster) -> None:
    with suppress(Exception):
        cluster.close(timeout=_SECONDS_TO_CLOSE)


def _kill_while_alive(thread: Thread, others: set[BaseProcess]) -> None:
    deadline = time.monotonic() + _SECONDS_TO_CLOSE
    while thread.is_alive() and time.monotonic() < deadline:
        _kill(others)
        thread.join(_SECONDS_BETWEEN_KILLS)


def _kill(others: set[BaseProcess]) -> None:
    """Kill workers, and wait until they have ended."""
    ends = []
    for process in set(active_children()) - others:
        if process.name == NANNY_PROCESS_NAME:
            with suppress(ValueError):  # Another thread has closed it.
                process.kill()
                ends.append(process.sentinel)
    if ends:
        wait(ends, timeout=_SECONDS_TO_CLOSE)


@contextmanager
def directory_of_workers() -> Iterator[None]:
    """Let Dask's local clusters write into a temporary directory, removed after the block.

    Directories that killed runs left are removed, too: those with our mark in a lock file that no
    process holds.
    """
    parent = dask.config.get("temporary-directory") or tempfile.gettempdir()
    _remove_abandoned(parent)
    # Named before it is made, so that no signal between the two leaves it behind.
    directory = os.path.join(parent, f"{_PREFIX}{secrets.token_hex(16)}")
    ours = True
    try:
        try:
            os.mkdir(directory, 0o700)
        except FileExistsError:
            ours = False
            raise
        with open(os.path.join(directory, _LOCK), "w") as lock:
            lock.write(_MARK)
            lock.flush()
            with suppress(OSError):  # Some file systems have no locks.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with dask.config.set({"temporary-directory": directory}):
                yield
    finally:
        if ours:
            shutil.rmtree(directory, ignore_errors=True)


def _remove_abandoned(parent: str) -> None:
    for directory in Path(parent).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if directory.is_symlink() or directory.stat().st_uid != os.getuid():
                continue
            opened = os.open(directory / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            with open(opened, "r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if lock.read() == _MARK.encode():
                    shutil.rmtree(directory, ignore_errors=True)
