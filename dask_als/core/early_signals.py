"""Ctrl-C while the command line is still being imported."""

from __future__ import annotations

import os
import signal
from types import FrameType


def end_on_interrupt() -> None:
    """Let Ctrl-C end the process at once, until the command line installs its own handlers.

    Nothing is open yet, so there is nothing to clean up. Python itself would print a traceback of
    the import. A handler that is already installed, or a parent's wish to ignore Ctrl-C, stays.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end_at_once)


def end_at_once(number: int, _frame: FrameType | None) -> None:
    """Print one line and end the process with the exit code of a signal."""
    os.write(2, b"dask-als: interrupted; nothing was left half-written\n")
    os._exit(128 + number)
