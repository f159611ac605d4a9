"""Compiling with numba: without the GIL, kept on disk where that can be written."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from functools import cache
from typing import Any

from numba import njit

_LOG = logging.getLogger(__name__)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called for its types."""
    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # neither the package's directory nor the user's can be written
        _warn_once()
        return njit(nogil=True, error_model="numpy")(function)


@cache
def _warn_once() -> None:
    # A local cluster's workers write to the terminal of who has read it already.
    if multiprocessing.parent_process() is None:
        _LOG.warning(
            "there is no writable directory for compiled kernels, so each start compiles them "
            "anew, for some 20 seconds; set NUMBA_CACHE_DIR to one"
        )
