"""The cost of monitoring: epochs of trainings with and without it, alternating.

    python tests/benchmarks/watching.py DATASET [--epochs 5] [--turns 3]

While one is watched, its metrics are scraped every five seconds. Of each training the first epoch
is left out, which compiles and reads.
"""

import argparse
import statistics
import tempfile
import threading
import urllib.request
from contextlib import nullcontext

import psutil

from dask_als.cluster.connect import connected
from dask_als.cluster.dask_executor import DaskExecutor
from dask_als.cluster.settings import ClusterSettings
from dask_als.data.dataset import open_dataset
from dask_als.settings.training import TrainSettings
from dask_als.training.train import train


class Unwatched(DaskExecutor):
    def watched(self, run, listener):
        return nullcontext(lambda figures: None)


def seconds_of_epochs(dataset, executor, settings):
    seconds = []
    with tempfile.TemporaryDirectory() as directory:
        train(
            dataset,
            f"{directory}/model",
            settings,
            executor,
            on_epoch=lambda figures: seconds.append(figures.seconds),
        )
    return seconds[1:]


def scrape(address, ended):
    while not ended.wait(5):
        urllib.request.urlopen(address, timeout=20).read()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    dataset, settings = open_dataset(arguments.dataset), TrainSettings(epochs=arguments.epochs)
    seconds = {DaskExecutor: [], Unwatched: []}
    with connected(ClusterSettings(dashboard="127.0.0.1:0")) as client:
        metrics = client.dashboard_link.removesuffix("status") + "metrics"
        for turn in range(arguments.turns):
            # The order alternates, as a machine slows down when it gets warm.
            for kind in list(seconds)[:: 1 if turn % 2 else -1]:
                ended = threading.Event()
                scraper = threading.Thread(target=scrape, args=(metrics, ended))
                if kind is DaskExecutor:
                    scraper.start()
                its = seconds_of_epochs(dataset, kind(client), settings)
                if kind is DaskExecutor:
                    ended.set()
                    scraper.join()
                seconds[kind] += its
                memory = psutil.Process().memory_info().rss / 2**20
                shown = " ".join(f"{value:.3f}" for value in its)
                print(
                    f"{kind.__name__:13} {shown}  driver and scheduler {memory:.0f} MiB", flush=True
                )
    watched, unwatched = (statistics.median(its) for its in seconds.values())
    print(f"watched {watched:.3f} s, not {unwatched:.3f} s an epoch: {watched / unwatched:.4f}")


if __name__ == "__main__":
    main()
