"""A trace: the times of each half-epoch, as JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from dask_als.core import outputs, storage
from dask_als.core.ownership import TRACE, marked_text
from dask_als.core.run_events import HalfEpochTimes
from dask_als.errors import JobError


@contextmanager
def traced(path: str) -> Iterator[Callable[[HalfEpochTimes], None]]:
    """Write a trace during the block; its first line is the marker.

    If the storage fails, the block goes on: the trace ends after its last complete line.

    Yields
    ------
    callable
        Writes the line of a half-epoch.

    Raises
    ------
    InputError
        If the file cannot be written, or something else is there.
    JobError
        After the block, if the storage failed.
    """
    outputs.check_file(path, TRACE)
    # From here on the file is ours, so lines can be appended.
    outputs.replace_text(path, TRACE, marked_text(TRACE, ""))
    with ExitStack() as stack:
        trace = _Trace(stack.enter_context(storage.opened(path, "ab")))
        try:
            yield trace.write
        finally:
            with suppress(OSError):  # of the line that is known to have failed
                stack.close()
            if trace.error is not None:
                _cut(path, trace.n_bytes)
    if trace.error is not None:
        said = storage.first_line(trace.error)
        raise JobError(f"{path} is incomplete, as it could not be written: {said}")


class _Trace:
    """Writes lines to a file until one fails."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.n_bytes = file.seek(0, os.SEEK_END)
        self.error: OSError | None = None

    def write(self, half: HalfEpochTimes) -> None:
        """Write the line of a half-epoch, unless an earlier one failed."""
        if self.error is not None:
            return
        try:
            self._file.write(json.dumps(_line(half)).encode() + b"\n")
            self._file.flush()
            self.n_bytes = self._file.tell()
        except OSError as error:
            self.error = error


def _cut(path: str, n_bytes: int) -> None:
    filesystem, inner = storage.file_system(path)
    if isinstance(filesystem, LocalFileSystem):
        with suppress(OSError):
            os.truncate(inner, n_bytes)


def _line(half: HalfEpochTimes) -> dict[str, Any]:
    values = half.to_json()
    for partition in values["partitions"]:
        # The rest of the half-epoch: it waits for a thread, and then for the other partitions.
        partition["overhead"] = half.seconds - partition["solving"] - partition["waiting"]
    return values
