"""Ctrl-C, so that it ends a run at once, whenever it comes, and nothing else."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any

_interrupted = threading.Event()


@contextmanager
def noticed() -> Iterator[None]:
    """Keep a Ctrl-C from getting lost within the block.

    Python drops a KeyboardInterrupt that comes up in a callback, say of the garbage collector, so
    it is noted as well, for `raise_if_interrupted`. Nothing changes within another such block, or
    outside of the main thread.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is _note_and_raise:
        yield
        return
    before = signal.signal(signal.SIGINT, _note_and_raise)
    before_hook = sys.unraisablehook
    sys.unraisablehook = partial(_say_unless_noted, before_hook)
    try:
        yield
    except BaseException:
        # A wait that is broken off leaves something behind that asyncio would complain of.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = before_hook
        _interrupted.clear()


def _note_and_raise(_signal: int, _frame: FrameType | None) -> None:
    _interrupted.set()
    raise KeyboardInterrupt


def _say_unless_noted(say: Callable[[Any], object], dropped: Any) -> None:
    if not (_interrupted.is_set() and dropped.exc_type is KeyboardInterrupt):
        say(dropped)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if Ctrl-C came since `noticed` began."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def keep_exit_code() -> None:
    """Have ``python -m`` end with the exit code that it is given, whenever Ctrl-C came.

    Python ends itself by the signal if the text that it evaluated last, as classes of data are
    made from, was interrupted.
    """
    namedtuple("Nothing", [])


@contextmanager
def deferred() -> Iterator[None]:
    """Hold back Ctrl-C for the block.

    A cluster is not interrupted half-started, and its processes, which inherit the block and keep
    it, leave Ctrl-C to this one, which closes them.
    """
    # Python's resource tracker would take the block away when the first process starts it.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
