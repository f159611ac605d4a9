"""The plan of a training without Dask: plain threads over the same tasks, in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from dask_als.core.executor import Shape


class ThreadsExecutor:
    """Runs tasks on threads, first come first served.

    A task whose arguments are not there yet waits for them on its thread. They were submitted
    before it, so they are done or running: nothing waits for ever.
    """

    workers = frozenset({"this process"})

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.shape = Shape(workers=1, threads=threads, memory=None)
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> ThreadsExecutor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, function: Callable[..., Any], *args: Any, **_names: str) -> Future[Any]:
        return self._pool.submit(lambda: function(*map(_value, args)))

    def gather(self, handles: list[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def as_completed(self, handles: list[Any]) -> Iterator[Any]:
        return iter(self.gather(handles))


def _value(argument: Any) -> Any:
    if isinstance(argument, list):
        return [_value(element) for element in argument]
    return argument.result() if isinstance(argument, Future) else argument
