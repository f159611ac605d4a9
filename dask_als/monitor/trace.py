"""A trace: where the time of each half-epoch went, as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dask_als import storage
from dask_als.monitor.run import HalfEpochTimes


@contextmanager
def traced(path: str) -> Iterator[Callable[[HalfEpochTimes], None]]:
    """Write a trace for the block.

    Yields
    ------
    callable
        Writes the line of a half-epoch.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    storage.check_writable(path)
    with storage.opened(path, "w") as file:
        yield lambda half: print(json.dumps(_line(half)), file=file, flush=True)


def _line(half: HalfEpochTimes) -> dict[str, Any]:
    values = half.to_json()
    for partition in values["partitions"]:
        # From the start to the end of the half-epoch: waiting for a thread, and for the others.
        partition["overhead"] = half.seconds - partition["solving"] - partition["waiting"]
    return values
