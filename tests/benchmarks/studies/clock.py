"""The time of an epoch."""

from __future__ import annotations

import time

from dask_als.training.start import random_start
from dask_als.training.task_graph import TaskGraph


def seconds_an_epoch(graph: TaskGraph, epochs: int) -> float:
    """Return the mean time of some epochs: that of a segment, less that of one a single epoch long.

    The next epoch is submitted while one runs, so parts of them overlap, and when an epoch's
    figures come says little of its own time. Starting and ending a segment cancel out.
    """
    short, long = (_seconds_of_segment(graph, length) for length in (1, 1 + epochs))
    return (long - short) / epochs


def _seconds_of_segment(graph: TaskGraph, epochs: int) -> float:
    start = time.perf_counter()
    for _ in graph.segment(random_start, range(1, epochs + 1)):
        pass
    return time.perf_counter() - start
