"""Split the time of a half-epoch into solving, waiting and overhead."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An interval of a worker's time.

    Attributes
    ----------
    worker : str
    start, stop : float
        Seconds, by the same clock for all workers.
    """

    worker: str
    start: float
    stop: float


def split_time(
    start: float,
    stop: float,
    threads: Mapping[str, int],
    *,
    solving: Iterable[Interval],
    waiting: Iterable[Interval],
) -> tuple[float, float]:
    """Return the average seconds, from start to stop, that a thread spent solving and waiting.

    A thread waits if it does not solve while its worker fetches data. The rest of the time is
    overhead: joining, messages, the scheduler, and idle threads.

    Parameters
    ----------
    threads : mapping of str to int
        Threads of each worker.
    solving, waiting : iterable of Interval
        When a thread solved, and when a worker fetched data.
    """
    all_threads = sum(threads.values())
    if not all_threads:
        return 0.0, 0.0
    changes: dict[str, list[tuple[float, int, int]]] = defaultdict(list)
    for intervals, solves, waits in ((solving, 1, 0), (waiting, 0, 1)):
        for interval in intervals:
            first, last = max(start, interval.start), min(stop, interval.stop)
            if first < last:
                changes[interval.worker].append((first, solves, waits))
                changes[interval.worker].append((last, -solves, -waits))
    solved = waited = 0.0
    for worker, worker_changes in changes.items():
        n_threads = threads.get(worker, 0)
        before, n_solving, n_waiting = start, 0, 0
        for moment, solves, waits in sorted(worker_changes):
            busy = min(n_threads, n_solving)
            solved += busy * (moment - before)
            if n_waiting:
                waited += (n_threads - busy) * (moment - before)
            before, n_solving, n_waiting = moment, n_solving + solves, n_waiting + waits
    return solved / all_threads, waited / all_threads
