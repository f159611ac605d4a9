"""Compile with numba: without the GIL, and cached on disk if a directory is writable.

Numba is imported when a compiled function is called first: commands that compute little start in
half the time without it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, update_wrapper
from typing import Any

from dask_als.core.locks import try_lock

# Longer than a kernel takes to compile on a busy machine; then a process compiles for itself.
_PATIENCE = 300.0
_SECONDS_BETWEEN_TRIES = 0.05

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

    # Nothing calls these as C functions.
    options = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    try:
        return njit(**options, cache=True)(function)
    except RuntimeError:  # neither the package's directory nor the user's is writable
        _warn_once()
        return njit(**options)(function)


def compile_alone(dispatcher: Any, signature: Any) -> None:
    """Compile a kernel for its only signature, or load it from the cache on disk.

    Of the processes that start together on a machine, one compiles; the others wait and load what
    it made. It says so, because it takes several seconds.
    """
    from numba.core import event

    with (
        _lock_beside(dispatcher),
        event.install_listener("numba:compile", _announcement(dispatcher)),
    ):
        dispatcher.compile(signature)
    dispatcher.disable_compile()


def _announcement(dispatcher: Any) -> Any:
    """Return a listener to numba that says when a kernel is compiled."""
    from numba.core import event

    class Announcement(event.Listener):  # type: ignore[misc]
        def on_start(self, started: Any) -> None:
            if started.data["dispatcher"] is dispatcher and _folder_of(dispatcher) is not None:
                _LOG.warning("compiling the kernel for this processor, once")

        def on_end(self, ended: Any) -> None:
            pass

    return Announcement()


@contextmanager
def _lock_beside(dispatcher: Any) -> Iterator[None]:
    """Hold the lock of a function in the cache on disk; a killed process holds nothing."""
    descriptor = _lock_file(dispatcher)
    try:
        deadline = time.monotonic() + _PATIENCE
        while descriptor is not None and time.monotonic() < deadline and not try_lock(descriptor):
            time.sleep(_SECONDS_BETWEEN_TRIES)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _folder_of(dispatcher: Any) -> str | None:
    """Return the folder of a function in the cache on disk, which is private to numba."""
    return getattr(getattr(dispatcher, "_cache", None), "cache_path", None)


def _lock_file(dispatcher: Any) -> int | None:
    folder = _folder_of(dispatcher)
    if folder is None:
        return None
    path = os.path.join(folder, f"{dispatcher.py_func.__qualname__}.lock")
    try:
        return os.open(path, os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError:  # for instance in a cache that came with an image
        return None


@cache
def _let_numba_call_these() -> None:
    from numba.core import types
    from numba.extending import typeof_impl

    @typeof_impl.register(Compiled)  # type: ignore[untyped-decorator]
    def _typeof_compiled(value: Compiled, context: Any) -> Any:
        return types.Dispatcher(value.dispatcher)


@cache
def _warn_once() -> None:
    if _mark_of_the_first() is not None:
        _LOG.warning(
            "there is no writable directory for compiled kernels, so each start compiles them "
            "again, which takes several seconds; set NUMBA_CACHE_DIR to a writable directory"
        )


@cache
def _mark_of_the_first() -> int | None:
    """Return None if a living process has come here before: workers share a terminal."""
    descriptor = os.open(__file__, os.O_RDONLY | os.O_CLOEXEC)  # It stays open with the process.
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None
