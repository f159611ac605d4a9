"""What a half-epoch costs if there is almost nothing to solve: scheduler, messages, Python."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmark_data import generated_dataset
from distributed import Client, LocalCluster
from machine import say

from dask_als.cluster.connect import connected
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.core.executor import SerialExecutor
from dask_als.data.synthetic import GenerateSettings
from dask_als.settings.training import TrainSettings
from dask_als.training.task_graph import TaskGraph
from studies.clock import seconds_an_epoch
from studies.report import Criterion, table

TITLE = "Overhead of a half-epoch"
RATINGS = GenerateSettings(n_users=1_024, n_items=1_024, n_ratings=20_480)
SETTINGS = TrainSettings(rank=1)
PARTITIONS = [8, 32, 128, 512]
WORKERS = [("threads", 2), ("threads", 8), ("threads", 32), ("processes", 2), ("processes", 8)]
ROUNDS = 3


def measure(_found: dict[str, Any], *, small: bool) -> dict[str, Any]:
    """Time half-epochs for every number of workers and partitions."""
    partitions = PARTITIONS[:2] if small else PARTITIONS
    workers = WORKERS[::3] if small else WORKERS
    datasets = {number: generated_dataset(RATINGS, number) for number in partitions}
    points = []
    for kind, number in workers:
        say(f"overhead: {number} workers ({kind})")
        with _cluster(kind, number) as client:
            for n_partitions, dataset in datasets.items():
                graph = TaskGraph(dataset, SETTINGS, DaskExecutor(client))
                points.append(
                    {
                        "kind": kind,
                        "workers": number,
                        "partitions": n_partitions,
                        "half_epochs": _half_epochs(graph),
                    }
                )
    serial = {
        number: _half_epochs(TaskGraph(dataset, SETTINGS, SerialExecutor()))
        for number, dataset in datasets.items()
    }
    return {"points": points, "serial": serial}


@contextmanager
def _cluster(kind: str, number: int) -> Iterator[Client]:
    if kind == "processes":
        settings = ClusterSettings(workers=number, threads=1, dashboard="127.0.0.1:0")
        with connected(settings) as client:
            yield client
        return
    with (
        LocalCluster(
            processes=False,
            n_workers=number,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _half_epochs(graph: TaskGraph) -> list[float]:
    """Return seconds of half-epochs."""
    partitions = len(graph.dataset.users.partitions)
    # Starting takes a time that varies by more than a few short epochs take.
    epochs = max(3, 256 // partitions)
    seconds_an_epoch(graph, 1)  # reads the ratings, too
    return [seconds_an_epoch(graph, epochs) / 2 for _ in range(ROUNDS)]


def milliseconds(point: dict[str, Any]) -> float:
    """Return the median half-epoch."""
    return statistics.median(point["half_epochs"]) * 1e3


def tables(result: dict[str, Any]) -> str:
    """Write milliseconds for each half-epoch and, in brackets, for each of its tasks."""
    partitions = [int(number) for number in result["serial"]]
    rows = []
    for kind, workers in dict.fromkeys((p["kind"], p["workers"]) for p in result["points"]):
        points = [p for p in result["points"] if (p["kind"], p["workers"]) == (kind, workers)]
        cells = [f"{milliseconds(p):.1f} ({milliseconds(p) / p['partitions']:.2f})" for p in points]
        rows.append([f"{workers} workers, {kind}", *cells])
    serial = [statistics.median(seconds) * 1e3 for seconds in result["serial"].values()]
    cells = [f"{ms:.1f} ({ms / n:.2f})" for ms, n in zip(serial, partitions, strict=True)]
    rows.append(["no Dask", *cells])
    return table(["ms (ms a partition)", *(f"{n} partitions" for n in partitions)], rows)


def criteria(result: dict[str, Any]) -> list[Criterion]:
    """Judge the growth from the fewest to the most partitions, for each cluster."""
    growths = []
    for kind, workers in dict.fromkeys((p["kind"], p["workers"]) for p in result["points"]):
        points = [p for p in result["points"] if (p["kind"], p["workers"]) == (kind, workers)]
        growths.append(milliseconds(points[-1]) / milliseconds(points[0]))
        ratio = points[-1]["partitions"] / points[0]["partitions"]
    return [
        Criterion(
            f"overhead grows no faster than partitions: at most {ratio:.0f} times "
            f"for {ratio:.0f} times as many",
            f"{min(growths):.0f} to {max(growths):.0f} times",
            max(growths) <= ratio,
        )
    ]
