"""The time of an epoch of Gibbs sampling and of least squares, on 20 million ratings.

    python tests/benchmarks/gibbs_epoch.py [--data 20m] [--rank 64] [--epochs 8] [--repeats 3]

On a local cluster of one worker with two threads; the two trainings take turns. Epochs of the
burn-in only sample; those that are kept write their sample besides. Apart from both stands the end
of a training, where the samples are averaged and the model is written, for each sample; it is
compared with an epoch of least squares, too. Beside the seconds that pass stand those that worker
and driver take of the processor, which other processes on the machine do not add to. The first two
epochs, which read the ratings, do not count. Prints a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time

import psutil
from benchmark_data import GENERATED, generated_dataset
from machine import describe, say

from dask_als.cluster.connect import connected
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.data.dataset import Dataset
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train

PARTITIONS = 20
LEFT_OUT = 2

Mark = dict[str, float]


def main() -> None:
    """Train alternately; print the times of an epoch, and their ratios to least squares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=GENERATED, default="20m")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=8, help="of each kind")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    dataset = generated_dataset(GENERATED[arguments.data], PARTITIONS)
    number = LEFT_OUT + arguments.epochs
    als = TrainSettings(rank=arguments.rank, epochs=number)
    gibbs = TrainSettings(
        method="gibbs", rank=arguments.rank, burn_in=number, samples=arguments.epochs
    )
    runs: dict[str, list[Mark]] = {}
    with connected(ClusterSettings(threads=2, dashboard="127.0.0.1:0")) as client:
        pids = [os.getpid(), *client.run(os.getpid).values()]
        executor = DaskExecutor(client)
        for _ in range(arguments.repeats):
            marks = marked(dataset, als, executor, pids)
            its = {"least squares": each(marks[LEFT_OUT - 1 : number])}
            marks = marked(dataset, gibbs, executor, pids)
            its["burn-in"] = each(marks[LEFT_OUT - 1 : number])
            its["kept"] = each(marks[number - 1 : -1])
            its["end, a sample"] = each(marks[-2:], parts=arguments.epochs)
            for kind, mark in its.items():
                say(f"{kind}: {mark}")
                runs.setdefault(kind, []).append(mark)
    medians = {
        kind: {what: statistics.median(its[what] for its in marks) for what in marks[0]}
        for kind, marks in runs.items()
    }
    ratios = {
        kind: {what: value / medians["least squares"][what] for what, value in its.items()}
        for kind, its in medians.items()
    }
    result = {"machine": describe(), **vars(arguments), "an_epoch": medians, "ratios": ratios}
    print(json.dumps(result, indent=2))


def marked(
    dataset: Dataset, settings: TrainSettings, executor: DaskExecutor, pids: list[int]
) -> list[Mark]:
    """Train; return the clocks after each epoch and at the end."""
    marks: list[Mark] = []

    def mark(_: object) -> None:
        marks.append({"seconds": time.perf_counter(), "processor_seconds": processor_seconds(pids)})

    with tempfile.TemporaryDirectory() as folder:
        train(dataset, f"{folder}/model", settings, executor, on_epoch=mark)
        mark(None)
    return marks


def each(marks: list[Mark], *, parts: int | None = None) -> Mark:
    """Return the time from the first mark to the last, per step or per part."""
    parts = parts or len(marks) - 1
    return {what: (marks[-1][what] - marks[0][what]) / parts for what in marks[0]}


def processor_seconds(pids: list[int]) -> float:
    """Return the processor time that the processes have used so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(its.user + its.system for its in times)


if __name__ == "__main__":
    main()
