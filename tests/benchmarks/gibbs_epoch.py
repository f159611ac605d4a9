"""What an epoch of Gibbs sampling costs beside one of least squares, on 20 million ratings.

    python tests/benchmarks/gibbs_epoch.py [--data 20m] [--rank 64] [--epochs 8] [--repeats 1]

On a local cluster of one worker with two threads. What an epoch costs is what a training of more
epochs takes longer than one of fewer, divided by how many more there are: so reading, setting up
and the end count for nothing. Epochs of the burn-in only sample; the others are also written, as
every sample is, and averaged. Beside the seconds that pass stand those that worker and driver take
of the processor, which other processes on the machine do not add to. Prints a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace

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
FEW = 2


def main() -> None:
    """Train all; print what an epoch costs, and the ratios to one of least squares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=GENERATED, default="20m")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=8, help=f"more than {FEW}")
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    dataset = generated_dataset(GENERATED[arguments.data], PARTITIONS)
    more = arguments.epochs - FEW
    als = TrainSettings(rank=arguments.rank, epochs=FEW)
    gibbs = TrainSettings(method="gibbs", rank=arguments.rank, burn_in=1, samples=1)
    # Each beside the shorter training that it is compared with.
    trainings = {
        "least squares": (als, replace(als, epochs=FEW + more)),
        "burn-in": (gibbs, replace(gibbs, epochs=None, burn_in=1 + more)),
        "samples": (gibbs, replace(gibbs, epochs=None, samples=1 + more)),
    }
    with (
        LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        pids = [os.getpid(), *client.run(os.getpid).values()]
        executor = DaskExecutor(client)
        # What is done once only, like loading the kernels.
        for settings in (als, gibbs):
            cost(dataset, settings, executor, pids)
        runs = {
            kind: [
                [cost(dataset, settings, executor, pids) for settings in both]
                for _ in range(arguments.repeats)
            ]
            for kind, both in trainings.items()
        }
    epochs = {
        kind: {
            what: statistics.median(
                (longer[what] - shorter[what]) / more for shorter, longer in its
            )
            for what in ("seconds", "processor_seconds")
        }
        for kind, its in runs.items()
    }
    ratios = {
        kind: {what: value / epochs["least squares"][what] for what, value in its.items()}
        for kind, its in epochs.items()
    }
    print(json.dumps({**vars(arguments), "an_epoch": epochs, "ratios": ratios}, indent=2))


def cost(
    dataset: Dataset, settings: TrainSettings, executor: Executor, pids: list[int]
) -> dict[str, float]:
    """Train; give the seconds it took, and the processor's."""
    start, processor = time.perf_counter(), processor_seconds(pids)
    with tempfile.TemporaryDirectory() as folder:
        train(dataset, f"{folder}/model", settings, executor)
    taken = {
        "seconds": time.perf_counter() - start,
        "processor_seconds": processor_seconds(pids) - processor,
    }
    say(f"{settings.method}, {settings.epochs} epochs: {taken}")
    return taken


def processor_seconds(pids: list[int]) -> float:
    """Give what the processes have taken of the processor so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(its.user + its.system for its in times)


if __name__ == "__main__":
    main()
