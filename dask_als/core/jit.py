"""Compile with numba: without the GIL, and cached on disk if a directory is writable.

Numba is imported when a compiled function is called first: commands that compute little start in
half the time without it.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from functools import cache, cached_property, update_wrapper
from typing import Any

_LOG = logging.getLogger(__name__)


class Compiled:
    """A function that is compiled for the types of its first call; others of these may call it.

    Parameters
    ----------
    function : function
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        update_wrapper(self, function)

    def __call__(self, *args: Any) -> Any:
        """Call the compiled function."""
        return self.dispatcher(*args)

    @cached_property
    def dispatcher(self) -> Any:
        """The numba dispatcher of the function."""
        _let_numba_call_these()
        return dispatcher_of(self._function)


def compiled(function: Callable[..., Any]) -> Compiled:
    """Compile a function for the types of its first call."""
    return Compiled(function)


def dispatcher_of(function: Callable[..., Any]) -> Any:
    """Return the numba dispatcher of a function, which compiles it for the types of each call."""
    from numba import njit

    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # neither the package's directory nor the user's is writable
        _warn_once()
        return njit(nogil=True, error_model="numpy")(function)


@cache
def _let_numba_call_these() -> None:
    from numba.core import types
    from numba.extending import typeof_impl

    @typeof_impl.register(Compiled)  # type: ignore[untyped-decorator]
    def _typeof_compiled(value: Compiled, context: Any) -> Any:
        return types.Dispatcher(value.dispatcher)


@cache
def _warn_once() -> None:
    # Workers of a local cluster share the terminal of their parent, which has warned already.
    if multiprocessing.parent_process() is None:
        _LOG.warning(
            "there is no writable directory for compiled kernels, so each start compiles them "
            "again, which takes about 20 seconds; set NUMBA_CACHE_DIR to a writable directory"
        )
