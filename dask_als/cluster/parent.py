"""A preload of local workers: the system kills a worker when the process that started it is gone.

Dask's worker notices the end of its parent in a thread, which does not run while the worker is
stopped, say by SIGSTOP. Then the worker, and the memory that it holds, would stay.
"""

from __future__ import annotations

import ctypes
import os
import signal
from multiprocessing import current_process, parent_process
from typing import Any

from dask_als.dask_internals import NANNY_PROCESS_NAME

PRELOAD = __name__
"""The name of this module, for the option ``preload`` of Dask's nanny."""

_PR_SET_PDEATHSIG = 1


def dask_setup(_worker: Any) -> None:
    """Ask the system to kill this process, a worker, with its parent; Dask calls this.

    A worker in a thread belongs to a process that is not ours to end.
    """
    parent = parent_process()
    call = getattr(ctypes.CDLL(None), "prctl", None)  # Linux alone has it
    if parent is None or call is None or current_process().name != NANNY_PROCESS_NAME:
        return
    call(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not parent.is_alive():  # it ended before the system was asked
        os._exit(1)
