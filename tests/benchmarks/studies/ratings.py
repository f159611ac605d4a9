"""Epochs over 1 to 64 million ratings, through a LocalCluster and in plain threads by turns."""

from __future__ import annotations

import statistics
from typing import Any

from benchmark_data import generated_dataset, in_the_shape_of_20m
from machine import say

from dask_als.cluster.connect import connected
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.task_graph import TaskGraph
from studies.clock import seconds_an_epoch
from studies.report import Criterion, bar, table
from studies.threads import ThreadsExecutor

TITLE = "Epochs over the number of ratings"
THREADS = 2
SETTINGS = TrainSettings(rank=64)
DASK, PLAIN = "local_cluster", "plain_threads"

MILLIONS = [1, 4, 16, 20, 64]
EPOCHS = 4


def measure(_found: dict[str, Any], *, small: bool) -> dict[str, Any]:
    """Time epochs of every size."""
    sizes = [0.25, 1] if small else MILLIONS
    return {
        "threads": THREADS,
        "rank": SETTINGS.rank,
        "dtype": SETTINGS.dtype,
        "sizes": [_size(round(millions * 1e6)) for millions in sizes],
    }


def _size(n_ratings: int) -> dict[str, Any]:
    dataset = generated_dataset(in_the_shape_of_20m(n_ratings))
    say(f"{n_ratings:,} ratings: epochs by turns")
    seconds: dict[str, list[float]] = {DASK: [], PLAIN: []}
    with (
        connected(ClusterSettings(threads=THREADS, dashboard="127.0.0.1:0")) as client,
        ThreadsExecutor(THREADS) as threads,
    ):
        trainings = {
            DASK: TaskGraph(dataset, SETTINGS, DaskExecutor(client)),
            PLAIN: TaskGraph(dataset, SETTINGS, threads),
        }
        for training in trainings.values():
            seconds_an_epoch(training, 1)  # reads the ratings, too
        for _ in range(2 if n_ratings > 30e6 else 5):
            for way, training in trainings.items():
                seconds[way].append(seconds_an_epoch(training, EPOCHS))
    return {
        "n_ratings": n_ratings,
        "n_users": dataset.users.n_rows,
        "n_items": dataset.items.n_rows,
        "partitions": len(dataset.users.partitions),
        "seconds": seconds,
    }


def nanoseconds_a_rating(size: dict[str, Any], way: str = DASK) -> float:
    """Return the median epoch's time for each rating."""
    return statistics.median(size["seconds"][way]) / size["n_ratings"] * 1e9


def tables(result: dict[str, Any]) -> str:
    """Write the curve."""
    most = max(nanoseconds_a_rating(size) for size in result["sizes"])
    rows = [
        [
            f"{size['n_ratings'] / 1e6:g} M",
            f"{size['n_users']:,}",
            f"{size['n_items']:,}",
            size["partitions"],
            f"{statistics.median(size['seconds'][DASK]):.3f}",
            f"{statistics.median(size['seconds'][PLAIN]):.3f}",
            f"{_cost_of_dask(size):+.1%}",
            f"{nanoseconds_a_rating(size):.0f}",
            bar(nanoseconds_a_rating(size), most),
        ]
        for size in result["sizes"]
    ]
    head = ["ratings", "users", "items", "partitions", "s an epoch, LocalCluster"]
    head += ["plain threads", "LocalCluster costs", "ns a rating", ""]
    return table(head, rows)


def criteria(result: dict[str, Any]) -> list[Criterion]:
    """Judge growth, and the cost of the cluster at 20 million."""
    first, last = result["sizes"][0], result["sizes"][-1]
    growth = nanoseconds_a_rating(last) / nanoseconds_a_rating(first) - 1
    judged = [
        Criterion(
            f"time a rating grows by at most 15 % from {first['n_ratings'] / 1e6:g} M to "
            f"{last['n_ratings'] / 1e6:g} M ratings",
            f"{growth:+.1%}",
            growth <= 0.15,
        )
    ]
    for size in result["sizes"]:
        if size["n_ratings"] == 20_000_000:
            cost = _cost_of_dask(size)
            demand = "LocalCluster costs at most 10 % over plain threads at 20 M ratings"
            judged.append(Criterion(demand, f"{cost:+.1%}", cost <= 0.10))
    return judged


def _cost_of_dask(size: dict[str, Any]) -> float:
    dask, plain = (statistics.median(size["seconds"][way]) for way in (DASK, PLAIN))
    return dask / plain - 1
