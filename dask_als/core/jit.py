"""Compile with numba: without the GIL, and cached on disk if a directory is writable."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from functools import cache
from typing import Any

from numba import njit

_LOG = logging.getLogger(__name__)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function for the types of its first call."""
    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # neither the package's directory nor the user's is writable
        _warn_once()
        return njit(nogil=True, error_model="numpy")(function)


@cache
def _warn_once() -> None:
    # Workers of a local cluster share the terminal of their parent, which has warned already.
    if multiprocessing.parent_process() is None:
        _LOG.warning(
            "there is no writable directory for compiled kernels, so each start compiles them "
            "again, which takes about 20 seconds; set NUMBA_CACHE_DIR to a writable directory"
        )
