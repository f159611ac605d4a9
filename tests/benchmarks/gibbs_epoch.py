"""What an epoch of Gibbs sampling costs beside one of least squares, on 20 million ratings.

    python tests/benchmarks/gibbs_epoch.py [--data 20m] [--rank 64] [--epochs 6] [--repeats 2]

On a local cluster of one worker with two threads; trainings of both methods by turns. For each
epoch it notes the seconds that passed and the processor's seconds that worker and driver took,
which other processes on the machine do not add to. Epochs of the burn-in only sample; those after
it are also written, as every sample is. Prints a JSON object with the medians.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time

import psutil
from benchmark_data import GENERATED, generated_dataset
from dask.distributed import Client, LocalCluster
from machine import say

from dask_als.cluster import DaskExecutor
from dask_als.dataset import Dataset
from dask_als.executor import Executor
from dask_als.settings import TrainSettings
from dask_als.train import train

PARTITIONS = 20
KINDS = ("least squares", "burn-in", "samples")


def main() -> None:
    """Train by turns; print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=GENERATED, default="20m")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    dataset = generated_dataset(GENERATED[arguments.data], PARTITIONS)
    found = {kind: [] for kind in KINDS}
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        pids = [os.getpid(), *client.run(os.getpid).values()]
        executor = DaskExecutor(client)
        for _ in range(arguments.repeats):
            n = arguments.epochs
            als = TrainSettings(rank=arguments.rank, epochs=n)
            gibbs = TrainSettings(method="gibbs", rank=arguments.rank, burn_in=n, samples=n)
            for settings in (als, gibbs):
                its = epochs_of(dataset, settings, executor, pids)
                # The first waits for the ratings to be read, the last has none submitted after it.
                if settings.method == "als":
                    found["least squares"] += its[1:-1]
                else:
                    found["burn-in"] += its[1:n]
                    found["samples"] += its[n + 1 : -1]
    medians = {
        kind: {
            "seconds": statistics.median(seconds for seconds, _ in its),
            "processor_seconds": statistics.median(processor for _, processor in its),
            "epochs": len(its),
        }
        for kind, its in found.items()
    }
    ratios = {
        kind: {
            what: medians[kind][what] / medians["least squares"][what]
            for what in ("seconds", "processor_seconds")
        }
        for kind in KINDS[1:]
    }
    print(json.dumps({**vars(arguments), "medians": medians, "ratios": ratios}, indent=2))


def epochs_of(
    dataset: Dataset, settings: TrainSettings, executor: Executor, pids: list[int]
) -> list[tuple[float, float]]:
    """Train; give the seconds and the processor's seconds of each epoch."""
    clocks = [(time.perf_counter(), processor_seconds(pids))]
    with tempfile.TemporaryDirectory() as folder:
        train(
            dataset,
            f"{folder}/model",
            settings,
            executor,
            on_epoch=lambda _: clocks.append((time.perf_counter(), processor_seconds(pids))),
        )
    epochs = [
        (now - before, processor_now - processor_before)
        for (before, processor_before), (now, processor_now) in itertools.pairwise(clocks)
    ]
    say(f"{settings.method}: {[tuple(round(value, 2) for value in its) for its in epochs]}")
    return epochs


def processor_seconds(pids: list[int]) -> float:
    """Give what the processes have taken of the processor so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(its.user + its.system for its in times)


if __name__ == "__main__":
    main()
