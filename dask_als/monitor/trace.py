"""A trace: the times of each half-epoch, as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dask_als.core import outputs, storage
from dask_als.core.ownership import TRACE, marked_text
from dask_als.core.run_events import HalfEpochTimes
from dask_als.errors import JobError


@contextmanager
def traced(path: str) -> Iterator[Callable[[HalfEpochTimes], None]]:
    """Write a trace during the block; its first line is the marker.

    Yields
    ------
    callable
        Writes the line of a half-epoch.

    Raises
    ------
    InputError
        If the file cannot be written, or something else is there.
    JobError
        If the storage fails during the block.
    """
    outputs.check_file(path, TRACE)
    # From here on the file is ours, so lines can be appended.
    outputs.replace_text(path, TRACE, marked_text(TRACE, ""))
    try:
        with storage.opened(path, "a") as file:
            yield lambda half: print(json.dumps(_line(half)), file=file, flush=True)
    except OSError as error:
        if error.filename is not None:
            raise
        raise JobError(f"{path} could not be written: {storage.first_line(error)}") from error


def _line(half: HalfEpochTimes) -> dict[str, Any]:
    values = half.to_json()
    for partition in values["partitions"]:
        # The rest of the half-epoch: it waits for a thread, and then for the other partitions.
        partition["overhead"] = half.seconds - partition["solving"] - partition["waiting"]
    return values
