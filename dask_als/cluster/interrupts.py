"""Ctrl-C and other signals that ask a process to end: it ends at once, at any moment."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker, util
from types import FrameType
from typing import Any, NoReturn

from dask_als.core.early_signals import end_at_once
from dask_als.errors import INTERRUPTED_EXIT_CODE

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SECONDS_UNTIL_RAISED_AGAIN = 0.02


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP asked this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__("terminated")
        self.number = number


class _Received:
    """The signal that ends the run, and whether Python dropped the exception that it raised."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.was_dropped = False


_received = _Received()


@contextmanager
def noticed() -> Iterator[None]:
    """End the block at the first signal, and ignore later signals during the clean-up.

    The first Ctrl-C raises KeyboardInterrupt, the first SIGTERM or SIGHUP `Terminated`. Python
    drops an exception that a signal raises in a callback, say of the garbage collector, so it is
    raised again, and is noted for `raise_if_interrupted`. A `Terminated` that leaves the block ends
    the process by its signal, as without the block. This has no effect inside another such block,
    outside of the main thread, and on signals that already have a handler.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is _note_and_raise:
        yield
        return
    before: dict[int, Any] = {
        number: signal.signal(number, _note_and_raise) for number in _SIGNALS if _is_free(number)
    }
    if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, _raise_again)
    before_hook = sys.unraisablehook
    sys.unraisablehook = partial(_say_unless_noted, before_hook)
    terminated = None
    try:
        yield
    except BaseException as error:
        silence_abandoned_waits()
        terminated = error.number if isinstance(error, Terminated) else None
        raise
    finally:
        if signal.SIGALRM in before:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = before_hook
        _received.__init__()  # type: ignore[misc]
        if terminated is not None:
            signal.raise_signal(terminated)


def silence_abandoned_waits() -> None:
    """Silence asyncio's complaints about tasks and coroutines that nobody waits for any more."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def _is_free(number: int) -> bool:
    """Return whether a signal has no handler but Python's, or the command line's early one."""
    handler = signal.getsignal(number)
    if number == signal.SIGINT:
        # A shell starts commands in the background with SIGINT ignored.
        free = (signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN, end_at_once)
        return handler in free
    return handler is signal.SIG_DFL


def _note_and_raise(number: int, _frame: FrameType | None) -> None:
    # A second one would interrupt the clean-up after the first.
    if _received.number is None or _received.was_dropped:
        _received.number, _received.was_dropped = number, False
        raise _exception(number)


def _raise_again(_number: int, _frame: FrameType | None) -> None:
    if _received.number is not None:
        _note_and_raise(_received.number, None)


def _exception(number: int) -> KeyboardInterrupt:
    # Not a subclass: Python checks for this very class.
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def _say_unless_noted(say: Callable[[Any], object], dropped: Any) -> None:
    if _received.number is None or not issubclass(dropped.exc_type, KeyboardInterrupt):
        say(dropped)
        return
    _received.was_dropped = True
    # Not a thread's timer: the callback may have interrupted code that holds a lock.
    if signal.getsignal(signal.SIGALRM) is _raise_again:
        signal.setitimer(signal.ITIMER_REAL, _SECONDS_UNTIL_RAISED_AGAIN)


def raise_if_interrupted() -> None:
    """Raise the exception of the signal that arrived since `noticed` began, if one did."""
    if _received.number is not None:
        _received.was_dropped = False
        raise _exception(_received.number)


def exit_code(error: KeyboardInterrupt) -> int:
    """Return the exit code of a command that a signal ended: 128 + number, as in shells."""
    return 128 + error.number if isinstance(error, Terminated) else INTERRUPTED_EXIT_CODE


def word_for(error: KeyboardInterrupt) -> str:
    """Return the status of a run that a signal ended."""
    return "terminated" if isinstance(error, Terminated) else "interrupted"


def end_process(code: int) -> NoReturn:
    """End this process at once, without waiting for its threads.

    Nobody needs the rest of an interrupted command, and threads that still run while Python shuts
    down can crash it. This also keeps the exit code under ``python -m``, which would end by the
    signal itself if it interrupted `exec`, by which dataclasses are made.
    """
    with suppress(OSError):
        sys.stdout.flush()
    with suppress(OSError):
        sys.stderr.flush()
    # Without it, Python's resource tracker prints warnings about what it cleans up.
    util._exit_function()  # type: ignore[attr-defined]
    os._exit(code)


@contextmanager
def deferred() -> Iterator[None]:
    """Block Ctrl-C in this thread during the block.

    Threads and processes that start within it inherit the signal mask and keep it. They leave
    Ctrl-C to the main thread, which ends them.
    """
    # When the first process starts it, Python's resource tracker would reset the signal mask.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
