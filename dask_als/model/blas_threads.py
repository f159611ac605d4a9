"""One BLAS thread per task, as the tasks already use all cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

_lock = threading.Lock()
# OpenBLAS restores a limit only in the thread that set it; tasks run in several threads.
_keeper = ThreadPoolExecutor(1, thread_name_prefix="blas-threads")
_inside = 0
_limits: threadpool_limits | None = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to the calling thread during the block.

    The limit belongs to the process, so the first task to enter sets it and the last to leave
    restores it: otherwise, overlapping tasks would restore each other's limits.
    """
    global _inside, _limits
    with _lock:
        if not _inside:
            _limits = _keeper.submit(threadpool_limits, 1, user_api="blas").result()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _limits is not None:
                _keeper.submit(_limits.restore_original_limits).result()
                _limits = None
